//! The crate's one error.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::codes::CsErrorCode;

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whatever went wrong: a [kind](ErrorKind) to act on, one line of text, and where a server answered its codes.
///
/// `Display` is one line that names the object, what happened and what to do. The cause, where there is one, is
/// behind [`source`](StdError::source). No error holds a key's secret, a signature or the address of a
/// [served](crate::serve) file, even if the server sends them back.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    text: String,
    status: Option<StatusCode>,
    code: Option<u16>,
    cs_code: Option<u32>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What a caller can decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A parameter's name cannot be signed without doubt, is set by the signer, or is there twice.
    Name,
    /// A parameter's value holds control characters, which every server refuses.
    Value,
    /// The time of expiry cannot be written.
    Expires,
    /// The client's settings are incomplete or unusable. Nothing was sent.
    Config,
    /// Key, secret, signature or time were refused (401, or 511: a second factor is wanted).
    Unauthorized,
    /// The account may not do this (531), or something before the server refuses it (403).
    Forbidden,
    /// The object does not exist, or is not visible to this account, in CloudStack's own words.
    NotFound,
    /// A parameter is missing or wrong (400, 430, 431), or a value cannot be sent at all.
    Invalid,
    /// The server does not have this command, or not for this caller (432).
    Unsupported,
    /// The account's limit is reached: number of templates, secondary storage (532, 535).
    Quota,
    /// The cloud has no room or resource for it at the moment (533, 534). Maybe later.
    Capacity,
    /// The object is in use, something else is being done with it, or a rule stands in the way (536, 537). After a change
    /// of that, or in the first two cases maybe simply later.
    Conflict,
    /// The server takes no calls at the moment (408, 429, 503). Worth another try a little later.
    Busy,
    /// The server failed inside (530, other 5xx).
    Server,
    /// The connection could not be made or broke. Worth another try.
    Transport,
    /// The answer is not what the protocol says.
    Protocol,
    /// The data that the caller's body produced failed, or had another length than declared.
    Source,
    /// The content is not of the declared format, or not of the sort that CloudStack stores correctly.
    UnsupportedFormat,
    /// A job or a template ended in failure.
    Failed,
    /// The server does not know a job (any more): it forgets them after a day. Whether it ended well is to be seen at its
    /// object.
    JobUnknown,
    /// The time limit of the caller has passed.
    Timeout,
    /// The caller's cancel flag was set.
    Cancelled,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            text: masked(&one_line(&text.into(), usize::MAX)),
            status: None,
            code: None,
            cs_code: None,
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

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = Some(status);
        self
    }

    pub(crate) fn with_codes(mut self, code: Option<u16>, cs_code: Option<u32>) -> Self {
        (self.0.code, self.0.cs_code) = (code, cs_code);
        self
    }

    pub(crate) fn with_retry_after(mut self, pause: Option<Duration>) -> Self {
        self.0.retry_after = pause;
        self
    }

    pub(crate) fn with_hint(mut self, hint: &str) -> Self {
        self.0.text = format!("{}; {hint}", self.0.text);
        self
    }

    /// Removes a secret that a server has put into its error text, as it is or as it stands in a URL.
    pub(crate) fn without(mut self, secret: &str) -> Self {
        let escaped =
            percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC);
        for form in [secret, &escaped.to_string()] {
            // Something this short is no secret, and would only tear words apart.
            if form.len() >= 6 {
                if self.0.text.contains(form) {
                    self.0.text = self.0.text.replace(form, "[redacted]");
                }
                hide_cut(&mut self.0.text, form);
            }
        }
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

    /// CloudStack's own error code, which mostly equals the status; a failed job has it without one.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        self.0.code
    }

    /// CloudStack's `cserrorcode`, which tells the kind of exception behind the error (4350: a wrong value of a parameter).
    #[must_use]
    pub fn cs_code(&self) -> Option<u32> {
        self.0.cs_code
    }

    /// The exception behind the error, where the server numbers it.
    #[must_use]
    pub fn exception(&self) -> Option<CsErrorCode> {
        self.0.cs_code.map(CsErrorCode::from_number)
    }

    /// How long the server (or a proxy before it) asked to wait before another try.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the object does not exist (for this account).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }

    /// Whether the same call may well succeed a little later. After a call that changes something, look first
    /// whether it took effect.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Busy | ErrorKind::Server | ErrorKind::Transport | ErrorKind::Timeout
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("text", &self.0.text)
            .field("status", &self.0.status)
            .field("code", &self.0.code)
            .field("cs_code", &self.0.cs_code)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

/// The kind and the remedy that one of CloudStack's codes means, with what the server said. The number of the exception
/// is finer than the status, which several share.
pub(crate) fn classify(
    code: u16,
    cs_code: Option<u32>,
    said: &str,
) -> (ErrorKind, Option<&'static str>) {
    let said = said.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if code >= 400 && is_quota(&said) {
        // Tickets for uploads are refused with 530 and these words.
        return (ErrorKind::Quota, Some(QUOTA));
    }
    // Of what is wrong with a parameter the words tell more than the number.
    let exception =
        cs_code.map(CsErrorCode::from_number).filter(|_| ![400, 430, 431].contains(&code));
    match exception {
        Some(CsErrorCode::AccountLimit | CsErrorCode::ResourceAllocation) => {
            return (ErrorKind::Quota, Some(QUOTA));
        }
        Some(CsErrorCode::Authentication) => return (ErrorKind::Unauthorized, None),
        Some(CsErrorCode::TwoFactorAuthentication) => {
            return (ErrorKind::Unauthorized, Some(FACTOR));
        }
        Some(CsErrorCode::PermissionDenied) => return (ErrorKind::Forbidden, Some(PERMISSION)),
        Some(CsErrorCode::ConcurrentOperation | CsErrorCode::AsyncCommandQueued) => {
            return (ErrorKind::Conflict, Some("something else is being done with it: try later"));
        }
        Some(CsErrorCode::ResourceInUse) => return (ErrorKind::Conflict, Some(IN_USE)),
        Some(CsErrorCode::NetworkRuleConflict) => return (ErrorKind::Conflict, Some(RULES)),
        Some(
            CsErrorCode::InsufficientCapacity
            | CsErrorCode::InsufficientServerCapacity
            | CsErrorCode::InsufficientStorageCapacity
            | CsErrorCode::AgentUnavailable
            | CsErrorCode::ResourceUnavailable
            | CsErrorCode::StorageUnavailable,
        ) => return (ErrorKind::Capacity, Some(ROOM)),
        Some(CsErrorCode::RequestLimit) => return (ErrorKind::Busy, Some(RATE)),
        Some(CsErrorCode::InvalidParameterValue) if code == 530 => {
            return (ErrorKind::Invalid, None);
        }
        _ => {}
    }
    match code {
        // What is wrong with the signature is told better where the clock is known.
        401 => (ErrorKind::Unauthorized, None),
        // 411 before 4.19.
        411 | 511 => (ErrorKind::Unauthorized, Some(FACTOR)),
        531 => (ErrorKind::Forbidden, Some(PERMISSION)),
        400 | 430 | 431
            if says(&["unable to find", "not exist", "cannot find", "could not find"]) =>
        {
            (ErrorKind::NotFound, None)
        }
        400 | 430 | 431 => (ErrorKind::Invalid, None),
        405 => (ErrorKind::Invalid, Some("the endpoint takes no POST: is it a CloudStack API?")),
        432 => {
            (ErrorKind::Unsupported, Some("this CloudStack or this role does not have the command"))
        }
        532 | 535 => (ErrorKind::Quota, Some(QUOTA)),
        533 | 534 => (ErrorKind::Capacity, Some(ROOM)),
        536 => (ErrorKind::Conflict, Some(IN_USE)),
        537 => (ErrorKind::Conflict, Some(RULES)),
        429 => (ErrorKind::Busy, Some(RATE)),
        // Of what stands before the server, which may have passed the call on.
        403 => (ErrorKind::Forbidden, Some("something before the server refuses the call")),
        408 => (ErrorKind::Busy, Some("something before the server did not wait any longer")),
        503 => (
            ErrorKind::Busy,
            Some("the management server is starting, stopping or in maintenance: try later"),
        ),
        404 | 410 => (
            ErrorKind::NotFound,
            Some("is the endpoint that of a CloudStack API (it mostly ends in /client/api)?"),
        ),
        300..=399 => (
            ErrorKind::Protocol,
            Some("redirects are not followed with a signed call: correct the endpoint"),
        ),
        500.. => (ErrorKind::Server, Some("the management server's log tells more")),
        402..=499 => (ErrorKind::Invalid, None),
        _ => (ErrorKind::Protocol, None),
    }
}

const FACTOR: &str = "the account wants a second factor: use the API key of an account without one";
const PERMISSION: &str =
    "the role of this API key's account lacks the permission, or the object is another account's";
const ROOM: &str = "ask the operator for room, or try later";
const IN_USE: &str = "wait until nothing uses it";
const RULES: &str = "another rule stands in the way: look at the rules of this address and network";
const RATE: &str = "the account's rate of calls is limited: try later";
const QUOTA: &str =
    "delete templates that are no longer needed, or have an operator raise the account's limit";

/// The words that CloudStack always has for a limit, whatever the code is.
pub(crate) fn is_quota(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    said.contains("maximum number of resources") || said.contains("maximum amount of resources")
}

/// Hides the beginning of a secret before a place where the text was cut.
fn hide_cut(text: &mut String, secret: &str) {
    let cuts: Vec<_> = text.match_indices('…').map(|(at, _)| at).collect();
    // From the end, so that the places before stay where they are.
    for at in cuts.into_iter().rev() {
        let ends = |n: &usize| secret.get(..*n).is_some_and(|part| text[..at].ends_with(part));
        if let Some(n) = (3..secret.len()).rev().find(ends) {
            text.replace_range(at - n..at, "[redacted]");
        }
    }
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
                out.push('…');
                return out;
            }
            out.push(c);
            used += 1;
        }
    }
    out
}

/// Hides what in addresses opens a door: path segments of 32 hex digits or more (who knows that of a
/// [served](crate::serve) file can fetch it), names and passwords before a host, and whatever stands after `?`.
pub(crate) fn masked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + 3);
        out.push_str(before);
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>');
        let (url, after) = url.split_at(url.find(ends).unwrap_or(url.len()));
        let (place, query) = url.split_once('?').map_or((url, false), |(place, _)| (place, true));
        let host = place.find('/').unwrap_or(place.len());
        match place[..host].rfind('@') {
            Some(at) => {
                out.push('…');
                out.push_str(&place[at..]);
            }
            None => out.push_str(place),
        }
        out.push_str(if query { "?…" } else { "" });
        rest = after;
    }
    out.push_str(rest);
    without_keys(&out)
}

fn without_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, segment) in text.split('/').enumerate() {
        if index > 0 {
            out.push('/');
        }
        let hex = segment.bytes().take_while(u8::is_ascii_hexdigit).count();
        if index > 0 && hex >= 32 {
            out.push('…');
            out.push_str(&segment[hex..]);
        } else {
            out.push_str(segment);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_kind() {
        for (code, said, kind) in [
            (401, "unable to verify user credentials", ErrorKind::Unauthorized),
            (511, "", ErrorKind::Unauthorized),
            (411, "", ErrorKind::Unauthorized),
            (400, "listZones command must be made using POST request", ErrorKind::Invalid),
            (405, "", ErrorKind::Invalid),
            (430, "", ErrorKind::Invalid),
            (431, "Invalid value for name", ErrorKind::Invalid),
            (431, "Unable to find template 12", ErrorKind::NotFound),
            (431, "entity does not exist or due to", ErrorKind::NotFound),
            (432, "unknown command", ErrorKind::Unsupported),
            (429, "", ErrorKind::Busy),
            (503, "", ErrorKind::Busy),
            (530, "", ErrorKind::Server),
            (530, "Maximum amount of resources of Type = 'template'", ErrorKind::Quota),
            (531, "", ErrorKind::Forbidden),
            (532, "", ErrorKind::Quota),
            (533, "", ErrorKind::Capacity),
            (534, "", ErrorKind::Capacity),
            (535, "", ErrorKind::Quota),
            (536, "", ErrorKind::Conflict),
            (537, "", ErrorKind::Conflict),
            (302, "", ErrorKind::Protocol),
            (404, "", ErrorKind::NotFound),
            (403, "", ErrorKind::Forbidden),
            (408, "", ErrorKind::Busy),
            (418, "", ErrorKind::Invalid),
            (200, "", ErrorKind::Protocol),
        ] {
            assert_eq!(classify(code, None, said).0, kind, "{code} {said}");
            // The number that says nothing changes nothing.
            assert_eq!(classify(code, Some(9999), said).0, kind, "{code} {said}");
        }
    }

    #[test]
    fn every_exception_has_its_kind() {
        for (cs_code, kind) in [
            (4250, ErrorKind::Server),
            (4280, ErrorKind::Quota),
            (4285, ErrorKind::Capacity),
            (4290, ErrorKind::Unauthorized),
            (4295, ErrorKind::Unauthorized),
            (4300, ErrorKind::Conflict),
            (4325, ErrorKind::Capacity),
            (4335, ErrorKind::Capacity),
            (4340, ErrorKind::Capacity),
            (4350, ErrorKind::Invalid),
            (4360, ErrorKind::Conflict),
            (4365, ErrorKind::Forbidden),
            (4370, ErrorKind::Quota),
            (4375, ErrorKind::Conflict),
            (4380, ErrorKind::Capacity),
            (4385, ErrorKind::Capacity),
            (4540, ErrorKind::Conflict),
            (4545, ErrorKind::Busy),
            (4560, ErrorKind::Server),
            (9999, ErrorKind::Server),
            (1, ErrorKind::Server),
        ] {
            assert_eq!(classify(530, Some(cs_code), "").0, kind, "{cs_code}");
        }
        // What is missing is told by words only.
        assert_eq!(classify(431, Some(4350), "Unable to find it").0, ErrorKind::NotFound);
        assert_eq!(classify(401, Some(4290), "").0, ErrorKind::Unauthorized);
    }

    #[test]
    fn addresses_show_only_where_they_lead() {
        for (text, shown) in [
            ("http://h/a.vhd?k=v: 403", "http://h/a.vhd?… 403"),
            ("\"https://u:p@h:8/a\" and ftp://x@y no", "\"https://…@h:8/a\" and ftp://…@y no"),
            ("http://u:p@w@[::1]/@a?b?c", "http://…@[::1]/@a?…"),
            ("is it there? a@b.c", "is it there? a@b.c"),
            ("://", "://"),
            ("x://?", "x://?…"),
            ("a://é@ü?ö", "a://…@ü?…"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    #[test]
    fn texts_are_one_line_and_hide_what_opens_a_door() {
        let secret = "abc/def+secret==";
        let key = "0123456789abcdef0123456789ABCDEF";
        let error = Error::new(
            ErrorKind::Failed,
            format!("template 1:\n http://10.0.0.1:80/{key}/web01.vhd timed\tout {secret} abc%2Fdef%2Bsecret%3D%3D"),
        )
        .without(secret);
        assert_eq!(
            error.to_string(),
            "template 1: http://10.0.0.1:80/…/web01.vhd timed out [redacted] [redacted]"
        );
        assert!(!format!("{error:?}").contains(key));
        assert_eq!(one_line(&"x".repeat(500), 400).chars().count(), 401);
    }
}
