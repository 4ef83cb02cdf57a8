//! `0.vhd` in a tar archive; the executors compress it.

use bytes::Bytes;

use super::vhd_dynamic::VhdDynamic;
use super::{Layout, SegmentIter};
use crate::plan::{PlanOptions, Segment};
use crate::{BlockMap, Result};

const MEMBER: &[u8] = b"0.vhd";
const TAR_BLOCK: u64 = 512;
/// Two blocks of zeros end the archive.
const TAR_END: u64 = 2 * TAR_BLOCK;
/// What eleven octal digits hold.
const OCTAL_LIMIT: u64 = 1 << 33;
/// Seconds from the Unix epoch to the VHD epoch, 2000-01-01.
const VHD_EPOCH: u64 = 946_684_800;

#[derive(Debug)]
pub(super) struct VhdTgz {
    vhd: VhdDynamic,
    header: Bytes,
}

impl VhdTgz {
    pub(super) fn new(map: &BlockMap, options: &PlanOptions) -> Result<Self> {
        let vhd = VhdDynamic::new(map, options)?;
        let mtime = VHD_EPOCH + u64::from(options.timestamp);
        let header = tar_header(vhd.output_len(), mtime);
        Ok(Self { vhd, header: Bytes::copy_from_slice(&header) })
    }
}

impl Layout for VhdTgz {
    fn virtual_size(&self) -> u64 {
        self.vhd.virtual_size()
    }

    fn output_len(&self) -> u64 {
        // A VHD is a whole number of sectors, so nothing pads the member.
        TAR_BLOCK + self.vhd.output_len() + TAR_END
    }

    fn segments<'a>(&'a self, map: &'a BlockMap) -> SegmentIter<'a> {
        Box::new(
            std::iter::once(Segment::Inline(self.header.clone()))
                .chain(self.vhd.segments(map))
                .chain(std::iter::once(Segment::Zero(TAR_END))),
        )
    }
}

/// A ustar header of a regular file of mode 0644. A size of 8 GiB or more is written as a
/// binary number (base 256), as GNU tar does.
fn tar_header(size: u64, mtime: u64) -> [u8; TAR_BLOCK as usize] {
    let mut h = [0; TAR_BLOCK as usize];
    put(&mut h, 0, MEMBER);
    put(&mut h, 100, b"0000644\0");
    put(&mut h, 108, b"0000000\0");
    put(&mut h, 116, b"0000000\0");
    if size < OCTAL_LIMIT {
        put(&mut h, 124, format!("{size:011o}\0").as_bytes());
    } else {
        put(&mut h, 124, &[0x80, 0, 0, 0]);
        put(&mut h, 128, &size.to_be_bytes());
    }
    put(&mut h, 136, format!("{mtime:011o}\0").as_bytes());
    put(&mut h, 148, b"        ");
    put(&mut h, 156, b"0");
    put(&mut h, 257, b"ustar\x0000");
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    put(&mut h, 148, format!("{sum:06o}\0 ").as_bytes());
    h
}

fn put(buf: &mut [u8], at: usize, bytes: &[u8]) {
    buf[at..at + bytes.len()].copy_from_slice(bytes);
}
