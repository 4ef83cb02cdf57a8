//! tapdisk's batmap: one bit a block that says "this block is fully written".

use super::{Fields, SECTOR, put};
use crate::finding::Findings;
use crate::{Error, Result};

/// The batmap of a VHD that tapdisk or vhd-util wrote: a header sector right behind the BAT,
/// and a map. A set bit says that the block's bitmap is all ones, so it need not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batmap {
    /// Where the map lies, in bytes.
    pub map_offset: u64,
    /// The length of the map in sectors.
    pub sectors: u32,
    /// The version of the batmap, 0x0001_0002.
    pub version: u32,
    /// The checksum of the map.
    pub checksum: u32,
    /// Whether the disk is encrypted: a hash of its key is stored here.
    pub encrypted: bool,
    map: Vec<u8>,
}

impl Batmap {
    /// The length of the header in bytes.
    pub const LEN: usize = 512;
    /// The first eight bytes of the header.
    pub const COOKIE: &'static [u8; 8] = b"tdbatmap";
    /// Where the checksum is in the header.
    pub(crate) const CHECKSUM_AT: u64 = 24;

    /// How many sectors of map blktap sums for a disk of `size` bytes.
    pub(crate) fn tap_sectors(size: u64) -> u64 {
        (size >> 24).div_ceil(SECTOR).max(1)
    }

    /// An empty batmap of `blocks` blocks whose map lies at `map_offset`.
    pub fn new(map_offset: u64, blocks: u32) -> Self {
        let sectors = u64::from(blocks).div_ceil(8).div_ceil(SECTOR).max(1);
        let mut batmap = Self {
            map_offset,
            sectors: u32::try_from(sectors).unwrap_or(u32::MAX),
            version: 0x0001_0002,
            checksum: 0,
            encrypted: false,
            map: vec![0; usize::try_from(sectors * SECTOR).unwrap_or(0)],
        };
        batmap.checksum = batmap.sum(batmap.map.len());
        batmap
    }

    /// Parses the header sector; `None` if there is none. The map is added by
    /// [`load`](Self::load).
    pub fn parse_header(bytes: &[u8]) -> Option<Self> {
        (bytes.starts_with(Self::COOKIE) && bytes.len() >= Self::LEN).then(|| Self {
            map_offset: bytes.u64_at(8),
            sectors: bytes.u32_at(16),
            version: bytes.u32_at(20),
            checksum: bytes.u32_at(24),
            encrypted: bytes.u8_at(29) != 0,
            map: Vec::new(),
        })
    }

    /// How many bytes of map to read for a disk of `blocks` blocks: whole sectors, no more than
    /// the header promises. blktap's own formula may promise a sector less than the last few
    /// blocks need; their bits then read as unset.
    pub fn map_len(&self, blocks: u64) -> u64 {
        let needed = blocks.div_ceil(8).next_multiple_of(SECTOR).max(SECTOR);
        needed.min(u64::from(self.sectors) * SECTOR)
    }

    /// Takes the map's bytes and verifies their checksum.
    ///
    /// # Errors
    /// `Corrupt` if it does not fit; the batmap must then not be trusted.
    pub fn load(&mut self, map: Vec<u8>, findings: &mut Findings) -> Result<()> {
        self.map = map;
        // blktap sums the sectors that floor(size / 16 MiB) bytes touch, others the whole map;
        // both are the same bytes unless the last sector holds nothing but the remainder.
        let whole = self.map.len();
        let short = whole.saturating_sub(SECTOR as usize).max(SECTOR as usize);
        if self.checksum == self.sum(whole) || self.checksum == self.sum(short) {
            if self.version != 0x0001_0002 {
                findings.note("batmap-version", format!("batmap version {:#x}", self.version));
            }
            return Ok(());
        }
        Err(Error::corrupt("the checksum of the batmap is wrong"))
    }

    /// Version 1.1 summed signed bytes.
    fn sum(&self, len: usize) -> u32 {
        let signed = self.version == 0x0001_0001;
        let bytes = self.map.get(..len).unwrap_or(&self.map);
        !bytes.iter().fold(0_u32, |sum, &b| {
            let extended = if signed && b >= 0x80 { 0xffff_ff00 } else { 0 };
            sum.wrapping_add(u32::from(b) | extended)
        })
    }

    /// Whether block `index` is fully written.
    pub fn get(&self, index: u64) -> bool {
        let byte = usize::try_from(index / 8).ok().and_then(|i| self.map.get(i));
        byte.is_some_and(|b| b & (0x80 >> (index % 8)) != 0)
    }

    /// Marks block `index` as fully written; the checksum follows.
    pub fn set(&mut self, index: u64) {
        let byte = usize::try_from(index / 8).ok().and_then(|i| self.map.get_mut(i));
        if let Some(byte) = byte {
            let bit = 0x80 >> (index % 8);
            if *byte & bit == 0 {
                *byte |= bit;
                // The checksum is a complement, so adding to the sum subtracts from it. The sign
                // bit of a signed byte is worth -128.
                let signed = self.version == 0x0001_0001 && bit == 0x80;
                let value = u32::from(bit);
                self.checksum = if signed {
                    self.checksum.wrapping_add(value)
                } else {
                    self.checksum.wrapping_sub(value)
                };
            }
        }
    }

    /// The 512 bytes of the header.
    pub fn header_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        put(&mut out, 0, Self::COOKIE);
        put(&mut out, 8, &self.map_offset.to_be_bytes());
        put(&mut out, 16, &self.sectors.to_be_bytes());
        put(&mut out, 20, &self.version.to_be_bytes());
        put(&mut out, 24, &self.checksum.to_be_bytes());
        out
    }

    /// The bytes of the map, whole sectors.
    pub fn map_bytes(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Policy;

    #[test]
    fn what_is_written_is_parsed() {
        let mut batmap = Batmap::new(4096, 5000);
        for block in [0, 7, 8, 4999, 4999] {
            batmap.set(block);
        }
        assert_eq!(batmap.sectors, 2);
        let mut parsed = Batmap::parse_header(&batmap.header_bytes()).unwrap();
        assert_eq!(parsed.map_len(5000), batmap.map_bytes().len() as u64);
        assert_eq!(parsed.map_len(1 << 20), 1024);
        let mut findings = Findings::new(Policy::Strict);
        parsed.load(batmap.map_bytes().to_vec(), &mut findings).unwrap();
        assert_eq!(parsed, batmap);
        assert!(parsed.get(4999) && parsed.get(7) && !parsed.get(9) && !parsed.get(1 << 40));
        assert!(findings.list().is_empty());
    }

    #[test]
    fn damage_is_found() {
        let mut batmap = Batmap::new(0, 8);
        batmap.set(3);
        let mut parsed = Batmap::parse_header(&batmap.header_bytes()).unwrap();
        let mut map = batmap.map_bytes().to_vec();
        map[0] ^= 1;
        assert!(parsed.load(map, &mut Findings::default()).is_err());
        assert!(Batmap::parse_header(&[0; 512]).is_none());
        assert!(Batmap::parse_header(b"tdbatmap").is_none());
    }

    #[test]
    fn version_1_1_sums_signed_bytes() {
        let mut batmap = Batmap::new(0, 8);
        batmap.version = 0x0001_0001;
        batmap.checksum = !0xffff_ff80;
        let mut map = vec![0; 512];
        map[0] = 0x80;
        assert!(batmap.load(map, &mut Findings::default()).is_ok());
        // Also when bits are added.
        (1..10).for_each(|block| batmap.set(block));
        assert_eq!(batmap.checksum, batmap.sum(512));
    }
}
