//! The structure of an XVA, member by member, without its data: what all readers share.

use super::digest::{Digest, DigestKind};
use super::member::Member;
use super::{MAX_CHUNK, MAX_DISKS, MAX_OVA};
use crate::archive::{BLOCK, Members, Seen, padded, shown};
use crate::finding::{Findings, Policy};
use crate::{Error, ErrorKind, Result};

/// How many zeros may follow the end of an archive.
const MAX_TAIL: u64 = 1 << 20;

/// The longest member that is passed over without a meaning.
const MAX_UNKNOWN: u64 = 1 << 30;

/// What a reader of an archive must bring next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// A block of 512 bytes, for [`Machine::block`].
    Block,
    /// So many bytes and their padding, for [`Machine::extension`].
    Extension(u64),
    /// So many bytes and their padding; then [`Machine::passed`].
    Ova(u64),
    /// The chunk's bytes and their padding; then [`Machine::passed`].
    Chunk(ChunkHead),
    /// The bytes of the last chunk's checksum and their padding, for [`Machine::digest`].
    Digest(DigestKind),
    /// So many bytes and their padding; then [`Machine::passed`].
    Skip(u64),
    /// Nothing: the archive has ended. What follows may only be zeros.
    Tail,
}

impl Need {
    /// The length of the content.
    pub(super) fn len(&self) -> u64 {
        match *self {
            Self::Block => BLOCK as u64,
            Self::Extension(len) | Self::Ova(len) | Self::Skip(len) => len,
            Self::Chunk(head) => head.len,
            Self::Digest(kind) => kind.text_len() as u64,
            Self::Tail => 0,
        }
    }

    /// The length of the content and its padding; lengths were checked when they were read.
    pub(super) fn padded(&self) -> u64 {
        padded(self.len()).unwrap_or(u64::MAX)
    }
}

/// A chunk of a disk: which, and where its bytes belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChunkHead {
    /// The disk, as an index into [`XvaParser::references`](super::XvaParser::references).
    pub disk: usize,
    /// The number in the chunk's name: a counter, which keep-alive chunks of no bytes advance.
    pub number: u64,
    /// Where the bytes belong, in guest bytes.
    pub offset: u64,
    /// How many bytes they are; zero for a keep-alive chunk.
    pub len: u64,
}

/// What is known of a disk while its chunks pass.
#[derive(Debug)]
struct DiskState {
    reference: String,
    last: Option<u64>,
    /// The guest offset after the last chunk.
    end: u64,
    /// Whether the last chunk was shorter than the others.
    short: bool,
}

/// The state between two members.
#[derive(Debug)]
pub(super) struct Machine {
    need: Need,
    at: u64,
    members: Members,
    disks: Vec<DiskState>,
    chunk_size: u64,
    /// Whether an offset has been made from the chunk size.
    chunk_size_used: bool,
    /// The chunk whose checksum is due.
    unproved: Option<ChunkHead>,
    zeros: u32,
    /// How many bytes followed the end.
    tail: u64,
    /// After damage: what comes is skipped until a header is found.
    lost: bool,
    any: bool,
    ova: bool,
}

impl Machine {
    pub(super) fn new() -> Self {
        Self {
            need: Need::Block,
            at: 0,
            members: Members::default(),
            disks: Vec::new(),
            chunk_size: 0,
            chunk_size_used: false,
            unproved: None,
            zeros: 0,
            tail: 0,
            lost: false,
            any: false,
            ova: false,
        }
    }

    pub(super) fn need(&self) -> Need {
        self.need
    }

    /// Where in the archive the next byte lies.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn disks(&self) -> usize {
        self.disks.len()
    }

    /// The name of a disk.
    pub(super) fn reference(&self, disk: usize) -> &str {
        self.disks.get(disk).map_or("", |d| d.reference.as_str())
    }

    /// The guest offset after a disk's last chunk so far.
    pub(super) fn end_of(&self, disk: usize) -> u64 {
        self.disks.get(disk).map_or(0, |d| d.end)
    }

    /// Whether the checksum of the last chunk is still due.
    pub(super) fn is_unproved(&self) -> bool {
        self.unproved.is_some()
    }

    /// The chunk whose checksum is due.
    pub(super) fn unproved(&self) -> Option<ChunkHead> {
        self.unproved
    }

    /// Whether a header is being searched.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// A chunk for people.
    pub(super) fn chunk_name(&self, head: &ChunkHead) -> String {
        chunk_name(self.reference(head.disk), head.number, head.offset)
    }

    /// What was needed has been passed over, or used.
    pub(super) fn passed(&mut self) {
        if let Need::Chunk(head) = self.need {
            self.unproved = Some(head);
        }
        self.advance(Need::Block);
    }

    fn advance(&mut self, next: Need) {
        self.at = self.at.saturating_add(self.need.padded());
        self.need = next;
    }

    /// Takes the content of an extension.
    pub(super) fn extension(&mut self, content: &[u8], findings: &mut Findings) -> Result<()> {
        let result = self.members.extension(content).map_err(|e| e.with_offset(self.at));
        self.advance(Need::Block);
        survive("tar-extension", result, findings)
    }

    /// Takes the block at which a header is due.
    pub(super) fn block(&mut self, block: &[u8; BLOCK], findings: &mut Findings) -> Result<()> {
        let seen = match self.members.block(block) {
            Ok(seen) => seen,
            Err(error) => return self.lose(error, findings),
        };
        if self.lost && !self.is_found(&seen) {
            self.zeros = if seen == Seen::Zeros { self.zeros + 1 } else { 0 };
            self.advance(Need::Block);
            return Ok(());
        }
        self.lost = false;
        let next = match seen {
            Seen::Zeros => {
                self.zeros += 1;
                if !self.any {
                    return Err(no_xva(&Error::unsupported("it begins with zeros")));
                }
                if self.zeros == 2 { Need::Tail } else { Need::Block }
            }
            Seen::Extension(len) => Need::Extension(len),
            Seen::Skip(len) => self.skip("an extension", len)?,
            Seen::File(name, len) => self.file(&name, len, findings)?,
        };
        if seen_content(&next) || matches!(next, Need::Skip(_)) {
            self.any = true;
            if std::mem::take(&mut self.zeros) > 0 {
                findings.violation("lone-zeros", "a block of zeros lies between members")?;
            }
        }
        if next == Need::Tail {
            self.settle(findings)?;
        }
        self.advance(next);
        Ok(())
    }

    /// Only a member of an XVA ends the search for one: zeros and the like are what data has too.
    fn is_found(&self, seen: &Seen) -> bool {
        matches!(seen, Seen::File(name, _) if Member::of(name) != Member::Unknown)
    }

    /// A block that is no header.
    fn lose(&mut self, error: Error, findings: &mut Findings) -> Result<()> {
        self.zeros = 0;
        if !self.lost {
            if !self.any {
                return Err(no_xva(&error));
            }
            if findings.policy() == Policy::Strict {
                return Err(error.with_offset(self.at));
            }
            let message = format!("{error}; what follows is skipped up to the next header");
            findings.corrupt("tar-header", message, Some(self.at));
        }
        // An extension spoke about the member that is lost.
        self.members = Members::default();
        self.lost = true;
        self.advance(Need::Block);
        Ok(())
    }

    /// The archive ended where a block was due.
    pub(super) fn ended(&mut self, findings: &mut Findings) -> Result<()> {
        if !self.any {
            return Err(Error::truncated("the archive is empty"));
        }
        // Of a damaged archive the end is recognised when nothing follows it.
        let whole = self.lost && self.zeros >= 2;
        let message = "the archive is cut short: the two blocks of zeros at its end are missing";
        // A checksum that is missing behind the cut is no damage: another try may bring it.
        if !whole && findings.policy() == Policy::Strict {
            return Err(Error::truncated(message).with_offset(self.at));
        }
        self.settle(findings)?;
        if !whole {
            findings.corrupt("end-missing", message, Some(self.at));
        }
        self.need = Need::Tail;
        Ok(())
    }

    /// The archive ended within what was needed.
    pub(super) fn cut(&mut self, findings: &mut Findings) -> Result<()> {
        let what = match self.need {
            Need::Chunk(head) => format!("within the {}", self.chunk_name(&head)),
            Need::Block => "within a header".to_owned(),
            _ => "within a member".to_owned(),
        };
        let message = format!("the archive is cut short: it ends {what}");
        violation_at(ErrorKind::Truncated, "cut-short", message, self.at, findings)?;
        self.need = Need::Tail;
        Ok(())
    }

    /// Takes what follows the end: zeros, in which tools round the length up. `false` once it
    /// need not be looked at any further.
    pub(super) fn tail(&mut self, bytes: &[u8], findings: &mut Findings) -> Result<bool> {
        let start = self.tail;
        self.tail = start.saturating_add(bytes.len() as u64);
        let (at, message) = match bytes.iter().position(|&b| b != 0) {
            Some(i) => (i as u64, "something follows the end of the archive"),
            None if self.tail > MAX_TAIL => (0, "zeros without end follow the end of the archive"),
            None => return Ok(true),
        };
        let at = self.at.saturating_add(start).saturating_add(at);
        violation_at(ErrorKind::Corrupt, "trailing-data", message.to_owned(), at, findings)?;
        Ok(false)
    }

    fn file(&mut self, name: &str, len: u64, findings: &mut Findings) -> Result<Need> {
        match Member::of(name) {
            Member::Chunk { disk, number } => {
                self.settle(findings)?;
                self.chunk(disk, number, len, findings)
            }
            Member::Digest { disk, number, kind } => {
                self.digest_header(disk, number, kind, len, findings)
            }
            Member::Ova => {
                self.settle(findings)?;
                if self.ova || !self.disks.is_empty() {
                    self.violation("ova-misplaced", "ova.xml is not the first member", findings)?;
                    return Ok(Need::Skip(len));
                }
                if len > MAX_OVA {
                    return Err(Error::unsupported(format!(
                        "ova.xml has {len} bytes; more than 16 MiB are not read"
                    ))
                    .with_offset(self.at));
                }
                self.ova = true;
                Ok(Need::Ova(len))
            }
            Member::Unknown => {
                self.settle(findings)?;
                if !self.any && self.disks.is_empty() {
                    // A tar archive of something else must not be taken for an empty machine.
                    let error = Error::unsupported(format!("its first member is {}", shown(name)));
                    return Err(no_xva(&error));
                }
                let message =
                    format!("the member {} is not part of an XVA; it is ignored", shown(name));
                findings.note_at("unknown-member", message, self.at);
                self.skip(&format!("the member {}", shown(name)), len)
            }
        }
    }

    /// Passes over what means nothing, if it is not there to keep a reader busy: a compressed
    /// archive can claim thousands of bytes for each one that it has.
    fn skip(&self, what: &str, len: u64) -> Result<Need> {
        if len <= MAX_UNKNOWN {
            return Ok(Need::Skip(len));
        }
        let message = format!("{what} has {len} bytes and is not part of an XVA");
        Err(Error::unsupported(message).with_offset(self.at))
    }

    /// Where the bytes of a chunk belong: XAPI counts from the end of the last chunk, and takes
    /// each number that is missing for a chunk of the usual size.
    fn chunk(
        &mut self,
        reference: &str,
        number: u64,
        len: u64,
        findings: &mut Findings,
    ) -> Result<Need> {
        if len > MAX_CHUNK {
            return Err(Error::unsupported(format!(
                "the chunk {number} of the disk {reference} has {len} bytes; more than 4 MiB are \
                 not read"
            ))
            .with_offset(self.at));
        }
        let disk = self.enter(reference, findings)?;
        let Some(state) = self.disks.get(disk) else { return Ok(Need::Skip(len)) };
        let first = state.last.is_none();
        let expected = state.last.map_or(0, |last| last.saturating_add(1));
        let (end, short) = (state.end, state.short);
        let Some(gap) = number.checked_sub(expected) else {
            let what =
                format!("the chunk {number} of the disk {reference} comes after a later one");
            self.violation("chunk-order", what, findings)?;
            return Ok(Need::Skip(len));
        };
        // A disk of less than a chunk says nothing about the chunks of the next one.
        if self.chunk_size == 0 || (first && len > self.chunk_size && !self.chunk_size_used) {
            self.chunk_size = len;
        }
        if self.chunk_size == 0 || len > self.chunk_size {
            let what = format!(
                "the chunk {number} of the disk {reference} has {len} bytes, the first chunk {}",
                self.chunk_size
            );
            self.violation("chunk-size", what, findings)?;
            return Ok(Need::Skip(len));
        }
        let offset = gap.checked_mul(self.chunk_size).and_then(|skipped| end.checked_add(skipped));
        let Some(offset) = offset.filter(|o| *o <= i64::MAX as u64) else {
            let what = format!("the chunk {number} of the disk {reference} lies beyond all disks");
            self.violation("chunk-beyond", what, findings)?;
            return Ok(Need::Skip(len));
        };
        self.chunk_size_used |= gap > 0 || (!first && len > 0);
        if short {
            let what = format!("a chunk of the disk {reference} is short and not the last");
            findings.note_at("short-chunk", what, self.at);
        }
        if let Some(state) = self.disks.get_mut(disk) {
            state.last = Some(number);
            state.end = offset + len;
            // A keep-alive chunk is none.
            state.short = len != 0 && len < self.chunk_size;
        }
        Ok(Need::Chunk(ChunkHead { disk, number, offset, len }))
    }

    /// The index of a disk, which is the last one or a new one.
    fn enter(&mut self, reference: &str, findings: &mut Findings) -> Result<usize> {
        match self.disks.iter().rposition(|d| d.reference == reference) {
            Some(index) if index + 1 == self.disks.len() => Ok(index),
            Some(index) => {
                let what = format!("the disk {reference} goes on after another one");
                self.violation("disk-split", what, findings)?;
                Ok(index)
            }
            None if self.disks.len() == MAX_DISKS => {
                Err(Error::unsupported(format!("the archive has more than {MAX_DISKS} disks")))
            }
            None => {
                let reference = reference.to_owned();
                self.disks.push(DiskState { reference, last: None, end: 0, short: false });
                Ok(self.disks.len() - 1)
            }
        }
    }

    fn digest_header(
        &mut self,
        reference: &str,
        number: u64,
        kind: DigestKind,
        len: u64,
        findings: &mut Findings,
    ) -> Result<Need> {
        let due =
            self.unproved.filter(|h| h.number == number && self.reference(h.disk) == reference);
        if due.is_none() {
            let what = format!(
                "a checksum of the chunk {number} of the disk {reference} does not follow it"
            );
            self.violation("checksum-misplaced", what, findings)?;
            return Ok(Need::Skip(len));
        }
        if len != kind.text_len() as u64 {
            let what = format!(
                "the {kind} checksum of the chunk {number} of the disk {reference} has {len} bytes"
            );
            self.violation("checksum-damaged", what, findings)?;
            self.unproved = None;
            return Ok(Need::Skip(len));
        }
        Ok(Need::Digest(kind))
    }

    /// Takes the text of a checksum and compares it with what `fits` knows of the data. `None`
    /// if it could not be compared. The answer says whether the chunk is proved.
    pub(super) fn digest(
        &mut self,
        text: &[u8],
        fits: impl FnOnce(&Digest) -> Option<bool>,
        findings: &mut Findings,
    ) -> Result<bool> {
        let (Need::Digest(kind), Some(head)) = (self.need, self.unproved.take()) else {
            return Ok(false);
        };
        let offset = self.at;
        self.advance(Need::Block);
        let name = self.chunk_name(&head);
        let (code, message) = match Digest::parse(kind, text).as_ref().map(fits) {
            Some(Some(true)) => return Ok(true),
            Some(Some(false)) => ("checksum-mismatch", mismatch(&name)),
            Some(None) => {
                ("checksum-unverified", format!("the kind of checksum changes at the {name}"))
            }
            None => ("checksum-damaged", format!("the checksum of the {name} is no {kind}")),
        };
        if findings.policy() == Policy::Strict {
            return Err(Error::corrupt(message).with_offset(offset));
        }
        findings.corrupt(code, message, Some(offset));
        Ok(false)
    }

    /// Passes over a checksum that will be compared later.
    pub(super) fn defer_digest(&mut self) {
        self.unproved = None;
        self.advance(Need::Block);
    }

    /// A chunk whose checksum has not come by now has none.
    fn settle(&mut self, findings: &mut Findings) -> Result<()> {
        if let Some(head) = self.unproved.take() {
            let what = format!("the {} has no checksum", self.chunk_name(&head));
            self.violation("checksum-missing", what, findings)?;
        }
        Ok(())
    }

    fn violation(
        &self,
        code: &'static str,
        message: impl Into<String>,
        findings: &mut Findings,
    ) -> Result<()> {
        violation_at(ErrorKind::Corrupt, code, message.into(), self.at, findings)
    }
}

fn seen_content(need: &Need) -> bool {
    matches!(need, Need::Extension(_) | Need::Ova(_) | Need::Chunk(_) | Need::Digest(_))
}

/// A violation of the format at a place of the archive: an error unless the policy is lenient.
pub(super) fn violation_at(
    kind: ErrorKind,
    code: &'static str,
    message: String,
    at: u64,
    findings: &mut Findings,
) -> Result<()> {
    if findings.policy() == Policy::Strict {
        return Err(Error::new(kind, message).with_offset(at));
    }
    findings.corrupt(code, message, Some(at));
    Ok(())
}

/// Turns an error into a finding, unless the policy is strict.
fn survive(code: &'static str, result: Result<()>, findings: &mut Findings) -> Result<()> {
    match result {
        Err(error) if findings.policy() == Policy::Lenient => {
            findings.corrupt(code, error.to_string(), error.offset());
            Ok(())
        }
        other => other,
    }
}

pub(super) fn chunk_name(reference: &str, number: u64, offset: u64) -> String {
    format!("chunk {number} of the disk {reference} (its byte {offset})")
}

pub(super) fn mismatch(name: &str) -> String {
    format!("the checksum of the {name} does not match its data; export the machine again")
}

fn no_xva(error: &Error) -> Error {
    Error::unsupported(format!("this is no XVA: {error}"))
}
