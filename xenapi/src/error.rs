//! The crate's one error.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure an [`Error`] is, as far as a program would treat it differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The server refused the call; see [`Error::code`] and [`Error::params`].
    Api,
    /// Logging in was refused: trying again with the same words is useless, and costs 5 s. Or a
    /// transfer or a console was: its host does not take the session, or the user must not.
    Authentication,
    /// A wait or a transfer was cancelled, by the caller or at the server.
    Cancelled,
    /// The caller's own settings cannot be used: a URL, a CA file, a pin.
    Config,
    /// No connection to the server. May be retried.
    Connect,
    /// An answer was understood, but a value in it is not what the call promises.
    Decode,
    /// The answer is not one that this protocol has.
    Protocol,
    /// A redirect to where this session must not follow.
    Redirect,
    /// What was to be sent could not be read, or is longer or shorter than was said.
    Source,
    /// The task ended with an error; see [`Error::code`] and [`Error::params`].
    TaskFailed,
    /// The task is gone, and what it did is not known.
    TaskVanished,
    /// Nothing came in the time allowed. May be retried, if the call may be repeated.
    Timeout,
    /// The server's certificate is not one that the caller trusts.
    Tls,
    /// More than is allowed: of a request to the server, or of an answer to us.
    TooLarge,
    /// A connection broke while data flowed. May be retried, if the call may be repeated.
    Transport,
    /// A body ended before the length that was announced, was not read to its end, or does not end
    /// as its format does.
    Truncated,
    /// A TLS connection was closed without saying so, as if cut by someone on the way: what came
    /// may be whole or not.
    UncleanClose,
}

/// An error code of the API, such as `VDI_IN_USE`.
///
/// Compare it with the constants (`ErrorCode::VDI_IN_USE`) or by text. Servers know codes that
/// this crate does not, and families of them: see
/// [`is_sr_backend_failure`](Self::is_sr_backend_failure).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ErrorCode(pub(crate) Cow<'static, str>);

impl ErrorCode {
    /// Takes a code as text.
    #[must_use]
    pub fn new(code: impl Into<String>) -> Self {
        Self(Cow::Owned(code.into()))
    }

    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a storage driver failed: `SR_BACKEND_FAILURE`, or that with a number behind it.
    #[must_use]
    pub fn is_sr_backend_failure(&self) -> bool {
        self.0.starts_with("SR_BACKEND_FAILURE")
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq<str> for ErrorCode {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for ErrorCode {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

/// What went wrong: a kind, the words for people, the server's code and parameters if it was the
/// server that refused, and the cause.
///
/// Displayed it is one line without the cause, which [`source`](StdError::source) gives. It never
/// holds a password or a session reference. Cheap to clone.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    context: String,
    api: Option<(ErrorCode, Vec<String>)>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of a kind, with words for people. Transports of your own make their errors so.
    #[must_use]
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        let context = one_line(&context.into());
        Self(Arc::new(Inner { kind, context, api: None, source: None }))
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(self, source: impl StdError + Send + Sync + 'static) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.0);
        inner.source = Some(Arc::new(source));
        Self(Arc::new(inner))
    }

    /// An answer of the server that says no.
    pub(crate) fn api(code: ErrorCode, params: Vec<String>) -> Self {
        let kind = match code.as_str() {
            "SESSION_AUTHENTICATION_FAILED" | "SESSION_AUTHORIZATION_FAILED" => {
                ErrorKind::Authentication
            }
            "TASK_CANCELLED" => ErrorKind::Cancelled,
            _ => ErrorKind::Api,
        };
        let api = Some((code, params));
        Self(Arc::new(Inner { kind, context: String::new(), api, source: None }))
    }

    /// The same error as one of another kind.
    pub(crate) fn with_kind(self, kind: ErrorKind) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.0);
        inner.kind = kind;
        Self(Arc::new(inner))
    }

    /// Puts words in front of what is already said.
    pub(crate) fn context(self, words: impl fmt::Display) -> Self {
        let mut inner = Arc::unwrap_or_clone(self.0);
        inner.context = if inner.context.is_empty() {
            one_line(&words.to_string())
        } else {
            one_line(&format!("{words}: {}", inner.context))
        };
        Self(Arc::new(inner))
    }

    /// Takes a secret out of what the server repeated of it, in the causes as well. A very short
    /// one is looked for as a whole parameter only: as a part it would be found in any text, and
    /// tell more than it hides.
    pub(crate) fn redact(self, secret: &str) -> Self {
        const SHORT: usize = 6;
        let mut inner = Arc::unwrap_or_clone(self.0);
        let long = secret.len() >= SHORT;
        if long {
            inner.context = inner.context.replace(secret, REDACTED);
        }
        for param in inner.api.iter_mut().flat_map(|(_, params)| params) {
            if long {
                *param = param.replace(secret, REDACTED);
            } else if param == secret {
                REDACTED.clone_into(param);
            }
        }
        let cause = inner.source.as_ref().and_then(|cause| cause.downcast_ref::<Self>()).cloned();
        if let Some(cause) = cause {
            inner.source = Some(Arc::new(cause.redact(secret)));
        }
        Self(Arc::new(inner))
    }

    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The server's error code, if the server said no.
    #[must_use]
    pub fn code(&self) -> Option<&ErrorCode> {
        self.0.api.as_ref().map(|(code, _)| code)
    }

    /// The parameters of the server's error code. Do not rely on their number: it differs between
    /// servers and from the documentation.
    #[must_use]
    pub fn params(&self) -> &[String] {
        self.0.api.as_ref().map_or(&[], |(_, params)| params)
    }

    /// Whether the server said exactly this.
    #[must_use]
    pub fn has_code(&self, code: &ErrorCode) -> bool {
        self.code() == Some(code)
    }

    /// Whether the same call may succeed a little later: the server was busy or unreachable. Says
    /// nothing about whether repeating the call is safe.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            ErrorKind::Connect | ErrorKind::Timeout | ErrorKind::Transport => true,
            _ => self.code().is_some_and(|code| {
                matches!(
                    code.as_str(),
                    "TOO_MANY_PENDING_TASKS"
                        | "OTHER_OPERATION_IN_PROGRESS"
                        | "HOST_STILL_BOOTING"
                        | "HOST_HAS_NO_MANAGEMENT_IP"
                        | "CANNOT_CONTACT_HOST"
                        | "CANNOT_CONTACT_SERVER"
                        | "VDI_IN_USE"
                )
            }),
        }
    }

    /// Whether the object that the call named does not exist (any more).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code().is_some_and(|c| matches!(c.as_str(), "HANDLE_INVALID" | "UUID_INVALID"))
    }

    /// Whether the object named is in use by another operation: after an export a disk can stay
    /// so for some seconds. Try again with a pause.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.code().is_some_and(|c| {
            matches!(
                c.as_str(),
                "VDI_IN_USE" | "OTHER_OPERATION_IN_PROGRESS" | "DEVICE_ALREADY_ATTACHED"
            )
        })
    }

    /// Whether the session is not valid (any more).
    #[must_use]
    pub fn is_session_invalid(&self) -> bool {
        self.code().is_some_and(|c| c == "SESSION_INVALID")
    }
}

/// What stands in place of a secret.
const REDACTED: &str = "<redacted>";

/// Text of servers may hold line ends and terminal commands; a message is one line.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 600;
    let mut out = String::with_capacity(text.len().min(LONGEST));
    for c in text.trim().chars() {
        if out.len() >= LONGEST {
            drop_cut_word(&mut out);
            out.push('…');
            break;
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}

/// Drops the last word of a text that was cut: half a secret would not be found in it.
pub(crate) fn drop_cut_word(text: &mut String) {
    if let Some(at) = text.rfind(char::is_whitespace) {
        text.truncate(at);
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        f.write_str(&inner.context)?;
        let Some((code, params)) = &inner.api else { return Ok(()) };
        if !inner.context.is_empty() {
            f.write_str(": ")?;
        }
        let said = params.iter().filter(|p| !p.is_empty()).map(|p| one_line(p));
        let said = said.collect::<Vec<_>>().join(", ");
        if said.is_empty() {
            write!(f, "the server says {}", one_line(code.as_str()))
        } else {
            write!(f, "the server says {} ({})", one_line(code.as_str()), one_line(&said))
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("message", &self.to_string())
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: &str, params: &[&str]) -> Error {
        let params = params.iter().map(|p| (*p).to_owned()).collect();
        Error::api(ErrorCode::new(code), params)
    }

    #[test]
    fn a_message_is_one_line_whatever_the_server_says() {
        let e = api("SR_BACKEND_FAILURE_46", &["", "line\nline\x1b[31m"]).context("VDI.destroy");
        let text = e.to_string();
        assert!(!text.contains(['\n', '\x1b']), "{text:?}");
        assert!(
            text.starts_with("VDI.destroy: the server says SR_BACKEND_FAILURE_46 (line"),
            "{text}"
        );
        assert!(e.code().unwrap().is_sr_backend_failure());
        let long = Error::new(ErrorKind::Protocol, "x".repeat(100_000));
        assert!(long.to_string().len() < 1_000);
    }

    #[test]
    fn predicates_follow_the_code() {
        assert!(api("VDI_IN_USE", &["r", "export"]).is_in_use());
        assert!(api("HANDLE_INVALID", &["VDI", "r"]).is_not_found());
        assert!(api("SESSION_INVALID", &[]).is_session_invalid());
        assert!(!api("SR_FULL", &[]).is_retryable());
        assert!(Error::new(ErrorKind::Connect, "x").is_retryable());
        let wrong = api("SESSION_AUTHENTICATION_FAILED", &["root", "no"]);
        assert_eq!(wrong.kind(), ErrorKind::Authentication);
        assert!(wrong.has_code(&ErrorCode::SESSION_AUTHENTICATION_FAILED));
    }

    #[test]
    fn a_secret_is_taken_out_of_every_part() {
        let e = api("HANDLE_INVALID", &["session", "OpaqueRef:s3cret"])
            .context("at OpaqueRef:s3cret")
            .redact("OpaqueRef:s3cret");
        assert!(!format!("{e} {e:?} {:?}", e.params()).contains("s3cret"));
        let cause = Error::new(ErrorKind::Protocol, "a page says s3cret-session");
        let e = Error::new(ErrorKind::TaskFailed, "x").with_source(cause).redact("s3cret-session");
        assert!(!format!("{e:?}").contains("s3cret"), "{e:?}");
        // Where a text is cut, no part of it stays.
        for before in 560..600 {
            let words = format!("{} OpaqueRef:s3cret", "x".repeat(before));
            let e = Error::new(ErrorKind::Protocol, words).redact("OpaqueRef:s3cret");
            assert!(!e.to_string().contains("Opaque"), "{e}");
        }
        let e = api("X", &["p", "pool"]).context("a process").redact("p");
        assert_eq!(e.params(), [REDACTED, "pool"]);
        assert!(e.to_string().starts_with("a process"), "{e}");
    }
}
