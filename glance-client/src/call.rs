//! Requests as values.

use std::fmt;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::error::{Error, ErrorKind, Result, from_answer};
use crate::secret::Secret;

/// One API operation, with the way to read its answer: it can be built, looked at and tested without a
/// socket, and sent by [`ServiceClient::call`](crate::keystone::ServiceClient::call).
///
/// The path is relative to the service's endpoint. A value that cannot be sent (an empty id, a key that is no
/// header) is reported when the request is made, so that building a call never fails.
///
/// ```
/// use glance_client::image;
/// let call = image::get("9b4b0a5c-6d41-4f3b-9d6f-0b1e5a6a2c11");
/// assert_eq!(call.method(), "GET");
/// assert_eq!(call.path(), "images/9b4b0a5c-6d41-4f3b-9d6f-0b1e5a6a2c11");
/// let image = call
///     .parse(http::StatusCode::OK, &http::HeaderMap::new(), br#"{"id":"9b4b","status":"active"}"#)
///     .unwrap();
/// assert_eq!(image.status, glance_client::image::ImageStatus::Active);
/// ```
pub struct Call<T> {
    what: String,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    accepted: Option<StatusCode>,
    problem: Option<String>,
    secrets: Vec<Secret>,
    parse: fn(&Answer<'_>) -> Result<T>,
}

/// A server's answer with its whole (bounded) body.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer<'a> {
    /// What was asked, for error texts: `image 9b4b…: get`.
    pub what: &'a str,
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The body.
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// Reads the body as JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`] with the place where the body stops being what is expected; the body itself
    /// is not repeated.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(self.body).map_err(|error| {
            let place = format!("line {} column {}", error.line(), error.column());
            Error::protocol(format!(
                "{}: the answer is not the expected JSON ({place}); is the endpoint that of the right service?",
                self.what
            ))
            .with_answer(self.status, self.headers)
        })
    }
}

impl<T> Call<T> {
    /// A call named `what` (for errors, such as `image 12: get`), its method, its path relative to the
    /// endpoint (already percent-encoded, see [`segment`]) and the reader of a successful answer.
    pub fn new(
        what: impl Into<String>,
        method: Method,
        path: impl Into<String>,
        parse: fn(&Answer<'_>) -> Result<T>,
    ) -> Self {
        let mut headers = HeaderMap::new();
        // Plain text is what Glance's errors are readable in.
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, text/plain;q=0.8, */*;q=0.1"),
        );
        Self {
            what: what.into(),
            method,
            path: path.into(),
            headers,
            body: Bytes::new(),
            accepted: None,
            problem: None,
            secrets: Vec::new(),
            parse,
        }
    }

    /// Adds a header; a name or value that HTTP forbids is reported when the call is sent.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(value)) => {
                self.headers.insert(name, value);
            }
            _ => self.problem = Some(format!("{name:?} with its value is not a valid HTTP header")),
        }
        self
    }

    /// Sends `body` as JSON.
    #[must_use]
    pub fn with_json(self, body: &impl Serialize) -> Self {
        self.with_json_as("application/json", body)
    }

    /// Sends `body` as JSON under another content type.
    #[must_use]
    pub fn with_json_as(mut self, content_type: &'static str, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(json) => self.body = Bytes::from(json),
            Err(error) => {
                self.problem = Some(format!("the body cannot be written as JSON: {error}"))
            }
        }
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self
    }

    /// Takes one more status than 2xx as an answer to parse (discovery answers 300).
    #[must_use]
    pub fn with_accepted(mut self, status: StatusCode) -> Self {
        self.accepted = Some(status);
        self
    }

    /// Makes the call fail with [`ErrorKind::Invalid`] instead of being sent.
    #[must_use]
    pub fn with_problem(mut self, problem: impl Into<String>) -> Self {
        self.problem = Some(problem.into());
        self
    }

    /// Names a secret that is in the body, one at a time, so that a server which repeats it in an error does not make it
    /// known.
    #[must_use]
    pub fn with_secret(mut self, secret: Secret) -> Self {
        self.secrets.push(secret);
        self
    }

    /// What errors call this operation.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The HTTP method.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path and query, relative to the service's endpoint.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The headers, without authentication.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The whole URL below `base`, with or without a slash at its end.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the call holds a value that cannot be sent.
    pub fn url(&self, base: &Url) -> Result<Url> {
        if let Some(problem) = &self.problem {
            return Err(Error::new(ErrorKind::Invalid, format!("{}: {problem}", self.what)));
        }
        let text = if self.path.is_empty() {
            base.as_str().to_owned()
        } else {
            format!("{}/{}", base.as_str().trim_end_matches('/'), self.path)
        };
        Url::parse(&text).map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                format!("{}: {:?} is not a path: {error}", self.what, self.path),
            )
        })
    }

    /// Reads an answer: the value, or the error that the status and the body tell.
    ///
    /// # Errors
    /// The error of the status if it is not 2xx (nor [accepted](Self::with_accepted)), else what the reader says.
    pub fn parse(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<T> {
        if !status.is_success() && self.accepted != Some(status) {
            let error = from_answer(&self.what, status, headers, body);
            return Err(self.secrets.iter().fold(error, Error::without));
        }
        (self.parse)(&Answer { what: &self.what, status, headers, body })
    }
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("what", &self.what)
            .field("method", &self.method)
            .field("path", &self.path)
            .field("body_len", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// What may stand unescaped in a path segment or a query value: RFC 3986's unreserved characters.
const STRICT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'!')
    .add(b'"')
    .add(b'#')
    .add(b'$')
    .add(b'%')
    .add(b'&')
    .add(b'\'')
    .add(b'(')
    .add(b')')
    .add(b'*')
    .add(b'+')
    .add(b',')
    .add(b'/')
    .add(b':')
    .add(b';')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'@')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Encodes one path segment. `None` for the texts that would name another resource: the empty one, `.` and `..`.
#[must_use]
pub fn segment(text: &str) -> Option<String> {
    match text {
        "" | "." | ".." => None,
        text => Some(encode(text)),
    }
}

/// Encodes a query name or value.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, STRICT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &Answer<'_>) -> Result<()> {
        Ok(())
    }

    #[test]
    fn urls_join_below_any_form_of_base() {
        let call = Call::new("x", Method::GET, "images/1?limit=2", nothing);
        for (base, url) in [
            ("http://h:9292/v2", "http://h:9292/v2/images/1?limit=2"),
            ("http://h:9292/v2/", "http://h:9292/v2/images/1?limit=2"),
            ("https://h/image/v2", "https://h/image/v2/images/1?limit=2"),
        ] {
            assert_eq!(call.url(&Url::parse(base).unwrap()).unwrap().as_str(), url);
        }
    }

    #[test]
    fn what_cannot_be_sent_is_told_when_sending() {
        let base = Url::parse("http://h").unwrap();
        let call = Call::new("image: get", Method::GET, "images", nothing).with_header("x", "a\nb");
        let error = call.url(&base).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().starts_with("image: get: "), "{error}");
        assert_eq!(segment(".."), None);
        assert_eq!(segment("../x?y").unwrap(), "..%2Fx%3Fy");
        assert_eq!(segment("ä ~").unwrap(), "%C3%A4%20~");
    }

    #[test]
    fn bad_json_is_told_without_the_body() {
        let call = Call::new("token", Method::GET, "", |answer| answer.json::<Vec<u8>>());
        let error =
            call.parse(StatusCode::OK, &HeaderMap::new(), br#"{"secret":"abc"}"#).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(!format!("{error:?}").contains("abc"));
    }
}
