//! What all of these thin programs share: how they end, and how they show a server's words.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// A failure is one line for people.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// The end of a program: a failure is one line on standard error. It may quote the server.
#[must_use]
pub fn ended(name: &str, result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If nobody is there to read it, the exit code still says it.
            let _ = writeln!(io::stderr(), "{name}: {}", plain(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// Text of a server, without commands to the terminal.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
