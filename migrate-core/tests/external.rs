//! A source and a target of somebody else's, over the public interface alone: what an author outside
//! of this crate needs is there, and what he gets wrong is told and never becomes a success.
#![allow(clippy::unwrap_used)] // a test helper that fails is a test that fails

mod doubles;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use migrate_core::journal::{Entry, MemoryJournal};
use migrate_core::transfer::{self, Sent};
use migrate_core::{
    Artifact, ArtifactFormat, Builder, CancelToken, Context, DiskInfo, Error, ErrorKind,
    ImageReport, Leftover, LocalDirectory, Machine, Pipeline, PlannedImage, PostProcessor, Probe,
    Provisioner, Result, Review, Run, RunId, Step, StepCx, Survey,
};
use serde_json::{Value, json};
use vmimage::{BlockMap, Source, TargetFormat};

use doubles::{Hasty, killed, run_id};

/// Both ends: named objects, each with its bytes.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Shelf {
    fn put(&self, name: String, bytes: Vec<u8>) {
        self.0.lock().unwrap().insert(name, bytes);
    }
    fn has(&self, name: &str) -> bool {
        self.0.lock().unwrap().contains_key(name)
    }
    fn take(&self, name: &str) -> bool {
        self.0.lock().unwrap().remove(name).is_some()
    }
    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }
}

/// A machine in memory.
struct MemoryVm {
    shelf: Shelf,
    disks: Vec<Arc<Vec<u8>>>,
    machine: Machine,
    spec: Value,
}

impl MemoryVm {
    fn new(shelf: &Shelf, disks: &[usize]) -> Self {
        let disks: Vec<_> =
            disks.iter().map(|len| Arc::new((0..*len).map(|i| (i >> 9) as u8).collect())).collect();
        let mut machine = Machine::new("mem01");
        for (i, disk) in disks.iter().enumerate() {
            let disk: &Arc<Vec<u8>> = disk;
            machine =
                machine.with_disk(DiskInfo::new(format!("d{i}"), i.to_string(), disk.len() as u64));
        }
        Self { shelf: shelf.clone(), disks, machine, spec: json!({"machine": "mem01"}) }
    }
}

struct Freeze(Shelf);

impl Freeze {
    fn name(cx: &StepCx) -> String {
        format!("{} frozen", cx.run_id().object_name())
    }
}

#[async_trait]
impl Step for Freeze {
    const NAME: &'static str = "freeze";
    const VERSION: u32 = 1;
    const MAKES: Option<&'static str> = Some("frozen copy");
    type Output = String;

    async fn run(&self, cx: &StepCx) -> Result<String> {
        self.0.put(Self::name(cx), Vec::new());
        Ok(Self::name(cx))
    }
    async fn probe(&self, cx: &StepCx) -> Result<Probe<String>> {
        let there = self.0.has(&Self::name(cx));
        Ok(if there { Probe::Done(Self::name(cx)) } else { Probe::Absent })
    }
    async fn undo(&self, cx: &StepCx, _: Option<String>) -> Result<()> {
        self.0.take(&Self::name(cx));
        Ok(())
    }
}

/// Removes the frozen copy, after the commit point.
struct Thaw(Shelf);

#[async_trait]
impl Step for Thaw {
    const NAME: &'static str = "thaw";
    const VERSION: u32 = 1;
    type Output = ();

    async fn run(&self, cx: &StepCx) -> Result<()> {
        self.0.take(&Freeze::name(cx));
        Ok(())
    }
    async fn probe(&self, _: &StepCx) -> Result<Probe<()>> {
        Ok(Probe::Absent)
    }
    async fn undo(&self, _: &StepCx, _: Option<()>) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Builder for MemoryVm {
    fn kind(&self) -> &str {
        "memory-vm"
    }
    fn spec(&self) -> Value {
        self.spec.clone()
    }
    async fn survey(&self) -> Result<Survey> {
        Ok(Survey::new(self.machine.clone(), Vec::new()))
    }
    async fn build(&self, run: &mut Run) -> Result<Arc<dyn Artifact>> {
        run.step(Freeze(self.shelf.clone())).await?;
        Ok(Arc::new(Frozen { machine: self.machine.clone(), disks: self.disks.clone() }))
    }
    async fn clean(&self, run: &mut Run) -> Result<()> {
        run.step(Thaw(self.shelf.clone())).await
    }
    async fn sweep(&self, run_id: RunId) -> Result<Vec<Leftover>> {
        let ours = |n: &String| n.starts_with(&run_id.object_name());
        let removed = self.shelf.names().into_iter().filter(ours);
        Ok(removed.filter(|n| self.shelf.take(n)).map(|n| Leftover::new("copy", n)).collect())
    }
}

struct Frozen {
    machine: Machine,
    disks: Vec<Arc<Vec<u8>>>,
}

#[async_trait]
impl Artifact for Frozen {
    fn machine(&self) -> &Machine {
        &self.machine
    }
    fn format(&self) -> ArtifactFormat {
        ArtifactFormat::Raw
    }
    async fn open(&self, index: usize, _: &CancelToken) -> Result<Box<dyn Source>> {
        let data = Arc::clone(&self.disks[index]);
        let mut map = BlockMap::empty(data.len() as u64);
        map.insert(0..data.len() as u64);
        Ok(Box::new(MemoryDisk { data, map }))
    }
}

struct MemoryDisk {
    data: Arc<Vec<u8>>,
    map: BlockMap,
}

impl Source for MemoryDisk {
    fn block_map(&self) -> &BlockMap {
        &self.map
    }
    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> vmimage::Result<()> {
        let start = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.data[start..start + buf.len()]);
        Ok(())
    }
    fn finish(&mut self) -> vmimage::Result<()> {
        Ok(())
    }
}

/// How a target of somebody else's may be wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lapse {
    None,
    /// It says that it took the bytes, and did not look.
    TakesNothing,
    /// It stops reading when it has what it wants.
    TakesHalf,
    /// Its steps for the disks have one key.
    OneKey,
}

/// A cloud in memory.
struct MemoryCloud {
    shelf: Shelf,
    lapse: Lapse,
}

struct Put {
    shelf: Shelf,
    artifact: Arc<dyn Artifact>,
    index: usize,
    lapse: Lapse,
}

impl Put {
    fn name(run_id: RunId, index: usize) -> String {
        format!("{} {index}", run_id.object_name())
    }
}

#[async_trait]
impl Step for Put {
    const NAME: &'static str = "put";
    const VERSION: u32 = 1;
    const MAKES: Option<&'static str> = Some("image");
    type Output = Sent;

    fn key(&self) -> String {
        match self.lapse {
            Lapse::OneKey => Self::NAME.to_owned(),
            _ => format!("{}/{}", Self::NAME, self.index),
        }
    }
    async fn run(&self, cx: &StepCx) -> Result<Sent> {
        let (shelf, lapse) = (self.shelf.clone(), self.lapse);
        let name = Self::name(cx.run_id(), self.index);
        transfer::send(cx, &self.artifact, self.index, TargetFormat::Raw, |mut out| async move {
            let mut all = Vec::new();
            while let Some(piece) = match lapse {
                Lapse::TakesNothing => None,
                Lapse::TakesHalf if !all.is_empty() => None,
                _ => out.body.next().await,
            } {
                all.extend_from_slice(
                    &piece.map_err(|e| Error::new(ErrorKind::Data, e.to_string()))?,
                );
            }
            if lapse != Lapse::None {
                // Long enough for the sender to have everything in its queue.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            shelf.put(name, all);
            Ok(())
        })
        .await
    }
    async fn probe(&self, _: &StepCx) -> Result<Probe<Sent>> {
        Ok(Probe::Absent)
    }
    async fn undo(&self, cx: &StepCx, _: Option<Sent>) -> Result<()> {
        self.shelf.take(&Self::name(cx.run_id(), self.index));
        Ok(())
    }
}

/// Gives the images their names.
struct Show {
    shelf: Shelf,
    names: Vec<String>,
}

#[async_trait]
impl Step for Show {
    const NAME: &'static str = "show";
    const VERSION: u32 = 1;
    type Output = ();

    async fn run(&self, cx: &StepCx) -> Result<()> {
        for (index, name) in self.names.iter().enumerate() {
            let hidden = self.shelf.0.lock().unwrap().remove(&Put::name(cx.run_id(), index));
            if let Some(bytes) = hidden {
                self.shelf.put(name.clone(), bytes);
            }
        }
        Ok(())
    }
    async fn probe(&self, _: &StepCx) -> Result<Probe<()>> {
        Ok(Probe::Absent)
    }
    async fn undo(&self, _: &StepCx, _: Option<()>) -> Result<()> {
        for name in &self.names {
            self.shelf.take(name);
        }
        Ok(())
    }
}

#[async_trait]
impl PostProcessor for MemoryCloud {
    fn kind(&self) -> &str {
        "memory-cloud"
    }
    fn spec(&self) -> Value {
        json!({})
    }
    async fn review(&self, machine: &Machine) -> Result<Review> {
        let planned =
            |d: &DiskInfo| PlannedImage::new(&d.name, "raw", d.virtual_size, d.virtual_size);
        Ok(Review::new(machine.disks.iter().map(planned).collect(), Vec::new()))
    }
    async fn ship(&self, run: &mut Run, artifact: Arc<dyn Artifact>) -> Result<Vec<ImageReport>> {
        let mut reports = Vec::new();
        for (index, disk) in artifact.machine().disks.iter().enumerate() {
            let (shelf, artifact) = (self.shelf.clone(), Arc::clone(&artifact));
            let sent = run.step(Put { shelf, artifact, index, lapse: self.lapse }).await?;
            reports.push(ImageReport::new(&disk.name, &disk.name, "raw", &sent));
        }
        Ok(reports)
    }
    async fn publish(&self, run: &mut Run, images: &[ImageReport]) -> Result<()> {
        let names = images.iter().map(|i| i.name.clone()).collect();
        run.step(Show { shelf: self.shelf.clone(), names }).await
    }
    async fn sweep(&self, _: RunId) -> Result<Vec<Leftover>> {
        Ok(Vec::new())
    }
}

struct World {
    source: Shelf,
    cloud: Shelf,
}

impl World {
    fn new() -> Self {
        Self { source: Shelf::default(), cloud: Shelf::default() }
    }
    fn vm(&self, disks: &[usize]) -> MemoryVm {
        MemoryVm::new(&self.source, disks)
    }
    fn cloud(&self, lapse: Lapse) -> MemoryCloud {
        MemoryCloud { shelf: self.cloud.clone(), lapse }
    }
    fn pipeline(&self, disks: &[usize], lapse: Lapse) -> Pipeline {
        Pipeline::new(self.vm(disks), self.cloud(lapse))
    }
    fn assert_empty(&self, what: &str) {
        assert_eq!(self.source.names(), [""; 0], "{what}: left at the source");
        assert_eq!(self.cloud.names(), [""; 0], "{what}: left at the target");
    }
}

fn context() -> Context {
    doubles::context().with_clock(Hasty)
}

const DISKS: [usize; 2] = [3 << 20, 1 << 20];

#[tokio::test]
async fn a_foreign_source_and_target_work_together() {
    let world = World::new();
    let pipeline = world.pipeline(&DISKS, Lapse::None);
    pipeline.plan().await.unwrap().check().unwrap();
    let journal = MemoryJournal::new();
    let report = pipeline.run(journal.clone(), context()).await.unwrap();
    assert_eq!((report.vm.as_str(), report.target.as_str()), ("mem01", "memory-cloud"));
    assert_eq!(world.cloud.names(), ["d0", "d1"]);
    assert_eq!(world.cloud.0.lock().unwrap()["d1"], *world.vm(&DISKS).disks[1]);
    assert_eq!(world.source.names(), [""; 0]);
    assert_eq!(pipeline.run(journal, context()).await.unwrap(), report);
}

/// What a target says it took, and did not, is no success.
#[tokio::test]
async fn a_target_that_does_not_take_all_bytes_fails() {
    for lapse in [Lapse::TakesNothing, Lapse::TakesHalf] {
        for disks in [&[3_usize << 20][..], &[9 << 20], &[1 << 16]] {
            let what = format!("{lapse:?} of {disks:?}");
            let world = World::new();
            if lapse == Lapse::TakesHalf && disks[0] <= 1 << 20 {
                continue;
            }
            let result = world.pipeline(disks, lapse).run(MemoryJournal::new(), context()).await;
            let e = result.expect_err(&what);
            assert_eq!(e.kind(), ErrorKind::Target, "{what}: {e}");
            world.assert_empty(&what);
        }
    }
}

#[tokio::test]
async fn two_disks_of_one_key_are_refused() {
    let world = World::new();
    let e = world
        .pipeline(&DISKS, Lapse::OneKey)
        .run(MemoryJournal::new(), context())
        .await
        .unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Internal, "{e}");
    world.assert_empty("one key");
}

/// A machine without a disk is no clone, whatever the parts say to it.
#[tokio::test]
async fn nothing_shipped_is_no_success() {
    let world = World::new();
    let pipeline = world.pipeline(&[], Lapse::None);
    let result = pipeline.run(MemoryJournal::new(), context()).await;
    let e = result.expect_err("no disk");
    assert!(e.to_string().contains("mem01"), "{e}");
    world.assert_empty("no disk");
}

/// The folder needs no step of ours before it.
#[tokio::test]
async fn a_foreign_source_goes_into_a_folder() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let target = LocalDirectory::new(folder.path(), TargetFormat::Raw);
    let pipeline = Pipeline::new(world.vm(&DISKS), target);
    let report = pipeline.run(MemoryJournal::new(), context()).await.unwrap();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    assert_eq!(read("mem01-disk2.img"), *world.vm(&DISKS).disks[1]);
    let manifest: Value = serde_json::from_slice(&read("mem01.json")).unwrap();
    assert_eq!(manifest["machine"]["disks"][1]["name"], "d1");
    assert_eq!(manifest["images"][1]["sha256"], report.images[1].sha256.as_str());
    assert_eq!(world.source.names(), [""; 0]);
}

/// Sizes come from a stranger.
#[tokio::test]
async fn sizes_beyond_all_bounds_are_no_panic() {
    let world = World::new();
    let mut vm = world.vm(&DISKS);
    for _ in 0..3 {
        vm.machine = vm.machine.with_disk(DiskInfo::new("huge", "h", u64::MAX));
    }
    let folder = tempfile::tempdir().unwrap();
    let target = LocalDirectory::new(folder.path(), TargetFormat::Raw);
    let plan = Pipeline::new(vm, target).plan().await.unwrap();
    assert_eq!(plan.bytes, u64::MAX);
}

/// A process that dies at an entry, and the journal that it leaves.
async fn dead(pipeline: &Pipeline, at: usize, before: bool) -> MemoryJournal {
    let journal = MemoryJournal::new();
    assert!(killed(pipeline, &journal, at, before).await, "{at}: it was to die");
    journal
}

#[tokio::test]
async fn a_crash_at_every_entry_is_resumed_undone_or_swept() {
    let whole = MemoryJournal::new();
    const DISKS: [usize; 2] = [128 << 10, 64 << 10];
    World::new().pipeline(&DISKS, Lapse::None).run(whole.clone(), context()).await.unwrap();
    for at in 0..whole.entries().len() {
        for before in [true, false] {
            let what = format!("{at} {before}");
            let world = World::new();
            let pipeline = world.pipeline(&DISKS, Lapse::None);
            let journal = dead(&pipeline, at, before).await;
            pipeline.run(journal, context()).await.unwrap();
            assert_eq!(world.cloud.names(), ["d0", "d1"], "{what}");
            assert_eq!(world.source.names(), [""; 0], "{what}");

            let world = World::new();
            let pipeline = world.pipeline(&DISKS, Lapse::None);
            let journal = dead(&pipeline, at, before).await;
            match pipeline.undo(journal.clone(), context()).await {
                Ok(()) => world.assert_empty(&what),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Usage, "{what}: {e}");
                    let committed = journal.entries().contains(&Entry::Committed);
                    assert!(committed || journal.entries().is_empty(), "{what}: {e}");
                }
            }
        }
    }
}

/// A newer program describes its runs with more words; it undoes those of an older one, and only
/// what is at the same ends.
#[tokio::test]
async fn a_newer_program_undoes_an_older_run() {
    let world = World::new();
    let older = world.pipeline(&DISKS, Lapse::None);
    let newer = |spec: Value| {
        let mut vm = world.vm(&DISKS);
        vm.spec = spec;
        Pipeline::new(vm, world.cloud(Lapse::None))
    };
    let journal = dead(&older, 4, false).await;
    let more = json!({"machine": "mem01", "quiesce": false});
    let e = newer(more.clone()).run(journal.clone(), context()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict, "{e}");
    let other = newer(json!({"machine": "mem02", "quiesce": false}));
    let e = other.undo(journal.clone(), context()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict, "{e}");
    assert!(!world.source.names().is_empty());
    newer(more).undo(journal, context()).await.unwrap();
    world.assert_empty("undone by a newer program");
}

/// One that is not there yet has no path.
#[tokio::test]
async fn a_folder_that_is_not_there_has_nothing_to_sweep() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let target = LocalDirectory::new(folder.path().join("new"), TargetFormat::Raw);
    let swept = Pipeline::new(world.vm(&DISKS), target).sweep(RunId::random()).await;
    assert_eq!(swept.unwrap(), []);
    assert!(!Path::new(&folder.path().join("new")).exists());
}

/// A copy of the frozen machine, changed on the way.
struct Copying(Shelf);

struct Copy(Shelf);

impl Copy {
    fn name(run_id: RunId) -> String {
        format!("{} copy", run_id.object_name())
    }
}

#[async_trait]
impl Step for Copy {
    const NAME: &'static str = "copy";
    const VERSION: u32 = 1;
    type Output = ();

    async fn run(&self, cx: &StepCx) -> Result<()> {
        self.0.put(Self::name(cx.run_id()), Vec::new());
        Ok(())
    }
    async fn probe(&self, _: &StepCx) -> Result<Probe<()>> {
        Ok(Probe::Absent)
    }
    async fn undo(&self, cx: &StepCx, _: Option<()>) -> Result<()> {
        self.0.take(&Self::name(cx.run_id()));
        Ok(())
    }
}

struct EndCopy(Shelf);

#[async_trait]
impl Step for EndCopy {
    const NAME: &'static str = "end-copy";
    const VERSION: u32 = 1;
    type Output = ();

    async fn run(&self, cx: &StepCx) -> Result<()> {
        Copy(self.0.clone()).undo(cx, None).await
    }
    async fn probe(&self, _: &StepCx) -> Result<Probe<()>> {
        Ok(Probe::Absent)
    }
    async fn undo(&self, _: &StepCx, _: Option<()>) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Provisioner for Copying {
    fn kind(&self) -> &str {
        "copying"
    }
    fn spec(&self) -> Value {
        json!({})
    }
    async fn provision(
        &self,
        run: &mut Run,
        artifact: Arc<dyn Artifact>,
    ) -> Result<Arc<dyn Artifact>> {
        run.step(Copy(self.0.clone())).await?;
        Ok(artifact)
    }
    async fn clean(&self, run: &mut Run) -> Result<()> {
        run.step(EndCopy(self.0.clone())).await
    }
    async fn sweep(&self, run_id: RunId) -> Result<Vec<Leftover>> {
        // The same code as the undo's: the context can be made.
        let cx = StepCx::new(&Context::new(run_id), "sweep");
        let name = Copy::name(run_id);
        let there = self.0.has(&name);
        Copy(self.0.clone()).undo(&cx, None).await?;
        Ok(there.then(|| Leftover::new("copy", name)).into_iter().collect())
    }
}

#[tokio::test]
async fn what_a_provisioner_makes_goes_with_the_run() {
    let world = World::new();
    let copies = Shelf::default();
    let pipeline =
        world.pipeline(&[64 << 10], Lapse::None).with_provisioner(Copying(copies.clone()));
    let whole = MemoryJournal::new();
    pipeline.run(whole.clone(), context()).await.unwrap();
    assert_eq!((copies.names().len(), world.source.names().len()), (0, 0));
    let made = |e: &Entry| matches!(e, Entry::StepDone { step, .. } if step == "copy");
    let at = whole.entries().iter().position(made).unwrap();

    let journal = dead(&pipeline, at, false).await;
    assert_eq!(copies.names().len(), 1);
    let run_id = run_id(&journal);
    let removed = pipeline.sweep(run_id).await.unwrap();
    assert_eq!(removed.len(), 2, "{removed:?}");
    assert_eq!((copies.names().len(), world.source.names().len()), (0, 0));
}

/// An end that never answers can be cancelled before anything has begun.
#[tokio::test]
async fn a_preflight_that_never_ends_can_be_cancelled() {
    struct Mute;
    #[async_trait]
    impl Builder for Mute {
        fn kind(&self) -> &str {
            "mute"
        }
        fn spec(&self) -> Value {
            json!({})
        }
        async fn survey(&self) -> Result<Survey> {
            std::future::pending().await
        }
        async fn build(&self, _: &mut Run) -> Result<Arc<dyn Artifact>> {
            std::future::pending().await
        }
        async fn clean(&self, _: &mut Run) -> Result<()> {
            Ok(())
        }
        async fn sweep(&self, _: RunId) -> Result<Vec<Leftover>> {
            Ok(Vec::new())
        }
    }
    let world = World::new();
    let pipeline = Pipeline::new(Mute, world.cloud(Lapse::None));
    let cancel = CancelToken::new();
    let journal = MemoryJournal::new();
    let run = pipeline.run(journal.clone(), context().with_cancel(cancel.clone()));
    let cancelled = async {
        tokio::task::yield_now().await;
        cancel.cancel();
    };
    let limit = Duration::from_secs(20);
    let (result, ()) = tokio::time::timeout(limit, async { tokio::join!(run, cancelled) })
        .await
        .expect("it hangs");
    assert!(result.unwrap_err().is_cancelled());
    assert!(journal.entries().is_empty());
}

/// An author's artifact that does not listen is not waited for.
#[tokio::test]
async fn an_artifact_that_never_opens_can_be_cancelled() {
    struct Silent(Machine);
    #[async_trait]
    impl Artifact for Silent {
        fn machine(&self) -> &Machine {
            &self.0
        }
        fn format(&self) -> ArtifactFormat {
            ArtifactFormat::Raw
        }
        async fn open(&self, _: usize, _: &CancelToken) -> Result<Box<dyn Source>> {
            std::future::pending().await
        }
    }
    let cancel = CancelToken::new();
    let cx = StepCx::new(&context().with_cancel(cancel.clone()), "transfer/0");
    let artifact: Arc<dyn Artifact> = Arc::new(Silent(Machine::new("silent")));
    let sent = transfer::digest(&cx, &artifact, 0, TargetFormat::Raw);
    let cancelled = async {
        tokio::task::yield_now().await;
        cancel.cancel();
    };
    let limit = Duration::from_secs(60);
    let (sent, ()) = tokio::time::timeout(limit, async { tokio::join!(sent, cancelled) })
        .await
        .expect("it hangs");
    assert!(sent.unwrap_err().is_cancelled());
}

/// A target that moves the bytes by its own means can say what it moved.
#[test]
fn a_report_can_be_made_by_hand() {
    let mut sent = Sent::new(5);
    sent.sha256 = "ab".repeat(32);
    let report = ImageReport::new("id", "name", "raw", &sent);
    assert_eq!((report.bytes, report.sha256.len()), (5, 64));
}
