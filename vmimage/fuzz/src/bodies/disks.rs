//! Disks in memory, strict and lenient: bounded reads at their start and end, and their maps.

use std::sync::Arc;

use vmimage::qcow2::Qcow2Disk;
use vmimage::vhd::VhdDisk;
use vmimage::{Disk, Findings, Policy, ReadAt};

const POLICIES: [Policy; 2] = [Policy::Strict, Policy::Lenient];

/// Reads both ends, and asks the map of what is not huge.
pub(crate) fn look_at(disk: &dyn Disk) {
    let size = disk.virtual_size();
    let n = size.min(65_536);
    let mut buf = vec![0; n as usize];
    let _ = disk.read_exact_at(&mut buf, 0);
    let _ = disk.read_exact_at(&mut buf, size - n);
    let _ = disk.extent_at(size / 2);
    if size < 1 << 30
        && let Ok(map) = disk.block_map()
    {
        assert!(map.allocated() <= size, "a map of more than there is");
    }
}

pub(crate) fn qcow2(data: &[u8]) -> bool {
    let mut taken = false;
    for policy in POLICIES {
        let file: Arc<dyn ReadAt> = Arc::new(data.to_vec());
        if let Ok(disk) = Qcow2Disk::open(file, None, None, &mut Findings::new(policy)) {
            look_at(&disk);
            taken = true;
        }
    }
    taken
}

/// One file, or two layers, one behind the other: then the length of the first is a big-endian
/// number in front. The magic of a VHD is no such number.
pub(crate) fn vhd_disk(data: &[u8]) -> bool {
    let two = || {
        let (len, files) = data.split_first_chunk::<4>()?;
        files.split_at_checked(u32::from_be_bytes(*len) as usize)
    };
    match two() {
        Some((child, parent)) => chain(&[child, parent]),
        None => chain(&[data]),
    }
}

fn chain(files: &[&[u8]]) -> bool {
    let mut taken = false;
    for policy in POLICIES {
        let files = files.iter().map(|f| Arc::new(f.to_vec()) as Arc<dyn ReadAt>).collect();
        let Ok(disk) = VhdDisk::from_chain(files, &mut Findings::new(policy)) else { continue };
        look_at(&disk);
        for layer in (0..disk.depth()).filter_map(|index| disk.layer_view(index)) {
            look_at(&layer);
        }
        taken = true;
    }
    taken
}
