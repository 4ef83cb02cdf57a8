//! Where the chunks of a plain archive lie, found by reading its headers only.

use std::sync::Arc;

use super::digest::DigestKind;
use super::machine::{ChunkHead, Machine, Need};
use crate::archive::{BLOCK, padded};
use crate::finding::Findings;
use crate::{Error, ReadAt, Result};

/// The headers between two chunks' data: that of the checksum, the checksum, that of the chunk.
const BETWEEN: usize = 3 * BLOCK;

/// How much is read at once where a header is searched.
const SEARCH: usize = 64 * 1024;

/// The chunks of one disk in ascending order. A disk of 2 TiB that is full takes 32 MiB.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    slots: Vec<Slot>,
    /// Those of another length or with their checksum in another place than usual.
    odd: Vec<Odd>,
    /// The usual length in bytes.
    usual: u64,
}

/// Sixteen bytes for a chunk.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Where it belongs, in guest bytes.
    guest: u64,
    /// The block at which its data begin, and in the two highest bits the kind of its checksum.
    place: u64,
}

const KIND_SHIFT: u32 = 62;

#[derive(Debug, Clone, Copy)]
struct Odd {
    index: usize,
    len: u64,
    digest_at: u64,
}

/// A chunk of a plain archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Where it belongs, in guest bytes.
    pub(super) guest: u64,
    pub(super) len: u64,
    /// Where its data begin in the archive.
    pub(super) data_at: u64,
    /// The kind of its checksum, and where its text begins in the archive.
    pub(super) digest: Option<(DigestKind, u64)>,
}

impl Chunks {
    fn push(&mut self, head: &ChunkHead, data_at: u64) {
        if self.slots.is_empty() {
            self.usual = head.len;
        }
        if head.len != self.usual {
            let (index, len) = (self.slots.len(), head.len);
            self.odd.push(Odd { index, len, digest_at: usual_digest(data_at, len) });
        }
        self.slots.push(Slot { guest: head.offset, place: data_at / BLOCK as u64 });
    }

    /// Says where the checksum of the last chunk is.
    fn prove(&mut self, kind: DigestKind, digest_at: u64) {
        let index = self.slots.len().wrapping_sub(1);
        let Some(chunk) = self.get(index) else { return };
        if digest_at != usual_digest(chunk.data_at, chunk.len) {
            match self.odd.last_mut().filter(|odd| odd.index == index) {
                Some(odd) => odd.digest_at = digest_at,
                None => self.odd.push(Odd { index, len: chunk.len, digest_at }),
            }
        }
        if let Some(slot) = self.slots.last_mut() {
            let bits: u64 = match kind {
                DigestKind::Xxh64 => 1,
                DigestKind::Sha1 => 2,
            };
            slot.place |= bits << KIND_SHIFT;
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<Chunk> {
        let slot = self.slots.get(index)?;
        let data_at = (slot.place & ((1 << KIND_SHIFT) - 1)) * BLOCK as u64;
        let odd = self.odd.binary_search_by_key(&index, |odd| odd.index);
        let (len, digest_at) = match odd.ok().and_then(|i| self.odd.get(i)) {
            Some(odd) => (odd.len, odd.digest_at),
            None => (self.usual, usual_digest(data_at, self.usual)),
        };
        let digest = match slot.place >> KIND_SHIFT {
            1 => Some((DigestKind::Xxh64, digest_at)),
            2 => Some((DigestKind::Sha1, digest_at)),
            _ => None,
        };
        Some(Chunk { guest: slot.guest, len, data_at, digest })
    }

    /// The index of the first chunk that begins after `offset`.
    pub(super) fn after(&self, offset: u64) -> usize {
        self.slots.partition_point(|slot| slot.guest <= offset)
    }

    /// The end of the last chunk, in guest bytes.
    pub(super) fn end(&self) -> u64 {
        let last = self.slots.len().checked_sub(1).and_then(|last| self.get(last));
        last.map_or(0, |chunk| chunk.guest.saturating_add(chunk.len))
    }
}

/// Where the text of a checksum is if it follows its chunk at once.
fn usual_digest(data_at: u64, len: u64) -> u64 {
    data_at.saturating_add(padded(len).unwrap_or(u64::MAX)).saturating_add(BLOCK as u64)
}

/// What the headers of an archive say.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) ova: Option<Vec<u8>>,
    /// The disks in the order of the archive: names and chunks.
    pub(super) disks: Vec<(String, Chunks)>,
}

/// Reads all headers of an archive, and passes over the data.
pub(super) fn read(file: &Arc<dyn ReadAt>, findings: &mut Findings) -> Result<Index> {
    let len = file.byte_len().map_err(|e| Error::io("cannot learn the file's length", e))?;
    let mut window = Window { file, len, start: 0, bytes: Vec::new() };
    let mut machine = Machine::new();
    let mut index = Index::default();
    loop {
        let (need, at) = (machine.need(), machine.at());
        let left = len.saturating_sub(at);
        match need {
            Need::Tail => break,
            Need::Block if left == 0 => machine.ended(findings)?,
            _ if need.padded() > left => machine.cut(findings)?,
            Need::Block => {
                let ahead = if machine.is_lost() { SEARCH } else { BETWEEN };
                let block = window.block(at, ahead)?;
                machine.block(&block, findings)?;
            }
            Need::Extension(len) => machine.extension(&content(file, at, len)?, findings)?,
            Need::Ova(len) => {
                index.ova = Some(content(file, at, len)?);
                machine.passed();
            }
            Need::Chunk(head) => {
                index.push(&machine, &head, at);
                machine.passed();
            }
            Need::Digest(kind) => {
                index.prove(&machine, kind, at);
                machine.defer_digest();
            }
            Need::Skip(_) => machine.passed(),
        }
    }
    tail(file, len, &mut machine, findings)?;
    index.disks.iter_mut().for_each(|(_, chunks)| chunks.slots.shrink_to_fit());
    Ok(index)
}

impl Index {
    fn push(&mut self, machine: &Machine, head: &ChunkHead, at: u64) {
        if self.disks.len() < machine.disks() {
            self.disks.push((machine.reference(head.disk).to_owned(), Chunks::default()));
        }
        // A keep-alive chunk has no bytes.
        if head.len > 0
            && let Some((_, chunks)) = self.disks.get_mut(head.disk)
        {
            chunks.push(head, at);
        }
    }

    /// The checksum is that of the last chunk that the machine saw.
    fn prove(&mut self, machine: &Machine, kind: DigestKind, at: u64) {
        let Some(head) = machine.unproved().filter(|head| head.len > 0) else { return };
        if let Some((_, chunks)) = self.disks.get_mut(head.disk) {
            chunks.prove(kind, at);
        }
    }
}

/// Bytes that the file has, as its length said.
fn content(file: &dyn ReadAt, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    read_at(file, &mut bytes, at)?;
    Ok(bytes)
}

pub(super) fn read_at(file: &dyn ReadAt, buf: &mut [u8], at: u64) -> Result<()> {
    file.read_exact_at(buf, at).map_err(|e| Error::io("cannot read the archive", e).with_offset(at))
}

/// What follows the end, as far as it is stored.
fn tail(file: &dyn ReadAt, len: u64, machine: &mut Machine, findings: &mut Findings) -> Result<()> {
    let mut at = machine.at().min(len);
    while at < len {
        let data = file.next_data(at);
        let data = data.map_err(|e| Error::io("cannot look for holes", e).with_offset(at))?;
        let Some(run) = data.filter(|run| run.start < len) else { break };
        at = run.start.max(at);
        let n = (run.end.clamp(at, len) - at).min(SEARCH as u64);
        if n == 0 || !machine.tail(&content(file, at, n)?, findings)? {
            break;
        }
        at += n;
    }
    Ok(())
}

/// The bytes that were read last: headers stand close together.
struct Window<'a> {
    file: &'a Arc<dyn ReadAt>,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// The block at `at`, which the file has; reads so many bytes if it must.
    fn block(&mut self, at: u64, ahead: usize) -> Result<[u8; BLOCK]> {
        if let Some(block) = self.held(at) {
            return Ok(block);
        }
        let n = self.len.saturating_sub(at).min(ahead as u64) as usize;
        self.bytes.resize(n, 0);
        read_at(self.file, &mut self.bytes, at)?;
        self.start = at;
        self.held(at).ok_or_else(|| Error::truncated("the archive ends within a header"))
    }

    fn held(&self, at: u64) -> Option<[u8; BLOCK]> {
        let from = usize::try_from(at.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..)?.first_chunk().copied()
    }
}
