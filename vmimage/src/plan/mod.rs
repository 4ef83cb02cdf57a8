//! A plan: every byte of the output as ordered segments, and their exact length, before the
//! first byte of data is read.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

#[cfg(doc)]
use crate::JoinedDisk;
use crate::target::{self, Layout, SegmentIter, TargetFormat, VhdParent, XvaChecksum, XvaChunk};
use crate::{BlockMap, Error, ErrorKind, Result};

pub(crate) mod gzip_len;
pub(crate) mod unit;

/// A piece of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Segment {
    /// These bytes: metadata of the format.
    Inline(Bytes),
    /// So many zeros; never 0.
    Zero(u64),
    /// Bytes of the disk, which the block map says may hold data.
    Guest {
        /// Where they start, in guest bytes.
        offset: u64,
        /// How many; never 0.
        len: u64,
    },
    /// A chunk of an XVA: its tar header, its bytes of the disk, its checksum.
    Chunk(XvaChunk),
}

impl Segment {
    /// How many bytes of the output the segment is.
    pub fn output_len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Zero(len) | Self::Guest { len, .. } => *len,
            Self::Chunk(chunk) => chunk.output_len(),
        }
    }
}

/// What a target format lets the caller choose. The default gives the same bytes for the same
/// disk, always; VHDs that may meet need [`with_uuid`](Self::with_uuid) or
/// [`with_identity`](Self::with_identity).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PlanOptions {
    pub(crate) uuid: Option<[u8; 16]>,
    pub(crate) identity: Vec<u8>,
    pub(crate) timestamp: u32,
    pub(crate) gzip_level: u32,
    pub(crate) parent: Option<VhdParent>,
    pub(crate) name: Option<String>,
    pub(crate) checksum: XvaChecksum,
    /// Whether tables get the room that they may need at most.
    pub(crate) reserve: bool,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            uuid: None,
            identity: Vec::new(),
            timestamp: 0,
            gzip_level: 1,
            parent: None,
            name: None,
            checksum: XvaChecksum::default(),
            reserve: false,
        }
    }
}

impl PlanOptions {
    /// The defaults: a UUID that follows from the block map alone, the timestamp 2000-01-01, gzip
    /// level 1.
    pub fn new() -> Self {
        Self::default()
    }

    /// The UUID of a VHD, as the 16 bytes in the file. A null UUID is refused by
    /// [`Plan::new`], as XenServer's tools refuse it.
    #[must_use]
    pub fn with_uuid(mut self, uuid: [u8; 16]) -> Self {
        self.uuid = Some(uuid);
        self
    }

    /// What tells this disk from all others: the name of its file, a key. The UUID of a VHD that
    /// is not given follows from it too, and from the block map; without it, two disks that are
    /// full of data and equally long get the same one, which VirtualBox refuses and by which a
    /// child could take one for the other. For the layers of a chain, each.
    #[must_use]
    pub fn with_identity(mut self, identity: impl Into<Vec<u8>>) -> Self {
        self.identity = identity.into();
        self
    }

    /// The creation time of a VHD in seconds since 2000-01-01 UTC. XenServer's tools refuse one
    /// that is in the future by their clock.
    #[must_use]
    pub fn with_timestamp(mut self, seconds: u32) -> Self {
        self.timestamp = seconds;
        self
    }

    /// The level of the gzip compression of [`TargetFormat::VhdTgz`]: 0 stores, which makes the
    /// output's length known and exact; 1 (the default) is fast; 9 is small.
    #[must_use]
    pub fn with_gzip_level(mut self, level: u32) -> Self {
        self.gzip_level = level;
        self
    }

    /// Makes [`TargetFormat::VhdDynamic`] a differencing VHD: what is in the map is the child's,
    /// everything else the parent's. For the map see
    /// [`DiskSource::difference`](crate::DiskSource::difference).
    #[must_use]
    pub fn with_parent(mut self, parent: VhdParent) -> Self {
        self.parent = Some(parent);
        self
    }

    /// What an XVA calls its VM; `imported` by default.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Which checksums an XVA has.
    #[must_use]
    pub fn with_xva_checksum(mut self, checksum: XvaChecksum) -> Self {
        self.checksum = checksum;
        self
    }
}

/// The whole output of a conversion as a lazily made list of segments.
///
/// The plan owns a copy of the block map and little else: 4 MiB for a disk of 2 TiB. Tables of
/// the target format are made while the segments are consumed.
///
/// ```
/// use vmimage::{BlockMap, Plan, PlanOptions, TargetFormat};
///
/// let mut map = BlockMap::empty(1 << 40);
/// map.insert(0..1_000_000);
/// let plan = Plan::new(TargetFormat::Qcow2, &map, &PlanOptions::new())?;
/// let sum: u64 = plan.segments().map(|s| s.output_len()).sum();
/// assert_eq!(plan.output_len(), Some(sum));
/// assert_eq!(plan.virtual_size(), 1 << 40);
/// # Ok::<(), vmimage::Error>(())
/// ```
#[derive(Clone)]
pub struct Plan {
    format: TargetFormat,
    map: Arc<BlockMap>,
    layout: Arc<dyn Layout>,
    gzip_level: Option<u32>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("format", &self.format)
            .field("virtual_size", &self.virtual_size())
            .field("output_len", &self.output_len())
            .field("data_len", &self.data_len())
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// Lays a disk with this block map out in `format`.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if the format cannot hold the disk; [`ErrorKind::Usage`] for
    /// options that make no image.
    pub fn new(format: TargetFormat, map: &BlockMap, options: &PlanOptions) -> Result<Self> {
        let whole = 0..map.virtual_size();
        Self::of_disks(format, map, std::slice::from_ref(&whole), options)
    }

    /// Lays several disks out in one archive: `map` is that of a [`JoinedDisk`], `parts` says
    /// where each disk lies in it.
    ///
    /// An XVA gets all disks. A [`TargetFormat::VhdTgz`] takes them for the layers of a chain,
    /// the youngest first (see [`VhdDisk::layer_view`](crate::vhd::VhdDisk::layer_view)), and
    /// keeps them as `0.vhd`, `1.vhd`…
    ///
    /// # Errors
    /// Those of [`new`](Self::new); [`ErrorKind::Usage`] for a format that holds one disk only.
    pub fn of_disks(
        format: TargetFormat,
        map: &BlockMap,
        parts: &[Range<u64>],
        options: &PlanOptions,
    ) -> Result<Self> {
        if options.uuid == Some([0; 16]) {
            return Err(Error::new(
                ErrorKind::Usage,
                "a VHD with the null UUID is refused by XenServer: give another or none",
            ));
        }
        if options.gzip_level > 9 {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("gzip has no level {}: use 0 to 9", options.gzip_level),
            ));
        }
        let layout = target::layout(format, map, parts, options)?;
        Ok(Self {
            format,
            map: Arc::new(map.clone()),
            layout: Arc::from(layout),
            gzip_level: (format == TargetFormat::VhdTgz).then_some(options.gzip_level),
        })
    }

    /// The format of the output.
    pub fn format(&self) -> TargetFormat {
        self.format
    }

    /// The size of the disk that the image will show, in bytes: the source's, or rounded up as
    /// the [`TargetFormat`] says.
    pub fn virtual_size(&self) -> u64 {
        self.layout.virtual_size()
    }

    /// The exact length of the output in bytes; `None` only for a compressed archive.
    pub fn output_len(&self) -> Option<u64> {
        match self.gzip_level {
            None => Some(self.layout.output_len()),
            Some(0) => Some(gzip_len::stored_len(self.layout.output_len())),
            Some(_) => None,
        }
    }

    /// How many bytes of the disk will be read.
    pub fn data_len(&self) -> u64 {
        self.map.allocated()
    }

    /// The block map that the plan was made from.
    pub fn block_map(&self) -> &BlockMap {
        &self.map
    }

    /// The segments in the order of the output. For [`TargetFormat::VhdTgz`] they are the tar
    /// archive before compression.
    pub fn segments(&self) -> Segments<'_> {
        Segments(self.layout.segments(&self.map))
    }

    /// The sum of the segments: the output's length before compression.
    pub(crate) fn segments_len(&self) -> u64 {
        self.layout.output_len()
    }

    pub(crate) fn gzip_level(&self) -> Option<u32> {
        self.gzip_level
    }
}

/// The iterator of [`Plan::segments`].
pub struct Segments<'a>(SegmentIter<'a>);

impl fmt::Debug for Segments<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segments").finish_non_exhaustive()
    }
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        self.0.next()
    }
}

/// The segments of a range of the disk; zeros past its end.
pub(crate) fn guest_segments(
    map: &BlockMap,
    range: Range<u64>,
) -> impl Iterator<Item = Segment> + Send + '_ {
    let mut at = range.start;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        let (segment, end) = match map.first_run(at..range.end) {
            Some(run) if run.start == at => {
                (Segment::Guest { offset: at, len: run.end - at }, run.end)
            }
            Some(run) => (Segment::Zero(run.start - at), run.start),
            None => (Segment::Zero(range.end - at), range.end),
        };
        at = end;
        Some(segment)
    })
}
