//! The post-processor `local-directory`: one image file a disk, and a manifest.

mod names;
mod steps;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};
use vmimage::TargetFormat;

use self::names::{failed, remove};
use self::steps::{CreateFolder, Publish, VerifyFile, WriteFile, WriteManifest};
use crate::artifact::total;
use crate::files::{blocking, path_value};
use crate::transfer::planned;
use crate::{
    Artifact, Error, Finding, ImageReport, Leftover, Machine, PostProcessor, Result, Review, Run,
    RunId, Severity, Step,
};

/// Writes each disk of a machine as an image file into a folder, beside a manifest.
///
/// The first file is `NAME.EXT`, the others `NAME-disk2.EXT` and so on; `NAME.json` describes the
/// machine and its images. Until they are whole and verified they have hidden names that hold the
/// run id. No file that is there already is replaced.
#[derive(Debug, Clone)]
pub struct LocalDirectory {
    folder: PathBuf,
    format: TargetFormat,
    name: Option<String>,
}

impl LocalDirectory {
    /// Images of `format` in `folder`, which is created if only it, and no folder above it, is
    /// missing.
    pub fn new(folder: impl Into<PathBuf>, format: TargetFormat) -> Self {
        Self { folder: folder.into(), format, name: None }
    }

    /// Names the files; after the machine otherwise.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    fn extension(&self) -> &'static str {
        match self.format {
            TargetFormat::Raw => "img",
            TargetFormat::VhdDynamic | TargetFormat::VhdFixed => "vhd",
            TargetFormat::VhdTgz => "vhd.tgz",
            _ => "qcow2",
        }
    }

    /// The name of the files, which comes from a stranger: it stays in the folder.
    fn stem(&self, machine: &Machine) -> String {
        let name = self.name.as_ref().unwrap_or(&machine.name);
        let safe = |c: char| if c == '/' || c.is_control() { '_' } else { c };
        let stem: String = name.trim_start_matches('.').chars().map(safe).take(200).collect();
        if stem.is_empty() { "image".to_owned() } else { stem }
    }

    fn image_name(&self, machine: &Machine, index: usize) -> String {
        let name = machine.image_name(Some(&self.stem(machine)), index);
        format!("{name}.{}", self.extension())
    }

    /// What is to be said about the folder, into which about `bytes` go: it may be made, but not the
    /// way to it.
    fn folder_findings(&self, bytes: u64) -> Vec<Finding> {
        let shown = self.folder.display();
        let finding = |rule: &str, severity, evidence: String, remedy: &str| {
            Finding::new(rule, severity, evidence, remedy)
        };
        let whole = std::path::absolute(&self.folder).unwrap_or_else(|_| self.folder.clone());
        let above = whole.parent().filter(|p| p.is_dir());
        let (there, mut findings) = match above {
            _ if self.folder.is_dir() => (whole.as_path(), Vec::new()),
            _ if self.folder.exists() => {
                let evidence = format!("{shown} is not a folder");
                return vec![finding(
                    "folder-exists",
                    Severity::Critical,
                    evidence,
                    "name a folder",
                )];
            }
            None => {
                let evidence = format!("{shown} cannot be created: nothing above it");
                return vec![finding("folder-exists", Severity::Critical, evidence, "create it")];
            }
            Some(above) => {
                let evidence = format!("{shown} will be created");
                let made = finding("folder-exists", Severity::Info, evidence, "nothing to do");
                (above, vec![made])
            }
        };
        use rustix::fs::Access;
        if let Err(e) = rustix::fs::access(there, Access::WRITE_OK | Access::EXEC_OK) {
            let evidence = format!("{} cannot be written to: {e}", there.display());
            let remedy = "name a folder of your own";
            findings.push(finding("folder-writable", Severity::Critical, evidence, remedy));
        }
        let room = rustix::fs::statvfs(there).map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        if let Some(room) = room.ok().filter(|room| *room < bytes) {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            let evidence = format!(
                "about {} MiB will be written, {shown} has room for {}",
                mib(bytes),
                mib(room)
            );
            // An estimate: empty space and compression may save it.
            let remedy = "free space there, or name another folder";
            findings.push(finding("folder-has-room", Severity::Warning, evidence, remedy));
        }
        findings
    }

    fn part(&self, run_id: RunId, index: usize) -> PathBuf {
        self.folder.join(format!(".{}-{index}.part", run_id.object_name()))
    }

    fn manifest_part(&self, run_id: RunId) -> PathBuf {
        self.folder.join(format!(".{}-manifest.part", run_id.object_name()))
    }

    fn manifest_name(&self, machine: &Machine) -> String {
        format!("{}.json", self.stem(machine))
    }
}

#[async_trait]
impl PostProcessor for LocalDirectory {
    fn kind(&self) -> &str {
        "dir"
    }

    fn spec(&self) -> Value {
        let folder = std::path::absolute(&self.folder).unwrap_or_else(|_| self.folder.clone());
        json!({"folder": path_value(&folder), "format": self.format.as_str(), "name": self.name})
    }

    async fn review(&self, machine: &Machine) -> Result<Review> {
        let planned = planned(machine, self.format, |index| self.image_name(machine, index));
        let mut findings = self.folder_findings(total(planned.iter().map(|i| i.bytes)));
        let images = (0..machine.disks.len()).map(|i| self.image_name(machine, i));
        let names = images.chain([self.manifest_name(machine)]);
        for path in names.map(|name| self.folder.join(name)).filter(|p| p.exists()) {
            findings.push(Finding::new(
                "file-is-new",
                Severity::Critical,
                format!("{} exists already", path.display()),
                "remove it, or give another name",
            ));
        }
        Ok(Review::new(planned, findings))
    }

    async fn ship(&self, run: &mut Run, artifact: Arc<dyn Artifact>) -> Result<Vec<ImageReport>> {
        let machine = artifact.machine().clone();
        run.step(CreateFolder { folder: self.folder.clone() }).await?;
        let mut reports = Vec::new();
        for index in 0..machine.disks.len() {
            let part = self.part(run.run_id(), index);
            let sent = run
                .step(WriteFile {
                    artifact: Arc::clone(&artifact),
                    part: part.clone(),
                    index,
                    format: self.format,
                })
                .await?;
            run.step(VerifyFile { part, index, format: self.format, sent: sent.clone() }).await?;
            let name = self.image_name(&machine, index);
            let path = self.folder.join(&name).display().to_string();
            reports.push(ImageReport::new(path, name, self.format.as_str(), &sent));
        }
        let part = self.manifest_part(run.run_id());
        let text = json!({"run_id": run.run_id(), "machine": machine, "images": reports});
        let name = self.manifest_name(&machine);
        run.step(WriteManifest { part, text: format!("{text:#}\n"), name }).await?;
        Ok(reports)
    }

    async fn publish(&self, run: &mut Run, images: &[ImageReport]) -> Result<()> {
        let manifest: String = run.output(WriteManifest::NAME)?;
        let files = images.iter().enumerate();
        let files = files.map(|(i, image)| (self.part(run.run_id(), i), &image.name));
        let files = files.chain([(self.manifest_part(run.run_id()), &manifest)]);
        let files = files.map(|(part, name)| (part, self.folder.join(name))).collect();
        run.step(Publish { folder: self.folder.clone(), files }).await
    }

    async fn sweep(&self, run_id: RunId) -> Result<Vec<Leftover>> {
        let prefix = format!(".{}-", run_id.object_name());
        let folder = self.folder.clone();
        blocking(move || {
            let entries = match std::fs::read_dir(&folder) {
                // It was not made yet, or went with its run.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
                other => other.map_err(|e| failed(&folder, e))?,
            };
            let mut removed = Vec::new();
            let mut result = Ok(());
            for entry in entries {
                let path = entry.map_err(|e| failed(&folder, e))?.path();
                let ours =
                    path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix));
                if ours {
                    match remove(&path) {
                        Ok(()) => removed.push(Leftover::new("file", path.display().to_string())),
                        Err(e) => result = Error::merge(result, e),
                    }
                }
            }
            result.map(|()| removed)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::journal::{Entry, MemoryJournal};
    use crate::{CancelToken, Context, ErrorKind, Event, Pipeline, VhdFiles};

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_file_becomes_an_image_and_a_manifest() {
        let source = tempfile::tempdir().unwrap();
        let disk = source.path().join("disk.img");
        let mut content = vec![5_u8; 2 << 20];
        content.resize(5 << 20, 0);
        std::fs::write(&disk, &content).unwrap();
        let target = tempfile::tempdir().unwrap();
        let run = async |format, name: &str| {
            let dir = LocalDirectory::new(target.path(), format).with_name(name);
            let pipeline = Pipeline::new(VhdFiles::new(&disk).with_disk(&disk), dir);
            pipeline.run(MemoryJournal::new(), Context::new(RunId::random())).await
        };
        for (format, name) in [
            (TargetFormat::Raw, "one"),
            (TargetFormat::Qcow2, "two"),
            (TargetFormat::VhdDynamic, "../three"),
        ] {
            let report = run(format, name).await.unwrap();
            assert_eq!(report.images.len(), 2);
            assert_eq!(report.images[0].content_root, report.images[1].content_root);
        }
        assert_eq!(std::fs::read(target.path().join("one.img")).unwrap(), content);
        let expected = [
            "_three-disk2.vhd",
            "_three.json",
            "_three.vhd",
            "one-disk2.img",
            "one.img",
            "one.json",
            "two-disk2.qcow2",
            "two.json",
            "two.qcow2",
        ];
        assert_eq!(names(target.path()), expected);
        // What is there is not replaced.
        let e = run(TargetFormat::Raw, "one").await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Preflight);
        assert_eq!(names(target.path()).len(), expected.len());
    }

    #[tokio::test]
    async fn a_cancelled_or_taken_name_leaves_nothing() {
        let source = tempfile::tempdir().unwrap();
        let disk = source.path().join("disk.img");
        std::fs::write(&disk, vec![5_u8; 3 << 20]).unwrap();
        let target = tempfile::tempdir().unwrap();
        let dir = LocalDirectory::new(target.path(), TargetFormat::Raw).with_name("x");
        let pipeline = Pipeline::new(VhdFiles::new(&disk), dir);
        let cancel = CancelToken::new();
        let token = cancel.clone();
        let context = Context::new(RunId::random()).with_cancel(cancel).with_observer(
            move |event: &Event<'_>| {
                if matches!(event, Event::StepStarted { step: "publish", .. }) {
                    token.cancel();
                }
            },
        );
        let journal = MemoryJournal::new();
        let e = pipeline.run(journal.clone(), context).await.unwrap_err();
        assert!(e.is_cancelled(), "{e}");
        assert_eq!(names(target.path()), [""; 0]);
        assert!(matches!(journal.entries().last(), Some(Entry::RunUndone { .. })));

        // A file that appears during the run is not replaced, and stays.
        let path = target.path().join("x.img");
        let appears = path.clone();
        let context = Context::new(RunId::random()).with_observer(move |event: &Event<'_>| {
            if matches!(event, Event::StepStarted { step: "verify/0", .. }) {
                std::fs::write(&appears, "theirs").unwrap();
            }
        });
        pipeline.run(MemoryJournal::new(), context).await.unwrap_err();
        assert_eq!(names(target.path()), ["x.img"]);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "theirs");
    }

    #[tokio::test]
    async fn a_missing_folder_is_created_and_goes_with_a_run_that_is_undone() {
        let source = tempfile::tempdir().unwrap();
        let disk = source.path().join("disk.img");
        std::fs::write(&disk, vec![5_u8; 1 << 20]).unwrap();
        let target = tempfile::tempdir().unwrap();
        let run = async |folder: PathBuf, stop_at: &'static str| {
            let dir = LocalDirectory::new(folder, TargetFormat::Raw).with_name("x");
            let cancel = CancelToken::new();
            let token = cancel.clone();
            let context = Context::new(RunId::random()).with_cancel(cancel).with_observer(
                move |event: &Event<'_>| {
                    if matches!(event, Event::StepFinished { step, .. } if *step == stop_at) {
                        token.cancel();
                    }
                },
            );
            Pipeline::new(VhdFiles::new(&disk), dir).run(MemoryJournal::new(), context).await
        };
        let folder = target.path().join("new");
        for step in ["create-folder", "transfer/0"] {
            assert!(run(folder.clone(), step).await.unwrap_err().is_cancelled());
            assert_eq!(names(target.path()), [""; 0], "{step}");
        }
        run(folder.clone(), "").await.unwrap();
        assert_eq!(names(&folder), ["x.img", "x.json"]);
        let e = run(target.path().join("no/where"), "").await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Preflight, "{e}");
        // One that was there before stays.
        let there = target.path().join("there");
        std::fs::create_dir(&there).unwrap();
        run(there.clone(), "transfer/0").await.unwrap_err();
        assert!(there.is_dir());
    }

    /// Names need not be text; two that look alike are two.
    #[tokio::test]
    async fn paths_that_are_no_text_are_paths() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(OsStr::from_bytes(b"images-\xff"));
        let other = dir.path().join(OsStr::from_bytes(b"images-\xfe"));
        let disk = dir.path().join(OsStr::from_bytes(b"disk-\xff.img"));
        std::fs::write(&disk, vec![5_u8; 1 << 20]).unwrap();
        let target = |folder: &Path| LocalDirectory::new(folder, TargetFormat::Raw).with_name("x");
        let pipeline = Pipeline::new(VhdFiles::new(&disk).with_parent(&disk), target(&folder));
        pipeline.run(MemoryJournal::new(), Context::new(RunId::random())).await.unwrap();
        assert_eq!(names(&folder), ["x.img", "x.json"]);
        assert_ne!(target(&folder).spec(), target(&other).spec());
    }

    /// Every form is read back, also an archive.
    #[tokio::test]
    async fn what_the_storage_changed_is_seen() {
        let source = tempfile::tempdir().unwrap();
        let disk = source.path().join("disk.img");
        std::fs::write(&disk, vec![5_u8; 3 << 20]).unwrap();
        for format in [TargetFormat::Raw, TargetFormat::VhdTgz, TargetFormat::VhdDynamic] {
            let target = tempfile::tempdir().unwrap();
            let dir = LocalDirectory::new(target.path(), format).with_name("x");
            let folder = target.path().to_owned();
            let context = Context::new(RunId::random()).with_observer(move |event: &Event<'_>| {
                if matches!(event, Event::StepStarted { step: "verify/0", .. }) {
                    use std::os::unix::fs::FileExt;
                    let part = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
                    let file = std::fs::OpenOptions::new().write(true).open(part).unwrap();
                    file.write_all_at(b"rot", file.metadata().unwrap().len() / 4).unwrap();
                }
            });
            let pipeline = Pipeline::new(VhdFiles::new(&disk), dir);
            let e = pipeline.run(MemoryJournal::new(), context).await.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Data, "{format:?}: {e}");
            assert_eq!(names(target.path()), [""; 0], "{format:?}");
        }
    }

    /// A manifest that a dead process left half written is written anew, and goes with its run.
    #[tokio::test]
    async fn a_manifest_is_whole_or_hidden() {
        let source = tempfile::tempdir().unwrap();
        let disk = source.path().join("disk.img");
        std::fs::write(&disk, vec![5_u8; 1 << 20]).unwrap();
        let target = tempfile::tempdir().unwrap();
        for fails in [false, true] {
            let dir = LocalDirectory::new(target.path(), TargetFormat::Raw).with_name("x");
            let run_id = RunId::random();
            let half = dir.manifest_part(run_id);
            let theirs = target.path().join("x.img");
            let folder = target.path().to_owned();
            let context =
                Context::new(run_id).with_observer(move |event: &Event<'_>| match event {
                    Event::StepStarted { step: "manifest", .. } => {
                        std::fs::write(&half, "{\"run_").unwrap();
                    }
                    Event::StepStarted { step: "publish", .. } => {
                        assert!(names(&folder).iter().all(|n| n.starts_with('.')));
                        if fails {
                            std::fs::write(&theirs, "theirs").unwrap();
                        }
                    }
                    _ => {}
                });
            let pipeline = Pipeline::new(VhdFiles::new(&disk), dir);
            let result = pipeline.run(MemoryJournal::new(), context).await;
            let left = names(target.path());
            if fails {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::Target);
                assert_eq!(left, ["x.img"], "theirs");
            } else {
                let text = std::fs::read_to_string(target.path().join("x.json")).unwrap();
                let manifest: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(manifest["run_id"], run_id.to_string());
                assert_eq!(left, ["x.img", "x.json"]);
                left.iter().for_each(|n| std::fs::remove_file(target.path().join(n)).unwrap());
            }
        }
    }

    /// What the folder does not allow is told before a snapshot is taken.
    #[tokio::test]
    async fn a_folder_without_room_or_right_is_told_beforehand() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let rules = async |folder: &Path, size: u64| {
            let machine = Machine::new("x").with_disk(crate::DiskInfo::new("root", "1", size));
            let target = LocalDirectory::new(folder, TargetFormat::Raw);
            let findings = target.review(&machine).await.unwrap().findings;
            findings.into_iter().map(|f| (f.rule, f.severity)).collect::<Vec<_>>()
        };
        assert_eq!(rules(dir.path(), 512).await, []);
        let room = ("folder-has-room".to_owned(), Severity::Warning);
        assert_eq!(rules(dir.path(), u64::MAX).await, std::slice::from_ref(&room));
        let new = ("folder-exists".to_owned(), Severity::Info);
        assert_eq!(rules(&dir.path().join("new"), u64::MAX).await, [new, room]);
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o555)).unwrap();
        if std::fs::write(dir.path().join("try"), "").is_ok() {
            eprintln!("skipped: this user may write everywhere");
            return;
        }
        let right = ("folder-writable".to_owned(), Severity::Critical);
        assert_eq!(rules(dir.path(), 512).await, std::slice::from_ref(&right));
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    }
}
