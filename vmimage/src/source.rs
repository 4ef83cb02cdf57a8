//! The two ways to read a disk: anywhere ([`Disk`]) or once, forwards ([`Source`]).

use std::ops::Range;
use std::sync::Arc;

use crate::exec::fill::is_zero;
use crate::{BlockMap, GRANULE, ReadAt, Result, TargetFormat};

/// How much of a granule is looked at first: data that begins with so many zeros is rare.
pub(crate) const HEAD: u64 = 64;

/// A disk whose guest-visible bytes can be read at any position: a raw file, a QCOW2 image, a
/// VHD or a chain of VHDs.
///
/// A chain answers by mapping query: [`extent_at`](Self::extent_at) says which layer holds a
/// range, at sector granularity, without reading through the layers.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// The guest-visible size in bytes; a multiple of 512 for every format but raw.
    fn virtual_size(&self) -> u64;

    /// The longest run that starts at `offset` (guest bytes, below the virtual size) and is of
    /// one kind, as far as one look at the metadata tells; the next one may be of the same kind.
    ///
    /// # Errors
    /// Metadata that violates the format, and I/O failures.
    fn extent_at(&self, offset: u64) -> Result<Extent>;

    /// Fills `buf` with guest bytes from `offset` on; zeros where nothing is stored.
    ///
    /// # Errors
    /// A range past the end of the disk, a violated format, I/O failures.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// The bytes of a layer, if what [`ExtentKind::Data`] says of them is all there is to know:
    /// a copy from there needs no [`read_exact_at`](Self::read_exact_at). `None` where a read
    /// does more (verifies a checksum, say).
    fn layer(&self, layer: u32) -> Option<&dyn ReadAt> {
        let _ = layer;
        None
    }

    /// The map of what may hold data, made from the metadata alone.
    ///
    /// # Errors
    /// Those of [`extent_at`](Self::extent_at).
    fn block_map(&self) -> Result<BlockMap> {
        let mut map = BlockMap::empty(self.virtual_size());
        let mut at = 0;
        while at < self.virtual_size() {
            let extent = self.extent_at(at)?;
            let end = at.saturating_add(extent.len.max(1));
            if !matches!(extent.kind, ExtentKind::Zero) {
                map.insert(at..end);
            }
            at = end;
        }
        Ok(map)
    }
}

/// A run of guest bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extent {
    /// Where the run starts, in guest bytes.
    pub offset: u64,
    /// How long it is, in bytes; never zero.
    pub len: u64,
    /// What it holds.
    pub kind: ExtentKind,
}

impl Extent {
    /// A run of `len` bytes at guest offset `offset`.
    pub fn new(offset: u64, len: u64, kind: ExtentKind) -> Self {
        Self { offset, len, kind }
    }
}

/// What a run of guest bytes holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtentKind {
    /// Zeros, known without reading.
    Zero,
    /// Stored as it is in a layer of the chain (0 is the youngest), at a byte offset of that
    /// layer's file.
    Data {
        /// The layer: 0 is the image that was opened, 1 its parent, and so on.
        layer: u32,
        /// The byte offset in the layer's file.
        file_offset: u64,
    },
    /// Stored, but not byte for byte (compressed): only a read gives the content.
    Encoded,
}

/// A disk that is read once, in ascending order: what a transfer needs and all that a network
/// stream can give.
///
/// The map is known before the first byte of data. After the last read,
/// [`finish`](Self::finish) proves that the input was whole; data of a source that was not
/// finished must not be trusted.
pub trait Source: Send {
    /// What may hold data, and the virtual size.
    fn block_map(&self) -> &BlockMap;

    /// Fills `buf` with guest bytes from `offset` on; zeros where the map has no data.
    /// `offset` must not be below the end of the previous read.
    ///
    /// # Errors
    /// A read backwards or past the end, truncated or corrupt input, I/O failures.
    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// Reads the rest of the input, if there is any, and checks the format's own trailer.
    ///
    /// # Errors
    /// Truncated or corrupt input, bytes that do not belong to the image, I/O failures.
    fn finish(&mut self) -> Result<()>;
}

/// A [`Disk`] as a [`Source`].
#[derive(Debug)]
pub struct DiskSource {
    disk: Arc<dyn Disk>,
    map: BlockMap,
}

impl DiskSource {
    /// Makes the map of `disk` from its metadata.
    ///
    /// # Errors
    /// Those of [`Disk::block_map`].
    pub fn new(disk: Arc<dyn Disk>) -> Result<Self> {
        let map = disk.block_map()?;
        Ok(Self { disk, map })
    }

    /// As [`new`](Self::new), and then looks into the data: granules that store nothing but zeros
    /// leave the map, so that a format with blocks does not store them again. Raw files without
    /// holes and the exports of some servers are full of them.
    ///
    /// The price is a read of the first bytes of each granule, and of the rest of it where they
    /// are zero.
    ///
    /// # Errors
    /// Those of [`Disk::block_map`] and of reading.
    pub fn without_zeros(disk: Arc<dyn Disk>) -> Result<Self> {
        Self::without_zero_blocks(disk, GRANULE)
    }

    /// As [`without_zeros`](Self::without_zeros), but no finer than `format` needs it: blocks of
    /// 2 MiB for a VHD, chunks of 1 MiB for an XVA, nothing for a format that stores zeros (which
    /// become holes of the file anyway).
    ///
    /// # Errors
    /// Those of [`Disk::block_map`] and of reading.
    pub fn for_format(disk: Arc<dyn Disk>, format: TargetFormat) -> Result<Self> {
        match format.grain() {
            0 => Self::new(disk),
            grain => Self::without_zero_blocks(disk, grain),
        }
    }

    /// Blocks of `grain` bytes, a multiple of the granule, leave the map if they are zeros.
    fn without_zero_blocks(disk: Arc<dyn Disk>, grain: u64) -> Result<Self> {
        let stored = disk.block_map()?;
        let mut map = BlockMap::empty(stored.virtual_size());
        let mut buf = vec![0; GRANULE as usize];
        for block in stored.blocks(grain) {
            let range = block * grain..(block + 1) * grain;
            let runs = || {
                let (mut at, end) = (range.start, range.end);
                let stored = &stored;
                std::iter::from_fn(move || {
                    let run = stored.first_run(at..end)?;
                    at = run.end;
                    Some(run)
                })
            };
            let mut zero = true;
            for run in runs() {
                zero = zero && is_zero_range(disk.as_ref(), run, &mut buf)?;
            }
            if !zero {
                runs().for_each(|run| map.insert(run));
            }
        }
        if grain == GRANULE {
            map.set_zeros_left_out();
        }
        Ok(Self { disk, map })
    }

    /// What `disk` has that differs from `base`, for a differencing VHD: granules with the same
    /// bytes leave the map, and those that became zeros stay in it.
    ///
    /// The price is a read of everything that either disk may hold.
    ///
    /// # Errors
    /// Those of [`Disk::block_map`] and of reading.
    pub fn difference(disk: Arc<dyn Disk>, base: &dyn Disk) -> Result<Self> {
        let (ours, theirs) = (disk.block_map()?, base.block_map()?);
        let size = disk.virtual_size();
        let mut map = BlockMap::empty(size);
        let mut both = vec![0; 2 * GRANULE as usize];
        let (a, b) = both.split_at_mut(GRANULE as usize);
        let mut at = 0;
        loop {
            let next = [ours.next_run(at), theirs.next_run(at)];
            let Some(start) = next.into_iter().flatten().map(|run| run.start).min() else { break };
            let start = start / GRANULE * GRANULE;
            if start >= size {
                break;
            }
            let len = GRANULE.min(size - start) as usize;
            disk.read_exact_at(&mut a[..len], start)?;
            let shared = base.virtual_size().saturating_sub(start).min(len as u64) as usize;
            b[..len].fill(0);
            // Behind the end of the base there is nothing to read, not even nothing.
            if shared > 0 {
                base.read_exact_at(&mut b[..shared], start)?;
            }
            if a[..len] != b[..len] {
                map.insert(start..start + len as u64);
            }
            at = start + GRANULE;
        }
        map.set_zeros_left_out();
        Ok(Self { disk, map })
    }

    /// With a map that is known already.
    pub(crate) fn with_map(disk: Arc<dyn Disk>, map: BlockMap) -> Self {
        Self { disk, map }
    }

    /// The disk below.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }
}

/// Whether `range` of the disk is all zeros; looks at the first bytes of each granule first.
fn is_zero_range(disk: &dyn Disk, range: Range<u64>, buf: &mut [u8]) -> Result<bool> {
    let mut at = range.start;
    while at < range.end {
        let end = range.end.min(at - at % GRANULE + GRANULE);
        let head = end.min(at + HEAD);
        for part in [at..head, head..end] {
            let buf = &mut buf[..(part.end - part.start) as usize];
            if !buf.is_empty() {
                disk.read_exact_at(buf, part.start)?;
                if !is_zero(buf) {
                    return Ok(false);
                }
            }
        }
        at = end;
    }
    Ok(true)
}

impl Source for DiskSource {
    fn block_map(&self) -> &BlockMap {
        &self.map
    }

    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.disk.read_exact_at(buf, offset)
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
