//! Types at the console of a virtual machine, as Packer's `boot_command` does, and keeps a picture
//! of its screen.
//!
//! ```sh
//! XEN_URL=https://xen1 XEN_USERNAME=root XEN_PASSWORD=… XEN_PIN_SHA256=… \
//!     cargo run --example console_type -- web01 'root<enter><wait2>' --screenshot web01.png
//! ```
//!
//! With none of these variables set it starts a simulated pool on loopback and types there.

#[path = "console/guest.rs"]
mod guest;
mod pool;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use examples::{Result, ended};
use guest::with_session;
use xenapi::console::{BootCommand, RfbOptions};
use xenapi::{ErrorKind, Session};

/// Type at the console of a virtual machine.
///
/// The command is text with keys in angle brackets, in the grammar of Packer's boot_command:
///
///   <enter> <esc> <tab> <bs> <del> <up> <f1> … <f12> <pageUp>   strike a key
///   <leftCtrlOn>c<leftCtrlOff>   hold a key while others are struck; also <aOn> … <aOff>
///   <wait> <wait5> <wait1m30s>   do nothing for 1 s, 5 s, 90 s
///
/// Everything else is typed as it stands, on a US keyboard. The command is an argument, which
/// other users of this machine can read: give a password with --stdin.
///
/// The pool is named by XEN_URL, XEN_USERNAME and XEN_PASSWORD, and trusted by XEN_CA_FILE,
/// XEN_PIN_SHA256 (a comma-separated list) or XEN_INSECURE=1, else by the system's authorities.
#[derive(Parser)]
#[command(verbatim_doc_comment)]
struct Args {
    /// The name or the UUID of the machine, which must run
    vm: String,
    /// What to type
    #[arg(required_unless_present = "stdin", conflicts_with = "stdin")]
    command: Option<String>,
    /// Read what to type from standard input; a line end at its end is not typed
    #[arg(long)]
    stdin: bool,
    /// Write a picture of the screen to this PNG file afterwards
    #[arg(long, value_name = "FILE")]
    screenshot: Option<PathBuf>,
    /// Wait before until the screen has not changed for so many seconds
    #[arg(long, value_name = "SECONDS")]
    wait_stable: Option<u64>,
    /// The pause after each change of a key, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100)]
    key_interval: u64,
    /// How many seconds to wait for the console, and for a screen at rest
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    patience: u64,
    /// Type a word such as <etner>, as Packer does, in place of refusing it
    #[arg(long)]
    lenient: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended("console_type", run(&Args::parse()).await)
}

async fn run(args: &Args) -> Result<()> {
    let text = match &args.command {
        Some(text) => text.clone(),
        None => read_input()?,
    };
    // Before anything is connected: half a command is worse than none.
    let command =
        if args.lenient { BootCommand::parse(&text) } else { BootCommand::parse_strict(&text) }?;
    with_session("console_type", |session| async move { work(&session, args, &command).await })
        .await
}

fn read_input() -> Result<String> {
    let mut text = std::io::read_to_string(std::io::stdin())?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

async fn work(session: &Session, args: &Args, command: &BootCommand) -> Result<()> {
    let vm = guest::find(session, &args.vm).await?;
    let patience = Duration::from_secs(args.patience);
    let options = RfbOptions::new().with_key_interval(Duration::from_millis(args.key_interval));
    let mut console = session.open_rfb(&vm, &options, patience).await?;
    if let Some(seconds) = args.wait_stable {
        console.wait_stable(Duration::from_secs(seconds), patience).await?;
    }
    let typed = console.run(command).await;
    if let Err(error) = &typed
        && error.kind() != ErrorKind::Transport
    {
        // Whatever is held would stay down for the guest.
        let _ = console.release_keys().await;
    }
    typed?;
    match &args.screenshot {
        Some(file) => save(file, &console.screenshot().await?.to_png()?),
        None => {
            // The answer to this comes behind the keys: they have arrived.
            console.screenshot().await?;
            Ok(())
        }
    }
}

fn save(file: &Path, png: &[u8]) -> Result<()> {
    std::fs::write(file, png).map_err(|e| format!("{}: {e}", file.display()).into())
}
