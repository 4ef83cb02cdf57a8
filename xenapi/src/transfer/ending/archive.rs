//! The end of a tar file: plain, in gzip, or in Zstandard.

use super::{SECTOR, keep_last};

/// Which of the three it is, as its first bytes tell: a server that does not know a compression
/// sends the file as it is.
#[derive(Debug)]
pub(super) enum Archive {
    Unknown {
        start: Vec<u8>,
        /// Whether gzip is to be inflated.
        deep: bool,
    },
    Tar(Tar),
    /// The last eight bytes: a checksum, and the length of what was compressed.
    Gzip(Vec<u8>),
    #[cfg(feature = "gzip")]
    Inflated(Box<super::gzip::Inflated>),
    Zstd(Zstd),
}

impl Archive {
    pub(super) fn new(deep: bool) -> Self {
        Self::Unknown { start: Vec::new(), deep }
    }

    pub(super) fn see(&mut self, bytes: &[u8]) {
        match self {
            Self::Unknown { start, deep } => {
                start.extend_from_slice(bytes);
                if start.len() < 4 {
                    return;
                }
                let (start, deep) = (std::mem::take(start), *deep);
                *self = match start.as_slice() {
                    [0x1f, 0x8b, ..] => Self::gzip(deep),
                    [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd(Zstd::default()),
                    _ => Self::Tar(Tar::default()),
                };
                self.see(&start);
            }
            Self::Tar(tar) => tar.see(bytes),
            Self::Gzip(last) => keep_last(last, bytes, 8),
            #[cfg(feature = "gzip")]
            Self::Inflated(inflated) => inflated.see(bytes),
            Self::Zstd(zstd) => zstd.see(bytes),
        }
    }

    #[cfg(feature = "gzip")]
    fn gzip(deep: bool) -> Self {
        if deep { Self::Inflated(Box::default()) } else { Self::Gzip(Vec::new()) }
    }

    #[cfg(not(feature = "gzip"))]
    fn gzip(_: bool) -> Self {
        Self::Gzip(Vec::new())
    }

    pub(super) fn verdict(self, received: u64) -> Result<(), String> {
        match self {
            Self::Unknown { .. } => Err(format!("{received} bytes are no archive")),
            Self::Tar(tar) => tar.verdict(received),
            Self::Gzip(last) => {
                let length = last.get(4..8).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
                match length {
                    Some(length) if received >= 18 && length.is_multiple_of(512) => Ok(()),
                    _ => Err(format!("the gzip stream of {received} bytes has no end")),
                }
            }
            #[cfg(feature = "gzip")]
            Self::Inflated(inflated) => inflated.verdict(received),
            Self::Zstd(zstd) => zstd.verdict(received),
        }
    }
}

/// A walk from header to header.
#[derive(Debug, Default)]
pub(super) struct Tar {
    header: Vec<u8>,
    /// Bytes of a member that are still to come, its padding included.
    skip: u64,
    /// Blocks of zeros in a row.
    zeros: u32,
    /// What is not as it should be.
    broken: Option<&'static str>,
}

impl Tar {
    pub(super) fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.broken.is_none() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len() as u64);
                self.skip -= count;
                bytes =
                    usize::try_from(count).ok().and_then(|n| bytes.get(n..)).unwrap_or_default();
                continue;
            }
            let count = (SECTOR - self.header.len()).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            self.header.extend_from_slice(now);
            bytes = later;
            if self.header.len() == SECTOR {
                self.block();
                self.header.clear();
            }
        }
    }

    /// A whole block where a header is due.
    fn block(&mut self) {
        if self.header.iter().all(|byte| *byte == 0) {
            self.zeros += 1;
        } else if self.zeros >= 2 {
            self.broken = Some("goes on after its end");
        } else {
            self.zeros = 0;
            match member_size(&self.header) {
                Some(size) => self.skip = size.saturating_add(511) / 512 * 512,
                None => self.broken = Some("has something else where a header should be"),
            }
        }
    }

    pub(super) fn verdict(&self, received: u64) -> Result<(), String> {
        match self.broken {
            Some(why) => Err(format!("the archive of {received} bytes {why}")),
            None if self.zeros >= 2 && self.header.is_empty() => Ok(()),
            None => Err(format!("the archive of {received} bytes has no end")),
        }
    }
}

/// The size in a header whose checksum is right.
fn member_size(header: &[u8]) -> Option<u64> {
    let octal = |field: &[u8]| {
        let text = std::str::from_utf8(field).ok()?;
        u64::from_str_radix(text.trim_matches(|c: char| c == '\0' || c == ' '), 8).ok()
    };
    let own: u64 = header.get(148..156)?.iter().map(|b| u64::from(*b)).sum();
    let all: u64 = header.iter().map(|b| u64::from(*b)).sum();
    if octal(header.get(148..156)?)? != all - own + 8 * u64::from(b' ') {
        return None;
    }
    let field = header.get(124..136)?;
    match field {
        // Sizes beyond 8 GiB are binary.
        [0x80, .., a, b, c, d, e, f, g, h] => {
            Some(u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]))
        }
        _ => octal(field),
    }
}

/// A walk from block to block: their sizes are told without decompressing them.
#[derive(Debug)]
pub(super) struct Zstd {
    part: Part,
    /// The bytes of the part that is due.
    held: Vec<u8>,
    skip: u64,
    checksum: bool,
    frames: u64,
    broken: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Magic,
    Descriptor,
    FrameRest(usize),
    BlockHeader,
    Checksum,
    SkippedSize,
}

impl Default for Zstd {
    fn default() -> Self {
        Self {
            part: Part::Magic,
            held: Vec::new(),
            skip: 0,
            checksum: false,
            frames: 0,
            broken: false,
        }
    }
}

impl Zstd {
    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.broken {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len() as u64);
                self.skip -= count;
                bytes =
                    usize::try_from(count).ok().and_then(|n| bytes.get(n..)).unwrap_or_default();
                continue;
            }
            let due = match self.part {
                Part::Magic | Part::Checksum | Part::SkippedSize => 4,
                Part::Descriptor => 1,
                Part::FrameRest(count) => count,
                Part::BlockHeader => 3,
            };
            let count = (due - self.held.len()).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            self.held.extend_from_slice(now);
            bytes = later;
            if self.held.len() == due {
                self.part = self.next();
                self.held.clear();
            }
        }
    }

    /// What comes after the part that is held.
    fn next(&mut self) -> Part {
        let number = self.held.iter().rev().fold(0_u32, |n, byte| n << 8 | u32::from(*byte));
        match self.part {
            Part::Magic if number == 0xfd2f_b528 => Part::Descriptor,
            Part::Magic if number & 0xffff_fff0 == 0x184d_2a50 => Part::SkippedSize,
            Part::Magic => {
                self.broken = true;
                Part::Magic
            }
            Part::Descriptor => {
                self.checksum = number & 4 != 0;
                let single = number & 0x20 != 0;
                let window = usize::from(!single);
                let dictionary = [0, 1, 2, 4].get((number & 3) as usize).copied().unwrap_or(0);
                let size = match number >> 6 {
                    0 => usize::from(single),
                    1 => 2,
                    2 => 4,
                    _ => 8,
                };
                Part::FrameRest(window + dictionary + size)
            }
            Part::FrameRest(_) => Part::BlockHeader,
            Part::BlockHeader => {
                let kind = number >> 1 & 3;
                self.broken = kind == 3;
                // A run is one byte, whatever its length.
                self.skip = if kind == 1 { 1 } else { u64::from(number >> 3) };
                match number & 1 {
                    0 => Part::BlockHeader,
                    _ if self.checksum => Part::Checksum,
                    _ => self.frame_ends(),
                }
            }
            Part::Checksum => self.frame_ends(),
            Part::SkippedSize => {
                self.skip = u64::from(number);
                Part::Magic
            }
        }
    }

    fn frame_ends(&mut self) -> Part {
        self.frames += 1;
        Part::Magic
    }

    fn verdict(&self, received: u64) -> Result<(), String> {
        let at_rest = self.part == Part::Magic && self.held.is_empty() && self.skip == 0;
        if at_rest && self.frames > 0 && !self.broken {
            Ok(())
        } else {
            Err(format!("the Zstandard stream of {received} bytes has no end"))
        }
    }
}
