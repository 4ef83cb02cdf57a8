//! The pipeline: a builder, provisioners, post-processors, in one run.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::artifact::total;
use crate::journal::{Journal, Outcome};
use crate::{
    Artifact, Context, Error, ErrorKind, Finding, Leftover, Machine, Result, Run, RunId, Severity,
};

/// Makes an artifact from a source, with steps of a run.
///
/// Its steps come first in the run, so their undo outlives everybody who reads the artifact.
#[async_trait]
pub trait Builder: Send + Sync {
    /// The kind of builder, like `xenserver-vm`.
    fn kind(&self) -> &str;

    /// What it is to build, for the journal: a run is resumed only with the same. Never a secret.
    fn spec(&self) -> Value;

    /// Looks at the source, without changing anything, and applies the preflight rules.
    ///
    /// # Errors
    /// The source does not exist or cannot be asked.
    async fn survey(&self) -> Result<Survey>;

    /// Makes the artifact.
    ///
    /// # Errors
    /// Those of the steps; the caller hands them to [`Run::finish`].
    async fn build(&self, run: &mut Run) -> Result<Arc<dyn Artifact>>;

    /// Removes what the artifact needed, after the commit point, with a step of the run.
    ///
    /// # Errors
    /// Something is left; the error says what.
    async fn clean(&self, run: &mut Run) -> Result<()>;

    /// Removes everything that the dead run `run_id` left, whatever its journal says.
    ///
    /// # Errors
    /// Something is left; the error says what.
    async fn sweep(&self, run_id: RunId) -> Result<Vec<Leftover>>;
}

/// What a builder sees at the source before anything is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Survey {
    /// The machine.
    pub machine: Machine,
    /// What the preflight rules found.
    pub findings: Vec<Finding>,
}

impl Survey {
    /// A survey of `machine`.
    pub fn new(machine: Machine, findings: Vec<Finding>) -> Self {
        Self { machine, findings }
    }
}

/// Changes the guest of the clone, with steps of a run.
#[async_trait]
pub trait Provisioner: Send + Sync {
    /// The kind of provisioner, like `cleanse`.
    fn kind(&self) -> &str;

    /// What it is to do, for the journal. Never a secret.
    fn spec(&self) -> Value;

    /// Gives the changed artifact.
    ///
    /// # Errors
    /// Those of the steps.
    async fn provision(
        &self,
        run: &mut Run,
        artifact: Arc<dyn Artifact>,
    ) -> Result<Arc<dyn Artifact>>;

    /// Removes what the changed artifact needed, after the commit point, with steps of the run. One
    /// that changes what the builder made, and makes nothing of its own, has nothing to do.
    ///
    /// # Errors
    /// Something is left; the error says what.
    async fn clean(&self, _run: &mut Run) -> Result<()> {
        Ok(())
    }

    /// Removes everything that the dead run `run_id` left, whatever its journal says.
    ///
    /// # Errors
    /// Something is left; the error says what.
    async fn sweep(&self, _run_id: RunId) -> Result<Vec<Leftover>> {
        Ok(Vec::new())
    }
}

/// Ships an artifact somewhere, with steps of a run.
#[async_trait]
pub trait PostProcessor: Send + Sync {
    /// The kind of post-processor, like `openstack-xenserver`.
    fn kind(&self) -> &str;

    /// What it is to make, for the journal. Never a secret.
    fn spec(&self) -> Value;

    /// What it will make of `machine`, and what the preflight rules say to that.
    ///
    /// # Errors
    /// The target cannot be asked.
    async fn review(&self, machine: &Machine) -> Result<Review>;

    /// Ships the artifact and verifies what arrived; nobody else can see it yet.
    ///
    /// # Errors
    /// Those of the steps.
    async fn ship(&self, run: &mut Run, artifact: Arc<dyn Artifact>) -> Result<Vec<ImageReport>>;

    /// Shows what was shipped.
    ///
    /// # Errors
    /// Those of the steps.
    async fn publish(&self, run: &mut Run, images: &[ImageReport]) -> Result<()>;

    /// Removes everything that the dead run `run_id` left unpublished.
    ///
    /// # Errors
    /// Something is left; the error says what.
    async fn sweep(&self, run_id: RunId) -> Result<Vec<Leftover>>;
}

/// What a post-processor will make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Review {
    /// The images, in the order of the disks.
    pub images: Vec<PlannedImage>,
    /// What the preflight rules found.
    pub findings: Vec<Finding>,
}

impl Review {
    /// A review with these images and findings.
    pub fn new(images: Vec<PlannedImage>, findings: Vec<Finding>) -> Self {
        Self { images, findings }
    }
}

/// An image that a run will make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PlannedImage {
    /// Its name.
    pub name: String,
    /// Its format, like `qcow2`.
    pub format: String,
    /// The size of the disk that it shows, in bytes.
    pub virtual_size: u64,
    /// About how many bytes will be moved: what the layers of the disk take, as far as the source
    /// tells, and never more than the disk's size by much.
    pub bytes: u64,
}

impl PlannedImage {
    /// An image of a disk of `virtual_size` bytes, of which about `bytes` will be moved.
    pub fn new(
        name: impl Into<String>,
        format: impl Into<String>,
        virtual_size: u64,
        bytes: u64,
    ) -> Self {
        Self { name: name.into(), format: format.into(), virtual_size, bytes }
    }
}

/// An image that a run made. The digests are of the bytes that were sent, in lower-case
/// hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ImageReport {
    /// Its id at the target.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its format, like `qcow2`.
    pub format: String,
    /// How many bytes it is.
    pub bytes: u64,
    /// MD5.
    pub md5: String,
    /// SHA-256.
    pub sha256: String,
    /// SHA-512.
    pub sha512: String,
    /// The content root of the disk: the same for the same disk in any format.
    pub content_root: String,
}

impl ImageReport {
    /// A report on the image `id` of which `outcome` was sent.
    pub fn new(
        id: impl Into<String>,
        name: impl Into<String>,
        format: impl Into<String>,
        outcome: &crate::transfer::Sent,
    ) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            format: format.into(),
            bytes: outcome.bytes,
            md5: outcome.md5.clone(),
            sha256: outcome.sha256.clone(),
            sha512: outcome.sha512.clone(),
            content_root: outcome.content_root.clone(),
        }
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// The run.
    pub run_id: RunId,
    /// The name of the machine.
    pub vm: String,
    /// The kind of target.
    pub target: String,
    /// The images, in the order of the disks.
    pub images: Vec<ImageReport>,
    /// The steps and how long they took.
    pub steps: Vec<StepTime>,
}

/// How long a step took, all disks together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepTime {
    /// The step's name.
    pub name: String,
    /// Seconds.
    pub seconds: f64,
}

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MigrationPlan {
    /// The kind of builder.
    pub builder: String,
    /// The kind of post-processor.
    pub target: String,
    /// The machine.
    pub machine: Machine,
    /// The images that will be made.
    pub images: Vec<PlannedImage>,
    /// About how many bytes will be moved.
    pub bytes: u64,
    /// What the preflight rules found, the worst first.
    pub findings: Vec<Finding>,
}

impl MigrationPlan {
    /// The findings that keep the run from beginning.
    pub fn blocking(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| f.severity == Severity::Critical)
    }

    /// Fails if a finding blocks.
    ///
    /// # Errors
    /// [`ErrorKind::Preflight`] with all that blocks.
    pub fn check(&self) -> Result<()> {
        let blocking: Vec<String> = self.blocking().map(ToString::to_string).collect();
        if blocking.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Preflight,
            format!("{} cannot be cloned: {}", self.machine.name, blocking.join("; ")),
        ))
    }
}

/// The whole way from a source to a target in one run.
///
/// See the [crate documentation](crate) for an example.
pub struct Pipeline {
    builder: Box<dyn Builder>,
    provisioners: Vec<Box<dyn Provisioner>>,
    target: Box<dyn PostProcessor>,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("builder", &self.builder.kind())
            .field("target", &self.target.kind())
            .finish_non_exhaustive()
    }
}

impl Pipeline {
    /// From `builder` to `target`.
    pub fn new(builder: impl Builder + 'static, target: impl PostProcessor + 'static) -> Self {
        Self::boxed(Box::new(builder), Box::new(target))
    }

    /// The same for parts that are chosen at run time.
    pub fn boxed(builder: Box<dyn Builder>, target: Box<dyn PostProcessor>) -> Self {
        Self { builder, provisioners: Vec::new(), target }
    }

    /// Changes the clone on its way, after the provisioners that are there.
    #[must_use]
    pub fn with_provisioner(mut self, provisioner: impl Provisioner + 'static) -> Self {
        self.provisioners.push(Box::new(provisioner));
        self
    }

    /// What a run is to do, for the journal.
    fn spec(&self) -> Value {
        let provisioners: Vec<Value> =
            self.provisioners.iter().map(|p| json!({"kind": p.kind(), "spec": p.spec()})).collect();
        json!({
            "builder": self.builder.kind(),
            "source": self.builder.spec(),
            "provisioners": provisioners,
            "post_processor": self.target.kind(),
            "target": self.target.spec(),
        })
    }

    /// Looks at both ends and applies the preflight rules; changes nothing.
    ///
    /// # Errors
    /// One of the ends cannot be asked, or what was named does not exist. A finding that blocks
    /// is no error here: see [`MigrationPlan::check`].
    pub async fn plan(&self) -> Result<MigrationPlan> {
        let survey = self.builder.survey().await?;
        let review = self.target.review(&survey.machine).await?;
        let mut findings = survey.findings;
        findings.extend(review.findings);
        findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
        Ok(MigrationPlan {
            builder: self.builder.kind().to_owned(),
            target: self.target.kind().to_owned(),
            machine: survey.machine,
            bytes: total(review.images.iter().map(|i| i.bytes)),
            images: review.images,
            findings,
        })
    }

    /// Begins a run, or goes on with the one that `journal` holds, up to its end.
    ///
    /// A run that is begun is planned first. A finished run gives its report again, without a
    /// word to either end.
    ///
    /// # Errors
    /// [`ErrorKind::Preflight`] if a finding blocks; otherwise see [`Run::finish`]: whatever the
    /// error, nothing is left at either end, or the error says what.
    pub async fn run(&self, journal: impl Journal + 'static, context: Context) -> Result<Report> {
        let mut journal: Box<dyn Journal> = Box::new(journal);
        if journal.load().await?.is_empty() {
            // Nothing has begun: an end that does not answer need not be waited for.
            let plan = tokio::select! {
                biased;
                () = context.cancel.cancelled() => return Err(Error::cancelled()),
                plan = self.plan() => plan?,
            };
            plan.check()?;
        }
        let mut run = Run::open(journal, self.spec(), context).await?;
        if let Some(report) = run.result()? {
            return Ok(report);
        }
        let result = self.steps(&mut run).await;
        run.finish(result).await
    }

    /// Undoes the run that `journal` holds, also one of another version of the program: it need not
    /// describe the run with the same words, but must not contradict them.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if there is no run, or if it is committed; [`ErrorKind::Stuck`] with
    /// what is left.
    pub async fn undo(&self, journal: impl Journal + 'static, context: Context) -> Result<()> {
        let mut journal: Box<dyn Journal> = Box::new(journal);
        if journal.load().await?.is_empty() {
            return Err(Error::new(ErrorKind::Usage, "the journal holds no run to undo"));
        }
        let mut run = match Run::open_to_undo(journal, &self.spec(), context).await {
            Err(e) if e.kind() == ErrorKind::Undone => return Ok(()),
            other => other?,
        };
        run.abandon()?;
        let result = self.steps(&mut run).await;
        match run.finish(result).await {
            Err(e) if e.kind() == ErrorKind::Undone => Ok(()),
            Err(e) => Err(e),
            Ok(_) => Err(Error::new(ErrorKind::Internal, "a run that was given up went on")),
        }
    }

    /// Removes everything that the dead run `run_id` left unpublished at both ends and between, by
    /// its id alone; returns what was removed.
    ///
    /// # Errors
    /// [`ErrorKind::Stuck`] with what is left. All parts are swept, even if one fails.
    pub async fn sweep(&self, run_id: RunId) -> Result<Vec<Leftover>> {
        // The target first: a transfer may still hold the source.
        let mut results = vec![self.target.sweep(run_id).await];
        for provisioner in self.provisioners.iter().rev() {
            results.push(provisioner.sweep(run_id).await);
        }
        results.push(self.builder.sweep(run_id).await);
        let mut removed = Vec::new();
        let mut failed = Vec::new();
        for result in results {
            match result {
                Ok(objects) => removed.extend(objects),
                Err(e) => failed.push(e),
            }
        }
        if failed.is_empty() {
            return Ok(removed);
        }
        let why: Vec<String> = failed.iter().map(Error::report).collect();
        let left = failed.iter().flat_map(|e| e.leftovers().iter().cloned()).collect::<Vec<_>>();
        Err(Error::new(
            ErrorKind::Stuck,
            format!("run {run_id} is not swept completely: {}", why.join("; ")),
        )
        .with_leftovers(left))
    }

    async fn steps(&self, run: &mut Run) -> Result<Report> {
        let mut artifact = self.builder.build(run).await?;
        for provisioner in &self.provisioners {
            artifact = provisioner.provision(run, artifact).await?;
        }
        let vm = artifact.machine().name.clone();
        let nothing = |what: &str| Error::new(ErrorKind::Data, format!("{vm}: {what}"));
        if artifact.machine().disks.is_empty() {
            return Err(nothing("it has no disk, and nothing can be cloned"));
        }
        let images = self.target.ship(run, artifact).await?;
        if images.is_empty() {
            return Err(nothing("the target made no image of it"));
        }
        self.target.publish(run, &images).await?;
        run.commit().await?;
        if let Err(e) = self.clean(run).await {
            let ids: Vec<&str> = images.iter().map(|i| i.id.as_str()).collect();
            return Err(e.context(format!("image {}", ids.join(", "))));
        }
        Ok(Report {
            run_id: run.run_id(),
            vm,
            target: self.target.kind().to_owned(),
            images,
            steps: times(run),
        })
    }

    /// The last one that made something for the artifact tidies up first.
    async fn clean(&self, run: &mut Run) -> Result<()> {
        for provisioner in self.provisioners.iter().rev() {
            provisioner.clean(run).await?;
        }
        self.builder.clean(run).await
    }
}

/// The times of all steps by name, in the order of their first start.
fn times(run: &Run) -> Vec<StepTime> {
    let mut times: Vec<StepTime> = Vec::new();
    for step in run.state().steps() {
        let name = step.key.split('/').next().unwrap_or(&step.key);
        match times.iter_mut().find(|t| t.name == name) {
            Some(t) => t.seconds = milliseconds(t.seconds + step.seconds),
            None => {
                let seconds = milliseconds(step.seconds);
                times.push(StepTime { name: name.to_owned(), seconds });
            }
        }
    }
    times
}

/// A sum of times has digits that the journal's numbers do not keep: a finished run would not tell
/// the same times again.
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// The report that a journal already holds, if its run is finished; needs neither end.
///
/// # Errors
/// The journal is damaged, or its report has another shape.
pub async fn finished(journal: &mut dyn Journal) -> Result<Option<Report>> {
    let state = crate::journal::RunState::fold(&journal.load().await?)?;
    match state.outcome() {
        Some(Outcome::Finished(value)) => {
            serde_json::from_value(value.clone()).map(Some).map_err(|e| {
                Error::new(ErrorKind::Conflict, "the journal's report has another shape")
                    .with_source(e)
            })
        }
        _ => Ok(None),
    }
}
