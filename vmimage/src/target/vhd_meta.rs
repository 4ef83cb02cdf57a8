//! What both VHD targets share.

use sha2::{Digest as _, Sha256};

use crate::plan::PlanOptions;
use crate::vhd::{DiskType, Footer, MAX_VIRTUAL_SIZE};
use crate::{BlockMap, Error, ErrorKind, Result};

/// The disk's size rounded up to `step`; refused where a VHD cannot hold it.
pub(super) fn rounded_size(map: &BlockMap, step: u64) -> Result<u64> {
    let size = map.virtual_size();
    // A disk without a sector is one block of zeros: no reader takes an empty VHD.
    let rounded = size.max(1).checked_next_multiple_of(step).unwrap_or(u64::MAX);
    if rounded > MAX_VIRTUAL_SIZE {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "a disk of {size} bytes does not fit into a VHD, which holds at most 2040 GiB \
                 ({MAX_VIRTUAL_SIZE} bytes): convert to qcow2 or raw"
            ),
        ));
    }
    Ok(rounded)
}

/// A footer with the options' timestamp and UUID.
pub(super) fn footer(
    disk_type: DiskType,
    size: u64,
    map: &BlockMap,
    options: &PlanOptions,
) -> Footer {
    let mut footer = Footer::new(disk_type, size);
    footer.timestamp = options.timestamp;
    footer.uuid = options.uuid.unwrap_or_else(|| derived_uuid(disk_type, map, options));
    footer
}

/// A UUID that is a function of the format, the parent, the block map and what the caller says of
/// the disk, so that the same input gives the same bytes.
fn derived_uuid(disk_type: DiskType, map: &BlockMap, options: &PlanOptions) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(b"vmimage vhd uuid 1");
    hash.update(disk_type.code().to_be_bytes());
    hash.update(map.virtual_size().to_be_bytes());
    if let Some(parent) = &options.parent {
        hash.update(parent.uuid);
    }
    for run in map.runs() {
        hash.update(run.start.to_be_bytes());
        hash.update(run.end.to_be_bytes());
    }
    hash.update(&options.identity);
    let mut uuid = [0; 16];
    for (to, from) in uuid.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    // Version 8 ("custom") and the RFC 9562 variant; never the null UUID.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}
