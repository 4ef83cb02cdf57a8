//! The post-processor `local-directory`: one image file a disk, and a manifest.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use serde_json::{Value, json};
use vmimage::TargetFormat;

use crate::files::blocking;
use crate::transfer::{self, Outgoing, Sent};
use crate::{
    Artifact, DiskInfo, Error, ErrorKind, Finding, ImageReport, Leftover, Machine, PlannedImage,
    PostProcessor, Probe, Result, Review, Run, RunId, Severity, Step, StepCx,
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
        let stem = self.stem(machine);
        match index {
            0 => format!("{stem}.{}", self.extension()),
            _ => format!("{stem}-disk{}.{}", index + 1, self.extension()),
        }
    }

    /// What is to be said about the folder: it may be made, but not the way to it.
    fn folder_finding(&self) -> Option<Finding> {
        if self.folder.is_dir() {
            return None;
        }
        let shown = self.folder.display();
        let above = std::path::absolute(&self.folder).ok()?.parent().is_some_and(Path::is_dir);
        let (severity, evidence, remedy) = if self.folder.exists() {
            (Severity::Critical, format!("{shown} is not a folder"), "name a folder")
        } else if above {
            (Severity::Info, format!("{shown} will be created"), "nothing to do")
        } else {
            (
                Severity::Critical,
                format!("{shown} cannot be created: nothing above it"),
                "create it",
            )
        };
        Some(Finding::new("folder-exists", severity, evidence, remedy))
    }

    fn part(&self, run_id: RunId, index: usize) -> PathBuf {
        self.folder.join(format!(".{}-{index}.part", run_id.object_name()))
    }

    fn manifest(&self, machine: &Machine) -> PathBuf {
        self.folder.join(format!("{}.json", self.stem(machine)))
    }
}

#[async_trait]
impl PostProcessor for LocalDirectory {
    fn kind(&self) -> &str {
        "dir"
    }

    fn spec(&self) -> Value {
        let folder = std::path::absolute(&self.folder).unwrap_or_else(|_| self.folder.clone());
        json!({"folder": folder, "format": self.format.as_str(), "name": self.name})
    }

    async fn review(&self, machine: &Machine) -> Result<Review> {
        let mut findings = Vec::new();
        findings.extend(self.folder_finding());
        let images =
            (0..machine.disks.len()).map(|i| self.folder.join(self.image_name(machine, i)));
        for path in images.chain([self.manifest(machine)]).filter(|p| p.exists()) {
            findings.push(Finding::new(
                "file-is-new",
                Severity::Critical,
                format!("{} exists already", path.display()),
                "remove it, or give another name",
            ));
        }
        let planned = |(index, disk): (usize, &DiskInfo)| {
            let bytes = transfer::bytes_about(self.format, disk);
            let name = self.image_name(machine, index);
            PlannedImage::new(name, self.format.as_str(), disk.virtual_size, bytes)
        };
        Ok(Review::new(machine.disks.iter().enumerate().map(planned).collect(), findings))
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
        Ok(reports)
    }

    async fn publish(&self, run: &mut Run, images: &[ImageReport]) -> Result<()> {
        let files = images.iter().enumerate();
        let files: Vec<(PathBuf, PathBuf)> = files
            .map(|(i, image)| (self.part(run.run_id(), i), PathBuf::from(&image.id)))
            .collect();
        let machine: Value = run.output::<Value>("inspect")?["machine"].clone();
        let manifest = json!({"run_id": run.run_id(), "machine": machine, "images": images});
        let stem = Machine::new(machine["name"].as_str().unwrap_or_default());
        run.step(Publish { files, manifest: (self.manifest(&stem), manifest) }).await
    }

    async fn sweep(&self, run_id: RunId) -> Result<Vec<Leftover>> {
        let prefix = format!(".{}-", run_id.object_name());
        let folder = self.folder.clone();
        blocking(move || {
            let mut removed = Vec::new();
            for entry in std::fs::read_dir(&folder).map_err(|e| failed(&folder, e))? {
                let path = entry.map_err(|e| failed(&folder, e))?.path();
                let ours =
                    path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix));
                if ours {
                    remove(&path)?;
                    removed.push(Leftover::new("file", path.display().to_string()));
                }
            }
            Ok(removed)
        })
        .await
    }
}

fn failed(path: &Path, e: io::Error) -> Error {
    Error::new(ErrorKind::Target, format!("{}: {e}", path.display())).with_source(e)
}

/// Removes a file; one that is gone is fine.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(failed(path, e).with_leftovers([Leftover::new("file", path.display().to_string())]))
        }
        _ => Ok(()),
    }
}

/// Makes the folder, unless it is there.
struct CreateFolder {
    folder: PathBuf,
}

#[async_trait]
impl Step for CreateFolder {
    const NAME: &'static str = "create-folder";
    const VERSION: u32 = 1;
    /// Whether it is ours to remove.
    type Output = bool;

    async fn run(&self, _: &StepCx) -> Result<bool> {
        let folder = self.folder.clone();
        blocking(move || match std::fs::create_dir(&folder) {
            Ok(()) => Ok(true),
            Err(_) if folder.is_dir() => Ok(false),
            Err(e) => Err(failed(&folder, e)),
        })
        .await
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<bool>> {
        // A folder of somebody else's is hardly ever empty, and an empty one is soon made again.
        let folder = self.folder.clone();
        let empty = blocking(move || Ok(is_empty(&folder))).await?;
        Ok(empty.map_or(Probe::Absent, Probe::Done))
    }

    async fn undo(&self, _: &StepCx, made: Option<bool>) -> Result<()> {
        if made == Some(false) {
            return Ok(());
        }
        let folder = self.folder.clone();
        blocking(move || match std::fs::remove_dir(&folder) {
            // What others have put into it meanwhile stays.
            Err(e) if is_empty(&folder) == Some(true) => Err(failed(&folder, e)
                .with_leftovers([Leftover::new("folder", folder.display().to_string())])),
            _ => Ok(()),
        })
        .await
    }
}

/// Whether nothing is in a folder; `None` if there is no such folder.
fn is_empty(folder: &Path) -> Option<bool> {
    std::fs::read_dir(folder).ok().map(|mut entries| entries.next().is_none())
}

struct WriteFile {
    artifact: Arc<dyn Artifact>,
    part: PathBuf,
    index: usize,
    format: TargetFormat,
}

impl WriteFile {
    /// Takes the bytes into the file; zeros become holes.
    async fn write(part: PathBuf, mut outgoing: Outgoing) -> Result<()> {
        let path = part.clone();
        let open = move || {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&path).map_err(|e| failed(&path, e))
        };
        let mut file = blocking(open).await?;
        let mut len = 0;
        while let Some(piece) = outgoing.body.next().await {
            let piece = piece.map_err(|e| Error::new(ErrorKind::Data, e.to_string()))?;
            len += piece.len() as u64;
            let path = part.clone();
            file = blocking(move || put(file, &piece).map_err(|e| failed(&path, e))).await?;
        }
        blocking(move || {
            file.set_len(len).and_then(|()| file.sync_all()).map_err(|e| failed(&part, e))
        })
        .await
    }
}

fn put(mut file: File, piece: &[u8]) -> io::Result<File> {
    if piece.iter().all(|b| *b == 0) {
        file.seek(SeekFrom::Current(i64::try_from(piece.len()).map_err(io::Error::other)?))?;
    } else {
        file.write_all(piece)?;
    }
    Ok(file)
}

#[async_trait]
impl Step for WriteFile {
    const NAME: &'static str = "transfer";
    const VERSION: u32 = 1;
    const MAKES: Option<&'static str> = Some("file");
    type Output = Sent;

    fn key(&self) -> String {
        format!("{}/{}", Self::NAME, self.index)
    }

    async fn run(&self, cx: &StepCx) -> Result<Sent> {
        let part = self.part.clone();
        transfer::send(cx, &self.artifact, self.index, self.format, |outgoing| {
            Self::write(part, outgoing)
        })
        .await
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<Sent>> {
        // Half a file is written anew, a whole one as well: its digests are not known.
        Ok(Probe::Absent)
    }

    async fn undo(&self, _: &StepCx, _: Option<Sent>) -> Result<()> {
        let part = self.part.clone();
        blocking(move || remove(&part)).await
    }
}

/// Reads back what was written.
struct VerifyFile {
    part: PathBuf,
    index: usize,
    format: TargetFormat,
    sent: Sent,
}

#[async_trait]
impl Step for VerifyFile {
    const NAME: &'static str = "verify";
    const VERSION: u32 = 1;
    type Output = ();

    fn key(&self) -> String {
        format!("{}/{}", Self::NAME, self.index)
    }

    async fn run(&self, cx: &StepCx) -> Result<()> {
        let (part, format, sent) = (self.part.clone(), self.format, self.sent.clone());
        let verify = move || {
            let wrong = |what: &str| {
                Error::new(
                    ErrorKind::Data,
                    format!(
                        "{}: {what} is not what was written: check the storage",
                        part.display()
                    ),
                )
            };
            if std::fs::metadata(&part).map_err(|e| failed(&part, e))?.len() != sent.bytes {
                return Err(wrong("the size"));
            }
            let readable = match format {
                TargetFormat::Raw => vmimage::Format::Raw,
                TargetFormat::Qcow2 => vmimage::Format::Qcow2,
                TargetFormat::VhdDynamic | TargetFormat::VhdFixed => vmimage::Format::Vhd,
                // An archive is not looked into.
                _ => return Ok(()),
            };
            let options = vmimage::OpenOptions::new().with_format(readable);
            let image = vmimage::open(&part, &options)?;
            let disk = image.disks().first().ok_or_else(|| wrong("the content"))?;
            if vmimage::content_root(disk.as_ref())? != sent.content_root {
                return Err(wrong("the content"));
            }
            Ok(())
        };
        cx.guard(blocking(verify)).await
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<()>> {
        Ok(Probe::Absent)
    }

    async fn undo(&self, _: &StepCx, _: Option<()>) -> Result<()> {
        Ok(())
    }
}

/// Gives the files their names, and writes the manifest.
struct Publish {
    files: Vec<(PathBuf, PathBuf)>,
    manifest: (PathBuf, Value),
}

impl Publish {
    fn publish(files: &[(PathBuf, PathBuf)], manifest: &(PathBuf, Value)) -> Result<()> {
        for (part, path) in files {
            match std::fs::hard_link(part, path) {
                Ok(()) => remove(part)?,
                // An earlier attempt did it.
                Err(e) if e.kind() == io::ErrorKind::NotFound && path.exists() => {}
                Err(_) if is_one_file(part, path) => remove(part)?,
                Err(e) => return Err(failed(path, e)),
            }
        }
        let (path, text) = manifest;
        let mut text = format!("{text:#}");
        text.push('\n');
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()));
        match written {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && same(path, &text) => Ok(()),
            Err(e) => Err(failed(path, e)),
            Ok(()) => Ok(()),
        }
    }
}

/// Whether both names are of one file: a crash came between the new name and the old one's end.
fn is_one_file(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    id(one).is_some() && id(one) == id(other)
}

fn same(path: &Path, text: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|t| t == text)
}

#[async_trait]
impl Step for Publish {
    const NAME: &'static str = "publish";
    const VERSION: u32 = 1;
    type Output = ();

    async fn run(&self, _: &StepCx) -> Result<()> {
        let (files, manifest) = (self.files.clone(), self.manifest.clone());
        blocking(move || Self::publish(&files, &manifest)).await
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<()>> {
        // To do it again is to ask whether it is done.
        Ok(Probe::Absent)
    }

    async fn undo(&self, cx: &StepCx, _: Option<()>) -> Result<()> {
        let (files, manifest) = (self.files.clone(), self.manifest.clone());
        let run_id = cx.run_id().to_string();
        blocking(move || {
            for (part, path) in &files {
                // Only what had our hidden name is ours; it gets it back and goes with it.
                if !part.exists() && path.exists() {
                    std::fs::rename(path, part).map_err(|e| failed(path, e))?;
                } else if is_one_file(part, path) {
                    remove(path)?;
                }
            }
            let ours = std::fs::read_to_string(&manifest.0).is_ok_and(|t| t.contains(&run_id));
            if ours { remove(&manifest.0) } else { Ok(()) }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Entry, MemoryJournal};
    use crate::{CancelToken, Context, Event, Pipeline, VhdFiles};

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
}
