//! The undo file of a repair: every byte that it overwrites, before it does.
//!
//! All numbers are big-endian.
//!
//! | offset | what |
//! |---|---|
//! | 0 | `vmimgund` |
//! | 8 | version, 4 bytes: 1 |
//! | 12 | number of ranges, 4 bytes |
//! | 16 | length of the image before the repair, 8 bytes |
//! | 24 | length of the image after it, 8 bytes |
//! | 32 | the ranges: offset (8), length `o` of the old bytes (4), length `n` of the new ones (4), the old bytes, the new bytes |
//! | last 32 | SHA-256 of everything before |
//!
//! Where a range reaches past the old end of the image, `o` is less than `n`. The new bytes are
//! there so that a file which has been written to since is not "restored".

use sha2::{Digest, Sha256};

use super::Patch;
use crate::store::Writer;
use crate::vhd::{Fields, put};
use crate::{Error, ErrorKind, Result};

const MAGIC: &[u8; 8] = b"vmimgund";
const HEAD: usize = 32;
const HASH: usize = 32;
/// An undo file holds footers, a header and a batmap; one that is longer is none.
const MAX_LEN: u64 = 64 << 20;

/// What an undo file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Undo {
    old_len: u64,
    new_len: u64,
    ranges: Vec<Range>,
}

#[derive(Debug, PartialEq, Eq)]
struct Range {
    at: u64,
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Undo {
    /// What is needed to take back `patches` of `file`.
    pub(super) fn of(file: &Writer, patches: &[Patch]) -> Result<Self> {
        let old_len = file.len()?;
        let mut new_len = old_len;
        let mut ranges = Vec::new();
        for patch in patches {
            let there = old_len.saturating_sub(patch.at).min(patch.bytes.len() as u64);
            let mut old = vec![0; there as usize];
            file.read(&mut old, patch.at.min(old_len))?;
            new_len = new_len.max(patch.at + patch.bytes.len() as u64);
            ranges.push(Range { at: patch.at, old, new: patch.bytes.clone() });
        }
        Ok(Self { old_len, new_len, ranges })
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![0; HEAD];
        put(&mut out, 0, MAGIC);
        put(&mut out, 8, &1_u32.to_be_bytes());
        put(&mut out, 12, &(self.ranges.len() as u32).to_be_bytes());
        put(&mut out, 16, &self.old_len.to_be_bytes());
        put(&mut out, 24, &self.new_len.to_be_bytes());
        for range in &self.ranges {
            out.extend(range.at.to_be_bytes());
            out.extend((range.old.len() as u32).to_be_bytes());
            out.extend((range.new.len() as u32).to_be_bytes());
            out.extend(&range.old);
            out.extend(&range.new);
        }
        out.extend(Sha256::digest(&out));
        out
    }

    pub(super) fn load(file: &Writer) -> Result<Self> {
        let len = file.len()?;
        if len > MAX_LEN {
            return Err(Error::new(ErrorKind::Usage, "is no undo file of a repair"));
        }
        let mut bytes = vec![0; len as usize];
        file.read(&mut bytes, 0)?;
        Self::parse(&bytes)
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        if !bytes.starts_with(MAGIC) {
            return Err(Error::new(ErrorKind::Usage, "is no undo file of a repair"));
        }
        let (body, sum) = bytes.split_at(bytes.len().saturating_sub(HASH));
        if body.len() < HEAD || Sha256::digest(body).as_slice() != sum {
            let message = "is damaged or incomplete; a repair changes nothing before its undo file \
                           is complete, so the image may be as it was";
            return Err(Error::corrupt(message));
        }
        if body.u32_at(8) != 1 {
            return Err(Error::unsupported(
                "was written by a newer version of this tool; use that",
            ));
        }
        let mut rest = body.get(HEAD..).unwrap_or_default();
        let mut ranges = Vec::new();
        for _ in 0..body.u32_at(12) {
            let (old, new) = (rest.u32_at(8) as usize, rest.u32_at(12) as usize);
            let whole =
                rest.get(16..).and_then(|r| Some((r.get(..old)?, r.get(old..)?.get(..new)?)));
            let Some((old, new)) = whole else {
                return Err(Error::corrupt("the undo file ends within a range"));
            };
            ranges.push(Range { at: rest.u64_at(0), old: old.to_vec(), new: new.to_vec() });
            rest = rest.get(16 + old.len() + new.len()..).unwrap_or_default();
        }
        Ok(Self { old_len: body.u64_at(16), new_len: body.u64_at(24), ranges })
    }

    /// Puts the old bytes back. May be called again after a kill.
    ///
    /// # Errors
    /// `Usage` if the file was changed since the repair.
    pub(super) fn apply(&self, file: &Writer) -> Result<()> {
        let len = file.len()?;
        if len < self.old_len || len > self.new_len {
            return Err(changed());
        }
        for range in &self.ranges {
            let there = len.saturating_sub(range.at).min(range.new.len() as u64);
            let mut now = vec![0; there as usize];
            file.read(&mut now, range.at.min(len))?;
            // A kill may have left any mixture of old and new; zeros are a hole before the end.
            let fits = now.iter().enumerate().all(|(i, b)| {
                let old = range.old.get(i).copied().unwrap_or(0);
                *b == old || Some(b) == range.new.get(i)
            });
            if !fits {
                return Err(changed().with_offset(range.at));
            }
        }
        for range in &self.ranges {
            file.write(&range.old, range.at)?;
        }
        file.set_len(self.old_len)?;
        file.sync()
    }
}

fn changed() -> Error {
    let message = "was written to since the repair, so undoing that would damage it";
    Error::new(ErrorKind::Usage, message)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn what_is_written_is_parsed_and_damage_is_found() {
        let undo = Undo {
            old_len: 7,
            new_len: 9,
            ranges: vec![
                Range { at: 0, old: vec![1, 2], new: vec![3, 4] },
                Range { at: 5, old: vec![5, 6], new: vec![7, 8, 9, 10] },
            ],
        };
        let bytes = undo.to_bytes();
        assert_eq!(Undo::parse(&bytes).unwrap(), undo);
        for at in 8..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Undo::parse(&damaged).unwrap_err().kind(), ErrorKind::Corrupt);
            assert!(Undo::parse(&bytes[..at]).is_err());
        }
        assert_eq!(Undo::parse(b"?").unwrap_err().kind(), ErrorKind::Usage);
    }
}
