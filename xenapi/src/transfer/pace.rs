//! How fast a transfer may go, and how far it has come.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::live::Session;
use crate::refs::Ref;
use crate::task::Task;
use crate::tasks::WaitOptions;

/// What a bucket may hold, as time at its rate: enough to make up for a late wake-up.
const BURST: Duration = Duration::from_millis(100);

/// A limit on the rate of exports and imports, in bytes per second.
///
/// It is a token bucket; its clones share one, so that all transfers that were given a clone are
/// limited together.
///
/// ```
/// use std::num::NonZeroU64;
/// use xenapi::{ExportOptions, Throttle};
///
/// let both = Throttle::new(NonZeroU64::new(50 << 20).unwrap());
/// let first = ExportOptions::new("disk 1").with_throttle(both.clone());
/// let second = ExportOptions::new("disk 2").with_throttle(both);
/// # let _ = (first, second);
/// ```
#[derive(Clone)]
pub struct Throttle {
    rate: NonZeroU64,
    /// When the bucket has tokens again.
    ready: Arc<Mutex<Option<Instant>>>,
}

impl Throttle {
    /// Lets so many bytes pass in a second.
    #[must_use]
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { rate: bytes_per_second, ready: Arc::default() }
    }

    /// Takes tokens for bytes that pass now; the next ones may pass at the time given.
    pub(super) fn take(&self, bytes: u64, now: Instant) -> Instant {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let full = now.checked_sub(BURST).unwrap_or(now);
        let from = ready.map_or(full, |ready| ready.max(full));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.get());
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let next = from.checked_add(cost).unwrap_or(from);
        *ready = Some(next);
        next
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle").field("bytes_per_second", &self.rate).finish_non_exhaustive()
    }
}

/// How far a transfer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes that were received, or handed to the connection.
    pub bytes: u64,
    /// How many there will be, where that is known: of imports always, of exports seldom.
    pub total: Option<u64>,
    /// The progress of the server's task, from 0 to 1. Servers move it in steps, some not at all.
    pub task: f64,
}

/// Whom to tell of progress.
pub(crate) type Tell = Arc<dyn Fn(Progress) + Send + Sync>;

/// Puts the two progresses together and tells them; ends its watch of the task when it is dropped.
pub(super) struct Meter {
    told: Told,
    follower: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Told {
    now: Arc<Mutex<Progress>>,
    tell: Tell,
}

impl Told {
    fn change(&self, change: impl FnOnce(&mut Progress)) {
        // Told before the next change, so that what is told never goes back.
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut now);
        (self.tell)(*now);
    }

    fn waiting(self) -> WaitOptions {
        WaitOptions::new().with_progress(move |task| self.change(|now| now.task = task))
    }
}

impl Meter {
    /// Watches the task, if there is one, and someone to tell.
    pub(super) fn start(
        session: &Session,
        task: Option<&Ref<Task>>,
        total: Option<u64>,
        tell: Option<&Tell>,
    ) -> Option<Self> {
        let now = Arc::new(Mutex::new(Progress { total, ..Progress::default() }));
        let told = Told { now, tell: Arc::clone(tell?) };
        let follower = task.cloned().map(|task| {
            let (session, options) = (session.clone(), told.clone().waiting());
            tokio::spawn(async move {
                // What the task comes to is asked by whoever made it.
                let _ = session.wait_ended(&task, &options).await;
            })
        });
        Some(Self { told, follower })
    }

    pub(super) fn moved(&self, bytes: u64) {
        self.told.change(|now| now.bytes = bytes);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(follower) = &self.follower {
            follower.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_never_goes_back() {
        let heard: Arc<Mutex<Vec<u64>>> = Arc::default();
        let (begun, begins) = std::sync::mpsc::channel();
        let hear = Arc::clone(&heard);
        let told = Told {
            now: Arc::default(),
            tell: Arc::new(move |now: Progress| {
                // Whoever hears of the task takes a while; bytes move meanwhile.
                if now.bytes == 0 {
                    begun.send(()).unwrap();
                    std::thread::sleep(Duration::from_millis(200));
                }
                hear.lock().unwrap().push(now.bytes);
            }),
        };
        std::thread::scope(|scope| {
            scope.spawn(|| told.change(|now| now.task = 0.5));
            begins.recv().unwrap();
            told.change(|now| now.bytes = 10);
        });
        assert_eq!(*heard.lock().unwrap(), [0, 10]);
    }

    #[test]
    fn tokens_come_at_the_rate_and_do_not_pile_up() {
        let start = Instant::now() + Duration::from_secs(60);
        let throttle = Throttle::new(NonZeroU64::new(1000).unwrap());
        let after = |at: Instant| at.duration_since(start - BURST).as_millis();
        // A full bucket is 100 bytes here.
        assert_eq!(after(throttle.take(100, start)), 100);
        assert_eq!(after(throttle.clone().take(400, start)), 500, "clones share the bucket");
        assert_eq!(after(throttle.take(100, start)), 600);
        // After a long pause there is no more than a full bucket.
        let later = start + Duration::from_secs(30);
        assert_eq!(after(throttle.take(100, later)), 30_100);
        // A number beyond every clock.
        let slow = Throttle::new(NonZeroU64::MIN);
        slow.take(u64::MAX, start);
        slow.take(u64::MAX, start);
    }
}
