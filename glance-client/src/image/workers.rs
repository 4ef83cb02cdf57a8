//! Threads for work that never waits: as many as there are processors, for the whole process.
//!
//! The runtime's threads for blocking work will not do. Their number may be small, and whoever makes the data may keep them
//! all for as long as its transfer lasts: if the transfer then waited for one of them, neither would ever end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Does `work` on one of the threads; `None` if it panicked.
pub(super) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    static JOBS: OnceLock<Option<Sender<Job>>> = OnceLock::new();
    let Some(jobs) = JOBS.get_or_init(start) else { return Some(work()) };
    let (tell, done) = oneshot::channel();
    jobs.send(Box::new(move || drop(tell.send(work())))).ok()?;
    done.await.ok()
}

/// Starts the threads; `None` if the system gives not even one.
fn start() -> Option<Sender<Job>> {
    let (sender, receiver) = channel();
    let receiver = Arc::new(Mutex::new(receiver));
    let wanted = thread::available_parallelism().map_or(1, usize::from);
    let started = (0..wanted).filter(|_| {
        let receiver = Arc::clone(&receiver);
        thread::Builder::new().name("glance-hash".to_owned()).spawn(move || work(&receiver)).is_ok()
    });
    (started.count() > 0).then_some(sender)
}

/// Does one job after the other. The sender lives as long as the process.
fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // A thread less would be missing for ever. Whoever waits for this job is told by its end.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::join_all;

    #[tokio::test]
    async fn every_job_is_done_and_one_that_panics_harms_no_other() {
        let panics = (0..20).map(|_| run(|| -> u32 { panic!("as the test wants it") }));
        assert_eq!(join_all(panics).await, [None; 20]);
        let here = thread::current().id();
        let all =
            join_all((0..100).map(|n| run(move || (n, thread::current().id() != here)))).await;
        assert!(all.into_iter().enumerate().all(|(n, done)| done == Some((n, true))));
    }
}
