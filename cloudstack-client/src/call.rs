//! Requests as values.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;

use crate::commands;
use crate::error::{Error, ErrorKind, Result, classify, one_line};
use crate::job::Job;
use crate::record::Row;
use crate::sign::{Credentials, Expires, SignedQuery, sign};
use crate::value::Fields;

/// One API command with its parameters and the way to read its answer: it can be built, looked at and tested
/// without a socket, and sent by [`Client::call`](crate::Client::call).
///
/// A value that cannot be sent is reported when the call is signed, so that building a call never fails.
///
/// ```
/// let call = cloudstack_client::zones::list();
/// assert_eq!(call.command(), "listZones");
/// let zones = call
///     .parse(http::StatusCode::OK, br#"{"listzonesresponse":{"count":1,"zone":[{"id":"z1","name":"one"}]}}"#)
///     .unwrap();
/// assert_eq!(zones.items[0].name, "one");
/// // An empty list has neither count nor array.
/// assert!(call.parse(http::StatusCode::OK, br#"{"listzonesresponse":{}}"#).unwrap().items.is_empty());
/// ```
pub struct Call<T> {
    what: String,
    command: String,
    parameters: Vec<(String, String)>,
    reads: bool,
    paged: bool,
    problem: Option<String>,
    parse: Parse<T>,
}

type Parse<T> = Arc<dyn Fn(&Answer<'_>) -> Result<T> + Send + Sync>;

/// The content of a successful answer: what is under its root key.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer<'a> {
    /// What was asked, for error texts: `template web01: register`.
    pub what: &'a str,
    /// The content.
    pub content: &'a Value,
}

impl Answer<'_> {
    /// [`ErrorKind::Protocol`], with what is wrong with the answer.
    #[must_use]
    pub fn wrong(&self, problem: &str) -> Error {
        Error::protocol(format!("{}: {problem}; is the endpoint a CloudStack API?", self.what))
    }

    pub(crate) fn fields(&self) -> Result<Fields<'_>> {
        Fields::of(self.content).ok_or_else(|| self.wrong("the answer is no object"))
    }
}

/// One page of a list, or all of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct List<T> {
    /// What came.
    pub items: Vec<T>,
    /// How many there are in all, as the server counts them.
    pub count: Option<u64>,
}

/// A record that lists can hold.
pub trait Record: Sized {
    /// The name of the array in the answer.
    const ARRAY: &'static str;
    /// The fields that are read, by the server's names.
    const FIELDS: &'static [&'static str] = &[];

    /// Reads one element; `None` if it lacks what makes it usable (its id).
    fn read(value: &Value) -> Option<Self>;

    /// What tells two elements apart: pages can overlap.
    fn key(&self) -> String;
}

impl<T> Call<T> {
    /// A call that changes something: it is never sent twice after it may have reached the server.
    ///
    /// `what` names it in errors (`template 12: delete`); `parse` reads the content of a successful answer.
    pub fn change(
        what: impl Into<String>,
        command: impl Into<String>,
        parse: impl Fn(&Answer<'_>) -> Result<T> + Send + Sync + 'static,
    ) -> Self {
        Self {
            what: what.into(),
            command: command.into(),
            parameters: Vec::new(),
            reads: false,
            paged: false,
            problem: None,
            parse: Arc::new(parse),
        }
    }

    /// A call that only looks, so that it is tried again when its connection breaks.
    pub fn read(
        what: impl Into<String>,
        command: impl Into<String>,
        parse: impl Fn(&Answer<'_>) -> Result<T> + Send + Sync + 'static,
    ) -> Self {
        Self { reads: true, ..Self::change(what, command, parse) }
    }

    /// Adds a parameter. Names should be in lower case except below `details[0].`; one that is there is replaced.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.parameters.retain(|(there, _)| *there != name);
        self.parameters.push((name, value.into()));
        self
    }

    /// Adds a parameter if there is a value.
    #[must_use]
    pub fn with_some<V: ToString>(self, name: &str, value: Option<V>) -> Self {
        match value {
            Some(value) => self.with(name, value.to_string()),
            None => self,
        }
    }

    /// Takes a parameter away again.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.parameters.retain(|(there, _)| there != name);
        self
    }

    /// Adds an id, without which the call would mean something else: an empty one would be left out by the server.
    pub(crate) fn with_id(self, name: &str, id: &str) -> Self {
        let call = if id.trim().is_empty() {
            self.with_problem(format!("the id ({name}) is empty"))
        } else {
            self
        };
        call.with(name, id)
    }

    /// Adds ids as the one list that they are for the server.
    pub(crate) fn with_ids(self, name: &str, ids: &[&str]) -> Self {
        let unsound =
            ids.is_empty() || ids.iter().any(|id| id.trim().is_empty() || id.contains(','));
        let call = if unsound {
            self.with_problem(format!(
                "there is no id ({name}), or one that is empty or holds a comma"
            ))
        } else {
            self
        };
        call.with(name, ids.join(","))
    }

    /// Chooses a random id for the asynchronous job that the call starts, see [`with_job_id`](Self::with_job_id).
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if the system gives no random numbers.
    pub fn with_new_job_id(self) -> Result<Self> {
        Ok(self.with_job_id(crate::random::random_uuid()?))
    }

    /// Chooses the id of the asynchronous job that the call starts: a UUID. After a lost answer the job can then be
    /// looked for by this id, see [`Client::run`](crate::Client::run). CloudStack takes it (`customjobid`) for every
    /// asynchronous command, without documenting it.
    #[must_use]
    pub fn with_job_id(self, id: impl Into<String>) -> Self {
        self.with("customjobid", id)
    }

    /// Makes the call fail with [`ErrorKind::Invalid`] instead of being sent.
    #[must_use]
    pub fn with_problem(mut self, problem: impl Into<String>) -> Self {
        self.problem.get_or_insert_with(|| problem.into());
        self
    }

    /// What errors call this operation.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The command.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command
    }

    /// The parameters without the command.
    #[must_use]
    pub fn parameters(&self) -> &[(String, String)] {
        &self.parameters
    }

    /// The value of one parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(there, _)| there == name).map(|(_, value)| value.as_str())
    }

    /// Whether it only looks.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.reads
    }

    /// The signed form to be sent.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the call holds a value that cannot be sent; what [`sign()`](crate::sign()) refuses.
    pub fn sign(
        &self,
        credentials: &Credentials,
        expires: impl Into<Expires>,
    ) -> Result<SignedQuery> {
        if let Some(problem) = &self.problem {
            return Err(Error::new(ErrorKind::Invalid, format!("{}: {problem}", self.what)));
        }
        let command = ("command", self.command.as_str());
        let all = self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        sign(credentials, std::iter::once(command).chain(all), expires)
            .map_err(|error| Error::new(error.kind(), format!("{}: {error}", self.what)))
    }

    /// Reads an answer: the value, or the error that the status and the body tell.
    ///
    /// # Errors
    /// The error of the status or of the body, else what the reader says.
    pub fn parse(&self, status: StatusCode, body: &[u8]) -> Result<T> {
        let root = serde_json::from_slice::<Value>(body);
        let content = match root.as_ref().map(|root| content(root, &self.command)) {
            Ok(Some(content)) => content,
            _ if !status.is_success() => return Err(self.refused(status, &plain(body))),
            Ok(None) => {
                let text = "the answer is not one object under one key";
                return Err(Answer { what: &self.what, content: &Value::Null }.wrong(text));
            }
            Err(error) => {
                return Err(Error::protocol(format!(
                    "{}: the answer is not JSON (line {} column {}); is the endpoint a CloudStack API (it mostly \
                     ends in /client/api)?",
                    self.what,
                    error.line(),
                    error.column()
                ))
                .with_status(status));
            }
        };
        let fields = Fields::of(content);
        let code = fields.and_then(|fields| fields.number("errorcode"));
        if status.is_success() && code.is_none() {
            return (self.parse)(&Answer { what: &self.what, content });
        }
        let said = fields.and_then(|fields| fields.text("errortext")).unwrap_or_default();
        let code = code.and_then(|code| u16::try_from(code).ok());
        let cs_code = fields
            .and_then(|fields| fields.number("cserrorcode"))
            .and_then(|code| u32::try_from(code).ok());
        Err(failure(&self.what, code.unwrap_or(status.as_u16()), cs_code, &said)
            .with_status(status))
    }

    /// The id of the job that the call is to start, if it was [chosen](Self::with_job_id).
    #[must_use]
    pub fn job_id(&self) -> Option<&str> {
        self.parameter("customjobid")
    }

    fn refused(&self, status: StatusCode, said: &str) -> Error {
        failure(&self.what, status.as_u16(), None, said).with_status(status)
    }
}

impl<R: Record> Call<List<R>> {
    /// A list that is given in pages.
    pub(crate) fn list(what: &str, command: &str) -> Self {
        Self { paged: true, ..Self::whole_list(what, command) }
    }

    /// A list that the server always gives whole, so that it must not be asked for pages.
    pub(crate) fn whole_list(what: &str, command: &str) -> Self {
        Self::read(what, command, |answer| read_list(answer, Some(R::ARRAY)))
    }

    /// Those of all accounts that the caller sees, also below its domain: what administrators and domain administrators
    /// mean, who get only their own without it (`listall`, `isrecursive`).
    #[must_use]
    pub fn of_all_accounts(self) -> Self {
        self.with("listall", "true").with("isrecursive", "true")
    }

    /// Those of a project, or of all projects that the caller is in for `-1`.
    #[must_use]
    pub fn of_project(self, id: &str) -> Self {
        self.with_id("projectid", id)
    }

    /// One page: numbers start at 1. Servers refuse one of the two without the other.
    #[must_use]
    pub fn with_page(self, page: u64, size: u64) -> Self {
        self.with("page", page.to_string()).with("pagesize", size.to_string())
    }

    pub(crate) fn is_paged(&self) -> bool {
        self.paged
    }
}

/// The elements below a key, or below whatever key holds the one array.
fn read_list<R: Record>(answer: &Answer<'_>, key: Option<&str>) -> Result<List<R>> {
    let fields = answer.fields()?;
    let raw = match key {
        Some(key) => fields.raw_in_any_case(key).map(|raw| (key, raw)),
        None => fields.only_array(),
    };
    let items = match raw {
        None | Some((_, Value::Null)) => &[],
        Some((_, Value::Array(items))) => items.as_slice(),
        Some((key, _)) => return Err(answer.wrong(&format!("{key:?} is no array"))),
    };
    let items = items
        .iter()
        .map(|item| {
            R::read(item)
                .ok_or_else(|| answer.wrong("an element of the list has no id or is no object"))
        })
        .collect::<Result<_>>()?;
    Ok(List { items, count: fields.number("count") })
}

impl<T> Clone for Call<T> {
    fn clone(&self) -> Self {
        Self {
            what: self.what.clone(),
            command: self.command.clone(),
            parameters: self.parameters.clone(),
            reads: self.reads,
            paged: self.paged,
            problem: self.problem.clone(),
            parse: Arc::clone(&self.parse),
        }
    }
}

/// The names of the parameters and not their values, which may be addresses and passwords.
impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.parameters.iter().map(|(name, _)| name).collect();
        f.debug_struct("Call")
            .field("what", &self.what)
            .field("command", &self.command)
            .field("parameters", &names)
            .finish_non_exhaustive()
    }
}

/// Any command, with its content as JSON: for what this crate has no function for. Whether it only looks, and so may be
/// repeated, is [known](commands) of every command of today's servers; of others their names decide.
///
/// Of a command that starts a job this is the first answer; [`start`] gives a [`Job`].
///
/// ```
/// let call = cloudstack_client::command("listAccounts").with("listall", "true");
/// assert!(call.is_read());
/// assert!(!cloudstack_client::command("getUploadParamsForVolume").is_read(), "it makes a volume");
/// ```
#[must_use]
pub fn command(command: impl Into<String>) -> Call<Value> {
    let command = command.into();
    let parse = |answer: &Answer<'_>| Ok(answer.content.clone());
    if commands::is_read(&command) {
        Call::read(command.clone(), command, parse)
    } else {
        Call::change(command.clone(), command, parse)
    }
}

/// Any command that starts a job, whose result is JSON; to be waited for with [`Client::run`](crate::Client::run).
///
/// ```
/// # use cloudstack_client::{Credentials, start};
/// let call = start("restartNetwork").with("id", "n1");
/// let job = call.parse(http::StatusCode::OK, br#"{"restartnetworkresponse":{"jobid":"j1"}}"#)?;
/// assert_eq!(job.id, "j1");
///
/// // A command that answers at once is refused before anything is sent.
/// let keys = Credentials::new("key", "secret");
/// assert!(start("listZones").sign(&keys, std::time::SystemTime::now()).is_err());
/// # Ok::<(), cloudstack_client::Error>(())
/// ```
#[must_use]
pub fn start(command: impl Into<String>) -> Call<Job<Value>> {
    let command = command.into();
    let call = Call::start(command.clone(), command, |answer| Ok(answer.content.clone()));
    match commands::find(call.command()) {
        Some(known) if !known.is_async() => {
            call.with_problem("the command starts no job: use `command`")
        }
        _ => call,
    }
}

/// Any command that lists something, with its rows as JSON; all pages come with
/// [`Client::call_all`](crate::Client::call_all) or [`Client::stream`](crate::Client::stream).
///
/// ```
/// let call = cloudstack_client::rows("listVPCs").with("listall", "true");
/// let list = call.parse(http::StatusCode::OK, br#"{"listvpcsresponse":{"count":1,"vpc":[{"id":"v1","networkmask":8}]}}"#)?;
/// assert_eq!(list.items[0].text("id").as_deref(), Some("v1"));
/// # Ok::<(), cloudstack_client::Error>(())
/// ```
#[must_use]
pub fn rows(command: impl Into<String>) -> Call<List<Row>> {
    let command = command.into();
    let known = commands::find(&command);
    let key = known.and_then(commands::Command::list_key);
    let call = Call::read(command.clone(), command, move |answer| read_list(answer, key));
    match known {
        Some(known) if !known.is_read() => call.with_problem("the command does not list"),
        // A server that knows no pages of a newer list ignores that it is asked for them.
        Some(known) => Call { paged: known.is_paged(), ..call },
        None => Call { paged: true, ..call },
    }
}

/// The error for one of CloudStack's codes and texts, wherever they came.
pub(crate) fn failure(what: &str, code: u16, cs_code: Option<u32>, said: &str) -> Error {
    let (kind, remedy) = classify(code, cs_code, said);
    let said = one_line(said, 400);
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let error = Error::new(kind, format!("{what}: the server answered {code}{said}"))
        .with_codes(Some(code), cs_code);
    match remedy {
        Some(remedy) => error.with_hint(remedy),
        None => error,
    }
}

/// What is under the only key, whatever its name: dozens of commands have irregular ones. Should there be several, it is
/// the one that belongs to the command, or to an error.
fn content<'a>(root: &'a Value, command: &str) -> Option<&'a Value> {
    let object = root.as_object()?;
    let mut values = object.values();
    let first = values.next()?;
    if values.next().is_none() {
        return Some(first);
    }
    let key = commands::root_key(command);
    let own = object.iter().find(|(name, _)| name.eq_ignore_ascii_case(&key));
    own.map(|(_, value)| value).or_else(|| object.get("errorresponse"))
}

/// The readable part of an error that is not CloudStack's: a proxy's page or plain text.
pub(crate) fn plain(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    if !text.trim_start().starts_with('<') {
        return one_line(&text, 400);
    }
    let title = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let start = lower.find("<title>")? + "<title>".len();
        let end = start + lower[start..].find('<')?;
        Some(one_line(text.get(start..end)?, 200))
    };
    title(&text).unwrap_or_else(|| "a page of HTML".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn parse(status: u16, body: &str) -> Result<Value> {
        command("listZones").parse(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn the_root_key_is_the_only_one_whatever_its_name() {
        for root in ["listzonesresponse", "postuploadtemplateresponse", "x"] {
            assert_eq!(parse(200, &format!(r#"{{"{root}":{{"a":1}}}}"#)).unwrap()["a"], 1);
        }
        // Should a server send more than one, the command's own is taken.
        assert_eq!(parse(200, r#"{"new":{},"listZonesResponse":{"a":1}}"#).unwrap()["a"], 1);
        for body in ["", "[]", "{}", r#"{"a":{},"b":{}}"#, "null", "<html>", "{\"a\":", "\u{0}"] {
            let error = parse(200, body).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{body}");
            assert!(error.to_string().starts_with("listZones: the answer"), "{error}");
        }
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(parse(200, &deep).unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn errors_are_told_with_their_codes_and_remedy() {
        let body = r#"{"registertemplateresponse":{"uuidList":[],"errorcode":535,"cserrorcode":4370,
            "errortext":"Maximum number of resources of type 'template' for account name=demo has been exceeded."}}"#;
        let error = parse(535, body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Quota);
        assert_eq!((error.code(), error.cs_code()), (Some(535), Some(4370)));
        assert_eq!(error.status().unwrap().as_u16(), 535);
        assert_eq!(
            error.to_string(),
            "listZones: the server answered 535: Maximum number of resources of type 'template' for account name=demo \
             has been exceeded.; delete templates that are no longer needed, or have an operator raise the account's limit"
        );
        // The status alone, a page of a proxy, an error below a success.
        assert_eq!(parse(531, "").unwrap_err().kind(), ErrorKind::Forbidden);
        let error =
            parse(502, "<html><head><title>502 Bad\nGateway</title></head></html>").unwrap_err();
        assert!(error.to_string().contains("502 Bad Gateway"), "{error}");
        let hidden = parse(200, r#"{"x":{"errorcode":"431","errortext":"no"}}"#).unwrap_err();
        assert_eq!(hidden.kind(), ErrorKind::Invalid);
        let odd = parse(431, r#"{"x":{"errorcode":99999999999,"errortext":[]}}"#).unwrap_err();
        assert_eq!((odd.kind(), odd.code()), (ErrorKind::Invalid, Some(431)));
        assert_eq!(parse(200, r#"{"x":"text"}"#).unwrap(), "text");
    }

    #[test]
    fn a_call_signs_its_command_and_shows_no_value() {
        let call =
            command("updateTemplate").with("id", "1").with("id", "two").with_some("a", None::<u8>);
        assert_eq!(call.parameters(), [("id".to_owned(), "two".to_owned())]);
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let credentials = Credentials::new("key", "secret");
        let form = call.sign(&credentials, at).unwrap();
        assert!(
            form.as_str().contains("command=updateTemplate") && form.as_str().contains("id=two")
        );
        assert!(!format!("{call:?}").contains("two"));
        let bad = call.clone().with("x", "a\tb").sign(&credentials, at).unwrap_err();
        assert_eq!(bad.kind(), ErrorKind::Value);
        assert!(bad.to_string().starts_with("updateTemplate: "), "{bad}");
        let bad = call.with_problem("no id").sign(&credentials, at).unwrap_err();
        assert_eq!(
            (bad.kind(), bad.to_string().as_str()),
            (ErrorKind::Invalid, "updateTemplate: no id")
        );
    }

    #[test]
    fn hostile_pages_are_no_panic() {
        for page in ["<", "<title>", "<title>é", "<TITLE></", "<\u{130}<title>x</title>"] {
            plain(page.as_bytes());
        }
        assert_eq!(plain(b"a\x1b[0m\nb"), "a [0m b");
    }
}
