//! The journal of a commit: which tables of the parent are about to change, and to what.
//!
//! It lies beside the parent as `<parent>.commit`. All numbers are big-endian.
//!
//! | offset | what |
//! |---|---|
//! | 0 | `vmimgcmt` |
//! | 8 | version, 4 bytes: 1 |
//! | 16 | UUID of the child, 16 bytes |
//! | 32 | UUID of the parent, 16 bytes; zero for a raw parent |
//! | 48 | where appended blocks may begin, 8 bytes |
//! | 480 | SHA-256 of the first 480 bytes |
//!
//! Records follow from byte 512 on: the kind (4 bytes: 1 for BAT entries, 2 for other tables), the
//! length of the changes (4), the changes, and the SHA-256 of the hash before it (that of the
//! header for the first record) and of everything above. Each change is its place in the parent
//! (8), the length of its data (4), and the data. A record counts as a whole or not at all, and
//! the first that does not count ends the journal: nothing of it was acted on.

use sha2::{Digest, Sha256};

use crate::store::Writer;
use crate::vhd::{Fields, put, uuid_text};
use crate::{Error, ErrorKind, Result};

const MAGIC: &[u8; 8] = b"vmimgcmt";
const HEADER: usize = 512;
const HASHED: usize = 480;
const HEAD: usize = 8;
const HASH: usize = 32;
/// No record is longer: the largest is a batmap.
const MAX_DATA: u32 = 4 << 20;

/// What a record changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// BAT entries of blocks that were not stored before.
    Entries,
    /// The header, a footer, the batmap.
    Table,
}

/// Who is merged into whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) child: [u8; 16],
    pub(super) parent: [u8; 16],
}

#[derive(Debug)]
pub(super) struct Journal {
    file: Writer,
    /// Where the next record goes.
    end: u64,
    last: [u8; HASH],
    /// Where appended blocks may begin.
    pub(super) floor: u64,
}

impl Journal {
    /// The journal of an earlier attempt, or `None` if there was none that changed anything.
    ///
    /// # Errors
    /// `Usage` if the file is the journal of another pair, or no journal.
    pub(super) fn resume(file: &Writer, pair: &Pair) -> Result<Option<Self>> {
        let len = file.len()?;
        let mut header = [0; HEADER];
        let there = len.min(HEADER as u64) as usize;
        file.read(header.get_mut(..there).unwrap_or_default(), 0)?;
        let header = header.as_slice();
        let there = header.get(..there).unwrap_or_default();
        if !header.starts_with(MAGIC) || header.get(HASHED..) != Some(&hash(&[&header[..HASHED]])) {
            // Its header was not synced, so nothing was changed yet. A stranger is left alone.
            let ours = there.iter().zip(MAGIC).all(|(&b, &m)| b == 0 || b == m);
            return if ours && len <= HEADER as u64 {
                Ok(None)
            } else {
                Err(Error::new(
                    ErrorKind::Usage,
                    "is in the way and no journal of a commit; move it",
                ))
            };
        }
        if header.u32_at(8) != 1 {
            return Err(Error::unsupported(
                "is the journal of a newer version of this tool; use that",
            ));
        }
        let found = Pair { child: header.array_at(16), parent: header.array_at(32) };
        if found != *pair {
            let message = format!(
                "is the journal of an unfinished commit of child {} into parent {}; finish that one \
                 first",
                uuid_text(&found.child),
                uuid_text(&found.parent)
            );
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let (last, floor) = (header.array_at(HASHED), header.u64_at(48));
        Ok(Some(Self { file: file.clone(), end: HEADER as u64, last, floor }))
    }

    /// Begins a journal; it is durable before anything is changed.
    pub(super) fn begin(file: &Writer, pair: &Pair, floor: u64) -> Result<Self> {
        let mut header = [0; HEADER];
        put(&mut header, 0, MAGIC);
        put(&mut header, 8, &1_u32.to_be_bytes());
        put(&mut header, 16, &pair.child);
        put(&mut header, 32, &pair.parent);
        put(&mut header, 48, &floor.to_be_bytes());
        let last = hash(&[&header[..HASHED]]);
        put(&mut header, HASHED, &last);
        file.set_len(0)?;
        file.write(&header, 0)?;
        file.sync()?;
        Ok(Self { file: file.clone(), end: HEADER as u64, last, floor })
    }

    /// Does every recorded change again. Once they are durable the records are forgotten: later
    /// changes of this attempt may lie where one of them did.
    pub(super) fn replay(&mut self, parent: &Writer) -> Result<()> {
        let (first, len) = (self.last, self.file.len()?);
        while let Some((kind, data)) = self.next(len)? {
            for (at, data) in changes(&data) {
                match kind {
                    Kind::Entries => ensure_untouched(parent, at, data)?,
                    // One table at a time: of the two footers, one must be sound at any moment.
                    Kind::Table => parent.sync()?,
                }
                parent.write(data, at)?;
            }
        }
        parent.sync()?;
        (self.last, self.end) = (first, HEADER as u64);
        self.file.set_len(self.end)?;
        self.file.sync()
    }

    /// The next record that is whole: its kind and its changes.
    fn next(&mut self, len: u64) -> Result<Option<(Kind, Vec<u8>)>> {
        let mut head = [0; HEAD];
        if len.saturating_sub(self.end) < HEAD as u64 {
            return Ok(None);
        }
        self.file.read(&mut head, self.end)?;
        let kind = match head.as_slice().u32_at(0) {
            1 => Kind::Entries,
            2 => Kind::Table,
            _ => return Ok(None),
        };
        let size = head.as_slice().u32_at(4);
        let whole = HEAD as u64 + u64::from(size) + HASH as u64;
        if size > MAX_DATA || len - self.end < whole {
            return Ok(None);
        }
        let mut data = vec![0; size as usize];
        self.file.read(&mut data, self.end + HEAD as u64)?;
        let mut stored = [0; HASH];
        self.file.read(&mut stored, self.end + HEAD as u64 + u64::from(size))?;
        if stored != hash(&[&self.last, &head, &data]) {
            return Ok(None);
        }
        (self.last, self.end) = (stored, self.end + whole);
        Ok(Some((kind, data)))
    }

    /// Records changes and makes the record durable; then they may be done.
    pub(super) fn record(&mut self, kind: Kind, changes: &[(u64, &[u8])]) -> Result<()> {
        let mut data = Vec::new();
        for (at, bytes) in changes {
            data.extend(at.to_be_bytes());
            data.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
            data.extend(*bytes);
        }
        let mut head = [0; HEAD];
        put(&mut head, 0, &(if kind == Kind::Entries { 1_u32 } else { 2 }).to_be_bytes());
        put(&mut head, 4, &u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
        let sum = hash(&[&self.last, &head, &data]);
        self.file.write(&[&head, data.as_slice(), &sum].concat(), self.end)?;
        self.file.sync()?;
        (self.last, self.end) = (sum, self.end + (HEAD + data.len() + HASH) as u64);
        Ok(())
    }
}

/// The changes of a record: place and bytes.
fn changes(mut data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        let (at, len) = (data.u64_at(0), data.u32_at(8) as usize);
        let bytes = data.get(12..)?.get(..len)?;
        data = data.get(12 + len..)?;
        Some((at, bytes))
    })
}

/// Entries are only ever written over unused ones; anything else means that the parent was
/// written to since.
fn ensure_untouched(parent: &Writer, at: u64, entries: &[u8]) -> Result<()> {
    let mut now = vec![0; entries.len()];
    parent.read(&mut now, at)?;
    if now.iter().zip(entries).all(|(&n, &e)| n == 0xff || n == e) {
        return Ok(());
    }
    Err(Error::corrupt(
        "the parent was written to since its unfinished commit began; restore it from a backup",
    )
    .with_offset(at))
}

fn hash(parts: &[&[u8]]) -> [u8; HASH] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part);
    }
    digest.finalize().into()
}
