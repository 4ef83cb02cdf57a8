//! The disks of a plain archive, read anywhere.

use std::sync::{Arc, Mutex, PoisonError};

use super::digest::Digest;
use super::index::{self, Chunk, Chunks, read_at};
use super::machine::{mismatch, violation_at};
use super::ova::{Ova, OvaDisk};
use crate::archive::is_compressed;
use crate::exec::fill::is_zero;
use crate::finding::{Finding, Findings};
use crate::raw::{MAX_DISK, check_range};
use crate::{Disk, Error, ErrorKind, Extent, ExtentKind, ReadAt, Result};

/// How many chunks are kept for reads that do not cover them whole.
const KEPT: usize = 2;

/// A plain XVA, indexed: what it describes, and its disks.
///
/// Opening reads the headers and passes over the data; each chunk is verified against its checksum
/// when it is read. [`examine`](super::examine) verifies all of them.
#[derive(Debug)]
pub struct XvaFile {
    ova: Option<Ova>,
    disks: Vec<Arc<XvaDisk>>,
    shared: Arc<Shared>,
}

/// What all disks of an archive have in common.
#[derive(Debug)]
struct Shared {
    file: Arc<dyn ReadAt>,
    /// What was found while data were read, and the policy.
    late: Mutex<Findings>,
}

impl XvaFile {
    /// Indexes an archive. The memory is 16 bytes a chunk: 32 MiB for a disk of 2 TiB that is full.
    ///
    /// # Errors
    /// `Unsupported` for what is no XVA, or compressed: [`XvaStream`](super::XvaStream) reads that.
    /// `Truncated` and `Corrupt` for damage that the policy of `findings` does not survive;
    /// `TooLarge`; `Io`.
    pub fn open(file: Arc<dyn ReadAt>, findings: &mut Findings) -> Result<Self> {
        refuse_compressed(&file)?;
        let index = index::read(&file, findings)?;
        let ova = match &index.ova {
            Some(text) => Some(Ova::parse(text, findings)?),
            None => None,
        };
        let records = ova.as_ref().map(Ova::disks);
        let late = Mutex::new(Findings::new(findings.policy()));
        let shared = Arc::new(Shared { file, late });
        let mut disks = Vec::new();
        for (reference, chunks) in index.disks {
            let vdi = ova.as_ref().and_then(|ova| ova.vdi(&reference));
            let size = vdi.map(|vdi| vdi.virtual_size);
            if ova.is_some() && vdi.is_none() {
                let message = format!("ova.xml does not describe the disk {reference}");
                findings.note("disk-without-record", message);
            }
            let size = examine_size(&reference, size, &chunks, findings)?;
            let mut all = records.iter().flatten();
            let record = all.find(|record| record.reference == reference).cloned();
            let shared = Arc::clone(&shared);
            let kept = Mutex::new(Vec::new());
            disks.push(Arc::new(XvaDisk { reference, record, size, chunks, shared, kept }));
        }
        for record in records.iter().flatten() {
            if record.virtual_size > 0 && disks.iter().all(|d| d.reference != record.reference) {
                let message = format!("the data of the disk {record} are not in the archive");
                findings.corrupt("disk-without-data", message, None);
            }
        }
        Ok(Self { ova, disks, shared })
    }

    /// The description of the machine; `None` for the export of a single disk.
    pub fn ova(&self) -> Option<&Ova> {
        self.ova.as_ref()
    }

    /// The disks whose data are there, in the order of the archive.
    pub fn disks(&self) -> &[Arc<XvaDisk>] {
        &self.disks
    }

    /// What was found while data were read, under the lenient policy: chunks that do not match
    /// their checksum.
    pub fn late_findings(&self) -> Vec<Finding> {
        self.shared.late.lock().unwrap_or_else(PoisonError::into_inner).list().to_vec()
    }
}

fn refuse_compressed(file: &dyn ReadAt) -> Result<()> {
    let len = file.byte_len().map_err(|e| Error::io("cannot learn the file's length", e))?;
    let mut start = vec![0; len.min(4) as usize];
    read_at(file, &mut start, 0)?;
    if is_compressed(&start) {
        return Err(Error::unsupported(
            "the archive is compressed and cannot be read at any place: read it as a stream, or \
             decompress it first",
        ));
    }
    Ok(())
}

/// The size of a disk, against what its chunks say.
fn examine_size(
    reference: &str,
    described: Option<u64>,
    chunks: &Chunks,
    findings: &mut Findings,
) -> Result<u64> {
    let end = chunks.end();
    let size = described.unwrap_or(end);
    if size > MAX_DISK {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("the disk {reference} of {size} bytes is beyond the 64 TiB that are read"),
        ));
    }
    if end < size {
        let message =
            format!("the last chunk of the disk {reference} is missing: it ends at byte {end}");
        findings.violation_of(ErrorKind::Truncated, "last-chunk-missing", message)?;
    }
    if chunks.get(0).is_some_and(|chunk| chunk.guest > 0) {
        let message =
            format!("the first chunk of the disk {reference} is missing, taken for zeros");
        findings.note("first-chunk-missing", message);
    }
    if let Some(chunk) = chunks.get(chunks.after(size.saturating_sub(1)))
        && size > 0
    {
        let message = format!("a chunk of the disk {reference} lies past its {size} bytes");
        violation_at(ErrorKind::Corrupt, "chunk-past-end", message, chunk.data_at, findings)?;
    }
    Ok(size)
}

/// A disk of a plain XVA.
///
/// No byte is given out that does not match its checksum, unless the archive was opened with the
/// lenient policy. A read that covers a chunk verifies it in place; any other read loads the whole
/// chunk, of which the last ones are kept.
#[derive(Debug)]
pub struct XvaDisk {
    reference: String,
    record: Option<OvaDisk>,
    size: u64,
    chunks: Chunks,
    shared: Arc<Shared>,
    /// The chunks that were loaded last, the youngest at the end.
    kept: Mutex<Vec<(usize, Arc<[u8]>)>>,
}

impl XvaDisk {
    /// The name of the disk in the archive, such as `Ref:7`.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// What the description says of it.
    pub fn record(&self) -> Option<&OvaDisk> {
        self.record.as_ref()
    }

    /// The chunk that holds the byte at `offset`, or where the next one begins.
    fn look(&self, offset: u64) -> std::result::Result<(usize, Chunk), u64> {
        let after = self.chunks.after(offset);
        let last = after.checked_sub(1);
        if let Some((index, chunk)) = last.and_then(|i| Some((i, self.chunks.get(i)?)))
            && offset - chunk.guest < chunk.len
        {
            return Ok((index, chunk));
        }
        Err(self.chunks.get(after).map_or(self.size, |next| next.guest.min(self.size)))
    }

    fn load(&self, index: usize, chunk: &Chunk) -> Result<Arc<[u8]>> {
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(at) = kept.iter().position(|(held, _)| *held == index) {
                let entry = kept.remove(at);
                let bytes = Arc::clone(&entry.1);
                kept.push(entry);
                return Ok(bytes);
            }
        }
        // A chunk is 4 MiB at most.
        let mut bytes = vec![0; chunk.len as usize];
        self.read_verified(&mut bytes, chunk)?;
        let keep = self.size.saturating_sub(chunk.guest).min(chunk.len) as usize;
        if !is_zero(bytes.get(keep..).unwrap_or_default()) {
            let message = format!("the {} has data past the disk's end", self.name_of(chunk));
            self.complain("chunk-past-end", message, chunk.data_at)?;
        }
        let bytes: Arc<[u8]> = bytes.into();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((index, Arc::clone(&bytes)));
        Ok(bytes)
    }

    /// Reads a whole chunk into `buf` and compares it with its checksum.
    fn read_verified(&self, buf: &mut [u8], chunk: &Chunk) -> Result<()> {
        read_at(&self.shared.file, buf, chunk.data_at)?;
        // Indexing has complained of the ones that are missing.
        let Some((kind, at)) = chunk.digest else { return Ok(()) };
        let mut text = [0; 40];
        let text = text.get_mut(..kind.text_len()).unwrap_or_default();
        read_at(&self.shared.file, text, at)?;
        match Digest::parse(kind, text) {
            Some(digest) if digest.fits(buf) => Ok(()),
            Some(_) => {
                self.complain("checksum-mismatch", mismatch(&self.name_of(chunk)), chunk.data_at)
            }
            None => {
                let message = format!("the checksum of the {} is no {kind}", self.name_of(chunk));
                self.complain("checksum-damaged", message, at)
            }
        }
    }

    fn name_of(&self, chunk: &Chunk) -> String {
        format!("chunk at byte {} of the disk {}", chunk.guest, self.reference)
    }

    fn complain(&self, code: &'static str, message: String, at: u64) -> Result<()> {
        let mut late = self.shared.late.lock().unwrap_or_else(PoisonError::into_inner);
        violation_at(ErrorKind::Corrupt, code, message, at, &mut late)
    }
}

impl Disk for XvaDisk {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(&[0], offset, self.size)?;
        Ok(match self.look(offset) {
            Ok((_, chunk)) => {
                let end = chunk.guest.saturating_add(chunk.len).min(self.size);
                let file_offset = chunk.data_at + (offset - chunk.guest);
                Extent::new(offset, end - offset, ExtentKind::Data { layer: 0, file_offset })
            }
            Err(next) => Extent::new(offset, next - offset, ExtentKind::Zero),
        })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(buf, offset, self.size)?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let found = self.look(at);
            let end = match &found {
                Ok((_, chunk)) => chunk.guest.saturating_add(chunk.len),
                Err(next) => *next,
            };
            let n = (end - at).min(rest.len() as u64) as usize;
            let (part, tail) = rest.split_at_mut(n);
            match found {
                Err(_) => part.fill(0),
                Ok((_, chunk)) if n as u64 == chunk.len => self.read_verified(part, &chunk)?,
                Ok((index, chunk)) => {
                    let bytes = self.load(index, &chunk)?;
                    let from = (at - chunk.guest) as usize;
                    if let Some(held) = bytes.get(from..from + n) {
                        part.copy_from_slice(held);
                    }
                }
            }
            at += n as u64;
            rest = tail;
        }
        Ok(())
    }
}
