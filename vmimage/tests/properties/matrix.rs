//! Every source by every way into every target.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use vmimage::vhd::VhdDisk;
use vmimage::{
    BlockMap, Disk, DiskSource, ErrorKind, FileOptions, Findings, Incoming, JoinedDisk,
    OpenOptions, Outcome, Plan, PlanOptions, RawDisk, ReadAt, Result, ScanSource, Source,
    StreamOptions, TargetFormat, VhdParent, XvaChecksum, incoming, scan_map, scan_to_file, stream,
    stream_to_file, to_file,
};

use crate::common::qemu_read;
use crate::decode::{assert_disk, content_root};
use crate::feeds::{Feed, Kind, Open, feed};
use crate::model::{self, Story};

/// What a caller may choose.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// How the map of a disk is made.
    map: usize,
    level: u32,
    sum: XvaChecksum,
}

prop_compose! {
    fn choices()(
        map in 0..3_usize,
        level in prop_oneof![Just(0_u32), Just(1), Just(6)],
        sum in prop_oneof![Just(XvaChecksum::XxHash), Just(XvaChecksum::Sha1)],
    ) -> Choice {
        Choice { map, level, sum }
    }
}

impl Choice {
    fn options(&self) -> PlanOptions {
        PlanOptions::new().with_gzip_level(self.level).with_xva_checksum(self.sum)
    }

    fn source(&self, disk: &Arc<dyn Disk>, format: TargetFormat) -> Result<DiskSource> {
        match self.map {
            0 => DiskSource::new(Arc::clone(disk)),
            1 => DiskSource::without_zeros(Arc::clone(disk)),
            _ => DiskSource::for_format(Arc::clone(disk), format),
        }
    }
}

/// One disk on its way into one format.
struct Case<'a> {
    format: TargetFormat,
    want: &'a [u8],
    root: &'a str,
    choice: &'a Choice,
    folder: &'a Path,
    what: String,
}

impl Case<'_> {
    /// What a file holds, which then makes room for the next one.
    fn take(&self, outcome: &Outcome) -> Vec<u8> {
        let path = self.folder.join("target");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(outcome.bytes, bytes.len() as u64, "{}", self.what);
        bytes
    }

    fn file_options(&self) -> FileOptions {
        FileOptions::new().with_workers(3)
    }

    /// The output of a plan by both ways that go forwards.
    fn forwards(&self, plan: &Plan, source: &dyn Fn() -> Result<Box<dyn Source>>) -> Vec<u8> {
        let mut streamed = Vec::new();
        let mut sink = |bytes: bytes::Bytes| {
            streamed.extend_from_slice(&bytes);
            Ok(())
        };
        let options = StreamOptions::new();
        let outcome = stream(plan, source().unwrap().as_mut(), &mut sink, &options).unwrap();
        assert_eq!(outcome.bytes, streamed.len() as u64, "{}", self.what);
        assert_eq!(outcome.content_root.as_deref(), Some(self.root), "{}", self.what);
        if let Some(len) = plan.output_len() {
            assert_eq!(len, outcome.bytes, "{}: the promised length", self.what);
        }
        let path = self.folder.join("target");
        let mut once = source().unwrap();
        let options = self.file_options();
        let outcome = stream_to_file(plan, once.as_mut(), &path, &options).unwrap();
        assert!(self.take(&outcome) == streamed, "{}: a streamed file differs", self.what);
        streamed
    }

    fn read_disk(&self, disk: &Arc<dyn Disk>) -> Vec<u8> {
        let map = self.choice.source(disk, self.format).unwrap().block_map().clone();
        let plan = Plan::new(self.format, &map, &self.choice.options()).unwrap();
        let forwards =
            self.forwards(&plan, &|| Ok(Box::new(self.choice.source(disk, self.format)?)));
        let path = self.folder.join("target");
        let rooted = FileOptions::new().with_content_root(true);
        for options in [FileOptions::new(), self.file_options(), rooted] {
            let outcome = to_file(&plan, disk, &path, &options).unwrap();
            assert!(self.take(&outcome) == forwards, "{}: a file differs", self.what);
            let root = outcome.content_root.as_deref();
            assert!(root.is_none_or(|root| root == self.root), "{}: {root:?}", self.what);
        }
        assert_eq!(vmimage::content_root(disk.as_ref()).unwrap(), self.root);
        forwards
    }

    fn read_source(&self, source: &Open<dyn Source>) -> Vec<u8> {
        let map = source().unwrap().block_map().clone();
        let plan = Plan::new(self.format, &map, &self.choice.options()).unwrap();
        self.forwards(&plan, &|| source())
    }

    /// What passes by becomes a file, after a look at all of it anything.
    fn read_scan(&self, scan: &Open<dyn vmimage::Scan>) -> Vec<Vec<u8>> {
        let mut outputs = Vec::new();
        let sized = scan().unwrap().virtual_size().is_some();
        if sized {
            let map = scan_map(scan().unwrap().as_mut()).unwrap();
            let plan = Plan::new(self.format, &map, &self.choice.options()).unwrap();
            let source = || -> Result<Box<dyn Source>> {
                Ok(Box::new(ScanSource::with_map(scan()?, map.clone())))
            };
            outputs.push(self.forwards(&plan, &source));
        }
        if let (true, Ok(source)) = (sized, ScanSource::for_format(scan().unwrap(), self.format)) {
            let plan = Plan::new(self.format, source.block_map(), &self.choice.options()).unwrap();
            let source = || -> Result<Box<dyn Source>> { Ok(Box::new(ScanSource::new(scan()?)?)) };
            outputs.push(self.forwards(&plan, &source));
        }
        outputs.extend(self.grown(scan, sized, outputs.first()));
        outputs
    }

    /// A file that grows with its disk is the one that was planned, unless it needs room for
    /// tables.
    fn grown(
        &self,
        scan: &Open<dyn vmimage::Scan>,
        sized: bool,
        planned: Option<&Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let path = self.folder.join("target");
        let options = self.file_options().with_content_root(true);
        let mut scan = scan().unwrap();
        let plan = self.choice.options();
        let result = scan_to_file(scan.as_mut(), self.format, &path, &plan, &options);
        let archive = matches!(self.format, TargetFormat::VhdTgz | TargetFormat::Xva);
        if archive || (!sized && self.format != TargetFormat::Raw) {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Usage, "{}", self.what);
            assert!(!path.exists(), "{}", self.what);
            return None;
        }
        let outcome = result.unwrap();
        let grown = self.take(&outcome);
        assert_eq!(outcome.content_root.as_deref(), Some(self.root), "{}", self.what);
        if let Some(planned) = planned.filter(|_| self.format != TargetFormat::Qcow2) {
            assert!(grown == *planned, "{}: the grown file differs", self.what);
        }
        Some(grown)
    }

    /// The output holds the disk, by our own reading and by QEMU's.
    fn judge(&self, output: &[u8]) {
        assert_disk(self.format, output, self.want, &self.what);
        let path = self.folder.join("judged");
        if self.format == TargetFormat::Qcow2 {
            std::fs::write(&path, output).unwrap();
            if let Some(read) = qemu_read("qcow2", &path) {
                assert_eq!(read.len(), self.want.len().next_multiple_of(512), "{}", self.what);
                assert!(read.starts_with(self.want), "{}: QEMU reads otherwise", self.what);
            }
        }
    }
}

fn judge(kind: Kind, story: &Story, choice: &Choice) {
    let folder = tempfile::tempdir().unwrap();
    let Some(Feed { want, disk, source, scan }) = feed(kind, story, folder.path()) else { return };
    let root = content_root(&want);
    for format in TargetFormat::ALL {
        let what = format!("{kind:?} to {format}");
        let case = Case { format, want: &want, root: &root, choice, folder: folder.path(), what };
        let mut outputs = Vec::new();
        outputs.extend(disk.iter().map(|disk| case.read_disk(disk)));
        outputs.extend(source.iter().map(|source| case.read_source(source)));
        outputs.extend(scan.iter().flat_map(|scan| case.read_scan(scan)));
        outputs.sort_unstable();
        outputs.dedup();
        assert!(!outputs.is_empty() || disk.is_none(), "{}: nothing was written", case.what);
        outputs.iter().for_each(|output| case.judge(output));
    }
}

/// All layers of a chain side by side: as layers again, or as the disks of one machine.
fn layers_in_an_archive(story: &Story) {
    let chain = story.tell();
    let files = chain.layers.iter().map(|l| Arc::new(l.bytes.clone()) as Arc<dyn ReadAt>);
    let disk = VhdDisk::from_chain(files.collect(), &mut Findings::default()).unwrap();
    let views = (0..disk.depth()).map(|n| Arc::new(disk.layer_view(n).unwrap()) as Arc<dyn Disk>);
    let joined = JoinedDisk::new(views.collect()).unwrap();
    let (map, parts) = (joined.block_map().unwrap(), joined.parts().to_vec());
    let joined: Arc<dyn Disk> = Arc::new(joined);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("target");
    for format in [TargetFormat::VhdTgz, TargetFormat::Xva] {
        let plan = Plan::of_disks(format, &map, &parts, &PlanOptions::new()).unwrap();
        to_file(&plan, &joined, &path, &FileOptions::new().with_workers(3)).unwrap();
        let output = std::fs::read(&path).unwrap();
        if format == TargetFormat::VhdTgz {
            assert_disk(format, &output, &chain.view, "the layers");
            continue;
        }
        // What a layer does not store itself is not in its map, and so not in its disk.
        let seen = &crate::decode::xva(&output)[0];
        let stored = joined_part(&chain.view, &map, &parts[0]);
        assert!(seen.len() >= stored.len() && seen.starts_with(&stored), "the first disk");
    }
}

/// What a map has of the part of a joined disk that begins with it.
fn joined_part(view: &[u8], map: &BlockMap, part: &std::ops::Range<u64>) -> Vec<u8> {
    let mut out = vec![0; view.len()];
    let mut at = part.start;
    while let Some(run) = map.first_run(at..part.end) {
        let range = run.start as usize..run.end as usize;
        out[range.clone()].copy_from_slice(&view[range]);
        at = run.end;
    }
    out
}

/// What one disk has that another has not, over that other one.
fn difference(disk: &Story, base: &Story) {
    let [want, below] = [disk, base].map(|story| story.tell().view);
    let [disk, base] = [&want, &below]
        .map(|bytes| -> Arc<dyn Disk> { Arc::new(RawDisk::new(Arc::new(bytes.clone())).unwrap()) });
    let delta = DiskSource::difference(Arc::clone(&disk), base.as_ref()).unwrap();
    let parent = VhdParent::new([7; 16], "base.vhd").with_size(base.virtual_size());
    let options = PlanOptions::new().with_parent(parent);
    let plan = Plan::new(TargetFormat::VhdDynamic, delta.block_map(), &options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("target");
    to_file(&plan, &disk, &path, &FileOptions::new()).unwrap();
    let seen = crate::decode::vhd(&std::fs::read(&path).unwrap(), Some(&below));
    assert!(seen.starts_with(&want), "the child differs");
    assert!(seen[want.len()..].iter().all(|b| *b == 0), "the parent shows behind the end");
}

proptest! {
    #![proptest_config(crate::cases(36))]

    #[test]
    fn every_target_holds_the_disk_of_its_source(
        kind in prop::sample::select(&Kind::ALL[..]),
        story in model::any_story(),
        choice in choices(),
    ) {
        judge(kind, &story, &choice);
    }

    #[test]
    fn an_archive_of_all_layers_holds_the_disk(story in model::stories(4096)) {
        layers_in_an_archive(&story.without_raw());
    }

    #[test]
    fn a_difference_over_its_base_is_the_disk(
        disk in model::stories(9000),
        base in model::stories(9000),
    ) {
        difference(&disk, &base);
    }
}

/// Every pair once, whatever the random ones are.
#[test]
fn no_pair_of_source_and_target_is_left_out() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let small = (model::stories(3000), choices());
    for kind in Kind::ALL {
        let (story, choice) = small.new_tree(&mut runner).unwrap().current();
        judge(kind, &story, &choice);
        judge(kind, &story.blank(), &choice);
    }
}

/// What is written from a disk of zeros can be read again as it passes.
#[test]
fn a_disk_of_zeros_comes_back() {
    let disk: Arc<dyn Disk> = Arc::new(RawDisk::new(Arc::new(vec![0; 9 << 19])).unwrap());
    let source = DiskSource::without_zeros(disk).unwrap();
    for format in [TargetFormat::VhdDynamic, TargetFormat::VhdTgz] {
        let plan = Plan::new(format, source.block_map(), &PlanOptions::new()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("target");
        to_file(&plan, source.disk(), &path, &FileOptions::new()).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let Incoming::Source(mut back) = incoming(file, &OpenOptions::new(), None).unwrap() else {
            panic!("{format} is no scan");
        };
        assert_eq!(back.block_map().virtual_size(), 6 << 20);
        back.finish().unwrap();
    }
}
