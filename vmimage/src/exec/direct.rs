//! Copies within the system: `copy_file_range` shares extents where the file system can, and
//! moves pages without a detour through this process where it cannot.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::fill::is_zero;
use crate::source::HEAD;
use crate::{Disk, Error, ExtentKind, GRANULE, ReadAt, Result};

/// Shorter runs are cheaper through a buffer.
const SHORTEST: u64 = GRANULE;

/// Where a granule with data is looked at for pages of zeros, besides its start: in the middle of
/// each quarter but the first.
const PROBES: [u64; 3] = [3, 5, 7];
const EIGHTH: u64 = GRANULE / 8;

/// After so many granules of data in a row, only one of [`SPARSELY`] is looked at: zeros come in
/// long runs, and each look is a call of the system, a twentieth of what the copy costs.
const SURE: u64 = 16;
const SPARSELY: u64 = 4;

/// A run of guest bytes that lies as it is in a file.
#[derive(Debug)]
pub(super) struct Run {
    guest: u64,
    layer: u32,
    file_offset: u64,
    /// How many bytes.
    pub(super) len: u64,
}

/// What a granule holds, as far as a look tells.
enum Look {
    Zero,
    Data,
    /// Data and pages of zeros, which only the way through a buffer leaves out.
    Mixed,
}

/// The system's own way from the layers of a disk to the output.
#[derive(Debug)]
pub(super) struct Direct<'a> {
    output: &'a File,
    /// Whether stored zeros must be looked for, so that they become holes.
    look: bool,
    /// How many granules with data were met since the last one with zeros.
    data: AtomicU64,
    /// Cleared by the first refusal: another file system, a file that is none.
    works: AtomicBool,
}

impl<'a> Direct<'a> {
    pub(super) fn new(output: &'a File, zeros_left_out: bool) -> Self {
        Self {
            output,
            look: !zeros_left_out,
            data: AtomicU64::new(0),
            works: AtomicBool::new(cfg!(target_os = "linux")),
        }
    }

    /// The run at guest offset `at`, if it is long enough to be copied so.
    pub(super) fn run(&self, disk: &dyn Disk, at: u64, end: u64) -> Result<Option<Run>> {
        if !self.works.load(Ordering::Relaxed) || end - at < SHORTEST {
            return Ok(None);
        }
        let extent = disk.extent_at(at)?;
        let ExtentKind::Data { layer, file_offset } = extent.kind else { return Ok(None) };
        let len = extent.len.min(end - at);
        let whole = len >= SHORTEST && disk.layer(layer).is_some_and(|l| l.as_file().is_some());
        Ok(whole.then_some(Run { guest: at, layer, file_offset, len }))
    }

    /// Copies `run` to `offset` of the output, and says how much of it: less than all if the
    /// system refuses, or if a granule of data and zeros comes.
    pub(super) fn copy(&self, disk: &dyn Disk, run: &Run, offset: u64) -> Result<u64> {
        let Some(layer) = disk.layer(run.layer) else { return Ok(0) };
        let Some(file) = layer.as_file() else { return Ok(0) };
        if !self.look {
            return Ok(self.transfer(file, run.file_offset, offset, run.len));
        }
        let (mut done, mut at) = (0, 0);
        while at < run.len {
            // Granules of the guest, which are those of the holes.
            let next = ((run.guest + at) / GRANULE + 1) * GRANULE - run.guest;
            let n = next.min(run.len) - at;
            let look = match self.is_worth_a_look() {
                true => self.look(layer, run.file_offset + at, n)?,
                false => Look::Data,
            };
            if !matches!(look, Look::Data) {
                self.data.store(0, Ordering::Relaxed);
                done += self.transfer(file, run.file_offset + done, offset + done, at - done);
                if done < at || matches!(look, Look::Mixed) {
                    return Ok(done);
                }
                done += n;
            }
            at += n;
        }
        done += self.transfer(file, run.file_offset + done, offset + done, run.len - done);
        Ok(done)
    }

    fn is_worth_a_look(&self) -> bool {
        let before = self.data.fetch_add(1, Ordering::Relaxed);
        before < SURE || before.is_multiple_of(SPARSELY)
    }

    /// A granule that begins with zeros is read as a whole, any other at a few places.
    fn look(&self, layer: &dyn ReadAt, at: u64, len: u64) -> Result<Look> {
        let zero = |from: u64, buf: &mut [u8]| {
            let read = layer.read_exact_at(buf, at + from);
            read.map_err(|e| Error::io("cannot read the image", e).with_offset(at + from))?;
            Ok::<_, Error>(is_zero(buf))
        };
        let mut buf = [0; HEAD as usize];
        let head = HEAD.min(len);
        if zero(0, &mut buf[..head as usize])? {
            let mut rest = vec![0; (len - head) as usize];
            return Ok(if zero(head, &mut rest)? { Look::Zero } else { Look::Mixed });
        }
        for from in PROBES.map(|n| n * EIGHTH).into_iter().filter(|from| from + HEAD <= len) {
            if zero(from, &mut buf)? {
                return Ok(Look::Mixed);
            }
        }
        Ok(Look::Data)
    }

    #[cfg(target_os = "linux")]
    fn transfer(&self, from: &File, mut at: u64, mut to: u64, len: u64) -> u64 {
        let mut left = len;
        while left > 0 && self.works.load(Ordering::Relaxed) {
            let n = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
            let result =
                rustix::fs::copy_file_range(from, Some(&mut at), self.output, Some(&mut to), n);
            match result {
                Ok(done) if done > 0 => left = left.saturating_sub(done as u64),
                Err(rustix::io::Errno::INTR) => {}
                // The end of the file, another file system, no room: the ordinary way finds out
                // what it is and says so.
                _ => {
                    self.works.store(false, Ordering::Relaxed);
                    break;
                }
            }
        }
        len - left
    }

    #[cfg(not(target_os = "linux"))]
    fn transfer(&self, _from: &File, _at: u64, _to: u64, _len: u64) -> u64 {
        0
    }
}
