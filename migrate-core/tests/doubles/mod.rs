//! Processes that die, clocks that hurry, disks with data: what the tests of runs share.
#![allow(dead_code)] // not every test needs all of it

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use migrate_core::journal::{Entry, Journal, MemoryJournal};
use migrate_core::{Clock, Context, Pipeline, Result, RunId};
use tokio::sync::Notify;

/// A raw disk with data here and there.
pub(crate) fn disk(dir: &Path, name: &str, mib: usize, seed: u8) -> PathBuf {
    let mut content = vec![0_u8; mib << 20];
    for (i, chunk) in content.chunks_mut(64 << 10).enumerate() {
        if i % 3 == 0 {
            chunk.iter_mut().enumerate().for_each(|(j, b)| *b = (j as u8) ^ seed ^ (i as u8));
        }
    }
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

pub(crate) fn context() -> Context {
    Context::new(RunId::random())
}

/// Pauses are over at once, for failures that no time mends.
pub(crate) struct Hasty;

impl Clock for Hasty {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

/// A process that dies after a chosen entry of its journal, or before it is written.
pub(crate) struct Dying {
    pub(crate) inner: MemoryJournal,
    pub(crate) at: usize,
    pub(crate) before: bool,
    pub(crate) dead: Arc<Notify>,
}

#[async_trait]
impl Journal for Dying {
    async fn load(&mut self) -> Result<Vec<Entry>> {
        self.inner.load().await
    }
    async fn append(&mut self, entry: &Entry) -> Result<()> {
        let here = self.inner.entries().len() == self.at;
        if !(here && self.before) {
            self.inner.append(entry).await?;
        }
        if here {
            self.dead.notify_one();
            return std::future::pending().await;
        }
        Ok(())
    }
}

/// Whether an entry says that `key` is done.
pub(crate) fn done(key: &'static str) -> impl Fn(&Entry) -> bool {
    move |entry| matches!(entry, Entry::StepDone { step, .. } if step == key)
}

/// A process over `inner` that dies at an entry; whether it got that far.
pub(crate) async fn killed(
    pipeline: &Pipeline,
    inner: &MemoryJournal,
    at: usize,
    before: bool,
) -> bool {
    killed_in(pipeline, inner, at, before, context()).await
}

/// The same in a context of the caller's.
pub(crate) async fn killed_in(
    pipeline: &Pipeline,
    inner: &MemoryJournal,
    at: usize,
    before: bool,
    context: Context,
) -> bool {
    let dead = Arc::new(Notify::new());
    let dying = Dying { inner: inner.clone(), at, before, dead: Arc::clone(&dead) };
    tokio::select! {
        biased;
        _ = pipeline.run(dying, context) => false,
        () = dead.notified() => true,
    }
}

/// The run that a journal holds.
pub(crate) fn run_id(journal: &MemoryJournal) -> RunId {
    match journal.entries().first() {
        Some(Entry::RunStarted { run_id, .. }) => *run_id,
        other => panic!("the journal has no run: {other:?}"),
    }
}
