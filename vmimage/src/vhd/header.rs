//! The dynamic header: 1024 bytes that place the BAT and name the parent.

use super::locator::Locator;
use super::{BAT_UNUSED, Fields, checksum, put};
use crate::finding::Findings;
use crate::{Error, ErrorKind, Result};

/// The longest BAT that is read: 8 Mi entries, 32 MiB of memory for one layer, 16 TiB of disk
/// at the usual block size.
pub const MAX_BAT_ENTRIES: u32 = 8 << 20;

/// Block sizes that are read: from 4 KiB to 256 MiB, powers of two.
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 4096..=256 << 20;

/// The header of a dynamic or differencing VHD.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DynamicHeader {
    /// Unused by the format; all ones.
    pub data_offset: u64,
    /// Where the BAT lies, in bytes.
    pub table_offset: u64,
    /// The version of the header, 0x0001_0000.
    pub version: u32,
    /// How many entries the BAT has; at least one for each block of the disk.
    pub max_table_entries: u32,
    /// The size of a block in bytes, without its bitmap.
    pub block_size: u32,
    /// The UUID of a differencing disk's parent; null means that the parent is a raw disk.
    pub parent_uuid: [u8; 16],
    /// When the parent was last written, in seconds since 2000-01-01; advisory.
    pub parent_timestamp: u32,
    /// The parent's name as the child's writer knew it.
    pub parent_name: String,
    /// Where else the parent may be found.
    pub locators: Vec<Locator>,
}

impl DynamicHeader {
    /// The length of a header in bytes.
    pub const LEN: usize = 1024;
    /// The first eight bytes of a header.
    pub const COOKIE: &'static [u8; 8] = b"cxsparse";
    /// The block size that every reader accepts: 2 MiB.
    pub const DEFAULT_BLOCK_SIZE: u32 = 2 << 20;

    /// A header without a parent: 2 MiB blocks, the BAT at `table_offset`.
    pub fn new(table_offset: u64, max_table_entries: u32) -> Self {
        Self {
            data_offset: u64::MAX,
            table_offset,
            version: 0x0001_0000,
            max_table_entries,
            block_size: Self::DEFAULT_BLOCK_SIZE,
            parent_uuid: [0; 16],
            parent_timestamp: 0,
            parent_name: String::new(),
            locators: Vec::new(),
        }
    }

    /// Parses the 1024 bytes of a header.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are no header and for a block size that cannot be,
    /// `Unsupported` for a BAT beyond [`MAX_BAT_ENTRIES`], and, under the strict policy,
    /// `Corrupt` for a wrong checksum or version.
    pub fn parse(bytes: &[u8], findings: &mut Findings) -> Result<Self> {
        let Some(raw) = bytes.get(..Self::LEN) else {
            return Err(Error::truncated("the VHD ends within its dynamic header"));
        };
        if !raw.starts_with(Self::COOKIE) {
            return Err(Error::corrupt("the VHD's dynamic header is missing"));
        }
        if raw.u32_at(36) != checksum(&[&raw[..36], &raw[40..]]) {
            findings.violation("header-checksum", "the checksum of the VHD header is wrong")?;
        }
        let header = Self {
            data_offset: raw.u64_at(8),
            table_offset: raw.u64_at(16),
            version: raw.u32_at(24),
            max_table_entries: raw.u32_at(28),
            block_size: raw.u32_at(32),
            parent_uuid: raw.array_at(40),
            parent_timestamp: raw.u32_at(56),
            parent_name: Self::name(&raw[64..576]),
            locators: raw[576..768].chunks_exact(24).filter_map(Locator::parse).collect(),
        };
        header.examine(raw, findings)?;
        Ok(header)
    }

    fn examine(&self, raw: &[u8], findings: &mut Findings) -> Result<()> {
        if !self.block_size.is_power_of_two() || !BLOCK_SIZES.contains(&self.block_size) {
            return Err(Error::corrupt(format!(
                "the VHD's block size {} is no power of two between 4 KiB and 256 MiB",
                self.block_size
            )));
        }
        if self.version >> 16 != 1 {
            let message = format!("VHD header version {:#010x} is not 1.x", self.version);
            findings.violation("header-version", message)?;
        }
        if self.data_offset != u64::MAX {
            findings.note("header-data-offset", "the header's data offset is not all ones");
        }
        if self.block_size > Self::DEFAULT_BLOCK_SIZE {
            findings.note("block-size", "XenServer refuses blocks of more than 2 MiB");
        }
        if raw[60..64].iter().chain(&raw[768..]).any(|&b| b != 0) {
            findings.note("header-reserved", "reserved bytes of the header are not zero");
        }
        Ok(())
    }

    /// UTF-16, big-endian, up to the first null.
    fn name(raw: &[u8]) -> String {
        let units = raw.chunks_exact(2).map(|c| c.u16_at(0)).take_while(|&u| u != 0);
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    }

    /// The 1024 bytes of the header, with its checksum. A name of more than 255 UTF-16 units is
    /// cut; of the locators the first eight are written.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        put(&mut out, 0, Self::COOKIE);
        put(&mut out, 8, &self.data_offset.to_be_bytes());
        put(&mut out, 16, &self.table_offset.to_be_bytes());
        put(&mut out, 24, &self.version.to_be_bytes());
        put(&mut out, 28, &self.max_table_entries.to_be_bytes());
        put(&mut out, 32, &self.block_size.to_be_bytes());
        put(&mut out, 40, &self.parent_uuid);
        put(&mut out, 56, &self.parent_timestamp.to_be_bytes());
        for (i, unit) in self.parent_name.encode_utf16().take(255).enumerate() {
            put(&mut out, 64 + 2 * i, &unit.to_be_bytes());
        }
        for (i, locator) in self.locators.iter().take(8).enumerate() {
            put(&mut out, 576 + 24 * i, &locator.to_bytes());
        }
        let sum = checksum(&[&out]);
        put(&mut out, 36, &sum.to_be_bytes());
        out
    }

    /// How many blocks a disk of `size` bytes has.
    pub fn blocks_for(&self, size: u64) -> u64 {
        size.div_ceil(u64::from(self.block_size))
    }

    /// The number of BAT entries that a disk of `size` bytes needs; the BAT may be longer.
    ///
    /// # Errors
    /// `Corrupt` if the BAT is shorter, `Unsupported` beyond [`MAX_BAT_ENTRIES`], `TooLarge`
    /// beyond [`MAX_DISK`](crate::MAX_DISK).
    pub fn needed_entries(&self, size: u64) -> Result<u32> {
        if size > crate::MAX_DISK {
            let message = format!("a disk of {size} bytes is beyond the 64 TiB that are read");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let needed = self.blocks_for(size);
        if needed > u64::from(self.max_table_entries) {
            return Err(Error::corrupt(format!(
                "the VHD's BAT has {} entries, but its disk of {size} bytes needs {needed}",
                self.max_table_entries
            )));
        }
        match u32::try_from(needed) {
            Ok(n) if n <= MAX_BAT_ENTRIES => Ok(n),
            _ => Err(Error::unsupported(format!(
                "the VHD's BAT needs {needed} entries; more than {MAX_BAT_ENTRIES} are not read"
            ))),
        }
    }

    /// The length in bytes of a block's bitmap on disk: one bit a sector, padded to a sector.
    pub fn bitmap_len(&self) -> u64 {
        (u64::from(self.block_size) / super::SECTOR).div_ceil(8).next_multiple_of(super::SECTOR)
    }

    /// The length of the BAT on disk: 4 bytes an entry, padded to a sector.
    pub fn bat_len(&self) -> u64 {
        (u64::from(self.max_table_entries) * 4).next_multiple_of(super::SECTOR)
    }

    /// Where the BAT ends and tapdisk's batmap begins, if that can be.
    pub fn bat_end(&self) -> Option<u64> {
        self.table_offset.checked_add(self.bat_len())
    }

    /// Where the block of BAT entry `entry` begins (its bitmap), unless it is unallocated.
    pub fn block_start(entry: u32) -> Option<u64> {
        (entry != BAT_UNUSED).then(|| u64::from(entry) * super::SECTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Policy;
    use crate::vhd::PlatformCode;

    fn sample() -> DynamicHeader {
        let mut header = DynamicHeader::new(1536, 512);
        header.parent_uuid = *b"fedcba9876543210";
        header.parent_name = "bäse \u{1F600}.vhd".into();
        header.locators.push(Locator::new(PlatformCode::W2RU, 512, 24, 4096));
        header
    }

    #[test]
    fn what_is_written_is_parsed() {
        let mut findings = Findings::new(Policy::Strict);
        let parsed = DynamicHeader::parse(&sample().to_bytes(), &mut findings).unwrap();
        assert_eq!(parsed, sample());
        assert!(findings.list().is_empty(), "{findings:?}");
    }

    #[test]
    fn damage_is_found() {
        let mut findings = Findings::new(Policy::Strict);
        let mut bytes = sample().to_bytes();
        bytes[17] ^= 1;
        assert!(DynamicHeader::parse(&bytes, &mut findings).is_err());
        assert!(DynamicHeader::parse(&bytes[..1000], &mut findings).is_err());
        assert!(DynamicHeader::parse(&bytes, &mut Findings::new(Policy::Lenient)).is_ok());
        for size in [0, 1, 2048, 3 << 20, 512 << 20] {
            let mut header = sample();
            header.block_size = size;
            assert!(DynamicHeader::parse(&header.to_bytes(), &mut findings).is_err(), "{size}");
        }
    }

    #[test]
    fn the_bat_may_be_longer_but_not_shorter_than_the_disk() {
        let header = sample();
        assert_eq!(header.needed_entries(1 << 30).unwrap(), 512);
        assert_eq!(header.needed_entries((1 << 29) + 512).unwrap(), 257);
        let error = header.needed_entries((1 << 30) + 512).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let huge = DynamicHeader::new(1536, u32::MAX);
        assert_eq!(huge.needed_entries(60 << 40).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(huge.bat_len(), 4 * (1 << 32));
        assert_eq!(DynamicHeader::new(u64::MAX, 1).bat_end(), None);
    }

    #[test]
    fn bitmaps_are_whole_sectors() {
        let mut header = sample();
        assert_eq!(header.bitmap_len(), 512);
        header.block_size = 512 << 10;
        assert_eq!(header.bitmap_len(), 512);
        header.block_size = 4 << 20;
        assert_eq!(header.bitmap_len(), 1024);
    }
}
