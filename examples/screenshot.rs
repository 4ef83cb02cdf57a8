//! Writes a picture of a virtual machine's screen.
//!
//! ```sh
//! XEN_URL=https://xen1 XEN_USERNAME=root XEN_PASSWORD=… XEN_PIN_SHA256=… \
//!     cargo run --example screenshot -- web01 web01.png
//! ```
//!
//! With none of these variables set it starts a simulated pool on loopback and looks there.

#[path = "console/guest.rs"]
mod guest;
mod pool;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use examples::{Result, ended};
use guest::with_session;
use xenapi::Session;
use xenapi::console::RfbOptions;

/// Write a picture of a virtual machine's screen to a PNG file.
///
/// The pool is named by XEN_URL, XEN_USERNAME and XEN_PASSWORD, and trusted by XEN_CA_FILE,
/// XEN_PIN_SHA256 (a comma-separated list) or XEN_INSECURE=1, else by the system's authorities.
#[derive(Parser)]
struct Args {
    /// The name or the UUID of the machine, which must run
    vm: String,
    /// The file to write
    file: PathBuf,
    /// Wait until the screen has not changed for so many seconds; a cursor may blink
    #[arg(long, value_name = "SECONDS")]
    wait_stable: Option<u64>,
    /// How many seconds to wait for the console, and for a screen at rest
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    patience: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("screenshot", run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<()> {
    with_session("screenshot", |session| async move { work(&session, args).await }).await
}

async fn work(session: &Session, args: &Args) -> Result<()> {
    let vm = guest::find(session, &args.vm).await?;
    let patience = Duration::from_secs(args.patience);
    let mut console = session.open_rfb(&vm, &RfbOptions::new(), patience).await?;
    if let Some(seconds) = args.wait_stable {
        console.wait_stable(Duration::from_secs(seconds), patience).await?;
    }
    let picture = console.screenshot().await?;
    std::fs::write(&args.file, picture.to_png()?)
        .map_err(|e| format!("{}: {e}", args.file.display()))?;
    println!("{}: {}x{}", args.file.display(), picture.width, picture.height);
    Ok(())
}
