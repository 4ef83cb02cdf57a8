//! One tar header: 512 bytes, read by POSIX.1-1988 (ustar) with the numbers of GNU tar.

use crate::vhd::put;
use crate::{Error, Result};

/// The unit of tar, in bytes.
pub(crate) const BLOCK: usize = 512;

/// What eleven octal digits hold.
const OCTAL_LIMIT: u64 = 1 << 33;

/// A parsed header. The name is outside data: it is compared, printed, never used as a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TarHeader {
    pub(crate) name: String,
    /// The length of the content in bytes, without the padding.
    pub(crate) size: u64,
    pub(crate) kind: TarKind,
}

/// What a header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TarKind {
    /// A regular file.
    File,
    /// GNU: the content is the name of the next member.
    LongName,
    /// POSIX: the content is records about the next member.
    Pax,
    /// Content that means nothing here: global records, long targets of links.
    Ignored,
    /// A folder, a link, a device: something without content.
    Empty,
}

impl TarHeader {
    /// Reads one block; `None` if it is all zeros, of which two end an archive.
    ///
    /// # Errors
    /// `Corrupt` for a block that is no header.
    pub(crate) fn parse(block: &[u8; BLOCK]) -> Result<Option<Self>> {
        if block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        check_sum(block)?;
        let kind = match block[156] {
            // Before POSIX a folder was a file whose name ends in a slash.
            0 | b'0' | b'7' if text(&block[..100]).ends_with('/') => TarKind::Empty,
            0 | b'0' | b'7' => TarKind::File,
            b'L' => TarKind::LongName,
            b'x' => TarKind::Pax,
            b'g' | b'K' | b'X' => TarKind::Ignored,
            b'1'..=b'6' => TarKind::Empty,
            other => {
                let message = format!("a tar member of the unknown type {:?}", char::from(other));
                return Err(Error::corrupt(message));
            }
        };
        let size = match kind {
            TarKind::Empty => 0,
            _ => number(&block[124..136])
                .ok_or_else(|| Error::corrupt("a tar header's size is no number"))?,
        };
        // A content that cannot be padded within 64 bits is none.
        if padded(size).is_none() || size > i64::MAX as u64 {
            return Err(Error::corrupt(format!("a tar member claims {size} bytes")));
        }
        Ok(Some(Self { name: name(block), size, kind }))
    }
}

/// `size` with the padding to whole blocks.
pub(crate) fn padded(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(BLOCK as u64)
}

/// The sum of all bytes, the field of the sum taken as blanks. Some old writers took the bytes
/// as signed.
fn check_sum(block: &[u8; BLOCK]) -> Result<()> {
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (i, &b) in block.iter().enumerate() {
        let b = if (148..156).contains(&i) { b' ' } else { b };
        unsigned += i64::from(b);
        signed += i64::from(b.cast_signed());
    }
    let stored = number(&block[148..156]).and_then(|n| i64::try_from(n).ok());
    match stored {
        Some(sum) if sum == unsigned || sum == signed => Ok(()),
        _ => Err(Error::corrupt("a tar header's checksum does not match")),
    }
}

/// Octal digits between blanks and NULs, or GNU's big-endian number after a byte 0x80.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // 0xff begins a negative number.
        return rest.iter().try_fold(u64::from(first & 0x7f), |n, &b| {
            n.checked_mul(256)?.checked_add(u64::from(b))
        });
    }
    let digits = field.split(|b| matches!(b, b' ' | 0)).find(|part| !part.is_empty());
    digits.unwrap_or_default().iter().try_fold(0_u64, |n, &b| match b {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

/// A name from an archive for people: escaped, and short whatever it is.
pub(crate) fn shown(name: &str) -> String {
    let mut chars = name.chars();
    let start: String = chars.by_ref().take(60).collect();
    format!("{start:?}{}", if chars.next().is_some() { "…" } else { "" })
}

fn name(block: &[u8; BLOCK]) -> String {
    let own = text(&block[..100]);
    // GNU's magic is `ustar  `, and the field of the prefix holds times there.
    let prefix = match &block[257..263] {
        b"ustar\0" => text(&block[345..500]),
        _ => String::new(),
    };
    if prefix.is_empty() { own } else { format!("{prefix}/{own}") }
}

/// The text up to the first NUL.
pub(super) fn text(field: &[u8]) -> String {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(field.get(..end).unwrap_or_default()).into_owned()
}

/// A ustar header of a regular file; a size of 8 GiB or more is written as a binary number, as
/// GNU tar does. `name` has at most 99 bytes.
pub(crate) fn tar_header(name: &str, size: u64, mtime: u64, mode: u32) -> [u8; BLOCK] {
    let mut h = [0; BLOCK];
    let name = name.as_bytes();
    put(&mut h, 0, name.get(..name.len().min(99)).unwrap_or_default());
    put(&mut h, 100, format!("{:07o}\0", mode & 0o7777).as_bytes());
    put(&mut h, 108, b"0000000\0");
    put(&mut h, 116, b"0000000\0");
    if size < OCTAL_LIMIT {
        put(&mut h, 124, format!("{size:011o}\0").as_bytes());
    } else {
        put(&mut h, 124, &[0x80, 0, 0, 0]);
        put(&mut h, 128, &size.to_be_bytes());
    }
    put(&mut h, 136, format!("{:011o}\0", mtime % OCTAL_LIMIT).as_bytes());
    put(&mut h, 156, b"0");
    put(&mut h, 257, b"ustar\x0000");
    seal(&mut h);
    h
}

/// Writes the checksum.
pub(super) fn seal(h: &mut [u8; BLOCK]) {
    put(h, 148, b"        ");
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    put(h, 148, format!("{sum:06o}\0 ").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn what_is_written_is_read() {
        for size in [0, 1, 511, 1 << 20, OCTAL_LIMIT - 1, OCTAL_LIMIT, 1 << 50] {
            let header = tar_header("Ref:1/00000000", size, 0, 0o644);
            let parsed = TarHeader::parse(&header).unwrap().unwrap();
            assert_eq!((parsed.name.as_str(), parsed.size), ("Ref:1/00000000", size));
            assert_eq!(parsed.kind, TarKind::File);
        }
        assert_eq!(TarHeader::parse(&[0; BLOCK]).unwrap(), None);
    }

    #[test]
    fn hostile_numbers_are_refused() {
        let good = tar_header("a", 5, 0, 0o644);
        for size in [&[0xff; 12][..], &[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0], b"99999999999\0"]
        {
            let mut bad = good;
            put(&mut bad, 124, size);
            seal(&mut bad);
            assert_eq!(TarHeader::parse(&bad).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        // What ends the checksum's own digits is not summed.
        for at in (0..BLOCK).filter(|at| !(154..156).contains(at)) {
            let mut bad = good;
            bad[at] ^= 4;
            // One flipped bit never goes unnoticed: the sum is off, or is no number.
            assert!(TarHeader::parse(&bad).is_err(), "{at}");
        }
    }

    #[test]
    fn names_of_ustar_and_gnu() {
        let mut header = tar_header("b", 0, 0, 0o644);
        put(&mut header, 345, b"a");
        seal(&mut header);
        assert_eq!(TarHeader::parse(&header).unwrap().unwrap().name, "a/b");
        put(&mut header, 257, b"ustar  \0");
        seal(&mut header);
        assert_eq!(TarHeader::parse(&header).unwrap().unwrap().name, "b");
    }
}
