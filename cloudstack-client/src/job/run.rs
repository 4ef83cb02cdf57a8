//! Starting jobs, finding them again after a lost answer, and waiting for their end.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use super::{Job, JobState, query};
use crate::call::{Answer, Call, failure};
use crate::client::{Client, Sent};
use crate::error::{Error, ErrorKind, Result};
use crate::wait::{Seen, WaitOptions, Waiting};

impl Client {
    /// Waits until a job has ended, and gives its result. A server that does not answer for a while is borne until
    /// the time limit.
    ///
    /// # Errors
    /// The failure of the job, of the kind that its code means (a quota, a missing permission), else
    /// [`ErrorKind::Failed`]; [`ErrorKind::JobUnknown`] if the server does not know the job (any more);
    /// [`ErrorKind::Timeout`] and [`ErrorKind::Cancelled`] leave the job running.
    pub async fn job<T>(&self, job: &Job<T>, options: &WaitOptions) -> Result<T> {
        let call = query(&job.id);
        let what = format!("{} (job {})", job.what, job.id);
        let look = || async {
            Ok(match self.send(&call).await {
                Ok(JobState::Pending) => Seen::Pending("the job is pending".to_owned()),
                Ok(JobState::Done(content)) => Seen::Done(content),
                Ok(JobState::Failed { code, text }) => Seen::Failed(failed(&what, code, &text)),
                // Of several servers one may know it a little later than another.
                Err(error) if error.is_not_found() => Seen::Absent,
                Err(error) => return Err(error),
            })
        };
        let content = options.until(&what, look).await?;
        let content = content.ok_or_else(|| {
            let text = format!(
                "{what}: the server does not know this job (it forgets them after a day): look at the object itself"
            );
            Error::new(ErrorKind::JobUnknown, text)
        })?;
        (job.read)(&Answer { what: &what, content: &content }).map_err(|error| match error.kind() {
            ErrorKind::Protocol => {
                error.with_hint("the job itself has ended well: look at what it was about")
            }
            _ => error,
        })
    }

    /// Starts a job and waits for its result.
    ///
    /// If the call has a [job id of ours](Call::with_job_id), a lost answer is survived: the job is looked for, and the
    /// call is sent again, with the same id, only when there is none.
    ///
    /// A command that [makes an object](crate::commands::Command::makes_object) leaves one behind even if the server then
    /// refuses its job's id, so it must not arrive after it was sent again. It cannot: its signature is valid for two minutes
    /// only (or for the client's [validity](crate::ClientBuilder::validity), if that is less or the clocks differ), and it is
    /// sent again only when, by the server's own clock, that time and the [settling](WaitOptions::settle) time are over
    /// and the job is still unknown. What remains is a server that took the call in time and needs longer than the
    /// settling time to begin with it, and a port for calls without signatures, which never expire.
    ///
    /// # Errors
    /// As [`call`](Self::call) and [`job`](Self::job).
    pub async fn run<T: 'static>(&self, call: Call<Job<T>>, options: &WaitOptions) -> Result<T> {
        let job = self.submit(&call, options).await?;
        self.job(&job, options).await.map_err(|error| call.redact(error))
    }

    /// As [`run`](Self::run), for a call that may have been sent already: by a process that has ended since. Its job is
    /// looked for first; what makes an object is sent only when the call of the other process can no longer arrive.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`ErrorKind::Invalid`] if the call has no [job id of ours](Call::with_job_id).
    pub async fn resume<T: 'static>(&self, call: Call<Job<T>>, options: &WaitOptions) -> Result<T> {
        if call.job_id().is_none() {
            let text = format!("{}: it can be resumed only with a job id of ours", call.what());
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let job = match self.find_job(&call, options, None).await? {
            Some(job) => job,
            None => self.submit(&call, options).await?,
        };
        self.job(&job, options).await.map_err(|error| call.redact(error))
    }

    async fn submit<T: 'static>(
        &self,
        call: &Call<Job<T>>,
        options: &WaitOptions,
    ) -> Result<Job<T>> {
        let first = self.send_once(call, options).await;
        let lost = match (first.result, call.job_id()) {
            (Ok(job), _) => return Ok(job),
            (Err(error), Some(_)) if is_lost(&error) => error,
            (Err(error), _) => return Err(error),
        };
        if let Some(job) = self.find_job(call, options, Some(first.expires)).await? {
            return Ok(job);
        }
        let second = self.send_once(call, options).await;
        let again = match second.result {
            Ok(job) => return Ok(job),
            Err(again) => again,
        };
        // The first one has come through after all, so that the id or the object is taken; or this answer was lost, too.
        let found = if is_lost(&again) {
            self.find_job(call, options, Some(second.expires)).await?
        } else {
            let once = options.clone().with_settle(Duration::ZERO);
            self.find_job(call, &once, Some(SystemTime::UNIX_EPOCH)).await.unwrap_or_default()
        };
        found.ok_or_else(|| again.with_source(lost))
    }

    /// Sends a call that starts a job; what makes an object, with a signature of short validity.
    async fn send_once<T: 'static>(
        &self,
        call: &Call<Job<T>>,
        options: &WaitOptions,
    ) -> Sent<Job<T>> {
        let waiting = Waiting::new(call.what(), options);
        let brief = if self.may_repeat(call) { self.brief() } else { self.validity() };
        let sent = self.send_as(call, brief, Some(&waiting)).await;
        let refused = sent.result.as_ref().err().and_then(Error::code) == Some(401);
        // The refusal has told how far apart the clocks are.
        if refused && brief < self.validity() && self.brief() > brief {
            return self.send_as(call, self.validity(), Some(&waiting)).await;
        }
        sent
    }

    /// Whether a call that is lost leaves something behind when it arrives after it was sent again.
    fn may_repeat<T>(&self, call: &Call<Job<T>>) -> bool {
        let makes = crate::commands::find(call.command()).is_some_and(|known| known.makes_object());
        makes && call.job_id().is_some()
    }

    /// The job with an id of ours, as its lost answer would have told it. `None` if the server does not know it, also
    /// after the while in which a lost call could still arrive: what makes an object leaves one behind then, even if its
    /// job id is refused. Until when it could is not known of a call that another process has sent.
    async fn find_job<T: 'static>(
        &self,
        call: &Call<Job<T>>,
        options: &WaitOptions,
        expires: Option<SystemTime>,
    ) -> Result<Option<Job<T>>> {
        let id = call.job_id().unwrap_or_default();
        let what = format!("{}: find job {id}", call.what());
        let (query, begun, repeats) = (query(id), self.now(), self.may_repeat(call));
        let ended = OnceLock::<Instant>::new();
        let look = || async {
            // All of this is before the question, so that the answer is of a time when nothing could arrive any more.
            let latest = || begun.checked_add(self.brief()).unwrap_or(begun);
            let expires = expires.unwrap_or_else(latest);
            if self.server_now() > expires + Duration::from_secs(1) {
                ended.get_or_init(Instant::now);
            }
            let settled = ended.get().is_some_and(|at| at.elapsed() >= options.settle);
            match self.send(&query).await {
                Ok(_) => Ok(Seen::Done(true)),
                Err(error) if is_unknown(&error) && (settled || !repeats) => Ok(Seen::Done(false)),
                Err(error) if is_unknown(&error) => {
                    let text = "the server does not know the job, and its call may still arrive";
                    Ok(Seen::Pending(text.to_owned()))
                }
                Err(error) => Err(error),
            }
        };
        if options.until(&what, look).await? != Some(true) {
            return Ok(None);
        }
        let answer = serde_json::json!({"answer": {"jobid": id}}).to_string();
        call.parse(http::StatusCode::OK, answer.as_bytes()).map(Some)
    }
}

/// Whether CloudStack itself says that there is no such job. What a proxy says while the server is away is no reason to
/// send anything again.
fn is_unknown(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) && error.cs_code().is_some()
}

/// Whether nobody knows what became of a call. What the server refuses in its own words, it has not done.
fn is_lost(error: &Error) -> bool {
    error.is_retryable() && error.cs_code().is_none()
}

/// A job's failure has the kind of its code if that tells what to do, and is else simply a failure.
fn failed(what: &str, code: Option<u16>, text: &str) -> Error {
    let error = failure(what, code.unwrap_or(530), None, text);
    let telling = !matches!(
        error.kind(),
        ErrorKind::Server | ErrorKind::Busy | ErrorKind::Protocol | ErrorKind::Unauthorized
    );
    if telling {
        return error;
    }
    let said = crate::error::one_line(text, 400);
    let said = if said.is_empty() { "the server does not say why".to_owned() } else { said };
    Error::new(ErrorKind::Failed, format!("{what}: the job failed: {said}")).with_codes(code, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_kind_that_tells_what_to_do() {
        assert_eq!(failed("x", Some(535), "full").kind(), ErrorKind::Quota);
        assert_eq!(failed("x", Some(431), "Unable to find it").kind(), ErrorKind::NotFound);
        let plain = failed("template 1: delete (job 2)", Some(530), "");
        assert_eq!((plain.kind(), plain.code()), (ErrorKind::Failed, Some(530)));
        assert!(!plain.is_retryable());
        assert_eq!(failed("x", None, "Job was cancelled").kind(), ErrorKind::Failed);
    }
}
