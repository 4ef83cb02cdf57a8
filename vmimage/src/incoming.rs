//! The door for streams: which format arrives, and what reads it as it passes.

use std::io::Read;

use crate::archive::{Decoded, read_error};
use crate::archived::format_of;
use crate::open::foreign;
use crate::options::{Format, OpenOptions};
use crate::qcow2::Header;
use crate::scan::Scan;
use crate::vhd::{Footer, VhdStream};
use crate::xva::{DiskChoice, XvaStream};
use crate::{Error, ErrorKind, Result, Source, tgz};

/// How much of a stream is looked at.
const START: u64 = 512;
/// How much of a raw stream is one piece.
const PIECE: u64 = 1 << 20;

/// A disk that arrives as a stream, forwards only.
#[non_exhaustive]
pub enum Incoming {
    /// It began with its map: a VHD, alone or in an archive.
    Source(Box<dyn Source>),
    /// Its map is known when it has ended: an XVA, a raw disk.
    Scan(Box<dyn Scan>),
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Source(source) => f.debug_tuple("Source").field(source.block_map()).finish(),
            Self::Scan(scan) => f.debug_tuple("Scan").field(&scan.virtual_size()).finish(),
        }
    }
}

/// Opens a stream by what it begins with: a dynamic VHD as XenServer exports it, an XVA or the
/// `tar` export of a VDI, `0.vhd` in a tar archive; each of them plain or compressed by gzip or
/// Zstandard. A raw stream must be named by the options' format. `disk` chooses one of several
/// disks by its reference or index.
///
/// ```
/// use vmimage::{Incoming, OpenOptions, incoming};
///
/// let error = incoming(&b"QFI\xfb"[..], &OpenOptions::new(), None).unwrap_err();
/// assert!(error.to_string().contains("from a file"));
/// let raw = OpenOptions::new().with_format(vmimage::Format::Raw);
/// assert!(matches!(incoming(&b"any bytes"[..], &raw, None)?, Incoming::Scan(_)));
/// # Ok::<(), vmimage::Error>(())
/// ```
///
/// # Errors
/// `Unsupported` for what can only be read from a file, `Usage` for a disk that is not there, and
/// those of the formats' own readers.
pub fn incoming(
    input: impl Read + Send + 'static,
    options: &OpenOptions,
    disk: Option<&str>,
) -> Result<Incoming> {
    let only = |what: &str| match disk {
        None | Some("0") => Ok(()),
        Some(_) => {
            let message = format!("{what} stream holds one disk, 0: name no other");
            Err(Error::new(ErrorKind::Usage, message))
        }
    };
    if options.format() == Some(Format::Raw) {
        only("a raw")?;
        return Ok(Incoming::Scan(Box::new(RawStream {
            input: Box::new(input),
            at: 0,
            end: None,
        })));
    }
    let mut input = Decoded::new(Box::new(input))?;
    let mut start = Vec::new();
    (&mut input).take(START).read_to_end(&mut start).map_err(read_error)?;
    let format = options.format().or_else(|| {
        let mut block = start.clone();
        block.resize(START as usize, 0);
        format_of(&block)
    });
    let vhd = start.is_empty() || start.starts_with(b"HTTP/1.") || Footer::probe(&start);
    if format.is_none() && !vhd {
        return Err(unknown(&start));
    }
    let input = std::io::Cursor::new(start).chain(input);
    match format {
        Some(Format::Xva) => {
            let choice = match disk.map(|text| (text, text.parse())) {
                None => DiskChoice::Only,
                Some((_, Ok(index))) => DiskChoice::Index(index),
                Some((name, Err(_))) => DiskChoice::Reference(name.to_owned()),
            };
            let stream = XvaStream::with_policy(input, choice, options.policy())?;
            Ok(Incoming::Scan(Box::new(stream)))
        }
        Some(Format::Tgz) => {
            only("such a")?;
            let vhd = VhdStream::with_options(tgz::SingleVhd::new(input)?, options)?;
            Ok(Incoming::Source(Box::new(vhd)))
        }
        Some(Format::Qcow2) => Err(qcow2()),
        // Its reader says best why it is no VHD, and that of an empty stream, too, whose disk may
        // well have been named.
        _ => {
            let vhd = VhdStream::with_options(input, options)?;
            only("a VHD")?;
            Ok(Incoming::Source(Box::new(vhd)))
        }
    }
}

fn qcow2() -> Error {
    Error::unsupported("a QCOW2 image has its tables in no order: it must be read from a file")
}

/// What begins like nothing that can be read forwards.
fn unknown(start: &[u8]) -> Error {
    if start.starts_with(Header::MAGIC) {
        return qcow2();
    }
    Error::unsupported(match foreign(start) {
        Some(name) => format!("the stream is {name}, which is not read"),
        None => "the stream does not begin like an image that is read forwards: if it is the \
                 content of a disk, say so with the format raw; a fixed VHD must be read from a file"
            .to_owned(),
    })
}

/// A raw disk: all of it is one run of data.
struct RawStream {
    input: Box<dyn Read + Send>,
    at: u64,
    end: Option<u64>,
}

impl Scan for RawStream {
    fn virtual_size(&self) -> Option<u64> {
        self.end
    }

    fn next_piece(&mut self, buf: &mut Vec<u8>) -> Result<Option<u64>> {
        buf.clear();
        let read = (&mut self.input).take(PIECE).read_to_end(buf);
        let n = read.map_err(|e| read_error(e).with_offset(self.at))? as u64;
        let start = self.at;
        self.at += n;
        if n == 0 {
            self.end = Some(self.at);
            return Ok(None);
        }
        Ok(Some(start))
    }
}
