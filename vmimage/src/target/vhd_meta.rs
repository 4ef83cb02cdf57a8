//! The fixed structures of a VHD, as we write them.

use sha2::{Digest as _, Sha256};

use crate::plan::PlanOptions;
use crate::{BlockMap, Error, ErrorKind, Result};

/// What a VHD's 32-bit sector numbers and every reader's arithmetic can hold.
pub(super) const MAX_SIZE: u64 = 2040 << 30;
pub(super) const SECTOR: u64 = 512;
/// "Nothing follows" in the fields that would name the next structure.
const NO_OFFSET: u64 = u64::MAX;
const VERSION: u32 = 0x0001_0000;
/// Bit 1 is reserved and must be set; all others mean something that we do not do.
const FEATURES: u32 = 2;

/// Who wrote the image; readers choose their rules by it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Creator {
    pub(super) app: [u8; 4],
    pub(super) version: u32,
    pub(super) os: [u8; 4],
}

/// XenServer's tapdisk: this version promises a valid batmap.
pub(super) const TAPDISK: Creator = Creator { app: *b"tap\0", version: 0x0001_0003, os: [0; 4] };
/// Hyper-V: every reader takes the size field, not the geometry, of this creator.
pub(super) const WINDOWS: Creator = Creator { app: *b"win ", version: 0x000a_0000, os: *b"Wi2k" };

/// Fixed or dynamic, as the footer has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fixed = 2,
    Dynamic = 3,
}

/// The disk's size rounded up to `step`; refused where a VHD cannot hold it.
pub(super) fn rounded_size(map: &BlockMap, step: u64) -> Result<u64> {
    let size = map.virtual_size();
    // A disk without a sector is one block of zeros: no reader takes an empty VHD.
    let rounded = size.max(1).checked_next_multiple_of(step).unwrap_or(u64::MAX);
    if rounded > MAX_SIZE {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "a disk of {size} bytes does not fit into a VHD, which holds at most 2040 GiB \
                 ({MAX_SIZE} bytes): convert to qcow2 or raw"
            ),
        ));
    }
    Ok(rounded)
}

/// The 512-byte footer.
pub(super) fn footer(
    creator: Creator,
    kind: Kind,
    size: u64,
    uuid: [u8; 16],
    timestamp: u32,
) -> [u8; 512] {
    let mut f = [0; 512];
    put(&mut f, 0, b"conectix");
    put(&mut f, 8, &FEATURES.to_be_bytes());
    put(&mut f, 12, &VERSION.to_be_bytes());
    let next = if kind == Kind::Dynamic { SECTOR } else { NO_OFFSET };
    put(&mut f, 16, &next.to_be_bytes());
    put(&mut f, 24, &timestamp.to_be_bytes());
    put(&mut f, 28, &creator.app);
    put(&mut f, 32, &creator.version.to_be_bytes());
    put(&mut f, 36, &creator.os);
    put(&mut f, 40, &size.to_be_bytes());
    put(&mut f, 48, &size.to_be_bytes());
    put(&mut f, 56, &geometry(size));
    put(&mut f, 60, &(kind as u32).to_be_bytes());
    put(&mut f, 68, &uuid);
    let sum = checksum(&f);
    put(&mut f, 64, &sum.to_be_bytes());
    f
}

/// The 1024-byte header of a dynamic disk.
pub(super) fn dynamic_header(bat_offset: u64, entries: u32, block_size: u32) -> [u8; 1024] {
    let mut h = [0; 1024];
    put(&mut h, 0, b"cxsparse");
    put(&mut h, 8, &NO_OFFSET.to_be_bytes());
    put(&mut h, 16, &bat_offset.to_be_bytes());
    put(&mut h, 24, &VERSION.to_be_bytes());
    put(&mut h, 28, &entries.to_be_bytes());
    put(&mut h, 32, &block_size.to_be_bytes());
    let sum = checksum(&h);
    put(&mut h, 36, &sum.to_be_bytes());
    h
}

/// The 512-byte batmap header. `byte_sum` is the sum of the map's bytes.
pub(super) fn batmap_header(map_offset: u64, sectors: u32, byte_sum: u32) -> [u8; 512] {
    let mut h = [0; 512];
    put(&mut h, 0, b"tdbatmap");
    put(&mut h, 8, &map_offset.to_be_bytes());
    put(&mut h, 16, &sectors.to_be_bytes());
    put(&mut h, 20, &0x0001_0002_u32.to_be_bytes());
    put(&mut h, 24, &(!byte_sum).to_be_bytes());
    h
}

/// The one's complement of the sum of all bytes; the checksum field itself is still zero.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(0_u32, |sum, b| sum.wrapping_add(u32::from(*b)))
}

/// Cylinders, heads and sectors by the specification's algorithm, everything rounded down:
/// `vhd-util check` refuses a geometry that is larger than the disk.
pub(super) fn geometry(size: u64) -> [u8; 4] {
    let sectors = (size / SECTOR).min(65535 * 16 * 255);
    let (spt, heads) = if sectors >= 65535 * 16 * 63 {
        (255, 16)
    } else {
        let tracks = sectors / 17;
        let heads = tracks.div_ceil(1024).max(4);
        if heads <= 16 && tracks < heads * 1024 {
            (17, heads)
        } else if sectors / 31 < 16 * 1024 {
            (31, 16)
        } else {
            (63, 16)
        }
    };
    let cylinders = (sectors / spt / heads) as u16;
    let [high, low] = cylinders.to_be_bytes();
    [high, low, heads as u8, spt as u8]
}

/// The caller's UUID, or one that is a function of the format and the block map, so that the
/// same input gives the same bytes.
pub(super) fn uuid(options: &PlanOptions, kind: Kind, map: &BlockMap) -> [u8; 16] {
    if let Some(uuid) = options.uuid {
        return uuid;
    }
    let mut hash = Sha256::new();
    hash.update(b"vmimage vhd uuid 1");
    hash.update([kind as u8]);
    hash.update(map.virtual_size().to_be_bytes());
    for run in map.runs() {
        hash.update(run.start.to_be_bytes());
        hash.update(run.end.to_be_bytes());
    }
    let mut uuid = [0; 16];
    for (to, from) in uuid.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    // Version 8 ("custom") and the RFC 9562 variant; never the null UUID.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

fn put(buf: &mut [u8], at: usize, bytes: &[u8]) {
    buf[at..at + bytes.len()].copy_from_slice(bytes);
}
