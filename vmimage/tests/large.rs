//! Disks that are larger than any test machine: plans by arithmetic, files by holes.

#![allow(clippy::unwrap_used)]

mod common;

use common::{MemDisk, tool_ok};
use vmimage::{
    BlockMap, Disk, FileOptions, GRANULE, Plan, PlanOptions, Segment, TargetFormat, to_file,
};

const LIMIT: u64 = 2040 << 30;

/// Walks all segments; gives their sum, and the largest inline one.
fn walk(plan: &Plan) -> (u64, usize) {
    plan.segments().fold((0, 0), |(sum, largest), segment| {
        let inline = match &segment {
            Segment::Inline(bytes) => bytes.len(),
            _ => 0,
        };
        (sum + segment.output_len(), largest.max(inline))
    })
}

#[test]
fn a_full_disk_of_2040_gib_is_planned_exactly_and_in_small_pieces() {
    let mut map = BlockMap::empty(LIMIT);
    map.insert(0..LIMIT);
    for format in [TargetFormat::Raw, TargetFormat::VhdDynamic, TargetFormat::Qcow2] {
        let plan = Plan::new(format, &map, &PlanOptions::new()).unwrap();
        let (sum, largest) = walk(&plan);
        assert_eq!(plan.output_len(), Some(sum), "{format}");
        assert!(largest <= 256 << 10, "{format}: {largest}");
        assert_eq!(plan.data_len(), LIMIT);
    }
}

#[test]
fn an_archive_knows_its_length_when_it_only_stores() {
    let disk = MemDisk::full((3 << 20) + 1, 1);
    let options = PlanOptions::new().with_gzip_level(0);
    let plan = Plan::new(TargetFormat::VhdTgz, &disk.block_map().unwrap(), &options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tgz");
    let outcome = to_file(&plan, &disk.arc(), &path, &FileOptions::new()).unwrap();
    assert_eq!(plan.output_len(), Some(outcome.bytes));
    assert_eq!(std::fs::metadata(&path).unwrap().len(), outcome.bytes);
    tool_ok("tar", &["-xzf", path.to_str().unwrap(), "-C", folder.path().to_str().unwrap()]);
    if let Some(text) = tool_ok("gzip", &["-tv", path.to_str().unwrap()]) {
        assert!(text.is_empty());
    }
}

#[test]
fn qcow2_and_raw_reach_past_2_tib() {
    let size = 5_u64 << 40;
    let last = size / GRANULE - 1;
    let disk = MemDisk::new(size).with_granule(0, 1).with_granule(1 << 25, 2).with_granule(last, 3);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.qcow2");
    let plan = Plan::new(TargetFormat::Qcow2, &disk.block_map().unwrap(), &PlanOptions::new());
    to_file(&plan.unwrap(), &disk.clone().arc(), &path, &FileOptions::new()).unwrap();
    let name = path.to_str().unwrap();
    let Some(info) = tool_ok("qemu-img", &["info", "--output=json", name]) else { return };
    assert!(info.contains(&format!("\"virtual-size\": {size}")), "{info}");
    tool_ok("qemu-img", &["check", "-f", "qcow2", name]);
    let raw = folder.path().join("large.raw");
    let plan = Plan::new(TargetFormat::Raw, &disk.block_map().unwrap(), &PlanOptions::new());
    to_file(&plan.unwrap(), &disk.arc(), &raw, &FileOptions::new()).unwrap();
    let raw = raw.to_str().unwrap();
    tool_ok("qemu-img", &["compare", "-f", "qcow2", "-F", "raw", name, raw]);
}

#[test]
fn the_tar_header_counts_past_8_gib() {
    let mut map = BlockMap::empty(1 << 40);
    map.insert(0..9 << 30);
    let plan = Plan::new(TargetFormat::VhdTgz, &map, &PlanOptions::new()).unwrap();
    let vhd = Plan::new(TargetFormat::VhdDynamic, &map, &PlanOptions::new()).unwrap();
    let Some(Segment::Inline(header)) = plan.segments().next() else { panic!("no header") };
    let folder = tempfile::tempdir().unwrap();
    let tar = folder.path().join("a.tar");
    let file = std::fs::File::create(&tar).unwrap();
    std::io::Write::write_all(&mut &file, &header).unwrap();
    file.set_len(walk(&plan).0).unwrap();
    if let Some(list) = tool_ok("tar", &["-tvf", tar.to_str().unwrap()]) {
        let size = vhd.output_len().unwrap();
        assert!(size > 8 << 30 && list.contains(&format!(" {size} ")), "{list}");
    }
}
