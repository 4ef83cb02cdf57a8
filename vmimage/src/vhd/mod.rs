//! VHD: fixed, dynamic and differencing disks, and the chains that they form.
//!
//! The parsers ([`Footer`], [`DynamicHeader`], [`Bat`], [`Bitmap`], [`Batmap`], [`Locator`]) are
//! pure functions over bytes; the reader ([`VhdDisk`]) and the forward-only stream
//! ([`VhdStream`]) do the I/O. Layouts follow Microsoft's "Virtual Hard Disk Image Format
//! Specification" 1.0; where implementations differ, XenServer's tapdisk decides, because its
//! files are what this crate is for.

mod bat;
mod batmap;
mod bitmap;
pub(crate) mod check;
mod disk;
pub(crate) mod file;
mod footer;
mod header;
mod locator;
pub(crate) mod resolve;
mod stream;
pub(crate) mod table;
mod window;

pub use bat::{BAT_UNUSED, Bat};
pub use batmap::Batmap;
pub use bitmap::Bitmap;
pub(crate) use disk::size_by;
pub use disk::{MAX_CHAIN, VhdDisk};
pub use footer::{DiskType, Footer, Geometry};
pub use header::{DynamicHeader, MAX_BAT_ENTRIES};
pub use locator::{Locator, PlatformCode};
pub use stream::VhdStream;

/// The sector of VHD, in bytes.
pub const SECTOR: u64 = 512;

/// The largest disk that XenServer and QEMU accept in a VHD: 2040 GiB.
pub const MAX_VIRTUAL_SIZE: u64 = 2040 << 30;

/// How long a chain may get before XenServer's storage manager refuses to snapshot its disk.
pub(crate) const XENSERVER_CHAIN: usize = 30;

/// The one's complement of the sum of all bytes: VHD's checksum, over bytes whose own checksum
/// field is zero.
pub fn checksum(parts: &[&[u8]]) -> u32 {
    let mut sum = 0_u32;
    for part in parts {
        for &b in *part {
            sum = sum.wrapping_add(u32::from(b));
        }
    }
    !sum
}

/// The usual text form of a UUID's 16 bytes.
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let hex: String = uuid.iter().map(|b| format!("{b:02x}")).collect();
    [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)]
        .map(|(a, b)| hex.get(a..b).unwrap_or_default())
        .join("-")
}

/// A raw parent in memory.
#[cfg(test)]
pub(crate) fn raw_parent(file: std::sync::Arc<dyn crate::ReadAt>, len: u64) -> disk::RawParent {
    disk::RawParent { file, path: std::path::PathBuf::new(), len }
}

/// Big-endian fields of a byte slice; what lies outside of the slice reads as zero, and every
/// caller has checked the length before.
pub(crate) trait Fields {
    fn u8_at(&self, at: usize) -> u8;
    fn u16_at(&self, at: usize) -> u16;
    fn u32_at(&self, at: usize) -> u32;
    fn u64_at(&self, at: usize) -> u64;
    fn array_at<const N: usize>(&self, at: usize) -> [u8; N];
}

impl Fields for [u8] {
    fn u8_at(&self, at: usize) -> u8 {
        self.get(at).copied().unwrap_or(0)
    }

    fn u16_at(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.array_at(at))
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array_at(at))
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array_at(at))
    }

    fn array_at<const N: usize>(&self, at: usize) -> [u8; N] {
        at.checked_add(N)
            .and_then(|end| self.get(at..end))
            .and_then(|s| s.try_into().ok())
            .unwrap_or([0; N])
    }
}

/// Writes `bytes` into `out` at `at`; constant offsets inside of fixed arrays only.
pub(crate) fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = out.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_print_in_the_usual_form() {
        let uuid: [u8; 16] = std::array::from_fn(|i| i as u8 * 0x11);
        assert_eq!(uuid_text(&uuid), "00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn fields_outside_of_the_slice_are_zero() {
        let bytes: &[u8] = &[1, 2, 3];
        assert_eq!(bytes.u16_at(1), 0x0203);
        assert_eq!(bytes.u16_at(2), 0);
        assert_eq!(bytes.u64_at(usize::MAX), 0);
    }
}
