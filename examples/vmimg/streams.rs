//! The ends of a conversion: standard input and output, signals, the progress bar.

use std::error::Error as StdError;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::{INTERRUPTED, Result, interrupted};

/// Whether the input can only be read forwards: standard input, or a pipe as the shell's `<(…)`.
pub(crate) fn is_stream(input: &Path) -> bool {
    let is_pipe = |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.file_type().is_fifo());
    input == Path::new("-") || is_pipe(input)
}

/// Whether standard output is meant. By its other names a file would be replaced, with what the
/// shell or others wrote to it before.
pub(crate) fn is_stdout(path: &Path) -> bool {
    ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name))
}

/// Standard output, or a pipe or device that was named: what is written in order. `None` for a
/// file.
pub(crate) fn stream_output(path: &Path) -> Result<Option<File>> {
    if is_stdout(path) {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            return Err("an image is not written to a terminal: redirect the output".into());
        }
        return Ok(Some(File::from(stdout.as_fd().try_clone_to_owned()?)));
    }
    match std::fs::metadata(path) {
        Ok(meta) if meta.file_type().is_fifo() || meta.file_type().is_char_device() => {
            Ok(Some(File::options().write(true).open(path)?))
        }
        Ok(meta) if meta.file_type().is_block_device() => {
            let path = path.display();
            let message =
                format!("{path} is a device: write to standard output (-) and redirect that to it");
            Err(message.into())
        }
        _ => Ok(None),
    }
}

/// Standard input, read ahead on its own thread, so that a signal is heard while no data come.
pub(crate) struct Stdin {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: io::Cursor<Vec<u8>>,
    cancel: Arc<AtomicBool>,
}

impl Stdin {
    /// Standard input, or the pipe that was named.
    pub(crate) fn start(name: &Path, cancel: Arc<AtomicBool>) -> Result<Self> {
        if name != Path::new("-") {
            let pipe = File::open(name).map_err(|e| format!("{}: {e}", name.display()))?;
            return Ok(Self::of(pipe, cancel));
        }
        let stdin = io::stdin();
        if stdin.is_terminal() {
            return Err("standard input is a terminal: pipe an image into it".into());
        }
        Ok(Self::of(File::from(stdin.as_fd().try_clone_to_owned()?), cancel))
    }

    fn of(mut stdin: File, cancel: Arc<AtomicBool>) -> Self {
        let (queue, pieces) = sync_channel(4);
        std::thread::spawn(move || {
            loop {
                let mut piece = vec![0; 256 << 10];
                let read = stdin.read(&mut piece);
                if read.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::Interrupted) {
                    continue;
                }
                let read = read.map(|n| {
                    piece.truncate(n);
                    piece
                });
                let end = read.as_ref().map_or(true, Vec::is_empty);
                if queue.send(read).is_err() || end {
                    return;
                }
            }
        });
        Self { pieces, piece: io::Cursor::default(), cancel }
    }
}

impl Read for Stdin {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.piece.read(buf)?;
            if n > 0 || buf.is_empty() {
                return Ok(n);
            }
            match self.pieces.recv_timeout(Duration::from_millis(100)) {
                Ok(piece) => self.piece = io::Cursor::new(piece?),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) if self.cancel.load(Ordering::Relaxed) => {
                    return Err(io::Error::other("interrupted"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// A flag that SIGINT, SIGTERM and SIGHUP set; the transfer then ends and removes its output.
pub(crate) fn watch_signals() -> Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let cancel = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Caught, so that a write beyond the limit of `ulimit -f` fails as one to a full disk does.
    const SIGXFSZ: i32 = 25;
    let (mut int, mut term, mut hangup, limit) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::from_raw(SIGXFSZ))?,
        )
    };
    drop(limit);
    let flag = Arc::clone(&cancel);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
                _ = hangup.recv() => {}
            }
            flag.store(true, Ordering::Relaxed);
            // Whatever does not look at the flag is not worth waiting for.
            tokio::time::sleep(Duration::from_secs(2)).await;
        });
        interrupted();
        std::process::exit(i32::from(INTERRUPTED));
    });
    Ok(cancel)
}

/// A bar on a terminal, nothing elsewhere.
pub(crate) fn progress_bar(len: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match len {
        Some(len) => {
            (ProgressBar::new(len), "{bar:32} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {binary_bytes_per_sec}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A sign of life on a terminal, nothing elsewhere.
pub(crate) fn spinner(what: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}

pub(crate) fn is_broken_pipe(error: &(dyn StdError + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
