//! Asynchronous jobs: what they are (here), and how they are started, found again and waited for (`run`).

mod run;

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::call::{Answer, Call, List, Record};
use crate::error::{Error, ErrorKind, Result, masked};
use crate::record::{record, words};
use crate::value::Fields;

/// A job that the server has accepted, and the way to read its result. [`Client::job`](crate::Client::job) waits for it.
///
/// It can be [stored](Job::stored) and waited for by another process.
///
/// ```
/// use cloudstack_client::job::StoredJob;
/// use cloudstack_client::templates::{self, Template};
/// use cloudstack_client::Job;
///
/// # let answer = br#"{"copytemplateresponse":{"jobid":"7c1d"}}"#;
/// let job = templates::copy("t1", "zone-1", &["zone-2"]).parse(http::StatusCode::OK, answer)?;
/// let line = job.stored().to_string();
///
/// // After a restart of the process:
/// let stored: StoredJob = line.parse()?;
/// let job = Job::<Template>::restored(&stored);
/// assert_eq!((job.id.as_str(), job.what()), ("7c1d", "template t1: copy"));
/// # Ok::<(), cloudstack_client::Error>(())
/// ```
#[derive(Clone)]
pub struct Job<T> {
    /// The job's id.
    pub id: String,
    /// The id of the object that the job makes, where the server tells it at once.
    pub object: Option<String>,
    what: String,
    read: fn(&Answer<'_>) -> Result<T>,
}

/// What has to be kept of a job to find it again: its text form is one line of JSON without a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredJob {
    /// The job's id.
    pub id: String,
    /// The id of the object that the job makes, where it is known.
    pub object: Option<String>,
    /// What errors call this job.
    pub what: String,
}

/// What a job ends in: a record, JSON, or nothing but its success.
pub trait Outcome: Sized + 'static {
    /// Reads the result of a job that has ended well.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] if it is none, [`ErrorKind::Failed`] if it says that it is no success.
    fn read_outcome(answer: &Answer<'_>) -> Result<Self>;
}

/// Success, which the server may deny in its result. A job that has ended well may have none.
impl Outcome for () {
    fn read_outcome(answer: &Answer<'_>) -> Result<Self> {
        match answer.content {
            Value::Object(_) => success(answer),
            Value::Bool(false) => Err(denied(answer, "")),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Err(denied(answer, "")),
            _ => Ok(()),
        }
    }
}

/// The result as it came.
impl Outcome for Value {
    fn read_outcome(answer: &Answer<'_>) -> Result<Self> {
        Ok(answer.content.clone())
    }
}

impl<R: Record + 'static> Outcome for R {
    fn read_outcome(answer: &Answer<'_>) -> Result<Self> {
        one(answer)
    }
}

/// The one record of an answer. It stands under the key of its lists, alone or in an array, under no key, or under
/// some other (a rule of a load balancer is listed as `loadbalancerrule` and made as `loadbalancer`).
pub(crate) fn one<R: Record>(answer: &Answer<'_>) -> Result<R> {
    let fields = answer.fields()?;
    let first = |value: &Value| match value {
        Value::Array(items) => items.first().and_then(R::read),
        one => R::read(one),
    };
    let found = fields.raw_in_any_case(R::ARRAY).and_then(first);
    let found = found.or_else(|| R::read(answer.content));
    let found = found.or_else(|| fields.values().find_map(first));
    found.ok_or_else(|| answer.wrong(&format!("the answer holds no {}", R::ARRAY)))
}

/// What [`query`] tells of a job. Its `Debug` does not show the result, which may hold the password of a new machine.
#[derive(Clone, PartialEq)]
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

impl fmt::Debug for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => f.write_str("Pending"),
            Self::Done(_) => f.write_str("Done([redacted])"),
            Self::Failed { code, text } => {
                f.debug_struct("Failed").field("code", code).field("text", text).finish()
            }
        }
    }
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

    /// What has to be kept to wait for it in another process.
    #[must_use]
    pub fn stored(&self) -> StoredJob {
        StoredJob { id: self.id.clone(), object: self.object.clone(), what: self.what.clone() }
    }
}

impl<T: Outcome> Job<T> {
    /// A job that was kept, to wait for it again.
    #[must_use]
    pub fn restored(stored: &StoredJob) -> Self {
        Self {
            object: stored.object.clone(),
            ..Self::from_id(&stored.what, &stored.id, T::read_outcome)
        }
    }
}

impl fmt::Display for StoredJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = self.object.as_deref();
        serde_json::json!({"job": self.id, "object": object, "what": self.what}).fmt(f)
    }
}

impl FromStr for StoredJob {
    type Err = Error;

    /// Reads what `Display` wrote.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it is something else.
    fn from_str(line: &str) -> Result<Self> {
        let value = serde_json::from_str::<Value>(line.trim()).unwrap_or_default();
        let read = |fields: Fields<'_>| {
            let id = fields.text("job").filter(|id| !id.is_empty())?;
            Some(Self { id, object: fields.text("object"), what: fields.text("what")? })
        };
        Fields::of(&value).and_then(read).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                "this is no stored job: it is one line of JSON with its id",
            )
        })
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

impl<T: Outcome> Call<Job<T>> {
    /// A call that starts a job which ends in what its type says.
    pub fn job(what: impl Into<String>, command: impl Into<String>) -> Self {
        Self::start(what, command, T::read_outcome)
    }

    /// The job that the call will start, if its id was [chosen](Call::with_job_id): to be kept before it is sent.
    #[must_use]
    pub fn stored(&self) -> Option<StoredJob> {
        let id = self.job_id()?.to_owned();
        Some(StoredJob { id, object: None, what: self.what().to_owned() })
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
                let (code, text) = result.map(reason).unwrap_or_default();
                let code = code.or_else(|| fields.number("jobresultcode"));
                Ok(JobState::Failed {
                    code: code.and_then(|code| u16::try_from(code).ok()),
                    // It may hold the address of a file that could not be fetched.
                    text: masked(&text.unwrap_or_default()),
                })
            }
            None => Err(answer.wrong("the answer has no job status")),
        }
    })
    .with("jobid", id)
}

/// The code and the words of a failed job's result: an error, alone or under a key, or a mere text.
fn reason(result: &Value) -> (Option<u64>, Option<String>) {
    let Some(fields) = Fields::of(result) else {
        let text = match result {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        return (None, text);
    };
    let text = fields.text("errortext").or_else(|| fields.text("displaytext"));
    match (fields.number("errorcode"), text) {
        (None, None) => fields
            .values()
            .find_map(Fields::of)
            .map_or((None, None), |inner| (inner.number("errorcode"), inner.text("errortext"))),
        told => told,
    }
}

words! {
    /// What kind of object a job is about.
    Subject {
        /// A virtual machine.
        VirtualMachine = "VirtualMachine",
        /// A volume.
        Volume = "Volume",
        /// A template.
        Template = "Template",
        /// An ISO.
        Iso = "Iso",
        /// A snapshot of a volume.
        Snapshot = "Snapshot",
        /// A network.
        Network = "Network",
        /// A public address.
        IpAddress = "IpAddress",
    }
}

record! {
    /// A job in a list.
    JobRecord in "asyncjobs" by id;
    /// Its id.
    id: String = "jobid",
    /// The class of the command that started it, at the server.
    command: Option<String> = "cmd",
    /// 0 as long as it is pending, 1 when it has ended well, else its failure.
    status: Option<u64> = "jobstatus",
    /// The kind of object that it is about.
    subject: Option<Subject> = "jobinstancetype",
    /// The id of that object.
    object: Option<String> = "jobinstanceid",
    /// When it was started.
    created: Option<String> = "created",
    /// When it ended.
    completed: Option<String> = "completed",
    /// Whose it is.
    account: Option<String> = "account",
}

/// `listAsyncJobs`: the jobs of this account that the server still remembers (a day, unless it is set otherwise).
#[must_use]
pub fn list() -> Call<List<JobRecord>> {
    Call::list("jobs: list", "listAsyncJobs")
}

/// The result of commands that only say whether they succeeded.
pub(crate) fn success(answer: &Answer<'_>) -> Result<()> {
    let fields = answer.fields()?;
    match fields.flag("success") {
        Some(false) => Err(denied(answer, &fields.text("displaytext").unwrap_or_default())),
        _ => Ok(()),
    }
}

fn denied(answer: &Answer<'_>, said: &str) -> Error {
    Error::new(ErrorKind::Failed, format!("{}: it did not succeed: {said}", answer.what))
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
        let signed = r#"{"jobstatus":2,"jobresult":{"errortext":"no http://h/a.vhd?sig=0a1b2c"}}"#;
        assert_eq!(state(signed).unwrap(), failed(None, "no http://h/a.vhd?…"));
        for body in ["{}", "[]", r#"{"jobstatus":"soon"}"#, r#"{"jobstatus":-1}"#] {
            assert_eq!(state(body).unwrap_err().kind(), ErrorKind::Protocol, "{body}");
        }
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

    #[test]
    fn a_job_is_kept_as_a_line_of_text() {
        let call = Call::<Job<()>>::job("template 1: delete", "deleteTemplate").with_job_id("j1");
        let before = call.stored().unwrap();
        let body = br#"{"deletetemplateresponse":{"jobid":"j1","id":"t"}}"#;
        let job = call.parse(StatusCode::OK, body).unwrap();
        let line = job.stored().to_string();
        assert!(!line.contains('\n'), "{line}");
        let stored: StoredJob = line.parse().unwrap();
        assert_eq!((stored.id.as_str(), stored.object.as_deref()), ("j1", Some("t")));
        assert_eq!((&before.id, &before.what), (&stored.id, &stored.what));
        assert_eq!(Job::<()>::restored(&stored).what(), "template 1: delete");
        for line in ["", "{}", "[]", r#"{"job":"","what":"x"}"#, r#"{"job":"j"}"#, "\u{0}"] {
            assert_eq!(line.parse::<StoredJob>().unwrap_err().kind(), ErrorKind::Invalid, "{line}");
        }
    }

    #[test]
    fn the_one_record_is_found_wherever_it_stands() {
        for content in [
            r#"{"asyncjobs":{"jobid":"j1"}}"#,
            r#"{"count":1,"asyncjobs":[{"jobid":"j1"}]}"#,
            r#"{"job":{"jobid":"j1"},"new":{"a":1}}"#,
            r#"{"jobid":"j1","cmd":"x"}"#,
        ] {
            let content: Value = serde_json::from_str(content).unwrap();
            let answer = Answer { what: "x", content: &content };
            assert_eq!(JobRecord::read_outcome(&answer).unwrap().id, "j1", "{content}");
        }
        for content in [r#"{}"#, r#"{"asyncjobs":[]}"#, r#"{"a":{},"b":[]}"#, "7"] {
            let content: Value = serde_json::from_str(content).unwrap();
            let answer = Answer { what: "x", content: &content };
            assert_eq!(one::<JobRecord>(&answer).unwrap_err().kind(), ErrorKind::Protocol);
        }
    }
}
