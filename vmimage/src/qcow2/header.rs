//! The header of a QCOW2 image and its extensions.

use crate::finding::Findings;
use crate::vhd::Fields;
use crate::{Error, ErrorKind, MAX_DISK, Result};

/// Bits of the incompatible-features field.
mod bit {
    pub(super) const DIRTY: u64 = 1;
    pub(super) const CORRUPT: u64 = 1 << 1;
    pub(super) const DATA_FILE: u64 = 1 << 2;
    pub(super) const COMPRESSION: u64 = 1 << 3;
    pub(super) const EXTENDED_L2: u64 = 1 << 4;
    pub(super) const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2;
}

/// Header extensions.
const EXT_BACKING_FORMAT: u32 = 0xE279_2ACA;
const EXT_DATA_FILE: u32 = 0x4441_5441;
const EXT_BITMAPS: u32 = 0x2385_2875;

/// How compressed clusters are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Deflate without a zlib header.
    Deflate,
    /// Zstandard.
    Zstd,
}

/// The header of a QCOW2 image, version 2 or 3.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The size of a cluster is two to this power, 9 to 21.
    pub cluster_bits: u32,
    /// The size of the disk in bytes.
    pub size: u64,
    /// The number of entries of the active L1 table.
    pub l1_size: u32,
    /// Where the active L1 table lies.
    pub l1_offset: u64,
    /// Where the refcount table lies.
    pub refcount_offset: u64,
    /// The length of the refcount table in clusters.
    pub refcount_clusters: u32,
    /// A refcount has two to this power bits.
    pub refcount_order: u32,
    /// How many internal snapshots there are.
    pub snapshots: u32,
    /// Where the list of snapshots lies.
    pub(crate) snapshots_offset: u64,
    /// How compressed clusters are stored.
    pub compression: Compression,
    /// Whether L2 entries have 128 bits and clusters 32 parts.
    pub extended_l2: bool,
    /// Whether there are persistent bitmaps of changes, which take clusters.
    pub bitmaps: bool,
    /// The list of these bitmaps, unless a writer that did not know them has made them stale.
    pub(crate) bitmap_list: Option<BitmapList>,
    /// Whether the refcounts may be stale.
    pub dirty: bool,
    /// The name of the backing file; outside data.
    pub backing_file: Option<String>,
    /// The format of the backing file by the image's own word.
    pub backing_format: Option<String>,
    /// Whether the clusters lie in another file.
    pub external_data: bool,
    /// The name of that file; outside data.
    pub data_file: Option<String>,
}

/// Where the list of persistent bitmaps lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BitmapList {
    /// How many bitmaps there are.
    pub(crate) bitmaps: u32,
    /// The length of the list in bytes.
    pub(crate) len: u64,
    /// Where it begins.
    pub(crate) offset: u64,
}

impl BitmapList {
    /// The header extension, if the autoclear bits say that it is current.
    fn parse(data: &[u8], autoclear: u64, findings: &mut Findings) -> Result<Option<Self>> {
        if data.len() != 24 {
            let message = format!("the extension of bitmaps has {} bytes, not 24", data.len());
            findings.violation("qcow2-extension", message)?;
            return Ok(None);
        }
        if autoclear & 1 == 0 {
            return Ok(None);
        }
        let (bitmaps, len, offset) = (data.u32_at(0), data.u64_at(8), data.u64_at(16));
        if bitmaps == 0 || data.u32_at(4) != 0 {
            let message = "the extension of bitmaps has none, or reserved bits";
            findings.violation("qcow2-extension", message)?;
        }
        Ok(Some(Self { bitmaps, len, offset }))
    }
}

impl Header {
    /// The first four bytes of an image.
    pub const MAGIC: &'static [u8; 4] = b"QFI\xfb";

    /// The cluster size by the header's first 104 bytes, if it is one: so many bytes of the file
    /// are what [`parse`](Self::parse) wants.
    pub fn cluster_size(start: &[u8]) -> Option<u64> {
        let bits = start.u32_at(20);
        (start.starts_with(Self::MAGIC) && (9..=21).contains(&bits)).then(|| 1 << bits)
    }

    /// Parses the first cluster of an image.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are no header, `Unsupported` for encryption, unknown versions and
    /// unknown incompatible features, `TooLarge` beyond [`MAX_DISK`].
    pub fn parse(bytes: &[u8], findings: &mut Findings) -> Result<Self> {
        if !bytes.starts_with(Self::MAGIC) {
            return Err(Error::corrupt("the file has no QCOW2 header"));
        }
        let version = bytes.u32_at(4);
        let needed = match version {
            2 => 72,
            3 => 104,
            _ => return Err(Error::unsupported(format!("QCOW2 version {version} is not 2 or 3"))),
        };
        if bytes.len() < needed {
            return Err(Error::truncated("the file ends within its QCOW2 header"));
        }
        if Self::cluster_size(bytes).is_none() {
            let bits = bytes.u32_at(20);
            return Err(Error::corrupt(format!("QCOW2 clusters of 2^{bits} bytes cannot be")));
        }
        if bytes.u32_at(32) != 0 {
            return Err(Error::unsupported("the QCOW2 image is encrypted; decrypt it first"));
        }
        let mut header = Self::fixed_part(bytes, version);
        header.features(bytes, findings)?;
        header.names(bytes, findings)?;
        header.examine(findings)?;
        Ok(header)
    }

    fn fixed_part(bytes: &[u8], version: u32) -> Self {
        Self {
            version,
            cluster_bits: bytes.u32_at(20),
            size: bytes.u64_at(24),
            l1_size: bytes.u32_at(36),
            l1_offset: bytes.u64_at(40),
            refcount_offset: bytes.u64_at(48),
            refcount_clusters: bytes.u32_at(56),
            refcount_order: if version >= 3 { bytes.u32_at(96) } else { 4 },
            snapshots: bytes.u32_at(60),
            snapshots_offset: bytes.u64_at(64),
            compression: Compression::Deflate,
            extended_l2: false,
            bitmaps: false,
            bitmap_list: None,
            dirty: false,
            backing_file: None,
            backing_format: None,
            external_data: false,
            data_file: None,
        }
    }

    fn features(&mut self, bytes: &[u8], findings: &mut Findings) -> Result<()> {
        if self.version < 3 {
            return Ok(());
        }
        let features = bytes.u64_at(72);
        if features & !bit::KNOWN != 0 {
            return Err(Error::unsupported(format!(
                "the QCOW2 image uses unknown incompatible features ({:#x})",
                features & !bit::KNOWN
            )));
        }
        self.dirty = features & bit::DIRTY != 0;
        if self.dirty {
            findings.note("qcow2-dirty", "the image was not closed; its refcounts may be stale");
        }
        if features & bit::CORRUPT != 0 {
            let message = "the image is marked corrupt; repair it with qemu-img check -r";
            // A mark is no damage: whether there is some, the tables tell.
            findings.oddity("qcow2-corrupt", message)?;
        }
        self.external_data = features & bit::DATA_FILE != 0;
        if !self.external_data && bytes.u64_at(88) & 0b10 != 0 {
            let message = "the image claims a raw data file, and has no data file";
            findings.violation("qcow2-data-file", message)?;
        }
        self.extended_l2 = features & bit::EXTENDED_L2 != 0;
        if self.extended_l2 && self.cluster_bits < 14 {
            return Err(Error::corrupt("extended L2 entries need clusters of 16 KiB or more"));
        }
        let kind = if bytes.u32_at(100) > 104 { bytes.u8_at(104) } else { 0 };
        self.compression = match kind {
            0 => Compression::Deflate,
            1 => Compression::Zstd,
            _ => return Err(Error::unsupported(format!("QCOW2 compression type {kind}"))),
        };
        if (kind != 0) != (features & bit::COMPRESSION != 0) {
            findings.violation("qcow2-compression", "the compression bit and type disagree")?;
        }
        Ok(())
    }

    /// The backing file's name and the header extensions.
    fn names(&mut self, bytes: &[u8], findings: &mut Findings) -> Result<()> {
        let (offset, len) = (bytes.u64_at(8), bytes.u32_at(16));
        if offset != 0 && len != 0 {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let name = start.checked_add(len as usize).and_then(|end| bytes.get(start..end));
            match name {
                Some(name) if len <= 1023 => self.backing_file = Some(text(name)),
                _ => return Err(Error::corrupt("the backing file's name is out of its place")),
            }
        }
        self.extensions(bytes, findings)
    }

    /// The header extensions: up to the first of kind zero, the backing file's name, or the end of
    /// the cluster.
    fn extensions(&mut self, bytes: &[u8], findings: &mut Findings) -> Result<()> {
        let cluster = 1_usize << self.cluster_bits;
        let mut at = if self.version >= 3 { bytes.u32_at(100) as usize } else { 72 };
        if self.version >= 3 && !(104..=cluster).contains(&at) {
            findings.violation("qcow2-header-length", format!("the header's length is {at}"))?;
            return Ok(());
        }
        if !at.is_multiple_of(8) {
            findings.oddity("qcow2-header-length", format!("the header's length is {at}"))?;
        }
        let limit = match usize::try_from(bytes.u64_at(8)) {
            Ok(0) => cluster,
            Ok(name) => name.min(cluster),
            Err(_) => cluster,
        };
        while at < limit {
            // Behind the end of a short file there is nothing, which is the end of the list.
            let (kind, len) = (bytes.u32_at(at), bytes.u32_at(at + 4) as usize);
            let end = at.saturating_add(8).saturating_add(len);
            if end > limit {
                let message = format!("the header extension {kind:#x} is too long");
                findings.violation("qcow2-extension", message)?;
                return Ok(());
            }
            let Some(data) = bytes.get(at + 8..end).filter(|_| kind != 0) else { break };
            match kind {
                EXT_BACKING_FORMAT if len > 15 => {
                    let message = "the backing file's format has a name of more than 15 bytes";
                    findings.violation("qcow2-extension", message)?;
                }
                EXT_BACKING_FORMAT => self.backing_format = Some(text(data)),
                EXT_DATA_FILE => self.data_file = Some(text(data)),
                EXT_BITMAPS => {
                    self.bitmaps = true;
                    self.bitmap_list = BitmapList::parse(data, bytes.u64_at(88), findings)?;
                }
                _ => {}
            }
            at = end.next_multiple_of(8);
        }
        Ok(())
    }

    fn examine(&self, findings: &mut Findings) -> Result<()> {
        if self.size > MAX_DISK {
            let message =
                format!("a disk of {} bytes is beyond the 64 TiB that are read", self.size);
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        if !self.size.is_multiple_of(512) {
            let message = format!("the disk has {} bytes, which are no whole sectors", self.size);
            findings.oddity("size-unaligned", message)?;
        }
        if self.refcount_order > 6 {
            findings.violation("qcow2-refcount-order", "refcounts of more than 64 bits")?;
        }
        let mask = (1_u64 << self.cluster_bits) - 1;
        if self.l1_offset & mask != 0 || self.refcount_offset & mask != 0 {
            findings.violation("qcow2-unaligned", "a table does not begin at a cluster")?;
        }
        if u64::from(self.l1_size) < self.l1_needed() {
            return Err(Error::corrupt(format!(
                "the L1 table has {} entries, but the disk needs {}",
                self.l1_size,
                self.l1_needed()
            )));
        }
        if self.snapshots != 0 {
            let message = format!("{} internal snapshots are ignored", self.snapshots);
            findings.note("qcow2-snapshots", message);
        }
        Ok(())
    }

    /// How many bytes an L2 entry has.
    pub fn l2_entry_len(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// How many guest bytes one L2 table maps.
    pub fn l2_span(&self) -> u64 {
        let cluster = 1_u64 << self.cluster_bits;
        cluster / self.l2_entry_len() * cluster
    }

    /// How many L1 entries the disk needs.
    pub fn l1_needed(&self) -> u64 {
        self.size.div_ceil(self.l2_span())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Policy;

    fn sample() -> Vec<u8> {
        let mut b = vec![0_u8; 65536];
        b[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        b[23] = 16;
        b[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
        b[36..40].copy_from_slice(&2_u32.to_be_bytes());
        b[40..48].copy_from_slice(&0x30000_u64.to_be_bytes());
        b[48..56].copy_from_slice(&0x10000_u64.to_be_bytes());
        b[59] = 1;
        b[99] = 4;
        b[103] = 104;
        b
    }

    fn parse(bytes: &[u8]) -> Result<Header> {
        Header::parse(bytes, &mut Findings::new(Policy::Strict))
    }

    #[test]
    fn a_header_by_hand() {
        let header = parse(&sample()).unwrap();
        assert_eq!((header.size, header.l1_size, header.l1_needed()), (1 << 30, 2, 2));
        assert_eq!((header.l1_offset, header.backing_file), (0x30000, None));
    }

    #[test]
    fn names_are_found() {
        let mut b = sample();
        b[104..112].copy_from_slice(&[0xE2, 0x79, 0x2A, 0xCA, 0, 0, 0, 3]);
        b[112..115].copy_from_slice(b"raw");
        b[120..128].copy_from_slice(&[0x44, 0x41, 0x54, 0x41, 0, 0, 0, 2]);
        b[128..130].copy_from_slice(b"d0");
        b[15] = 200;
        b[19] = 4;
        b[200..204].copy_from_slice(b"base");
        let header = parse(&b).unwrap();
        assert_eq!(header.backing_file.as_deref(), Some("base"));
        assert_eq!(header.backing_format.as_deref(), Some("raw"));
        assert_eq!(header.data_file.as_deref(), Some("d0"));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let with = |at: usize, value: u8| {
            let mut b = sample();
            b[at] = value;
            parse(&b).unwrap_err().kind()
        };
        assert_eq!(with(7, 4), ErrorKind::Unsupported);
        assert_eq!(with(79, 0x20), ErrorKind::Unsupported);
        assert_eq!(with(72, 0x80), ErrorKind::Unsupported);
        assert_eq!(with(79, 0x02), ErrorKind::Corrupt);
        assert_eq!(with(35, 1), ErrorKind::Unsupported);
        assert_eq!(with(23, 8), ErrorKind::Corrupt);
        assert_eq!(with(23, 22), ErrorKind::Corrupt);
        assert_eq!(with(24, 0x7f), ErrorKind::TooLarge);
        assert_eq!(with(39, 1), ErrorKind::Corrupt);
        assert_eq!(parse(&sample()[..100]).unwrap_err().kind(), ErrorKind::Truncated);
        assert!(parse(&[]).is_err());
    }
}
