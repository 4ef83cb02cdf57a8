//! Looking at something again and again until it is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};

/// How often to look at what takes its time, and what ends the wait before.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use std::time::Duration;
/// let stop = Arc::new(AtomicBool::new(false));
/// let pace = glance_client::Pace::default()
///     .with_pauses(Duration::from_secs(1), Duration::from_secs(30))
///     .with_cancel(Arc::clone(&stop));
/// // From a signal handler, say:
/// stop.store(true, Ordering::Relaxed);
/// # assert_eq!(pace.longest, Duration::from_secs(30));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pace {
    /// The first pause between two looks (200 ms); it grows by half each time, up to `longest`.
    pub first: Duration,
    /// The longest pause (5 s), unless the server asks for a longer one by `Retry-After`: then it is that, a minute at most.
    pub longest: Duration,
    /// Set it to stop waiting, which takes a fraction of a second.
    pub cancel: Option<Arc<AtomicBool>>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { first: Duration::from_millis(200), longest: Duration::from_secs(5), cancel: None }
    }
}

impl Pace {
    /// The pauses between two looks: the first, and the longest.
    #[must_use]
    pub fn with_pauses(mut self, first: Duration, longest: Duration) -> Self {
        (self.first, self.longest) = (first, longest);
        self
    }

    /// A flag that stops waiting.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Arc<AtomicBool>) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// Does `work`, but not beyond a cancellation. `what` is for its error.
    pub(crate) async fn unless_cancelled<T>(
        &self,
        what: &str,
        work: impl Future<Output = T>,
    ) -> Result<T> {
        let cancelled = async {
            loop {
                if self.cancel.as_ref().is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = cancelled => {
                Err(Error::new(ErrorKind::Cancelled, format!("{what}: waiting was cancelled")))
            }
        }
    }

    /// Sleeps, but not through a cancellation.
    pub(crate) async fn sleep(&self, pause: Duration, what: &str) -> Result<()> {
        self.unless_cancelled(what, tokio::time::sleep(pause)).await
    }
}

/// What a look has found.
pub(crate) enum Seen<T> {
    /// The end.
    Done(T),
    /// Not yet; in these words.
    Pending(String),
}

/// How long to wait.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// So long in all.
    InAll(Duration),
    /// So long since the words of what was seen have last changed.
    WithoutChange(Duration),
}

/// Looks until it is done. Errors that may pass are waited out, others end it. When it lasts too long, `late` says so, of
/// what was seen last.
pub(crate) async fn poll<T, F: Future<Output = Result<Seen<T>>>>(
    pace: &Pace,
    limit: Limit,
    what: &str,
    mut look: impl FnMut() -> F,
    late: impl FnOnce(&str) -> String,
) -> Result<T> {
    let (mut since, mut pause, mut seen) = (Instant::now(), pace.first, String::new());
    loop {
        let trouble = match pace.unless_cancelled(what, look()).await? {
            Ok(Seen::Done(done)) => return Ok(done),
            Ok(Seen::Pending(words)) => {
                if matches!(limit, Limit::WithoutChange(_)) && words != seen {
                    since = Instant::now();
                }
                seen = words;
                None
            }
            Err(error) if error.is_retryable() => Some(error),
            Err(error) => return Err(error),
        };
        let (Limit::InAll(longest) | Limit::WithoutChange(longest)) = limit;
        let left = longest.saturating_sub(since.elapsed());
        if left.is_zero() {
            let last = trouble.as_ref().map_or(seen, Error::to_string);
            let error = Error::new(ErrorKind::Timeout, late(&last));
            return Err(match trouble {
                Some(trouble) => error.with_source(trouble),
                None => error,
            });
        }
        let now = trouble.map_or(pause, |trouble| trouble.pause(pause));
        pace.sleep(now.min(left), what).await?;
        pause = (pause.saturating_mul(3) / 2).min(pace.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Looks at these one after the other, and at the last one for ever; gives the end, and when each was looked at.
    async fn over(
        limit: Limit,
        pace: &Pace,
        seen: &[Result<&str, ErrorKind>],
    ) -> (Result<()>, Vec<u64>) {
        let (start, times) = (Instant::now(), Mutex::new(Vec::new()));
        let look = || async {
            let mut times = times.lock().unwrap();
            let now = seen[times.len().min(seen.len() - 1)];
            times.push(start.elapsed().as_millis() as u64);
            match now {
                Ok("done") => Ok(Seen::Done(())),
                Ok(words) => Ok(Seen::Pending(words.to_owned())),
                Err(kind) => Err(Error::new(kind, "trouble")),
            }
        };
        let result = poll(pace, limit, "it", look, |last| format!("late: {last}")).await;
        (result, times.into_inner().unwrap())
    }

    fn quick() -> Pace {
        Pace::default().with_pauses(Duration::from_millis(100), Duration::from_millis(200))
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_the_longest() {
        let day = Limit::InAll(Duration::from_secs(86400));
        let (end, times) =
            over(day, &quick(), &[Ok("a"), Ok("b"), Ok("c"), Ok("d"), Ok("done")]).await;
        end.unwrap();
        assert_eq!(times, [0, 100, 250, 450, 650]);
    }

    #[tokio::test(start_paused = true)]
    async fn trouble_that_may_pass_is_waited_out_and_other_trouble_is_not() {
        let day = Limit::InAll(Duration::from_secs(86400));
        let passing = [
            Err(ErrorKind::Server),
            Err(ErrorKind::Transport),
            Err(ErrorKind::Timeout),
            Ok("done"),
        ];
        assert!(over(day, &quick(), &passing).await.0.is_ok());
        let (end, times) = over(day, &quick(), &[Ok("a"), Err(ErrorKind::Forbidden)]).await;
        assert_eq!((end.unwrap_err().kind(), times.len()), (ErrorKind::Forbidden, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_asks_for_a_pause_gets_it() {
        let (start, mut looks) = (Instant::now(), 0);
        let look = || {
            looks += 1;
            let seen = if looks > 1 { Ok(Seen::Done(())) } else { Err(busy()) };
            async { seen }
        };
        let day = Limit::InAll(Duration::from_secs(86400));
        poll(&quick(), day, "it", look, str::to_owned).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    fn busy() -> Error {
        let mut headers = http::HeaderMap::new();
        headers.insert("retry-after", "30".parse().unwrap());
        crate::error::from_answer("x", http::StatusCode::SERVICE_UNAVAILABLE, &headers, b"")
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_in_all_ends_it_with_what_was_seen_last() {
        let none = Limit::InAll(Duration::ZERO);
        let error = over(none, &quick(), &[Ok("saving")]).await.0.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Timeout, "late: saving")
        );
        let error = over(none, &quick(), &[Err(ErrorKind::Server)]).await.0.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Timeout, "late: trouble")
        );
        assert!(std::error::Error::source(&error).is_some());
        // What is done is done.
        assert!(over(none, &quick(), &[Ok("done")]).await.0.is_ok());
        // The last pause is no longer than what is left.
        let short = Limit::InAll(Duration::from_millis(120));
        let (end, times) = over(short, &quick(), &[Ok("a")]).await;
        assert_eq!((end.unwrap_err().to_string().as_str(), times), ("late: a", vec![0, 100, 120]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_not_late() {
        let limit = Limit::WithoutChange(Duration::from_millis(500));
        let words: Vec<String> = (0..50).map(|n| n.to_string()).collect();
        let moving: Vec<_> =
            words.iter().map(|word| Ok(word.as_str())).chain([Ok("done")]).collect();
        let (end, times) = over(limit, &quick(), &moving).await;
        assert!(end.is_ok() && *times.last().unwrap() > 5000);
        // Trouble is no change.
        let still = [Ok("a"), Ok("b"), Err(ErrorKind::Server), Ok("b")];
        let (end, times) = over(limit, &quick(), &still).await;
        assert_eq!(end.unwrap_err().to_string(), "late: b");
        assert_eq!(times, [0, 100, 250, 450, 600]);
    }

    #[tokio::test]
    async fn a_look_that_hangs_and_any_pause_can_be_cancelled() {
        let pace = Pace::default().with_cancel(Arc::new(AtomicBool::new(true)));
        let error = pace.sleep(Duration::MAX, "image 1").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        assert_eq!(error.to_string(), "image 1: waiting was cancelled");
        let hangs = std::future::pending::<Result<Seen<()>>>;
        let end = poll(&pace, Limit::InAll(Duration::MAX), "it", hangs, str::to_owned).await;
        assert_eq!(end.unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
