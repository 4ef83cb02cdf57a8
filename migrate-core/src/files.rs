//! The builder that needs no pool: VHD chains straight from their files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vmimage::{Disk, DiskSource, OpenOptions};

use crate::{
    Artifact, ArtifactFormat, Builder, CancelToken, DiskInfo, Error, ErrorKind, Finding, Leftover,
    Machine, Probe, Result, Run, RunId, Step, StepCx, Survey,
};

/// Makes an artifact of image files: one file a disk, the youngest of its chain.
///
/// Parents are found by the rules of [`vmimage::open`]: those in the child's own folder, and
/// those that are named. The files are only read; they must not change while the run lasts.
#[derive(Debug, Clone)]
pub struct VhdFiles {
    name: String,
    files: Vec<PathBuf>,
    parents: Vec<PathBuf>,
}

impl VhdFiles {
    /// A machine with one disk, the youngest VHD of its chain; it is named after the file.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        let name = file.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        Self { name, files: vec![file], parents: Vec::new() }
    }

    /// Adds a disk.
    #[must_use]
    pub fn with_disk(mut self, file: impl Into<PathBuf>) -> Self {
        self.files.push(file.into());
        self
    }

    /// Allows a parent outside of its child's folder.
    #[must_use]
    pub fn with_parent(mut self, file: impl Into<PathBuf>) -> Self {
        self.parents.push(file.into());
        self
    }

    /// Names the machine.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    fn inspect(&self) -> Result<Machine> {
        let mut machine = Machine::new(&self.name);
        for file in &self.files {
            let disk = open(file, &self.parents)?;
            let name = file.file_name().map_or_else(String::new, |s| s.to_string_lossy().into());
            let mut info = DiskInfo::new(name, file.display().to_string(), disk.virtual_size());
            info.allocated = Some(disk.block_map()?.allocated());
            machine.disks.push(info);
        }
        Ok(machine)
    }
}

fn open(file: &Path, parents: &[PathBuf]) -> Result<Arc<dyn Disk>> {
    let options = parents.iter().fold(OpenOptions::new(), |o, p| o.with_parent(p));
    let image = vmimage::open(file, &options)?;
    image
        .disks()
        .first()
        .cloned()
        .ok_or_else(|| Error::new(ErrorKind::Data, format!("{} holds no disk", file.display())))
}

/// Runs blocking work on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "a reading thread died").with_source(e))?
}

/// A path as a journal holds it. Most are text; of the others, each is itself and no other.
pub(crate) fn path_value(path: &Path) -> Value {
    use std::os::unix::ffi::OsStrExt;
    match path.to_str() {
        Some(text) => text.into(),
        None => json!({"bytes": path.as_os_str().as_bytes()}),
    }
}

#[async_trait]
impl Builder for VhdFiles {
    fn kind(&self) -> &str {
        "vhd-files"
    }

    fn spec(&self) -> Value {
        let whole = |p: &PathBuf| path_value(&std::path::absolute(p).unwrap_or_else(|_| p.clone()));
        let files: Vec<Value> = self.files.iter().map(whole).collect();
        let parents: Vec<Value> = self.parents.iter().map(whole).collect();
        json!({"name": self.name, "files": files, "parents": parents})
    }

    async fn survey(&self) -> Result<Survey> {
        let this = self.clone();
        let machine = blocking(move || this.inspect()).await?;
        let findings = vec![Finding::not_checked(
            "vm-hardware",
            "files do not tell PV or HVM, firmware, memory and CPUs",
        )];
        Ok(Survey::new(machine, findings))
    }

    async fn build(&self, run: &mut Run) -> Result<Arc<dyn Artifact>> {
        let machine = run.step(InspectFiles(self.clone())).await?.machine;
        Ok(Arc::new(Files { machine, files: self.files.clone(), parents: self.parents.clone() }))
    }

    async fn clean(&self, _: &mut Run) -> Result<()> {
        Ok(())
    }

    async fn sweep(&self, _: RunId) -> Result<Vec<Leftover>> {
        Ok(Vec::new())
    }
}

/// Reads the metadata of the files; changes nothing.
struct InspectFiles(VhdFiles);

#[derive(Debug, Serialize, Deserialize)]
struct Inspected {
    machine: Machine,
}

#[async_trait]
impl Step for InspectFiles {
    const NAME: &'static str = "inspect";
    const VERSION: u32 = 1;
    type Output = Inspected;

    async fn run(&self, cx: &StepCx) -> Result<Inspected> {
        let this = self.0.clone();
        cx.guard(blocking(move || Ok(Inspected { machine: this.inspect()? }))).await
    }

    async fn probe(&self, _: &StepCx) -> Result<Probe<Inspected>> {
        Ok(Probe::Absent)
    }

    async fn undo(&self, _: &StepCx, _: Option<Inspected>) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Files {
    machine: Machine,
    files: Vec<PathBuf>,
    parents: Vec<PathBuf>,
}

#[async_trait]
impl Artifact for Files {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn format(&self) -> ArtifactFormat {
        ArtifactFormat::Vhd
    }

    async fn open(&self, index: usize, _: &CancelToken) -> Result<Box<dyn vmimage::Source>> {
        let file = self.files.get(index).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("{} has no disk {index}", self.machine.name))
        })?;
        let parents = self.parents.clone();
        let source = blocking(move || Ok(DiskSource::new(open(&file, &parents)?)?)).await?;
        Ok(Box::new(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StepCx;
    use crate::transfer;

    #[tokio::test]
    async fn a_file_is_surveyed_and_read_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("web01.img");
        let mut content = vec![7_u8; 300_000];
        content.resize(4 << 20, 0);
        std::fs::write(&file, &content).unwrap();
        let builder = VhdFiles::new(&file);
        let survey = builder.survey().await.unwrap();
        assert_eq!(survey.machine.name, "web01");
        assert_eq!(survey.machine.disks[0].virtual_size, 4 << 20);

        let artifact: Arc<dyn Artifact> =
            Arc::new(Files { machine: survey.machine, files: vec![file], parents: Vec::new() });
        let cx = StepCx::new(&crate::Context::new(RunId::random()), "transfer/0");
        let one = transfer::digest(&cx, &artifact, 0, vmimage::TargetFormat::Qcow2).await.unwrap();
        let two = transfer::digest(&cx, &artifact, 0, vmimage::TargetFormat::Qcow2).await.unwrap();
        assert_eq!(one, two);
        let raw = transfer::digest(&cx, &artifact, 0, vmimage::TargetFormat::Raw).await.unwrap();
        assert_eq!(raw.bytes, 4 << 20);
        assert_eq!(raw.content_root, one.content_root);
        assert!(artifact.open(1, &CancelToken::new()).await.is_err());
    }
}
