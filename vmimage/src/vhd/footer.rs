//! The footer: 512 bytes at the end of every VHD, and a copy at the start of most.

use std::fmt;

use super::{Fields, checksum, put};
use crate::finding::Findings;
use crate::{Error, Result};

/// Seconds between the Unix epoch and VHD's, 2000-01-01T00:00:00Z.
const EPOCH: u64 = 946_684_800;

/// The kinds of VHD that exist in the wild.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiskType {
    /// Type 2: all bytes of the disk, then the footer.
    Fixed,
    /// Type 3: blocks are stored once they were written.
    Dynamic,
    /// Type 4: sectors are stored where they differ from a parent.
    Differencing,
}

impl DiskType {
    /// The number in the footer.
    pub fn code(self) -> u32 {
        match self {
            Self::Fixed => 2,
            Self::Dynamic => 3,
            Self::Differencing => 4,
        }
    }
}

impl fmt::Display for DiskType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        })
    }
}

/// Cylinders, heads and sectors per track, as the footer stores them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Geometry {
    /// Cylinders.
    pub cylinders: u16,
    /// Heads.
    pub heads: u8,
    /// Sectors per track.
    pub sectors: u8,
}

impl Geometry {
    /// The largest geometry; it says "look at the size instead".
    pub const MAX: Self = Self { cylinders: 65535, heads: 16, sectors: 255 };

    /// The geometry of a disk of `total` sectors, by the algorithm of the specification's
    /// appendix. Every division rounds down, so that the geometry never exceeds the disk
    /// (`vhd-util check` refuses one that does).
    pub fn from_sectors(total: u64) -> Self {
        let total = total.min(65535 * 16 * 255);
        let (mut sectors, mut heads, mut tracks);
        if total >= 65535 * 16 * 63 {
            (sectors, heads) = (255, 16);
            tracks = total / sectors;
        } else {
            sectors = 17;
            tracks = total / sectors;
            heads = tracks.div_ceil(1024).max(4);
            if tracks >= heads * 1024 || heads > 16 {
                (sectors, heads) = (31, 16);
                tracks = total / sectors;
            }
            if tracks >= heads * 1024 {
                (sectors, heads) = (63, 16);
                tracks = total / sectors;
            }
        }
        Self {
            cylinders: u16::try_from(tracks / heads).unwrap_or(u16::MAX),
            heads: u8::try_from(heads).unwrap_or(16),
            sectors: u8::try_from(sectors).unwrap_or(u8::MAX),
        }
    }

    /// How many sectors the geometry spans.
    pub fn total_sectors(self) -> u64 {
        u64::from(self.cylinders) * u64::from(self.heads) * u64::from(self.sectors)
    }

    /// How many bytes the geometry spans.
    pub fn bytes(self) -> u64 {
        self.total_sectors() * super::SECTOR
    }
}

/// The footer of a VHD.
///
/// Parsed by [`parse`](Self::parse), written by [`to_bytes`](Self::to_bytes); for a new image
/// start from [`new`](Self::new) and set what differs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Footer {
    /// Feature bits; bit 1 is always set, bit 0 means "temporary disk".
    pub features: u32,
    /// The version of the format, 0x0001_0000.
    pub version: u32,
    /// Where the dynamic header lies; all ones for a fixed disk.
    pub data_offset: u64,
    /// Creation time in seconds since 2000-01-01T00:00:00Z.
    pub timestamp: u32,
    /// Who wrote the file, such as `tap\0`, `caml`, `win `.
    pub creator_app: [u8; 4],
    /// The writer's version; its meaning depends on the writer.
    pub creator_version: u32,
    /// The writer's operating system, such as `Wi2k`; tapdisk writes zero.
    pub creator_os: u32,
    /// The size at creation, in bytes.
    pub original_size: u64,
    /// The size of the disk, in bytes.
    pub current_size: u64,
    /// The geometry; never the size, see [`Geometry::MAX`].
    pub geometry: Geometry,
    /// Fixed, dynamic or differencing.
    pub disk_type: DiskType,
    /// The identity by which a child names its parent; raw bytes, not always RFC 4122.
    pub uuid: [u8; 16],
    /// Whether the machine is in saved state; 0 or 1.
    pub saved: u8,
    /// tapdisk's extension: the file is an inner node of a chain; 0 or 1.
    pub hidden: u8,
}

impl Footer {
    /// The length of a footer in bytes.
    pub const LEN: usize = 512;
    /// The first eight bytes of a footer.
    pub const COOKIE: &'static [u8; 8] = b"conectix";
    /// The first eight bytes of a footer that tapdisk disabled on purpose.
    pub const POISON: &'static [u8; 8] = b"v_poison";

    /// A footer with the values that every writer agrees on: features and version as the
    /// specification wants them, floor geometry, creator `tap\0` 1.3, time stamp and UUID zero
    /// (set both), the header right behind the footer's copy unless the disk is fixed.
    pub fn new(disk_type: DiskType, size: u64) -> Self {
        Self {
            features: 2,
            version: 0x0001_0000,
            data_offset: if disk_type == DiskType::Fixed { u64::MAX } else { Self::LEN as u64 },
            timestamp: 0,
            creator_app: *b"tap\0",
            creator_version: 0x0001_0003,
            creator_os: 0,
            original_size: size,
            current_size: size,
            geometry: Geometry::from_sectors(size / super::SECTOR),
            disk_type,
            uuid: [0; 16],
            saved: 0,
            hidden: 0,
        }
    }

    /// Whether `bytes` begin with the cookie of a footer, sound or poisoned.
    pub fn probe(bytes: &[u8]) -> bool {
        bytes.starts_with(Self::COOKIE) || bytes.starts_with(Self::POISON)
    }

    /// Parses 512 bytes, or the 511 of old Virtual PC, whose last byte counts as zero.
    ///
    /// # Errors
    /// `Unsupported` for a footer that tapdisk poisoned and for deprecated disk types, `Corrupt`
    /// for bytes that are no footer, and, under the strict policy, for a wrong checksum,
    /// version or size.
    pub fn parse(bytes: &[u8], findings: &mut Findings) -> Result<Self> {
        if bytes.starts_with(Self::POISON) {
            return Err(Error::unsupported(
                "the VHD is disabled (its footer is poisoned by tapdisk); repair it on its host first",
            ));
        }
        if !bytes.starts_with(Self::COOKIE) || bytes.len() < Self::LEN - 1 {
            return Err(Error::corrupt("no VHD footer here"));
        }
        let raw: [u8; Self::LEN] = std::array::from_fn(|i| bytes.u8_at(i));
        let footer = Self::fields(&raw)?;
        if !footer.checksum_fits(&raw) {
            findings.violation("footer-checksum", "the checksum of the VHD footer is wrong")?;
        }
        footer.examine(&raw, findings)?;
        Ok(footer)
    }

    fn fields(raw: &[u8; Self::LEN]) -> Result<Self> {
        let raw = raw.as_slice();
        let disk_type = match raw.u32_at(60) {
            2 => DiskType::Fixed,
            3 => DiskType::Dynamic,
            4 => DiskType::Differencing,
            other => {
                return Err(Error::unsupported(format!(
                    "VHD disk type {other} is not fixed (2), dynamic (3) or differencing (4)"
                )));
            }
        };
        Ok(Self {
            features: raw.u32_at(8),
            version: raw.u32_at(12),
            data_offset: raw.u64_at(16),
            timestamp: raw.u32_at(24),
            creator_app: raw.array_at(28),
            creator_version: raw.u32_at(32),
            creator_os: raw.u32_at(36),
            original_size: raw.u64_at(40),
            current_size: raw.u64_at(48),
            geometry: Geometry {
                cylinders: raw.u16_at(56),
                heads: raw.u8_at(58),
                sectors: raw.u8_at(59),
            },
            disk_type,
            uuid: raw.array_at(68),
            saved: raw.u8_at(84),
            hidden: raw.u8_at(85),
        })
    }

    /// The checksum over everything but its own field. Some blktap versions set the hidden byte
    /// without renewing the checksum, so that one may have been computed with hidden = 0.
    fn checksum_fits(&self, raw: &[u8; Self::LEN]) -> bool {
        let stored = raw.as_slice().u32_at(64);
        let (head, tail) = (&raw[..64], &raw[68..]);
        if stored == checksum(&[head, tail]) {
            return true;
        }
        let quirk = self.is_tap() && matches!(self.creator_version, 0x0000_0001 | 0x0001_0001);
        quirk && self.hidden != 0 && stored == checksum(&[head, &raw[68..85], &raw[86..]])
    }

    fn examine(&self, raw: &[u8; Self::LEN], findings: &mut Findings) -> Result<()> {
        if self.version >> 16 != 1 {
            let message = format!("VHD footer version {:#010x} is not 1.x", self.version);
            findings.violation("footer-version", message)?;
        }
        if !self.current_size.is_multiple_of(super::SECTOR) {
            let message = format!("the disk size {} is no multiple of 512", self.current_size);
            findings.violation("size-unaligned", message)?;
        }
        if self.features & 2 == 0 || self.features & !3 != 0 {
            let message = format!("feature bits are {:#x}, not 2 or 3", self.features);
            findings.note("footer-features", message);
        }
        if self.geometry.bytes() > self.current_size && self.geometry != Geometry::MAX {
            findings.note("geometry-too-large", "the geometry exceeds the size of the disk");
        }
        if self.uuid == [0; 16] {
            findings.note("footer-uuid", "the UUID is null");
        }
        if self.saved > 1 || self.hidden > 1 {
            findings.note("footer-flags", "the saved or hidden byte is neither 0 nor 1");
        }
        if raw[86..].iter().any(|&b| b != 0) {
            findings.note("footer-reserved", "reserved bytes of the footer are not zero");
        }
        Ok(())
    }

    /// The 512 bytes of the footer, with its checksum.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        put(&mut out, 0, Self::COOKIE);
        put(&mut out, 8, &self.features.to_be_bytes());
        put(&mut out, 12, &self.version.to_be_bytes());
        put(&mut out, 16, &self.data_offset.to_be_bytes());
        put(&mut out, 24, &self.timestamp.to_be_bytes());
        put(&mut out, 28, &self.creator_app);
        put(&mut out, 32, &self.creator_version.to_be_bytes());
        put(&mut out, 36, &self.creator_os.to_be_bytes());
        put(&mut out, 40, &self.original_size.to_be_bytes());
        put(&mut out, 48, &self.current_size.to_be_bytes());
        put(&mut out, 56, &self.geometry.cylinders.to_be_bytes());
        put(&mut out, 58, &[self.geometry.heads, self.geometry.sectors]);
        put(&mut out, 60, &self.disk_type.code().to_be_bytes());
        put(&mut out, 68, &self.uuid);
        put(&mut out, 84, &[self.saved, self.hidden]);
        let sum = checksum(&[&out]);
        put(&mut out, 64, &sum.to_be_bytes());
        out
    }

    /// Whether tapdisk or vhd-util wrote the file.
    pub fn is_tap(&self) -> bool {
        self.creator_app.starts_with(b"tap")
    }

    /// Whether the file was written by a tapdisk so old (0.1) that its bitmaps are in another
    /// bit order; libvhd refuses such files too.
    pub fn is_ancient_tap(&self) -> bool {
        self.is_tap() && self.creator_version <= 0x0000_0001
    }

    /// Whether tapdisk's rules promise a batmap behind the BAT (`Some(true)`), leave it open
    /// (`Some(false)`, look for its cookie) or exclude it (`None`).
    pub fn batmap_rule(&self) -> Option<bool> {
        (self.is_tap() && self.disk_type != DiskType::Fixed && !self.is_ancient_tap())
            .then_some(self.creator_version >= 0x0001_0002)
    }

    /// The writer's name for people: printable characters only, trailing blanks cut.
    pub fn creator_text(&self) -> String {
        let text: String = self
            .creator_app
            .iter()
            .map(|&b| if b.is_ascii_graphic() { char::from(b) } else { ' ' })
            .collect();
        text.trim_end().to_owned()
    }

    /// The creation time in seconds since the Unix epoch.
    pub fn unix_time(&self) -> u64 {
        EPOCH + u64::from(self.timestamp)
    }

    /// The time stamp that stands for `unix` seconds since the Unix epoch, clipped to what the
    /// field can hold.
    pub fn timestamp_from_unix(unix: u64) -> u32 {
        u32::try_from(unix.saturating_sub(EPOCH)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::finding::Policy;

    fn strict(bytes: &[u8]) -> Result<Footer> {
        Footer::parse(bytes, &mut Findings::new(Policy::Strict))
    }

    fn sample() -> Footer {
        let mut footer = Footer::new(DiskType::Dynamic, 1 << 30);
        footer.uuid = *b"0123456789abcdef";
        footer.timestamp = 7;
        footer
    }

    #[test]
    fn what_is_written_is_parsed() {
        let footer = sample();
        let mut findings = Findings::new(Policy::Strict);
        assert_eq!(Footer::parse(&footer.to_bytes(), &mut findings).unwrap(), footer);
        assert!(findings.list().is_empty(), "{findings:?}");
        assert_eq!(strict(&footer.to_bytes()[..511]).unwrap(), footer);
    }

    #[test]
    fn a_footer_by_hand() {
        // Written down from the specification, field by field, without the serialiser.
        let mut b = vec![0_u8; 512];
        b[..8].copy_from_slice(b"conectix");
        b[11] = 2;
        b[13] = 1;
        b[22] = 2; // data offset 512
        b[28..32].copy_from_slice(b"caml");
        b[52] = 0x40; // current size 1 GiB
        b[56..60].copy_from_slice(&[0x08, 0x20, 16, 63]);
        b[63] = 3;
        b[68] = 9;
        let sum: u32 = b.iter().map(|&x| u32::from(x)).sum();
        b[64..68].copy_from_slice(&(!sum).to_be_bytes());
        let footer = strict(&b).unwrap();
        assert_eq!(footer.current_size, 1 << 30);
        assert_eq!(footer.geometry, Geometry { cylinders: 2080, heads: 16, sectors: 63 });
        assert_eq!((footer.data_offset, footer.disk_type), (512, DiskType::Dynamic));
        assert_eq!(footer.creator_text(), "caml");
        assert_eq!(footer.batmap_rule(), None);
    }

    #[test]
    fn a_wrong_checksum_is_an_error_or_a_finding() {
        let mut bytes = sample().to_bytes();
        bytes[45] ^= 1;
        assert_eq!(strict(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
        let mut findings = Findings::new(Policy::Lenient);
        assert!(Footer::parse(&bytes, &mut findings).is_ok());
        assert_eq!(findings.list()[0].code, "footer-checksum");
    }

    #[test]
    fn the_checksum_of_an_old_hidden_file_may_ignore_the_hidden_byte() {
        let mut footer = sample();
        footer.creator_version = 0x0001_0001;
        let mut bytes = footer.to_bytes();
        bytes[85] = 1;
        assert!(strict(&bytes).is_ok());
        footer.creator_version = 0x0001_0003;
        let mut bytes = footer.to_bytes();
        bytes[85] = 1;
        assert!(strict(&bytes).is_err());
    }

    #[test]
    fn poison_and_deprecated_types_are_refused() {
        let mut bytes = sample().to_bytes();
        bytes[..8].copy_from_slice(b"v_poison");
        assert_eq!(strict(&bytes).unwrap_err().kind(), ErrorKind::Unsupported);
        let mut bytes = sample().to_bytes();
        bytes[63] = 6;
        assert_eq!(strict(&bytes).unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(strict(&[]).is_err());
        assert!(strict(b"conectix").is_err());
    }

    #[test]
    fn geometry_matches_known_values_and_never_exceeds_the_disk() {
        let chs = |sectors| {
            let g = Geometry::from_sectors(sectors);
            (g.cylinders, g.heads, g.sectors)
        };
        // 1 GiB: the 1,073,479,680 bytes that qemu 7.2 cuts such a disk down to.
        assert_eq!(Geometry::from_sectors((1 << 30) / 512).bytes(), 1_073_479_680);
        assert_eq!(chs((127 << 30) / 512), (65278, 16, 255));
        assert_eq!(chs(u64::MAX), (65535, 16, 255));
        assert_eq!(chs(0), (0, 4, 17));
        let mut sectors = 1_u64;
        while sectors < 1 << 33 {
            for s in [sectors - 1, sectors, sectors + 1] {
                assert!(Geometry::from_sectors(s).total_sectors() <= s);
            }
            sectors = sectors * 3 / 2 + 1;
        }
    }

    #[test]
    fn batmap_rules_follow_the_creator() {
        let mut footer = sample();
        assert_eq!(footer.batmap_rule(), Some(true));
        footer.creator_version = 0x0001_0001;
        assert_eq!(footer.batmap_rule(), Some(false));
        footer.creator_version = 1;
        assert!(footer.is_ancient_tap());
        assert_eq!(footer.batmap_rule(), None);
    }
}
