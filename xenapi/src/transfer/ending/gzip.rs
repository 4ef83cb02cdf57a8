//! The end of a tar file in gzip, with all that can be known of it: inflated as it passes, in the
//! memory of a window.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;

use super::archive::Tar;

/// Inflates, compares the checksums and lengths of the members, and walks the tar file in them.
#[derive(Debug)]
pub(super) struct Inflated {
    inflater: MultiGzDecoder<Sink>,
    /// Why it is not whole, once that is known; nothing behind it is looked at.
    broken: Option<String>,
}

/// The tar file.
#[derive(Debug, Default)]
struct Sink {
    tar: Tar,
    length: u64,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tar.see(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Default for Inflated {
    fn default() -> Self {
        Self { inflater: MultiGzDecoder::new(Sink::default()), broken: None }
    }
}

impl Inflated {
    pub(super) fn see(&mut self, bytes: &[u8]) {
        if self.broken.is_none()
            && let Err(error) = self.inflater.write_all(bytes)
        {
            self.broken = Some(error.to_string());
        }
    }

    pub(super) fn verdict(mut self, received: u64) -> Result<(), String> {
        let broken =
            self.broken.or_else(|| self.inflater.try_finish().err().map(|e| e.to_string()));
        match broken {
            Some(why) => Err(format!("the gzip stream of {received} bytes is not whole: {why}")),
            None => {
                let sink = self.inflater.get_ref();
                sink.tar.verdict(sink.length)
            }
        }
    }
}
