//! The members of a tar archive, with the extensions that speak about the next one.

use super::header::{BLOCK, TarHeader, TarKind, text};
use crate::{Error, Result};

/// The longest extension (a long name, pax records) that is read, in bytes.
const MAX_EXTENSION: u64 = 64 * 1024;

/// What a block of an archive was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A block of zeros; two of them end the archive.
    Zeros,
    /// An extension, whose content (so many bytes, then padding) is wanted next.
    Extension(u64),
    /// Content to be skipped.
    Skip(u64),
    /// A file of this name and length.
    File(String, u64),
}

/// Reads headers one by one; pure, the caller moves over the contents.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// The kind of the extension whose content is awaited.
    kind: Option<TarKind>,
    name: Option<String>,
    size: Option<u64>,
}

impl Members {
    /// Reads the block at which a header is due.
    ///
    /// # Errors
    /// `Corrupt` for what is no header, `Unsupported` for an extension that is too long.
    pub(crate) fn block(&mut self, block: &[u8; BLOCK]) -> Result<Seen> {
        let Some(header) = TarHeader::parse(block)? else { return Ok(Seen::Zeros) };
        match header.kind {
            TarKind::LongName | TarKind::Pax => {
                if header.size > MAX_EXTENSION {
                    return Err(Error::unsupported(format!(
                        "a tar header is extended by {} bytes; more than {MAX_EXTENSION} are not \
                         read",
                        header.size
                    )));
                }
                self.kind = Some(header.kind);
                Ok(Seen::Extension(header.size))
            }
            TarKind::Ignored => Ok(Seen::Skip(header.size)),
            TarKind::Empty => {
                self.forget();
                Ok(Seen::Skip(0))
            }
            TarKind::File => {
                let name = self.name.take().unwrap_or(header.name);
                let size = self.size.take().unwrap_or(header.size);
                self.forget();
                Ok(Seen::File(name, size))
            }
        }
    }

    /// Takes the content of an extension.
    ///
    /// # Errors
    /// `Corrupt` for records that are none.
    pub(crate) fn extension(&mut self, content: &[u8]) -> Result<()> {
        match self.kind.take() {
            Some(TarKind::LongName) => self.name = Some(text(content)),
            Some(TarKind::Pax) => self.pax(content)?,
            _ => {}
        }
        Ok(())
    }

    fn forget(&mut self) {
        *self = Self::default();
    }

    /// Records of the form `LENGTH KEY=VALUE\n`, the length counting all of it.
    fn pax(&mut self, mut rest: &[u8]) -> Result<()> {
        let bad = || Error::corrupt("a tar header is extended by records that are none");
        while let Some(blank) = rest.iter().position(|&b| b == b' ') {
            let digits = rest.get(..blank).and_then(|d| std::str::from_utf8(d).ok());
            let len: usize = digits.and_then(|d| d.parse().ok()).ok_or_else(bad)?;
            let record = rest.get(blank + 1..len.max(1) - 1).ok_or_else(bad)?;
            rest = rest.get(len..).ok_or_else(bad)?;
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
            let (key, value) = record.split_at(equals);
            let value = text(value.get(1..).unwrap_or_default());
            match key {
                b"path" => self.name = Some(value),
                b"size" => {
                    let size = value.parse().ok().filter(|&s: &u64| s <= i64::MAX as u64);
                    self.size = Some(size.ok_or_else(bad)?);
                }
                _ => {}
            }
        }
        if rest.is_empty() { Ok(()) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::header::{seal, tar_header};

    fn of_kind(kind: u8, size: u64) -> [u8; BLOCK] {
        let mut header = tar_header("././@LongLink", size, 0, 0o644);
        header[156] = kind;
        seal(&mut header);
        header
    }

    #[test]
    fn extensions_speak_about_the_next_member_only() {
        let mut members = Members::default();
        assert_eq!(members.block(&of_kind(b'L', 6)).unwrap(), Seen::Extension(6));
        members.extension(b"longer").unwrap();
        let plain = tar_header("short", 3, 0, 0o644);
        assert_eq!(members.block(&plain).unwrap(), Seen::File("longer".into(), 3));
        assert_eq!(members.block(&plain).unwrap(), Seen::File("short".into(), 3));
        assert_eq!(members.block(&of_kind(b'x', 28)).unwrap(), Seen::Extension(28));
        members.extension(b"16 path=Ref:1/7\n12 size=777\n").unwrap();
        assert_eq!(members.block(&plain).unwrap(), Seen::File("Ref:1/7".into(), 777));
        assert_eq!(members.block(&of_kind(b'g', 9)).unwrap(), Seen::Skip(9));
        assert_eq!(members.block(&of_kind(b'5', 9)).unwrap(), Seen::Skip(0));
        assert_eq!(members.block(&[0; BLOCK]).unwrap(), Seen::Zeros);
    }

    #[test]
    fn odd_extensions_are_refused() {
        assert!(Members::default().block(&of_kind(b'x', MAX_EXTENSION + 1)).is_err());
        for bad in ["0 a=b\n", "1 ", "99 a=b\n", "x a=b\n", "5 ab\n", "17 size=-100000000\n", "abc"]
        {
            let mut members = Members::default();
            members.block(&of_kind(b'x', bad.len() as u64)).unwrap();
            assert!(members.extension(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
