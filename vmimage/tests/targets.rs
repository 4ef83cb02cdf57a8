//! Everything that is written is read back by tools that we did not write.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{ForwardSource, MemDisk, assert_same_content, qemu_read, tool, tool_ok};
use proptest::prelude::*;
use vmimage::{
    BlockMap, Disk, DiskSource, FileOptions, GRANULE, Outcome, Plan, PlanOptions, RawDisk, Source,
    StreamOptions, TargetFormat, stream, stream_to_file, to_file,
};

fn plan(disk: &MemDisk, format: TargetFormat) -> Plan {
    Plan::new(format, &disk.block_map().unwrap(), &PlanOptions::new()).unwrap()
}

fn stream_to_vec(disk: &MemDisk, plan: &Plan) -> (Vec<u8>, Outcome) {
    let mut source = ForwardSource::new(disk);
    let mut out = Vec::new();
    let mut sink = |bytes: bytes::Bytes| {
        out.extend_from_slice(&bytes);
        Ok(())
    };
    let outcome = stream(plan, &mut source, &mut sink, &StreamOptions::new()).unwrap();
    assert!(source.finished);
    (out, outcome)
}

/// Writes `disk` in `format` by both executors, which must agree, and gives the file's name.
fn write(disk: &MemDisk, format: TargetFormat, folder: &Path) -> std::path::PathBuf {
    let plan = plan(disk, format);
    let (streamed, outcome) = stream_to_vec(disk, &plan);
    assert_eq!(outcome.bytes, streamed.len() as u64);
    if let Some(len) = plan.output_len() {
        assert_eq!(len, streamed.len() as u64, "{format}: the announced length");
    }
    let path = folder.join(format!("image.{format}"));
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let outcome = to_file(&plan, &shared, &path, &FileOptions::new()).unwrap();
    let written = std::fs::read(&path).unwrap();
    assert_eq!(outcome.bytes, written.len() as u64);
    assert!(streamed == written, "{format}: the executors disagree");
    path
}

/// XenServer's rules, by a script that shares nothing with this crate.
fn check_tap_dialect(vhd: &Path, raw: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/check_tap_vhd.py");
    tool_ok("python3", &[script, vhd.to_str().unwrap(), raw.to_str().unwrap()]);
}

/// `tar` lists the one member and unpacks it to the bytes of the VHD.
fn check_tgz(vhd: &Path, tgz: &Path, folder: &Path) {
    let (tgz, to) = (tgz.to_str().unwrap(), folder.to_str().unwrap());
    let Some(list) = tool_ok("tar", &["-tzvf", tgz]) else { return };
    assert!(list.starts_with("-rw-r--r--") && list.trim_end().ends_with(" 0.vhd"), "{list}");
    assert_eq!(list.lines().count(), 1, "{list}");
    tool_ok("tar", &["-xzf", tgz, "-C", to]);
    assert!(std::fs::read(vhd).unwrap() == std::fs::read(folder.join("0.vhd")).unwrap());
}

fn check_all(disk: &MemDisk) {
    let folder = tempfile::tempdir().unwrap();
    let expected = disk.bytes();
    let raw = write(disk, TargetFormat::Raw, folder.path());
    assert!(std::fs::read(raw).unwrap() == expected, "raw");

    let qcow2 = write(disk, TargetFormat::Qcow2, folder.path());
    let name = qcow2.to_str().unwrap();
    if tool_ok("qemu-img", &["check", "-f", "qcow2", name]).is_some() {
        let read = qemu_read("qcow2", &qcow2).unwrap();
        assert_eq!(read.len(), expected.len().next_multiple_of(512));
        assert_same_content(&expected, &read, "qcow2");
    }
    let vhd = write(disk, TargetFormat::VhdDynamic, folder.path());
    check_tap_dialect(&vhd, &folder.path().join("image.raw"));
    check_tgz(&vhd, &write(disk, TargetFormat::VhdTgz, folder.path()), folder.path());
    for format in [TargetFormat::VhdDynamic, TargetFormat::VhdFixed] {
        let vhd = folder.path().join(format!("image.{format}"));
        if format == TargetFormat::VhdFixed {
            write(disk, format, folder.path());
        }
        let step = if format == TargetFormat::VhdFixed { 1 << 20 } else { 2 << 20 };
        if let Some(read) = qemu_read("vpc", &vhd) {
            assert_eq!(read.len(), expected.len().max(1).next_multiple_of(step), "{format}");
            assert_same_content(&expected, &read, &format.to_string());
        }
    }
}

#[test]
fn the_shapes_that_break_writers() {
    let full = MemDisk::full(5 * GRANULE + 777, 1);
    let cases = [
        MemDisk::new(512),
        MemDisk::new(5 << 20),
        MemDisk::new(1).with_granule(0, 9),
        full,
        MemDisk::full(4 << 20, 2),
        MemDisk::new((512 << 20) + 512).with_granule(8192, 3),
        MemDisk::new(40 << 20).with_granule(0, 4).with_granule(33, 4).with_zero_granule(64),
        MemDisk::new((6 << 20) - 512).with_granule(95, 5),
    ];
    for disk in cases {
        check_all(&disk);
    }
}

prop_compose! {
    fn any_disk()(
        size in prop_oneof![1_u64..300_000, 1_u64..40_000_000],
        picks in prop::collection::vec((any::<u64>(), any::<bool>()), 0..24),
        seed in any::<u64>(),
    ) -> MemDisk {
        let granules = size.div_ceil(GRANULE);
        picks.into_iter().fold(MemDisk::new(size), |disk, (pick, zero)| match zero {
            true => disk.with_zero_granule(pick % granules),
            false => disk.with_granule(pick % granules, seed),
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_block_map_round_trips_through_qemu(disk in any_disk()) {
        check_all(&disk);
    }
}

#[test]
fn stored_zeros_are_left_out_on_request() {
    let disk = MemDisk::new((4 << 20) + 100)
        .with_granule(3, 1)
        .with_zero_granule(4)
        .with_zero_granule(40)
        .with_granule(64, 2);
    // Not even the last byte of a granule may be overlooked.
    let mut last = vec![0; 1 << 20];
    last[(1 << 20) - 1] = 1;
    let last: Arc<dyn Disk> = Arc::new(RawDisk::new(Arc::new(last)).unwrap());
    let source = DiskSource::without_zeros(last).unwrap();
    assert_eq!(source.block_map().granules(), 1);

    let mut source = DiskSource::without_zeros(disk.clone().arc()).unwrap();
    let runs: Vec<_> = source.block_map().runs().collect();
    assert_eq!(runs, [3 * GRANULE..4 * GRANULE, 64 * GRANULE..(4 << 20) + 100]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.qcow2");
    let plan = Plan::new(TargetFormat::Qcow2, source.block_map(), &PlanOptions::new()).unwrap();
    stream_to_file(&plan, &mut source, &path, &FileOptions::new()).unwrap();
    let tgz = Plan::new(TargetFormat::VhdTgz, source.block_map(), &PlanOptions::new()).unwrap();
    to_file(&tgz, source.disk(), &folder.path().join("a.tgz"), &FileOptions::new()).unwrap();
    if let Some(read) = qemu_read("qcow2", &path) {
        assert_same_content(&disk.bytes(), &read, "qcow2");
    }
}

#[test]
fn the_checker_of_the_tap_dialect_finds_any_damage() {
    let disk = MemDisk::new(8 << 20).with_granule(40, 1);
    let folder = tempfile::tempdir().unwrap();
    let raw = write(&disk, TargetFormat::Raw, folder.path());
    let vhd = write(&disk, TargetFormat::VhdDynamic, folder.path());
    let whole = std::fs::read(&vhd).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/check_tap_vhd.py");
    // Footer, header, table, its padding, batmap header, batmap, gap, bitmap, data, footer.
    let (bat, data) = (1536, 4096);
    for at in [
        70,
        540,
        bat + 7,
        bat + 100,
        bat + 512 + 27,
        bat + 1024,
        3000,
        3600,
        data + 9,
        whole.len() - 20,
    ] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&vhd, damaged).unwrap();
        let args = [script, vhd.to_str().unwrap(), raw.to_str().unwrap()];
        let Some(output) = tool("python3", &args) else { return };
        assert_eq!(output.status.code(), Some(1), "damage at {at} was not found");
    }
}

/// Disks that are full have one map, whatever they hold.
#[test]
fn the_uuid_that_is_not_given_follows_from_the_identity_too() {
    let mut map = BlockMap::empty(4 << 20);
    map.insert(0..4 << 20);
    let uuid = |format, options: &PlanOptions| {
        let plan = Plan::new(format, &map, options).unwrap();
        let Some(vmimage::Segment::Inline(footer)) = plan.segments().last() else { panic!() };
        assert!(footer.starts_with(b"conectix"));
        footer[68..84].to_vec()
    };
    for format in [TargetFormat::VhdDynamic, TargetFormat::VhdFixed] {
        let of = |identity: &str| uuid(format, &PlanOptions::new().with_identity(identity));
        assert_eq!(of("a"), of("a"));
        assert_ne!(of("a"), of("b"));
        assert_eq!(of(""), uuid(format, &PlanOptions::new()));
        let given = PlanOptions::new().with_uuid([7; 16]).with_identity("a");
        assert_eq!(uuid(format, &given), [7; 16]);
    }
}
