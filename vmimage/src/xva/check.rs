//! Everything that is odd about an XVA.

use std::io::{self, Read};
use std::sync::Arc;

use super::ova::Ova;
use super::walk::{Step, Walk};
use crate::exec::fill::is_zero;
use crate::finding::{Findings, Policy};
use crate::raw::MAX_DISK;
use crate::{Error, ErrorKind, ReadAt, Result};

/// How much of the archive is read at once.
const PIECE: usize = 1 << 20;

/// Reads an archive, plain or compressed, from its start to its end, and reports what is odd:
/// checksums that are missing or do not match, chunks that are missing or out of order, disks
/// without record and records without disk, what follows the end. It goes on after damage
/// wherever it can; `findings` must be lenient for that.
///
/// # Errors
/// `Io`; `Unsupported` for what is no XVA. Damage that ends the reading is a finding.
pub fn examine(file: Arc<dyn ReadAt>, findings: &mut Findings) -> Result<()> {
    let len = file.byte_len().map_err(|e| Error::io("cannot learn the file's length", e))?;
    let input = FileReader { file, at: 0, len, buf: Vec::new(), used: 0 };
    let mut examination = Examination {
        walk: Walk::new(Box::new(input), Policy::Lenient)?,
        ova: None,
        disks: Vec::new(),
    };
    let result = examination.run();
    // What was found before a failure is as true as the failure.
    findings.absorb("archive", &examination.walk.findings);
    match result {
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Truncated) => {
            findings.corrupt("unreadable", e.to_string(), e.offset());
            Ok(())
        }
        other => other,
    }
}

struct Examination {
    walk: Walk,
    ova: Option<Ova>,
    /// Of each disk that has begun: its size by the description, and whether a chunk was met.
    disks: Vec<Known>,
}

#[derive(Default, Clone)]
struct Known {
    size: Option<u64>,
    any: bool,
}

impl Examination {
    fn run(&mut self) -> Result<()> {
        if let Some(text) = self.walk.ova()? {
            match Ova::parse(&text, &mut self.walk.findings) {
                Ok(ova) => self.ova = Some(ova),
                Err(e) => self.walk.findings.corrupt("ova-unreadable", e.to_string(), e.offset()),
            }
        }
        let mut data = Vec::new();
        while let Step::Chunk(head) = self.walk.step(&mut data)? {
            self.enter(head.disk);
            let name = self.walk.machine.chunk_name(&head);
            let Some(known) = self.disks.get_mut(head.disk) else { continue };
            if !std::mem::replace(&mut known.any, true) && head.offset > 0 {
                let message =
                    format!("the {name} is the first one; the first of a disk is missing");
                self.walk.findings.note("first-chunk-missing", message);
            }
            let keep = known.size.map_or(head.len, |size| size.saturating_sub(head.offset));
            let past = usize::try_from(keep).ok().and_then(|keep| data.get(keep..));
            let at = Some(self.walk.machine.at());
            if past.is_some_and(|past| !is_zero(past)) {
                let message = format!("the {name} has data past the end of the disk");
                self.walk.findings.corrupt("chunk-past-end", message, at);
            } else if past.is_some_and(|past| !past.is_empty()) {
                let message = format!("the {name} has zeros past the end of the disk");
                self.walk.findings.note("chunk-padded", message);
            }
        }
        self.finish();
        Ok(())
    }

    /// Looks up the records of the disks up to `disk`.
    fn enter(&mut self, disk: usize) {
        for index in self.disks.len()..=disk {
            let reference = self.walk.machine.reference(index);
            let vdi = self.ova.as_ref().and_then(|ova| ova.vdi(reference));
            if self.ova.is_some() && vdi.is_none() {
                let message = format!("ova.xml does not describe the disk {reference}");
                self.walk.findings.note("disk-without-record", message);
            }
            self.disks.push(Known { size: vdi.map(|vdi| vdi.virtual_size), any: false });
        }
    }

    /// What only the end tells.
    fn finish(&mut self) {
        let Walk { machine, findings, .. } = &mut self.walk;
        for (index, known) in self.disks.iter().enumerate() {
            let end = machine.end_of(index);
            if known.size.is_some_and(|size| end < size) {
                let reference = machine.reference(index);
                let message =
                    format!("the last chunk of the disk {reference} is missing: it ends at {end}");
                findings.corrupt("last-chunk-missing", message, None);
            }
        }
        for index in (0..machine.disks()).filter(|&i| machine.end_of(i) > MAX_DISK) {
            let reference = machine.reference(index);
            let message = format!("the disk {reference} ends beyond the 64 TiB that are read");
            findings.corrupt("disk-too-large", message, None);
        }
        let present: Vec<&str> = (0..machine.disks()).map(|i| machine.reference(i)).collect();
        for disk in self.ova.iter().flat_map(Ova::disks) {
            if disk.virtual_size > 0 && !present.contains(&disk.reference.as_str()) {
                let message = format!("the data of the disk {disk} are not in the archive");
                findings.corrupt("disk-without-data", message, None);
            }
        }
    }
}

/// A file from its start to its end, in large pieces.
struct FileReader {
    file: Arc<dyn ReadAt>,
    at: u64,
    len: u64,
    buf: Vec<u8>,
    used: usize,
}

impl Read for FileReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used == self.buf.len() {
            let n = self.len.saturating_sub(self.at).min(PIECE as u64);
            self.buf.resize(n as usize, 0);
            self.used = 0;
            self.file.read_exact_at(&mut self.buf, self.at)?;
            self.at += n;
        }
        let held = self.buf.get(self.used..).unwrap_or_default();
        let n = held.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..n), held.get(..n)) {
            to.copy_from_slice(from);
        }
        self.used += n;
        Ok(n)
    }
}
