//! `0.vhd`, and the parents that it may have, in a tar archive; the executors compress it.

use bytes::Bytes;

use super::vhd_dynamic::VhdDynamic;
use super::{Layout, Part, SegmentIter, VhdParent};
use crate::archive::tar_header;
use crate::plan::{PlanOptions, Segment};
use crate::{BlockMap, Result};

const TAR_BLOCK: u64 = 512;
/// Two blocks of zeros end the archive.
const TAR_END: u64 = 2 * TAR_BLOCK;
/// Seconds from the Unix epoch to the VHD epoch, 2000-01-01.
const VHD_EPOCH: u64 = 946_684_800;

#[derive(Debug)]
pub(super) struct VhdTgz {
    /// The layers, the youngest first.
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    part: Part,
    header: Bytes,
    vhd: VhdDynamic,
}

impl VhdTgz {
    pub(super) fn new(parts: Vec<Part>, options: &PlanOptions) -> Result<Self> {
        let mtime = VHD_EPOCH + u64::from(options.timestamp);
        let mut members = Vec::new();
        // From the base up, because a child names its parent's UUID.
        let mut parent = options.parent.clone();
        for (index, part) in parts.into_iter().enumerate().rev() {
            let uuid = options.uuid.filter(|_| index == 0);
            let options = PlanOptions { uuid, parent: parent.take(), ..options.clone() };
            let vhd = VhdDynamic::new(&part.map, &options)?;
            let name = format!("{index}.vhd");
            let header = tar_header(&name, vhd.output_len(), mtime, 0o644);
            let named = VhdParent::new(vhd.uuid(), name);
            parent = Some(named.with_size(part.map.virtual_size()));
            members.push(Member { part, header: Bytes::copy_from_slice(&header), vhd });
        }
        members.reverse();
        Ok(Self { members })
    }
}

impl Layout for VhdTgz {
    fn virtual_size(&self) -> u64 {
        self.members.first().map_or(0, |leaf| leaf.vhd.virtual_size())
    }

    fn output_len(&self) -> u64 {
        // A VHD is a whole number of sectors, so nothing pads a member.
        self.members.iter().map(|m| TAR_BLOCK + m.vhd.output_len()).sum::<u64>() + TAR_END
    }

    fn segments<'a>(&'a self, _map: &'a BlockMap) -> SegmentIter<'a> {
        let members = self.members.iter().flat_map(|member| {
            std::iter::once(Segment::Inline(member.header.clone())).chain(
                member.vhd.segments(&member.part.map).map(|segment| member.part.shift(segment)),
            )
        });
        Box::new(members.chain(std::iter::once(Segment::Zero(TAR_END))))
    }
}
