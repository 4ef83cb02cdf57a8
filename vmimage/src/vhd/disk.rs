//! The VHD reader: a fixed or dynamic disk, or a chain, resolved sector by sector.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::file::{Sparse, VhdFile};
use super::window::{Resolver, WINDOW, Window};
use super::{DynamicHeader, Footer, SECTOR, uuid_text};
use crate::finding::Findings;
use crate::options::SizePolicy;
use crate::raw::{Holes, check_range};
use crate::{BlockMap, Disk, Error, ErrorKind, Extent, ExtentKind, GRANULE, ReadAt, Result};

/// How many layers a chain may have. XenServer stops at 30; other writers do not, and each layer
/// is an open file.
pub const MAX_CHAIN: usize = 512;

/// How far one answer of `extent_at` looks for more data; callers that read in pieces ask again,
/// so the work of a question must not grow with the disk. Over zeros it goes as far as they do.
const LOOK_AHEAD: u64 = 4 << 20;

/// A VHD or a chain of VHDs as a [`Disk`].
///
/// Each sector is looked up from the youngest layer to the oldest; a layer holds it if the block
/// is in its BAT and the sector's bit is set, in dynamic disks too (as tapdisk reads them). What
/// lies past a layer's own end is zero at that layer, even if an older one is larger.
#[derive(Debug)]
pub struct VhdDisk {
    layers: Arc<Vec<Layer>>,
    /// The youngest layer that counts.
    first: usize,
    /// Whether the map shows only what that layer stores itself.
    own_map: bool,
    /// The windows that were resolved last: a transfer comes back to each of them.
    windows: Mutex<[WindowSlot; 4]>,
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

/// The index of a window and what it holds.
type WindowSlot = Option<(u64, Arc<Window>)>;

#[derive(Debug)]
struct Layer {
    /// What the layer holds ends here, in bytes: whole sectors.
    size: u64,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// All bytes, in place: a fixed VHD or a raw parent.
    Flat {
        file: Arc<dyn ReadAt>,
        /// How many bytes there are in whole sectors.
        len: u64,
        holes: Holes,
    },
    Sparse(Box<SparseBody>),
}

#[derive(Debug)]
struct SparseBody {
    file: VhdFile,
    tables: Sparse,
}

impl VhdDisk {
    /// The disk of `chain`, the youngest file first. Each file but the last must be a
    /// differencing VHD whose parent UUID is that of the next one; the last must not be
    /// differencing.
    ///
    /// # Errors
    /// `Reference` if the files do not form a chain, and all errors of the parsers.
    pub fn from_chain(chain: Vec<Arc<dyn ReadAt>>, findings: &mut Findings) -> Result<Self> {
        Self::from_chain_by(chain, SizePolicy::CurrentSize, findings)
    }

    /// As [`from_chain`](Self::from_chain), with the disk's size by `policy`.
    pub(crate) fn from_chain_by(
        chain: Vec<Arc<dyn ReadAt>>,
        policy: SizePolicy,
        findings: &mut Findings,
    ) -> Result<Self> {
        let mut files = Vec::new();
        for file in chain {
            files.push(VhdFile::open(file, None, findings)?);
        }
        for pair in files.windows(2) {
            let wanted = pair[0].sparse.as_ref().map(|s| s.header.parent_uuid);
            if !pair[0].is_differencing() || wanted != Some(pair[1].footer.uuid) {
                let found = uuid_text(&pair[1].footer.uuid);
                let message = format!("the VHD {found} is not the parent of the one before it");
                if !pair[0].is_differencing() {
                    return Err(Error::new(ErrorKind::Reference, message));
                }
                // Nova linked the layers anew by their order.
                findings.violation_of(ErrorKind::Reference, "chain-uuid", message)?;
            }
        }
        if files.last().is_some_and(VhdFile::is_differencing) {
            return Err(Error::new(ErrorKind::Reference, "the last VHD of the chain has a parent"));
        }
        Self::new(files, None, policy)
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
        Ok(Self {
            layers: Arc::new(layers),
            first: 0,
            own_map: false,
            windows: Mutex::default(),
            size,
            footer,
            header,
        })
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

    /// The disk as layer `index` and those below it show it, with a map of only what that layer
    /// stores itself: what it takes to write the layers of a chain one by one. Layer 0 is the
    /// youngest; `None` if there is no such layer.
    ///
    /// A sector that the layer stores as zeros is in its map: it hides what the parent has.
    pub fn layer_view(&self, index: usize) -> Option<Self> {
        let size = if index == 0 { self.size } else { self.layers.get(index)?.size };
        Some(Self {
            layers: Arc::clone(&self.layers),
            first: index,
            own_map: true,
            windows: Mutex::default(),
            size,
            footer: self.footer.clone(),
            header: self.header.clone(),
        })
    }

    /// What the window `index` holds.
    fn window(&self, index: u64) -> Result<Arc<Window>> {
        let slot = (index % 4) as usize;
        {
            let windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((held, window)) = &windows[slot]
                && *held == index
            {
                return Ok(Arc::clone(window));
            }
        }
        // The lock is not held over the reads: two threads may resolve one window, to no harm.
        let window = Arc::new(self.resolve(index, usize::MAX)?);
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows[slot] = Some((index, Arc::clone(&window)));
        Ok(window)
    }

    /// Resolves a window by the first `depth` layers that count.
    fn resolve(&self, index: u64, depth: usize) -> Result<Window> {
        let base = index * WINDOW;
        let sectors = self.size.saturating_sub(base).min(WINDOW) / SECTOR;
        let mut resolver = Resolver::new(sectors);
        for (number, layer) in self.layers.iter().enumerate().skip(self.first).take(depth) {
            if resolver.is_done() || layer.size <= base {
                break;
            }
            // Past its end a layer is zero, even if an older one is larger.
            let until = ((layer.size - base) / SECTOR).min(sectors);
            resolver.zero(until, sectors);
            layer.resolve(&mut resolver, u32::try_from(number).unwrap_or(u32::MAX), base, until)?;
        }
        Ok(resolver.finish())
    }

    /// Where the next window that may hold data begins, at or after the one of `offset`, by the
    /// first `depth` layers that count.
    fn next_window(&self, offset: u64, depth: usize) -> Result<Option<u64>> {
        let mut next = None;
        for layer in self.layers.iter().skip(self.first).take(depth) {
            if let Some(at) = layer.next_stored(offset)? {
                next = Some(next.map_or(at, |n: u64| n.min(at)));
            }
            if next.is_some_and(|n| n <= offset) {
                break;
            }
        }
        Ok(next.filter(|&at| at < self.size).map(|at| at.max(offset) / WINDOW * WINDOW))
    }

    /// What lies at `offset` (below the size), and up to where it is one piece of its window.
    fn piece(&self, offset: u64) -> Result<(ExtentKind, u64)> {
        let base = offset / WINDOW * WINDOW;
        let window = self.window(offset / WINDOW)?;
        let end = (base + WINDOW).min(self.size);
        Ok(match window.runs_from((offset - base) / SECTOR).first() {
            Some(run) if base + run.start * SECTOR <= offset => {
                let file_offset = run.file_offset + (offset - base - run.start * SECTOR);
                let kind = ExtentKind::Data { layer: run.layer, file_offset };
                (kind, base + run.end * SECTOR)
            }
            Some(run) => (ExtentKind::Zero, base + run.start * SECTOR),
            None => (ExtentKind::Zero, end),
        })
    }

    /// Fills `buf` with what `window` holds from byte `within` of it on.
    fn read_window(&self, window: &Window, buf: &mut [u8], within: u64) -> Result<()> {
        let end = within + buf.len() as u64;
        let (mut at, mut rest) = (within, buf);
        for run in window.runs_from(within / SECTOR) {
            let (start, stop) = ((run.start * SECTOR).max(at), (run.end * SECTOR).min(end));
            if start >= end {
                break;
            }
            let (gap, tail) = rest.split_at_mut((start - at) as usize);
            gap.fill(0);
            let (part, tail) = tail.split_at_mut((stop - start) as usize);
            let place = run.file_offset + (start - run.start * SECTOR);
            self.layers[run.layer as usize].read(part, place)?;
            (at, rest) = (stop, tail);
        }
        rest.fill(0);
        Ok(())
    }

    /// As [`piece`](Self::piece), with neighbouring pieces of one kind merged up to `limit`.
    fn run(&self, offset: u64, limit: u64) -> Result<(ExtentKind, u64)> {
        let (kind, mut end) = self.piece(offset)?;
        let limit = if kind == ExtentKind::Zero { self.size } else { limit.min(self.size) };
        while end < limit {
            if kind == ExtentKind::Zero {
                end = self.next_window(end, usize::MAX)?.map_or(limit, |next| next.max(end));
                if end >= limit {
                    break;
                }
            }
            let (next, until) = self.piece(end)?;
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
        Ok((kind, end.min(limit)))
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

    fn layer(&self, layer: u32) -> Option<&dyn ReadAt> {
        self.layers.get(layer as usize).map(|l| l.file() as &dyn ReadAt)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(&[0], offset, self.size)?;
        let (kind, end) = self.run(offset, offset.saturating_add(LOOK_AHEAD))?;
        Ok(Extent::new(offset, end - offset, kind))
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(buf, offset, self.size)?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let base = at / WINDOW * WINDOW;
            let n = (base + WINDOW - at).min(rest.len() as u64);
            let (part, tail) = rest.split_at_mut(n as usize);
            self.read_window(&*self.window(at / WINDOW)?, part, at - base)?;
            (at, rest) = (at + n, tail);
        }
        Ok(())
    }

    fn block_map(&self) -> Result<BlockMap> {
        let depth = if self.own_map { 1 } else { usize::MAX };
        let mut map = BlockMap::empty(self.size);
        let mut at = 0;
        while let Some(base) = self.next_window(at, depth)? {
            let window = self.resolve(base / WINDOW, depth)?;
            let mut pending: Option<Range<u64>> = None;
            for run in window.runs() {
                let run = base + run.start * SECTOR..base + run.end * SECTOR;
                match &mut pending {
                    // Neighbours within a granule are one entry of the map.
                    Some(last) if run.start <= last.end.next_multiple_of(GRANULE) => {
                        last.end = run.end;
                    }
                    _ => pending.replace(run).into_iter().for_each(|last| map.insert(last)),
                }
            }
            pending.into_iter().for_each(|last| map.insert(last));
            at = base + WINDOW;
        }
        Ok(map)
    }
}

impl Layer {
    fn of(mut file: VhdFile) -> Self {
        let size = file.size();
        match file.sparse.take() {
            None => Self::flat(file.file, size),
            Some(tables) => {
                let body = SparseBody { file, tables };
                Self { size, body: Body::Sparse(Box::new(body)) }
            }
        }
    }

    fn flat(file: Arc<dyn ReadAt>, len: u64) -> Self {
        let size = len.next_multiple_of(SECTOR);
        // Extents are whole sectors, and whoever copies them must find that many bytes.
        let file = if size == len { file } else { Arc::new(WholeSectors { file, len }) };
        let body = Body::Flat { holes: Holes::new(Arc::clone(&file)), file, len: size };
        Self { size, body }
    }

    /// Tells `resolver` what this layer holds of the first `until` sectors from `base` on.
    fn resolve(&self, resolver: &mut Resolver, layer: u32, base: u64, until: u64) -> Result<()> {
        match &self.body {
            Body::Flat { holes, len, .. } => {
                let mut at = 0;
                while at < until {
                    let offset = base + at * SECTOR;
                    let (data, end) = holes.look(offset, *len)?;
                    let end = end.max(offset + 1) - base;
                    // A sector that is a hole in part counts as data.
                    let next = if data { end.div_ceil(SECTOR) } else { end / SECTOR };
                    let next = next.max(at + 1).min(until);
                    if data || end / SECTOR <= at {
                        resolver.take(at, next, layer, offset);
                    } else {
                        resolver.zero(at, next);
                    }
                    at = next;
                }
                Ok(())
            }
            Body::Sparse(body) => body.resolve(resolver, layer, base, until),
        }
    }

    /// Where this layer next stores anything, at or after `offset` or in its block.
    fn next_stored(&self, offset: u64) -> Result<Option<u64>> {
        if offset >= self.size {
            return Ok(None);
        }
        match &self.body {
            Body::Flat { holes, len, .. } => {
                let (data, end) = holes.look(offset.min(len.saturating_sub(1)), *len)?;
                Ok(Some(if data { offset } else { end }))
            }
            Body::Sparse(body) => {
                let block_size = u64::from(body.tables.header.block_size);
                let next = body.tables.bat.next_stored(offset / block_size);
                Ok(next.map_err(|e| body.file.named(e))?.map(|block| block * block_size))
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

    fn file(&self) -> &Arc<dyn ReadAt> {
        match &self.body {
            Body::Sparse(body) => &body.file.file,
            Body::Flat { file, .. } => file,
        }
    }
}

/// A raw parent that ends within a sector: a child sees zeros in the rest of it. It is no file
/// from which the system could copy.
#[derive(Debug)]
struct WholeSectors {
    file: Arc<dyn ReadAt>,
    len: u64,
}

impl ReadAt for WholeSectors {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len.next_multiple_of(SECTOR)) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let inside = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let (inside, outside) = buf.split_at_mut(inside);
        outside.fill(0);
        self.file.read_exact_at(inside, offset)
    }

    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.len.next_multiple_of(SECTOR))
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.file.next_data(offset)
    }
}

impl SparseBody {
    fn resolve(&self, resolver: &mut Resolver, layer: u32, base: u64, until: u64) -> Result<()> {
        let header = &self.tables.header;
        let block_size = u64::from(header.block_size);
        let end = base + until * SECTOR;
        let mut at = base;
        while at < end {
            let index = at / block_size;
            let stop = ((index + 1) * block_size).min(end);
            let (from, to) = ((at - base) / SECTOR, (stop - base) / SECTOR);
            if resolver.wants(from, to)
                && let Some(start) = self.tables.bat.block(index).map_err(|e| self.file.named(e))?
            {
                let within = at - index * block_size;
                let place = start + header.bitmap_len() + within;
                if self.tables.batmap.as_ref().is_some_and(|b| b.get(index)) {
                    resolver.take(from, to, layer, place);
                } else {
                    let mut bits = [0; (WINDOW / SECTOR / 8) as usize];
                    let bits = &mut bits[..(to - from).div_ceil(8) as usize];
                    self.file.read(bits, start + within / SECTOR / 8)?;
                    resolver.take_held(from, to, bits, layer, place);
                }
            }
            at = stop;
        }
        Ok(())
    }
}
