//! The crate's one error.

use std::error::Error as StdError;
use std::fmt;
use std::time::{Duration, SystemTime};

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use zeroize::Zeroizing;

use crate::keystone::http_date;
use crate::secret::Secret;

/// Stands where a text was cut.
const CUT: char = '…';

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whatever went wrong: a [kind](ErrorKind) to act on, one line of text, and where a server answered
/// its HTTP status and request id.
///
/// `Display` is one line that names the object, what happened and what to do. The cause, where
/// there is one, is behind [`source`](StdError::source). No error holds a password or a token.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    text: String,
    status: Option<StatusCode>,
    request_id: Option<String>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What a caller can decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration is incomplete, contradictory or unreadable. Nothing was sent.
    Config,
    /// The credentials were refused, or the token is no longer valid and cannot be renewed.
    Unauthorized,
    /// The credentials are fine, the permission is missing (403).
    Forbidden,
    /// The object does not exist, or is not visible to this project (404, 410).
    NotFound,
    /// The object exists already or is in another state (409).
    Conflict,
    /// The image is larger than the server's cap or than what is left of the quota (413). With a
    /// [`Retry-After`](Error::retry_after) it is worth another try then.
    TooLarge,
    /// The content does not fit the declared disk and container format (415, or found before sending).
    UnsupportedFormat,
    /// The server understood and refused the request (other 4xx), or a value cannot be sent at all.
    Invalid,
    /// The server failed or is overloaded, or a proxy before it lost its patience (408, 429, 5xx). Worth another try later.
    Server,
    /// The connection could not be made or broke. Worth another try.
    Transport,
    /// TLS cannot be agreed on; most often the server's certificate is not trusted.
    Tls,
    /// The answer is not what the protocol says.
    Protocol,
    /// The catalogue has no endpoint, or several, for the query; or one to which the token must not go.
    Catalog,
    /// The data that the caller's body produced failed, or had another length than declared.
    Source,
    /// Size or digest of the stored image differ from what was sent.
    Mismatch,
    /// The image ended in a state from which it does not become active.
    Failed,
    /// The time limit of the caller has passed.
    Timeout,
    /// The caller's cancel flag was set.
    Cancelled,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            text: one_line(&text.into(), usize::MAX),
            status: None,
            request_id: None,
            retry_after: None,
            source: None,
        }))
    }

    pub(crate) fn config(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, text)
    }

    pub(crate) fn protocol(text: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, text)
    }

    pub(crate) fn with_source(
        mut self,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn with_answer(mut self, status: StatusCode, headers: &HeaderMap) -> Self {
        self.0.status = Some(status);
        self.0.request_id = request_id(headers);
        self.0.retry_after = retry_after(headers);
        self
    }

    /// The same for another caller, without the cause.
    pub(crate) fn again(&self) -> Self {
        Self(Box::new(Inner {
            kind: self.0.kind,
            text: self.0.text.clone(),
            status: self.0.status,
            request_id: self.0.request_id.clone(),
            retry_after: self.0.retry_after,
            source: None,
        }))
    }

    /// Removes a secret that a server has put into its error text; also the start of one at which the text was cut.
    pub(crate) fn without(self, secret: &Secret) -> Self {
        let exact = secret.expose();
        // As it looks in a text of one line, and in JSON.
        let folded = Zeroizing::new(one_line(exact, usize::MAX));
        let escaped = Zeroizing::new(serde_json::Value::from(exact).to_string());
        let escaped = escaped.trim_matches('"');
        [exact, &folded, escaped].into_iter().fold(self, Self::without_text)
    }

    fn without_text(mut self, secret: &str) -> Self {
        const TELLING: usize = 4;
        if secret.is_empty() {
            return self;
        }
        if self.0.text.contains(secret) {
            self.0.text = self.0.text.replace(secret, "[redacted]");
        }
        if let Some(cut) = self.0.text.find(CUT) {
            let kept = &self.0.text[..cut];
            let ends = secret.char_indices().map(|(at, _)| at).filter(|at| *at >= TELLING);
            if let Some(len) = ends.rev().find(|end| kept.ends_with(&secret[..*end])) {
                self.0.text.replace_range(cut - len..cut, "[redacted]");
            }
        }
        self
    }

    pub(crate) fn with_hint(mut self, hint: &str) -> Self {
        self.0.text = format!("{}; {hint}", self.0.text.trim_end_matches('.'));
        self
    }

    /// Puts what was being done in front.
    pub(crate) fn during(mut self, what: &str) -> Self {
        self.0.text = format!("{what}: {}", self.0.text);
        self
    }

    /// An error for a transport of the caller's own: the connection could not be made or broke.
    pub fn transport(
        text: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::new(ErrorKind::Transport, text).with_source(source)
    }

    /// What to decide on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The HTTP status, where a server answered.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.0.status
    }

    /// The server's request id (`x-openstack-request-id`), by which its operators find their log lines.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// How long the server, or a proxy before it, asks to wait before another try (`Retry-After`).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// How long to wait if one's own pause would be `own`: what the server asks for, if that is more and no more than a
    /// minute.
    pub(crate) fn pause(&self, own: Duration) -> Duration {
        const LONGEST: Duration = Duration::from_secs(60);
        own.max(self.retry_after().unwrap_or_default().min(LONGEST))
    }

    /// Whether the object does not exist (for this project).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    /// Whether the object exists already or is in another state.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.kind() == ErrorKind::Conflict
    }

    /// Whether the same call may well succeed a little later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            ErrorKind::Server | ErrorKind::Transport | ErrorKind::Timeout => true,
            // Some limit the rate of requests so.
            ErrorKind::TooLarge => self.retry_after().is_some(),
            _ => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)?;
        if let Some(id) = &self.0.request_id {
            write!(f, " (request {id})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("text", &self.0.text)
            .field("status", &self.0.status)
            .field("request_id", &self.0.request_id)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// The kind that a status means, whatever service sent it.
pub(crate) fn kind_of(status: StatusCode) -> ErrorKind {
    match status.as_u16() {
        401 => ErrorKind::Unauthorized,
        403 => ErrorKind::Forbidden,
        404 | 410 => ErrorKind::NotFound,
        409 => ErrorKind::Conflict,
        413 => ErrorKind::TooLarge,
        415 => ErrorKind::UnsupportedFormat,
        408 | 429 | 500.. => ErrorKind::Server,
        400..=499 => ErrorKind::Invalid,
        _ => ErrorKind::Protocol,
    }
}

/// The error for an answer that is not the expected one.
pub(crate) fn from_answer(
    what: &str,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Error {
    let text = error_text(body);
    let said = match text.as_str() {
        "" => String::new(),
        text => format!(": {text}"),
    };
    let name = status.canonical_reason().unwrap_or("no standard name");
    Error::new(
        kind_of(status),
        format!("{what}: the server answered {} {name}{said}", status.as_u16()),
    )
    .with_answer(status, headers)
}

pub(crate) fn request_id(headers: &HeaderMap) -> Option<String> {
    let value =
        headers.get("x-openstack-request-id").or_else(|| headers.get("x-compute-request-id"))?;
    Some(one_line(value.to_str().ok()?, 80))
}

/// The pause that an answer asks for: in seconds, or as a time, which is compared with the server's own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let wanted = text(RETRY_AFTER)?.trim();
    if let Ok(seconds) = wanted.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = text(DATE).and_then(http_date).unwrap_or_else(SystemTime::now);
    Some(http_date(wanted)?.duration_since(now).unwrap_or_default())
}

/// The readable part of an error body: Keystone's JSON, a fault of the other services, Glance's HTML, or
/// plain text. One line, bounded, free of control characters.
pub(crate) fn error_text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text)
        && let Some(message) = message_in(&value)
    {
        return one_line(&without_breaks(message), 400);
    }
    if text.trim_start().starts_with('<') {
        return one_line(&strip_tags(&text), 400);
    }
    one_line(&without_breaks(&text), 400)
}

/// Glance puts line breaks of HTML into its plain and JSON texts too.
fn without_breaks(text: &str) -> String {
    text.replace("<br />", " ").replace("<br>", " ")
}

fn message_in(value: &serde_json::Value) -> Option<&str> {
    let object = value.as_object()?;
    if let Some(message) = object.get("message").and_then(|m| m.as_str()) {
        return Some(message);
    }
    object.values().find_map(|inner| inner.as_object()?.get("message")?.as_str())
}

fn strip_tags(html: &str) -> String {
    let mut out = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        out.push_str(&rest[..start]);
        out.push(' ');
        let tag = &rest[start..];
        // The text of these is not meant to be read; the title repeats the heading.
        let hidden = ["<head", "<style", "<script", "<title"]
            .into_iter()
            .find(|name| tag.get(..name.len()).is_some_and(|t| t.eq_ignore_ascii_case(name)));
        let end = match hidden {
            Some(name) => {
                let close = format!("</{}", &name[1..]);
                tag.to_ascii_lowercase().find(&close).unwrap_or(0)
            }
            None => 0,
        };
        match tag[end..].find('>') {
            Some(close) => rest = &tag[end + close + 1..],
            None => return out,
        }
    }
    out.push_str(rest);
    for (entity, text) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&#x27;", "'"),
        ("&nbsp;", " "),
        ("&amp;", "&"),
    ] {
        out = out.replace(entity, text);
    }
    out
}

/// Folds white space and control characters and cuts at `limit` characters.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let clean = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty());
    let mut out = String::new();
    let mut used = 0usize;
    for word in clean {
        if used > 0 {
            out.push(' ');
            used += 1;
        }
        for c in word.chars() {
            if used >= limit {
                out.push(CUT);
                return out;
            }
            out.push(c);
            used += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_every_body_shape() {
        assert_eq!(
            error_text(br#"{"error":{"code":401,"title":"Unauthorized","message":"The request you have made requires authentication."}}"#),
            "The request you have made requires authentication."
        );
        assert_eq!(error_text(br#"{"badRequest": {"message": "no", "code": 400}}"#), "no");
        assert_eq!(
            error_text(b"<html>\n <head>\n  <title>409 Conflict</title>\n </head>\n <body>\n  <h1>409 Conflict</h1>\n  It &quot;is&quot; &lt;queued&gt;<br /><br />\n\n\n </body>\n</html>"),
            "409 Conflict It \"is\" <queued>"
        );
        assert_eq!(
            error_text(b"413 Request\r\nEntity\x1b[31m Too Large\n"),
            "413 Request Entity [31m Too Large"
        );
        assert_eq!(
            error_text(br#"{"message": "taken!<br /><br />\n\n\n", "code": "409 Conflict"}"#),
            "taken!"
        );
        assert_eq!(error_text(b""), "");
        assert_eq!(error_text(b"<unclosed"), "");
        assert_eq!(error_text(b"<title"), "");
        assert_eq!(error_text("<é<p>x".as_bytes()), "x");
        assert_eq!(error_text(b"[1,2]"), "[1,2]");
        assert_eq!(error_text(&[b'x'; 5000]).chars().count(), 401);
    }

    #[test]
    fn the_server_can_ask_for_a_pause() {
        let error = |status, after: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("date", "Wed, 02 Jan 2030 03:04:05 GMT".parse().unwrap());
            headers.insert("retry-after", after.parse().unwrap());
            from_answer("x", status, &headers, b"")
        };
        let asked = |after| error(StatusCode::SERVICE_UNAVAILABLE, after).retry_after();
        assert_eq!(asked(" 7"), Some(Duration::from_secs(7)));
        assert_eq!(asked("Wed, 02 Jan 2030 03:05:06 GMT"), Some(Duration::from_secs(61)));
        assert_eq!(asked("Wed, 02 Jan 2030 03:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!((asked("soon"), asked("-1"), asked("1.5")), (None, None, None));

        let (short, own) = (Duration::from_millis(10), Duration::from_secs(9));
        let busy = error(StatusCode::TOO_MANY_REQUESTS, "7").again();
        assert_eq!((busy.pause(short), busy.pause(own)), (Duration::from_secs(7), own));
        let ages = error(StatusCode::TOO_MANY_REQUESTS, "99999999");
        assert_eq!(ages.pause(own), Duration::from_secs(60), "nobody is kept for a year");
        // A limit of requests, a limit of bytes, and a proxy that did not get its bytes in time.
        let headers = HeaderMap::new();
        let plain = |status| from_answer("x", status, &headers, b"").is_retryable();
        assert!(error(StatusCode::PAYLOAD_TOO_LARGE, "7").is_retryable());
        assert!(!plain(StatusCode::PAYLOAD_TOO_LARGE) && plain(StatusCode::REQUEST_TIMEOUT));
    }

    #[test]
    fn an_error_names_status_and_request_and_hides_what_it_must() {
        let mut headers = HeaderMap::new();
        headers.insert("x-openstack-request-id", "req-1".parse().unwrap());
        let error =
            from_answer("image 1: upload", StatusCode::CONFLICT, &headers, b"token abc is bad")
                .without(&Secret::new("abc"));
        assert_eq!(
            error.to_string(),
            "image 1: upload: the server answered 409 Conflict: token [redacted] is bad (request req-1)"
        );
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(error.status(), Some(StatusCode::CONFLICT));
        assert!(!format!("{error:?}").contains("abc"));
    }

    #[test]
    fn a_secret_is_hidden_however_it_is_repeated() {
        for (secret, body) in [
            ("two  spaces\tand tab", "bad: two  spaces\tand tab!"),
            ("quo\"te\\back", r#"no: {"password": "quo\"te\\back"}"#),
            ("quo\"te\\back", r#"{"error": {"message": "no: quo\"te\\back"}}"#),
            ("\"quoted\"", "no: \"quoted\""),
        ] {
            let error = from_answer("x", StatusCode::OK, &HeaderMap::new(), body.as_bytes());
            let text = error.without(&Secret::new(secret)).to_string();
            assert!(text.contains("[redacted]"), "{text}");
            for part in ["spaces", "back", "quoted"] {
                assert!(!text.contains(part), "{text}");
            }
        }
    }
}
