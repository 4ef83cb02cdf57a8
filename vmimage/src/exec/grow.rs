//! To a file from a disk whose map is not known ahead: the data first, in the order in which it
//! comes, and then the tables around it.

use std::fs::File;
use std::path::Path;

use super::file::{write_error, write_sparse};
use super::fill::is_zero;
use super::temporary::Temporary;
use super::{Digests, FileOptions, Outcome};
use crate::content_root::RootBuilder;
use crate::plan::Segment;
use crate::scan::{Scan, checked_piece, granules, known_size};
use crate::target::{self, Growth};
use crate::{BlockMap, Error, ErrorKind, MAX_DISK, PlanOptions, Result, TargetFormat};

/// Writes what `scan` delivers to the file `path`, as [`to_file`](crate::to_file) would if the
/// map were known: raw, fixed or dynamic VHD, QCOW2. Granules of zeros are left out. A QCOW2
/// file has room for all its tables ahead of the data, and is sparse where it needs none.
///
/// The progress hook is told how far in the disk the data has come, in guest bytes.
///
/// # Errors
/// [`ErrorKind::Usage`] for an archive, whose members begin with their lengths, and for digests,
/// because the file is not written in order; for a scan of unknown size, unless the format is
/// raw. The scan's errors, [`ErrorKind::Io`] of the output, [`ErrorKind::Cancelled`]. After an
/// error `path` is as it was before.
pub fn scan_to_file(
    scan: &mut dyn Scan,
    format: TargetFormat,
    path: &Path,
    plan: &PlanOptions,
    options: &FileOptions,
) -> Result<Outcome> {
    let size = match format {
        TargetFormat::Raw => scan.virtual_size().unwrap_or(MAX_DISK),
        _ => known_size(scan)?,
    };
    let mut plan = plan.clone();
    plan.reserve = true;
    let mut map = BlockMap::empty(size);
    let layout = target::layout(format, &map, std::slice::from_ref(&(0..size)), &plan)?;
    let Some(growth) = layout.growth() else {
        let message = format!(
            "{format} tells its length before its data, which this stream cannot: convert to \
             raw, vhd or qcow2 first"
        );
        return Err(Error::new(ErrorKind::Usage, message));
    };
    if !options.digests.is_empty() {
        let message = "this stream is not written in order: compute digests of the file afterwards";
        return Err(Error::new(ErrorKind::Usage, message));
    }
    let output = Temporary::create(path)?;
    let mut data =
        Data { file: output.file(), path, growth, unit: None, count: 0, at: 0, pending: 0..0 };
    let mut root = options.content_root.then(|| RootBuilder::new(size));
    let (mut piece, mut end) = (Vec::new(), 0);
    while let Some(at) = scan.next_piece(&mut piece)? {
        options.watch.check()?;
        checked_piece(at, &piece, end, size)?;
        end = at + piece.len() as u64;
        for (start, granule) in granules(at, &piece) {
            if !is_zero(granule) {
                map.insert(start..start + granule.len() as u64);
                data.add(start, granule.len(), (start - at) as usize, &piece)?;
            }
        }
        data.flush(&piece)?;
        if let Some(root) = &mut root {
            root.update(at, &piece);
        }
        options.watch.report(end);
    }
    options.watch.check()?;
    let bytes = match scan.virtual_size() {
        Some(known) if known != size => known,
        _ => write_tables(format, &map, &plan, output.file(), path)?,
    };
    output.file().set_len(bytes).map_err(|e| write_error(path, e))?;
    output.persist()?;
    let content_root = root.map(RootBuilder::finish);
    Ok(Outcome { bytes, digests: Digests::default(), content_root })
}

/// Writes what the layout has besides the data; gives the length of the whole.
fn write_tables(
    format: TargetFormat,
    map: &BlockMap,
    plan: &PlanOptions,
    file: &File,
    path: &Path,
) -> Result<u64> {
    let whole = 0..map.virtual_size();
    let layout = target::layout(format, map, std::slice::from_ref(&whole), plan)?;
    let mut at = 0;
    for segment in layout.segments(map) {
        if let Segment::Inline(bytes) = &segment {
            write_sparse(file, bytes, at).map_err(|e| write_error(path, e))?;
        }
        at += segment.output_len();
    }
    Ok(at)
}

/// The data on its way to its places in the file.
struct Data<'a> {
    file: &'a File,
    path: &'a Path,
    growth: Growth,
    /// The unit of allocation that was written last, and how many there are.
    unit: Option<u64>,
    count: u64,
    /// Where the pending part of the piece belongs in the file.
    at: u64,
    /// The part of the piece that is not written yet.
    pending: std::ops::Range<usize>,
}

impl Data<'_> {
    /// Adds `len` bytes at guest offset `guest`, which lie at `from` of the piece.
    fn add(&mut self, guest: u64, len: usize, from: usize, piece: &[u8]) -> Result<()> {
        let at = self.place(guest);
        if self.pending.end != from || self.at + self.pending.len() as u64 != at {
            self.flush(piece)?;
            self.at = at;
            self.pending = from..from;
        }
        self.pending.end = from + len;
        Ok(())
    }

    /// Where guest offset `guest` lies in the file: offsets ascend, and a new unit of allocation
    /// follows the one before.
    fn place(&mut self, guest: u64) -> u64 {
        let Growth { unit, first, stride } = self.growth;
        if unit == 0 {
            return guest;
        }
        if self.unit != Some(guest / unit) {
            self.unit = Some(guest / unit);
            self.count += 1;
        }
        first + (self.count - 1) * stride + guest % unit
    }

    fn flush(&mut self, piece: &[u8]) -> Result<()> {
        let bytes = piece.get(self.pending.clone()).unwrap_or_default();
        write_sparse(self.file, bytes, self.at).map_err(|e| write_error(self.path, e))?;
        self.at += self.pending.len() as u64;
        self.pending = 0..0;
        Ok(())
    }
}
