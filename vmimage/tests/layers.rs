//! Differencing VHDs and chains that are written, read by a few lines that know nothing of the
//! crate; and files that grow while their disk arrives.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{MemDisk, assert_same_content, qemu_read, tool_ok};
use vmimage::vhd::VhdDisk;
use vmimage::{
    Disk, DiskSource, FileOptions, Findings, GRANULE, JoinedDisk, Plan, PlanOptions, Policy, Scan,
    Source, TargetFormat, VhdParent, content_root, scan_to_file, to_file,
};

fn be(file: &[u8], at: usize, n: usize) -> u64 {
    file[at..at + n].iter().fold(0, |v, b| v << 8 | u64::from(*b))
}

/// What a VHD makes of the bytes below it, by the specification: a sector is its own if its bit
/// is set.
fn over(file: &[u8], below: &[u8]) -> Vec<u8> {
    let header = be(file, 16, 8) as usize;
    let (table, block) = (be(file, header + 16, 8) as usize, be(file, header + 32, 4) as usize);
    let mut disk = below.to_vec();
    disk.resize(be(file, 48, 8) as usize, 0);
    for sector in 0..disk.len() / 512 {
        let (index, within) = (sector * 512 / block, sector % (block / 512));
        let entry = be(file, table + 4 * index, 4) as usize;
        if entry == 0xffff_ffff || file[entry * 512 + within / 8] & (0x80 >> (within % 8)) == 0 {
            continue;
        }
        let at = entry * 512 + (block / 512 / 8).next_multiple_of(512) + within * 512;
        disk[sector * 512..][..512].copy_from_slice(&file[at..][..512]);
    }
    disk
}

/// A disk of three generations: granules are written, overwritten, and zeroed.
fn generations() -> [MemDisk; 3] {
    let base = MemDisk::new((9 << 20) + 512).with_granule(0, 1).with_granule(40, 1);
    let base = base.with_granule(41, 1).with_granule(144, 1);
    let middle = base.clone().with_granule(41, 2).with_granule(70, 2).with_zero_granule(0);
    let tip = middle.clone().with_granule(70, 3).with_granule(71, 3).with_granule(0, 9);
    [base, middle, tip]
}

#[test]
fn a_difference_over_its_parent_is_the_disk() {
    let [base, middle, _] = generations();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let plan = Plan::new(TargetFormat::VhdDynamic, &base.block_map().unwrap(), &PlanOptions::new());
    to_file(&plan.unwrap(), &base.clone().arc(), &path("base.vhd"), &FileOptions::new()).unwrap();
    let below = std::fs::read(path("base.vhd")).unwrap();
    let uuid = below[68..84].try_into().unwrap();

    let source = DiskSource::difference(middle.clone().arc(), &base).unwrap();
    // Zeros that hide the parent's data are stored; what is alike is not.
    assert_eq!(source.block_map().granules(), 3);
    let options = PlanOptions::new().with_parent(VhdParent::new(uuid, "base.vhd"));
    let plan = Plan::new(TargetFormat::VhdDynamic, source.block_map(), &options).unwrap();
    to_file(&plan, source.disk(), &path("child.vhd"), &FileOptions::new()).unwrap();
    let child = std::fs::read(path("child.vhd")).unwrap();
    let seen = over(&child, &over(&below, &[]));
    assert_same_content(&middle.bytes(), &seen, "the specification's reading");
    // Our own reader finds the parent by its name, and nothing to complain about.
    let image = vmimage::open(path("child.vhd"), &Default::default()).unwrap();
    let disk = &image.disks()[0];
    assert_eq!(content_root(disk.as_ref()).unwrap(), content_root(&middle).unwrap());
    let report = vmimage::check(path("child.vhd"), &Default::default()).unwrap();
    assert_eq!(report.findings(), []);
}

#[test]
fn an_archive_keeps_the_layers_of_a_chain() {
    let disks = generations();
    let folder = tempfile::tempdir().unwrap();
    let mut files: Vec<Vec<u8>> = Vec::new();
    // The chain, written layer by layer: the youngest is the last here.
    for (i, disk) in disks.iter().enumerate() {
        let mut options = PlanOptions::new();
        let source = match i {
            0 => DiskSource::new(disk.clone().arc()).unwrap(),
            _ => {
                let uuid = files[i - 1][68..84].try_into().unwrap();
                options = options.with_parent(VhdParent::new(uuid, format!("{}.vhd", i - 1)));
                DiskSource::difference(disk.clone().arc(), &disks[i - 1]).unwrap()
            }
        };
        let plan = Plan::new(TargetFormat::VhdDynamic, source.block_map(), &options).unwrap();
        let path = folder.path().join(format!("{i}.vhd"));
        to_file(&plan, source.disk(), &path, &FileOptions::new()).unwrap();
        files.push(std::fs::read(path).unwrap());
    }
    let chain = files.iter().rev().map(|f| Arc::new(f.clone()) as Arc<dyn vmimage::ReadAt>);
    let chain = VhdDisk::from_chain(chain.collect(), &mut Findings::new(Policy::Strict)).unwrap();
    let views: Vec<Arc<dyn Disk>> = (0..chain.depth())
        .map(|n| Arc::new(chain.layer_view(n).unwrap()) as Arc<dyn Disk>)
        .collect();
    let granules: Vec<_> = views.iter().map(|v| v.block_map().unwrap().granules()).collect();
    // The base has whole blocks: a dynamic disk stores their zeros.
    assert_eq!(granules, [3, 3, 3 * 32]);

    let joined = JoinedDisk::new(views).unwrap();
    let map = joined.block_map().unwrap();
    let plan =
        Plan::of_disks(TargetFormat::VhdTgz, &map, joined.parts(), &PlanOptions::new()).unwrap();
    let tgz = folder.path().join("chain.tgz");
    let joined: Arc<dyn Disk> = Arc::new(joined);
    to_file(&plan, &joined, &tgz, &FileOptions::new()).unwrap();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let args = ["-xzf", tgz.to_str().unwrap(), "-C", out.to_str().unwrap()];
    if tool_ok("tar", &args).is_none() {
        return;
    }
    let layers: Vec<_> =
        (0..3).map(|n| std::fs::read(out.join(format!("{n}.vhd"))).unwrap()).collect();
    let seen = over(&layers[0], &over(&layers[1], &over(&layers[2], &[])));
    assert_same_content(&disks[2].bytes(), &seen, "the unpacked chain");
    assert_eq!(layers[0][512 + 40..][..16], layers[1][68..84], "the parent's UUID");
    let report = vmimage::check(out.join("0.vhd"), &Default::default()).unwrap();
    assert_eq!(report.findings(), []);
}

/// A disk as pieces of `step` bytes.
struct Pieces<'a>(&'a MemDisk, u64, u64, bool);

impl Scan for Pieces<'_> {
    fn virtual_size(&self) -> Option<u64> {
        (self.3 || self.1 >= self.0.virtual_size()).then(|| self.0.virtual_size())
    }

    fn next_piece(&mut self, buf: &mut Vec<u8>) -> vmimage::Result<Option<u64>> {
        let (at, size) = (self.1, self.0.virtual_size());
        if at >= size {
            return Ok(None);
        }
        let n = self.2.min(size - at);
        buf.resize(n as usize, 9);
        self.0.read_exact_at(buf, at)?;
        self.1 += n;
        Ok(Some(at))
    }
}

#[test]
fn a_file_that_grows_is_the_file_that_was_planned() {
    let disks = [
        MemDisk::new(5 << 20),
        MemDisk::new((9 << 20) + 777).with_granule(3, 1).with_granule(33, 2).with_granule(34, 2),
        MemDisk::full((4 << 20) + 512, 3),
        MemDisk::new(600 << 20).with_granule(9000, 5).with_granule(31, 5),
    ];
    let folder = tempfile::tempdir().unwrap();
    let (grown, planned) = (folder.path().join("grown"), folder.path().join("planned"));
    let options = FileOptions::new().with_content_root(true);
    for (disk, step) in disks.iter().zip([1 << 20, 100_000, 65_536, 4 << 20]) {
        let map = disk.block_map().unwrap();
        for format in [TargetFormat::Raw, TargetFormat::VhdFixed, TargetFormat::VhdDynamic] {
            let mut scan = Pieces(disk, 0, step, true);
            let outcome = scan_to_file(&mut scan, format, &grown, &PlanOptions::new(), &options);
            let plan = Plan::new(format, &map, &PlanOptions::new()).unwrap();
            to_file(&plan, &disk.clone().arc(), &planned, &FileOptions::new()).unwrap();
            let same = std::fs::read(&grown).unwrap() == std::fs::read(&planned).unwrap();
            assert!(same, "{format} {disk:?}");
            assert_eq!(outcome.unwrap().content_root, Some(content_root(disk).unwrap()));
        }
        let mut scan = Pieces(disk, 0, step, true);
        let qcow2 = TargetFormat::Qcow2;
        scan_to_file(&mut scan, qcow2, &grown, &PlanOptions::new(), &options).unwrap();
        let name = grown.to_str().unwrap();
        if tool_ok("qemu-img", &["check", "-f", "qcow2", name]).is_some() {
            let read = qemu_read("qcow2", &grown).unwrap();
            assert_same_content(&disk.bytes(), &read, "qcow2");
        }
        let report = vmimage::check(&grown, &Default::default()).unwrap();
        assert_eq!(report.findings(), []);
    }
}

#[test]
fn what_a_stream_cannot_know_is_said_before_anything_is_written() {
    let disk = MemDisk::new(3 << 20).with_granule(1, 1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let (plan, options) = (PlanOptions::new(), FileOptions::new());
    for format in TargetFormat::ALL {
        for known in [true, false] {
            let mut scan = Pieces(&disk, 0, 1 << 20, known);
            let archive = matches!(format, TargetFormat::VhdTgz | TargetFormat::Xva);
            let result = scan_to_file(&mut scan, format, &path, &plan, &options);
            if archive || (!known && format != TargetFormat::Raw) {
                assert_eq!(result.unwrap_err().kind(), vmimage::ErrorKind::Usage, "{format}");
                assert!(!path.exists() && scan.1 == 0, "{format}");
            } else {
                result.unwrap();
                assert!(std::fs::metadata(&path).unwrap().len() >= GRANULE);
                std::fs::remove_file(&path).unwrap();
            }
        }
    }
    // A raw file has the size that the stream had in the end.
    let mut scan = Pieces(&disk, 0, 1 << 20, false);
    scan_to_file(&mut scan, TargetFormat::Raw, &path, &plan, &options).unwrap();
    assert!(std::fs::read(&path).unwrap() == disk.bytes());
    let joined = JoinedDisk::new(vec![disk.clone().arc(), disk.arc()]).unwrap();
    let map = joined.block_map().unwrap();
    let two = Plan::of_disks(TargetFormat::Qcow2, &map, joined.parts(), &plan);
    assert_eq!(two.unwrap_err().kind(), vmimage::ErrorKind::Usage);
}
