//! Requests as values: what is sent (here), what comes back (`answer`, `list`), and calls of any command (`any`).

mod answer;
mod any;
mod list;

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::sign::{Credentials, Expires, SignedQuery, sign};

pub use answer::Answer;
pub use any::{command, rows, start};
pub use list::{List, Record};

pub(crate) use answer::{failure, plain};

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

    /// Adds a parameter. Names should be in lower case except below `details[0].`; one that is there is replaced, also
    /// if it is written in other letters, which the server does not tell apart.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.parameters.retain(|(there, _)| !is_same(there, &name));
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
        self.parameters.retain(|(there, _)| !is_same(there, name));
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
        let found = self.parameters.iter().find(|(there, _)| is_same(there, name));
        found.map(|(_, value)| value.as_str())
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

    /// The id of the job that the call is to start, if it was [chosen](Self::with_job_id).
    #[must_use]
    pub fn job_id(&self) -> Option<&str> {
        self.parameter("customjobid")
    }

    /// Removes the secrets among the parameters from an error that a server has put them into.
    pub(crate) fn redact(&self, error: Error) -> Error {
        let secrets = self.parameters.iter().filter(|(name, _)| is_secret(name));
        secrets.fold(error, |error, (_, value)| error.without(value))
    }
}

/// Whether what a parameter of this name holds is nobody's business. Data for a guest mostly have a password in them.
fn is_secret(name: &str) -> bool {
    const WORDS: [&str; 9] = [
        "password",
        "passwd",
        "passphrase",
        "secret",
        "privatekey",
        "token",
        "credential",
        "accesskey",
        "userdata",
    ];
    let name = name.to_ascii_lowercase();
    // The id of data that are kept at the server is no secret.
    name != "userdataid" && WORDS.iter().any(|word| name.contains(word))
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

/// Whether two names are one parameter for the server, which lowers names and not the keys of maps.
fn is_same(a: &str, b: &str) -> bool {
    let parts = |name| str::split_once(name, '.').unwrap_or((name, ""));
    let ((a, key), (b, other)) = (parts(a), parts(b));
    a.eq_ignore_ascii_case(b) && key == other
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

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
    fn names_that_are_one_for_the_server_are_one_here() {
        let call = command("deployVirtualMachine")
            .with("zoneid", "z1")
            .with("zoneId", "z2")
            .with("details[0].cpuNumber", "2")
            .with("Details[0].cpuNumber", "4")
            .with("details[0].cpunumber", "8")
            .with("customJobId", "j1");
        assert_eq!(call.parameters().len(), 4, "{call:?}");
        assert_eq!((call.parameter("zoneid"), call.job_id()), (Some("z2"), Some("j1")));
        assert_eq!(call.parameter("details[0].cpuNumber"), Some("4"), "keys keep their case");
        assert_eq!(call.parameter("details[0].cpunumber"), Some("8"));
    }
}
