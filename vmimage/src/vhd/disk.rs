//! The VHD reader: a fixed or dynamic disk, or a chain, resolved sector by sector.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::file::{Sparse, VhdFile};
use super::{Bitmap, DynamicHeader, Footer, SECTOR, uuid_text};
use crate::finding::Findings;
use crate::options::SizePolicy;
use crate::raw::{Holes, check_range};
use crate::{Disk, Error, ErrorKind, Extent, ExtentKind, ReadAt, Result};

/// How many layers a chain may have, as in XenServer.
pub const MAX_CHAIN: usize = 30;

/// How far one answer of `extent_at` looks; callers that read in pieces ask again, so the work
/// of a question must not grow with the disk.
const LOOK_AHEAD: u64 = 64 << 20;

/// A VHD or a chain of VHDs as a [`Disk`].
///
/// Each sector is looked up from the youngest layer to the oldest; a layer holds it if the block
/// is in its BAT and the sector's bit is set, in dynamic disks too (as tapdisk reads them). What
/// lies past a layer's own end is zero at that layer, even if an older one is larger.
#[derive(Debug)]
pub struct VhdDisk {
    layers: Vec<Layer>,
    size: u64,
    footer: Footer,
    header: Option<DynamicHeader>,
}

/// A parent that is no VHD: XenServer's raw volumes and plain files.
#[derive(Debug)]
pub(crate) struct RawParent {
    pub(crate) file: Arc<dyn ReadAt>,
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
}

#[derive(Debug)]
struct Layer {
    /// What the layer holds ends here, in bytes.
    size: u64,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// All bytes, in place: a fixed VHD or a raw parent.
    Flat {
        file: Arc<dyn ReadAt>,
        holes: Holes,
    },
    Sparse(Box<SparseBody>),
}

#[derive(Debug)]
struct SparseBody {
    file: VhdFile,
    tables: Sparse,
    cache: BitmapCache,
}

/// What a layer says about a byte.
enum Look {
    /// Stored, at this offset in the layer's file.
    Stored(u64),
    /// Zero, without asking any older layer.
    Zero,
    /// Not here.
    Absent,
}

impl VhdDisk {
    /// The disk of `chain`, the youngest file first. Each file but the last must be a
    /// differencing VHD whose parent UUID is that of the next one; the last must not be
    /// differencing.
    ///
    /// # Errors
    /// `Reference` if the files do not form a chain, and all errors of the parsers.
    pub fn from_chain(chain: Vec<Arc<dyn ReadAt>>, findings: &mut Findings) -> Result<Self> {
        let mut files = Vec::new();
        for file in chain {
            files.push(VhdFile::open(file, None, findings)?);
        }
        for pair in files.windows(2) {
            let wanted = pair[0].sparse.as_ref().map(|s| s.header.parent_uuid);
            if !pair[0].is_differencing() || wanted != Some(pair[1].footer.uuid) {
                let found = uuid_text(&pair[1].footer.uuid);
                return Err(Error::new(
                    ErrorKind::Reference,
                    format!("the VHD {found} is not the parent of the one before it"),
                ));
            }
        }
        if files.last().is_some_and(VhdFile::is_differencing) {
            return Err(Error::new(ErrorKind::Reference, "the last VHD of the chain has a parent"));
        }
        Self::new(files, None, SizePolicy::CurrentSize)
    }

    /// The disk of resolved files, the youngest first, over a raw parent or none.
    pub(crate) fn new(
        files: Vec<VhdFile>,
        raw: Option<RawParent>,
        policy: SizePolicy,
    ) -> Result<Self> {
        let Some(tip) = files.first() else {
            return Err(Error::new(ErrorKind::Usage, "a chain needs at least one VHD"));
        };
        if files.len() + usize::from(raw.is_some()) > MAX_CHAIN {
            return Err(Error::unsupported(format!("the chain has over {MAX_CHAIN} layers")));
        }
        let footer = tip.footer.clone();
        let header = tip.sparse.as_ref().map(|s| s.header.clone());
        let size = size_by(policy, &footer);
        let mut layers: Vec<Layer> = files.into_iter().map(Layer::of).collect();
        if let Some(raw) = raw {
            layers.push(Layer::flat(raw.file, raw.len));
        }
        Ok(Self { layers, size, footer, header })
    }

    /// The footer of the youngest file.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// The dynamic header of the youngest file; `None` for a fixed disk.
    pub fn header(&self) -> Option<&DynamicHeader> {
        self.header.as_ref()
    }

    /// How many layers the chain has, a raw parent included.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// What lies at `offset` (below the size), and up to where at most `end` it is one piece.
    fn resolve(&self, offset: u64, end: u64) -> Result<(ExtentKind, u64)> {
        let mut end = end.min(self.size);
        for (index, layer) in self.layers.iter().enumerate() {
            if offset >= layer.size {
                break;
            }
            let (look, until) = layer.look(offset)?;
            end = end.min(until).min(layer.size);
            match look {
                Look::Stored(file_offset) => {
                    let layer = u32::try_from(index).unwrap_or(u32::MAX);
                    return Ok((ExtentKind::Data { layer, file_offset }, end));
                }
                Look::Zero => break,
                Look::Absent => {}
            }
        }
        Ok((ExtentKind::Zero, end))
    }

    /// As [`resolve`](Self::resolve), with neighbouring pieces of one kind merged.
    fn run(&self, offset: u64, limit: u64) -> Result<(ExtentKind, u64)> {
        let (kind, mut end) = self.resolve(offset, limit)?;
        while end < limit.min(self.size) {
            let (next, until) = self.resolve(end, limit)?;
            let joins = match (kind, next) {
                (ExtentKind::Zero, ExtentKind::Zero) => true,
                (
                    ExtentKind::Data { layer: a, file_offset: from },
                    ExtentKind::Data { layer: b, file_offset: to },
                ) => a == b && from + (end - offset) == to,
                _ => false,
            };
            if !joins {
                break;
            }
            end = until;
        }
        Ok((kind, end))
    }
}

/// The size of the disk by `policy`, whole sectors.
pub(crate) fn size_by(policy: SizePolicy, footer: &Footer) -> u64 {
    let geometry = match policy {
        SizePolicy::CurrentSize => false,
        SizePolicy::Geometry => true,
        SizePolicy::QemuCompat => matches!(&footer.creator_app, b"qemu" | b"vpc "),
    };
    if geometry && footer.geometry != super::Geometry::MAX {
        footer.geometry.bytes()
    } else {
        footer.current_size / SECTOR * SECTOR
    }
}

impl Disk for VhdDisk {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(&[0], offset, self.size)?;
        let (kind, end) = self.run(offset, offset.saturating_add(LOOK_AHEAD))?;
        Ok(Extent::new(offset, end - offset, kind))
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(buf, offset, self.size)?;
        let limit = offset + buf.len() as u64;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (kind, end) = self.run(at, limit)?;
            // `end` is at most `limit`, so the length fits.
            let (part, tail) = rest.split_at_mut((end - at) as usize);
            match kind {
                ExtentKind::Data { layer, file_offset } => {
                    self.layers[layer as usize].read(part, file_offset)?;
                }
                _ => part.fill(0),
            }
            (at, rest) = (end, tail);
        }
        Ok(())
    }
}

impl Layer {
    fn of(mut file: VhdFile) -> Self {
        let size = file.size();
        match file.sparse.take() {
            None => Self::flat(file.file, size),
            Some(tables) => {
                let body = SparseBody { file, tables, cache: BitmapCache::default() };
                Self { size, body: Body::Sparse(Box::new(body)) }
            }
        }
    }

    fn flat(file: Arc<dyn ReadAt>, size: u64) -> Self {
        Self { size, body: Body::Flat { holes: Holes::new(Arc::clone(&file)), file } }
    }

    /// What this layer says about `offset` (below its size), and up to where.
    fn look(&self, offset: u64) -> Result<(Look, u64)> {
        match &self.body {
            Body::Flat { holes, .. } => {
                let (data, end) = holes.look(offset, self.size)?;
                Ok((if data { Look::Stored(offset) } else { Look::Zero }, end))
            }
            Body::Sparse(body) => {
                let SparseBody { file, tables, cache } = &**body;
                let block_size = u64::from(tables.header.block_size);
                let (index, within) = (offset / block_size, offset % block_size);
                let base = index * block_size;
                let Some(start) = tables.bat.block(index) else {
                    return Ok((Look::Absent, base + block_size));
                };
                let data = start + tables.header.bitmap_len();
                if tables.batmap.as_ref().is_some_and(|b| b.get(index)) {
                    return Ok((Look::Stored(data + within), base + block_size));
                }
                let bitmap = cache.get(index, || load_bitmap(file, &tables.header, start))?;
                let (held, end) = bitmap.run(within / SECTOR);
                let look = if held { Look::Stored(data + within) } else { Look::Absent };
                Ok((look, base + end * SECTOR))
            }
        }
    }

    fn read(&self, buf: &mut [u8], at: u64) -> Result<()> {
        match &self.body {
            Body::Sparse(body) => body.file.read(buf, at),
            Body::Flat { file, .. } => file
                .read_exact_at(buf, at)
                .map_err(|e| Error::io("cannot read the parent", e).with_offset(at)),
        }
    }
}

/// The bitmap of the block that begins at `start`.
pub(crate) fn load_bitmap(file: &VhdFile, header: &DynamicHeader, start: u64) -> Result<Bitmap> {
    let mut raw = vec![0; usize::try_from(header.bitmap_len()).unwrap_or(0)];
    file.read(&mut raw, start)?;
    Ok(Bitmap::parse(&raw, u64::from(header.block_size) / SECTOR))
}

/// The bitmaps of the last few blocks: a bounded, direct-mapped cache.
#[derive(Debug, Default)]
struct BitmapCache(Mutex<[CacheSlot; 16]>);

/// The index of a block and its bitmap.
type CacheSlot = Option<(u64, Arc<Bitmap>)>;

impl BitmapCache {
    fn get(&self, block: u64, load: impl FnOnce() -> Result<Bitmap>) -> Result<Arc<Bitmap>> {
        let slot = (block % 16) as usize;
        {
            let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((held, bitmap)) = &slots[slot]
                && *held == block
            {
                return Ok(Arc::clone(bitmap));
            }
        }
        // The lock is not held over the read: two threads may load one bitmap, to no harm.
        let bitmap = Arc::new(load()?);
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots[slot] = Some((block, Arc::clone(&bitmap)));
        Ok(bitmap)
    }
}
