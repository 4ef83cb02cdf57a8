//! Asynchronous jobs.

use std::fmt;

use serde_json::Value;

use crate::call::{Answer, Call, failure};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::value::Fields;
use crate::wait::{WaitOptions, Waiting};

/// A job that the server has accepted, and the way to read its result. [`Client::job`] waits for it.
///
/// Its id can be kept and waited for by another process; see [`Job::from_id`].
#[derive(Clone)]
pub struct Job<T> {
    /// The job's id.
    pub id: String,
    /// The id of the object that the job makes, where the server tells it at once.
    pub object: Option<String>,
    what: String,
    read: fn(&Answer<'_>) -> Result<T>,
}

/// What [`query`] tells of a job.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum JobState {
    /// It waits or runs.
    Pending,
    /// It has ended well, with this result.
    Done(Value),
    /// It has failed or was cancelled.
    Failed {
        /// The code, as of an error.
        code: Option<u16>,
        /// The server's words.
        text: String,
    },
}

impl<T> Job<T> {
    /// A job by its id, to wait for it again.
    pub fn from_id(
        what: impl Into<String>,
        id: impl Into<String>,
        read: fn(&Answer<'_>) -> Result<T>,
    ) -> Self {
        Self { id: id.into(), object: None, what: what.into(), read }
    }

    /// What errors call this job.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }
}

impl<T> fmt::Debug for Job<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .field("what", &self.what)
            .finish_non_exhaustive()
    }
}

impl<T: 'static> Call<Job<T>> {
    /// A call that starts a job, whose result `read` reads.
    pub fn start(
        what: impl Into<String>,
        command: impl Into<String>,
        read: fn(&Answer<'_>) -> Result<T>,
    ) -> Self {
        Self::change(what, command, move |answer| {
            let fields = answer.fields()?;
            let id = fields.text("jobid").filter(|id| !id.is_empty());
            let id = id.ok_or_else(|| answer.wrong("the answer has no job id"))?;
            Ok(Job { id, object: fields.text("id"), what: answer.what.to_owned(), read })
        })
    }
}

/// `queryAsyncJobResult`: where a job stands.
#[must_use]
pub fn query(id: &str) -> Call<JobState> {
    Call::read(format!("job {id}: query"), "queryAsyncJobResult", |answer| {
        let fields = answer.fields()?;
        let status = fields.number("jobstatus");
        let result = fields.raw("jobresult");
        match status {
            Some(0) => Ok(JobState::Pending),
            Some(1) => Ok(JobState::Done(result.cloned().unwrap_or(Value::Null))),
            // 2 is failed, 3 cancelled.
            Some(_) => {
                let inner = result.and_then(Fields::of);
                let code = inner
                    .and_then(|inner| inner.number("errorcode"))
                    .or_else(|| fields.number("jobresultcode"));
                let text = inner.and_then(|inner| inner.text("errortext"));
                let text = text.or_else(|| result?.as_str().map(str::to_owned));
                Ok(JobState::Failed {
                    code: code.and_then(|code| u16::try_from(code).ok()),
                    text: text.unwrap_or_default(),
                })
            }
            None => Err(answer.wrong("the answer has no job status")),
        }
    })
    .with("jobid", id)
}

/// The result of commands that only say whether they succeeded.
pub(crate) fn success(answer: &Answer<'_>) -> Result<()> {
    let fields = answer.fields()?;
    match fields.flag("success") {
        Some(false) => {
            let said = fields.text("displaytext").unwrap_or_default();
            Err(Error::new(
                ErrorKind::Failed,
                format!("{}: it did not succeed: {said}", answer.what),
            ))
        }
        _ => Ok(()),
    }
}

impl Client {
    /// Waits until a job has ended, and gives its result. A server that does not answer for a while is borne until
    /// the time limit.
    ///
    /// # Errors
    /// The failure of the job, of the kind that its code means (a quota, a missing permission), else
    /// [`ErrorKind::Failed`]; [`ErrorKind::Timeout`] and [`ErrorKind::Cancelled`] leave the job running.
    pub async fn job<T>(&self, job: &Job<T>, options: &WaitOptions) -> Result<T> {
        let call = query(&job.id);
        let what = format!("{} (job {})", job.what, job.id);
        let mut waiting = Waiting::new(&what, options);
        loop {
            match self.send(&call).await {
                Ok(JobState::Pending) => waiting.pause("the job is pending").await?,
                Ok(JobState::Done(content)) => {
                    return (job.read)(&Answer { what: &what, content: &content });
                }
                Ok(JobState::Failed { code, text }) => return Err(failed(&what, code, &text)),
                Err(error) => waiting.bear(error).await?,
            }
        }
    }

    /// Starts a job and waits for its result.
    ///
    /// If the call has a [job id of ours](Call::with_job_id), a lost answer is survived: the job is looked for, and the
    /// call is sent again only when there is none.
    ///
    /// # Errors
    /// As [`call`](Self::call) and [`job`](Self::job).
    pub async fn run<T: 'static>(&self, call: Call<Job<T>>, options: &WaitOptions) -> Result<T> {
        let own = call.parameter("customjobid").map(str::to_owned);
        let job = match (self.send(&call).await, own) {
            (Ok(job), _) => job,
            (Err(error), Some(id)) if error.is_retryable() => {
                let what = format!("{}: find job {id} after a lost answer", call.what());
                let mut waiting = Waiting::new(&what, options);
                let known = loop {
                    match self.send(&query(&id)).await {
                        Ok(_) => break true,
                        Err(error)
                            if error.is_not_found() || error.kind() == ErrorKind::Invalid =>
                        {
                            break false;
                        }
                        Err(error) => waiting.bear(error).await?,
                    }
                };
                let again = self.resumed(&call, known, &id).await;
                again.map_err(|again| again.with_source(error))?
            }
            (Err(error), _) => return Err(error),
        };
        self.job(&job, options).await
    }

    async fn resumed<T: 'static>(
        &self,
        call: &Call<Job<T>>,
        known: bool,
        id: &str,
    ) -> Result<Job<T>> {
        if !known {
            return self.send(call).await;
        }
        // The answer that was lost, as the server would have sent it.
        let answer = serde_json::json!({"answer": {"jobid": id}}).to_string();
        call.parse(http::StatusCode::OK, answer.as_bytes())
    }
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
    use http::StatusCode;

    fn state(body: &str) -> Result<JobState> {
        let body = format!(r#"{{"queryasyncjobresultresponse":{body}}}"#);
        query("j1").parse(StatusCode::OK, body.as_bytes())
    }

    #[test]
    fn every_status_is_understood() {
        assert_eq!(query("j1").parameter("jobid"), Some("j1"));
        assert_eq!(state(r#"{"jobid":"j1","jobstatus":0}"#).unwrap(), JobState::Pending);
        let done = state(r#"{"jobstatus":"1","jobresult":{"success":true}}"#).unwrap();
        assert_eq!(done, JobState::Done(serde_json::json!({"success": true})));
        let failed = |code, text: &str| JobState::Failed { code, text: text.to_owned() };
        assert_eq!(
            state(r#"{"jobstatus":2,"jobresultcode":530,"jobresult":{"errorcode":535,"errortext":"full"}}"#).unwrap(),
            failed(Some(535), "full")
        );
        assert_eq!(
            state(r#"{"jobstatus":3,"jobresulttype":"text","jobresult":"cancelled"}"#).unwrap(),
            failed(None, "cancelled")
        );
        assert_eq!(state(r#"{"jobstatus":2}"#).unwrap(), failed(None, ""));
        for body in ["{}", "[]", r#"{"jobstatus":"soon"}"#, r#"{"jobstatus":-1}"#] {
            assert_eq!(state(body).unwrap_err().kind(), ErrorKind::Protocol, "{body}");
        }
    }

    #[test]
    fn a_failure_has_the_kind_that_tells_what_to_do() {
        assert_eq!(failed("x", Some(535), "full").kind(), ErrorKind::Quota);
        assert_eq!(failed("x", Some(431), "Unable to find it").kind(), ErrorKind::NotFound);
        let plain = failed("template 1: delete (job 2)", Some(530), "");
        assert_eq!((plain.kind(), plain.code()), (ErrorKind::Failed, Some(530)));
        assert!(!plain.is_retryable());
        assert_eq!(failed("x", None, "Job was cancelled").kind(), ErrorKind::Failed);
    }

    #[test]
    fn a_start_needs_a_job_id_and_success_can_be_text() {
        let call = Call::start("template 1: delete", "deleteTemplate", success);
        let parse = |body: &str| call.parse(StatusCode::OK, body.as_bytes());
        let job = parse(r#"{"deletetemplateresponse":{"jobid":"j1","id":7}}"#).unwrap();
        assert_eq!((job.id.as_str(), job.object.as_deref()), ("j1", Some("7")));
        assert_eq!(
            parse(r#"{"deletetemplateresponse":{}}"#).unwrap_err().kind(),
            ErrorKind::Protocol
        );
        let read = |json: &str| {
            let content: Value = serde_json::from_str(json).unwrap();
            success(&Answer { what: "x", content: &content })
        };
        read(r#"{"success":"true"}"#).unwrap();
        read("{}").unwrap();
        assert_eq!(
            read(r#"{"success":"false","displaytext":"no"}"#).unwrap_err().kind(),
            ErrorKind::Failed
        );
        assert_eq!(read("null").unwrap_err().kind(), ErrorKind::Protocol);
    }
}
