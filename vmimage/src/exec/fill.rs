//! Fills the buffer of a unit from its parts.

use std::ops::Range;

use crate::plan::Segment;
use crate::plan::unit::Unit;
use crate::target::XvaChunk;
use crate::{BlockMap, Result};

/// Zeros for everyone: writes, hashes and buffers copy from here.
pub(crate) static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// A run of guest bytes in a unit's buffer.
#[derive(Debug, Clone)]
pub(super) struct GuestPart {
    /// Where the run starts, in guest bytes.
    pub(super) offset: u64,
    /// Where it lies in the buffer.
    pub(super) range: Range<usize>,
}

/// Writes all parts of `unit` into `buf`, whose length is the unit's, and says which of it is
/// guest data.
pub(super) fn fill(
    unit: &Unit,
    map: &BlockMap,
    buf: &mut [u8],
    mut read: impl FnMut(&mut [u8], u64) -> Result<()>,
) -> Result<Vec<GuestPart>> {
    let mut guest = Vec::new();
    let mut at = 0;
    for part in &unit.parts {
        let range = at..at + part.output_len() as usize;
        at = range.end;
        let to = &mut buf[range.clone()];
        match part {
            Segment::Inline(bytes) => to.copy_from_slice(bytes),
            Segment::Zero(_) => to.fill(0),
            Segment::Guest { offset, .. } => {
                read(to, *offset)?;
                guest.push(GuestPart { offset: *offset, range });
            }
            Segment::Chunk(chunk) => {
                for run in fill_chunk(chunk, map, to, &mut read)? {
                    let start = range.start + run.range.start;
                    let range = start..start + run.range.len();
                    guest.push(GuestPart { offset: run.offset, range });
                }
            }
        }
    }
    Ok(guest)
}

/// Writes a chunk of an XVA into `to`; reads only what the map says may hold data.
pub(super) fn fill_chunk(
    chunk: &XvaChunk,
    map: &BlockMap,
    to: &mut [u8],
    mut read: impl FnMut(&mut [u8], u64) -> Result<()>,
) -> Result<Vec<GuestPart>> {
    let mut guest = Vec::new();
    let header = XvaChunk::HEADER;
    chunk.write(to, |data| {
        let mut at = 0;
        while let Some(run) = map.first_run(chunk.offset + at..chunk.offset + chunk.len) {
            let range = (run.start - chunk.offset) as usize..(run.end - chunk.offset) as usize;
            data[at as usize..range.start].fill(0);
            read(&mut data[range.clone()], run.start)?;
            at = range.end as u64;
            let range = header + range.start..header + range.end;
            guest.push(GuestPart { offset: run.start, range });
        }
        data[at as usize..].fill(0);
        Ok(())
    })?;
    Ok(guest)
}

/// Whether all bytes are zero; stops at the first that is not.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|chunk| {
        // The first word decides for almost all data.
        let head = chunk.len().min(16);
        chunk[..head].iter().all(|b| *b == 0) && chunk == &ZEROS[..chunk.len()]
    })
}
