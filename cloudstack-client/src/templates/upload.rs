//! Sending a template's data, once.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use url::Url;
use zeroize::Zeroizing;

use super::format::Format;
use super::preflight::{HEAD_LEN, preflight};
use crate::call::{Answer, plain};
use crate::client::{Client, place};
use crate::error::{Error, ErrorKind, Result, is_quota};
use crate::meter::{Meter, Producer, Progress};
use crate::random::random_hex;
use crate::transport::{Body, BodyStream, read_some};
use crate::value::Fields;

/// The right to send the data of a template, a volume or an ISO once, given by
/// [`templates::upload_params`](super::upload_params), [`volumes::upload_params`](crate::volumes::upload_params) or
/// [`isos::upload_params`](crate::isos::upload_params). Who has it can use it, so it has no telling `Debug`.
///
/// It is used up by the attempt, whatever its end: a storage VM refuses a second one. After a failure delete
/// [what was made](Self::id) and ask for a new ticket.
pub struct UploadTicket {
    kind: &'static str,
    id: String,
    name: String,
    format: Format,
    url: Url,
    metadata: Zeroizing<String>,
    signature: Zeroizing<String>,
    expires: String,
}

impl UploadTicket {
    pub(crate) fn read(
        answer: &Answer<'_>,
        kind: &'static str,
        name: &str,
        format: &Format,
    ) -> Result<Self> {
        let outer = answer.fields()?;
        let fields = outer.raw("getuploadparams").and_then(Fields::of).unwrap_or(outer);
        let text = |field: &str| {
            fields
                .text(field)
                .filter(|text| !text.is_empty())
                .ok_or_else(|| answer.wrong(&format!("the answer has no {field}")))
        };
        let url = text("postURL").or_else(|_| text("posturl"))?;
        let url = Url::parse(&url).ok().filter(|url| {
            ["http", "https"].contains(&url.scheme()) && url.has_host() && url.username().is_empty()
        });
        Ok(Self {
            kind,
            id: text("id")?,
            name: name.to_owned(),
            format: format.clone(),
            url: url.ok_or_else(|| answer.wrong("its postURL is no URL to send data to"))?,
            metadata: Zeroizing::new(text("metadata")?),
            signature: Zeroizing::new(text("signature")?),
            expires: text("expires")?,
        })
    }

    /// The id of the template, volume or ISO that was made for the data.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The template that was made for the data; the same as [`id`](Self::id).
    #[must_use]
    pub fn template_id(&self) -> &str {
        &self.id
    }

    /// Where the data will be sent: scheme, host and port.
    #[must_use]
    pub fn place(&self) -> String {
        place(&self.url)
    }

    /// Until when it can be used, in the server's words.
    #[must_use]
    pub fn expires(&self) -> &str {
        &self.expires
    }

    /// The three headers that the storage VM verifies, exactly as they were given.
    fn headers(&self, boundary: &str) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-signature", self.signature.as_str()),
            ("x-metadata", self.metadata.as_str()),
            ("x-expires", self.expires.as_str()),
        ] {
            let mut value = HeaderValue::try_from(value).map_err(|_| {
                Error::protocol(format!(
                    "{} {}: upload: what the server gave as {name} is no header",
                    self.kind, self.id
                ))
            })?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let form = format!("multipart/form-data; boundary={boundary}");
        let form = HeaderValue::try_from(form).map_err(|error| {
            Error::config("the content type cannot be written").with_source(error)
        })?;
        headers.insert(CONTENT_TYPE, form);
        Ok(headers)
    }

    fn redact(&self, error: Error) -> Error {
        error.without(&self.signature).without(&self.metadata)
    }
}

impl fmt::Debug for UploadTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadTicket")
            .field("id", &self.id)
            .field("place", &self.place())
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// The data of a template, a volume or an ISO, and how to send it.
///
/// The length must be exact and known before: storage VMs take no chunked bodies. The last piece is sent only after
/// the producer has ended without an error, so that bad data never becomes a whole file.
#[non_exhaustive]
pub struct Upload {
    /// The exact number of bytes.
    pub len: u64,
    body: Box<dyn FnOnce() -> Producer + Send>,
    file_name: Option<String>,
    preflight: Preflight,
    stall: Duration,
    answer: Duration,
    cancel: Option<Arc<AtomicBool>>,
    progress: Option<Progress>,
}

/// Whether the start of the data is compared with the format before it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preflight {
    /// Refuse what [`preflight`](super::preflight()) refuses.
    #[default]
    Enforce,
    /// Send whatever it is.
    Off,
}

/// What was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uploaded {
    /// The id of the template, now to be [waited for](crate::Client::wait_ready), or of the volume or ISO.
    pub template_id: String,
    /// The number of bytes of the file, without the form around it.
    pub bytes: u64,
}

impl Upload {
    /// A stream of data.
    #[must_use]
    pub fn new(len: u64, body: Producer) -> Self {
        Self::made_by(len, move || body)
    }

    /// A stream of data that is made when it is needed.
    pub fn made_by(len: u64, body: impl FnOnce() -> Producer + Send + 'static) -> Self {
        Self {
            len,
            body: Box::new(body),
            file_name: None,
            preflight: Preflight::default(),
            stall: Duration::from_secs(300),
            answer: Duration::from_secs(24 * 3600),
            cancel: None,
            progress: None,
        }
    }

    /// Data in memory.
    pub fn from_bytes(data: impl Into<Bytes>) -> Self {
        let data = data.into();
        Self::new(data.len() as u64, stream::iter([Ok(data)]).boxed())
    }

    /// The name of the file in the form, if not the template's with the ending of its format. Needed for compressed
    /// data: `web01.vhd.gz`.
    #[must_use]
    pub fn with_file_name(mut self, name: impl Into<String>) -> Self {
        self.file_name = Some(name.into());
        self
    }

    /// Whether the start of the data is checked first.
    #[must_use]
    pub fn with_preflight(mut self, preflight: Preflight) -> Self {
        self.preflight = preflight;
        self
    }

    /// Gives up when no byte has moved for so long (5 minutes), whether the producer or the server is to blame.
    #[must_use]
    pub fn with_stall_timeout(mut self, limit: Duration) -> Self {
        self.stall = limit;
        self
    }

    /// Gives up when the server has not answered so long after the last byte (24 hours): it unpacks and scans the
    /// whole file before it answers.
    #[must_use]
    pub fn with_answer_timeout(mut self, limit: Duration) -> Self {
        self.answer = limit;
        self
    }

    /// A flag that ends the upload within a fraction of a second.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Arc<AtomicBool>) -> Self {
        self.cancel = Some(cancel);
        self
    }

    /// Called with the number of bytes handed to the connection so far, for every piece.
    #[must_use]
    pub fn with_progress(mut self, progress: impl Fn(u64) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(progress));
        self
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("len", &self.len)
            .field("file_name", &self.file_name)
            .finish_non_exhaustive()
    }
}

/// The form around a file: what stands before and after its bytes.
struct Form {
    boundary: String,
    before: Bytes,
    after: Bytes,
}

impl Form {
    fn new(file_name: &str) -> Result<Self> {
        let boundary = format!("cloudstack-client-{}", random_hex()?);
        // The name holds no quote and no line break: it was checked.
        let before = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"files[]\"; filename=\"{file_name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        let after = format!("\r\n--{boundary}--\r\n");
        Ok(Self { boundary, before: before.into(), after: after.into() })
    }

    fn len(&self, data: u64) -> Option<u64> {
        data.checked_add(self.before.len() as u64)?.checked_add(self.after.len() as u64)
    }

    fn around(&self, meter: &Meter) -> Producer {
        let one = |part: &Bytes| stream::iter([Ok(part.clone())]);
        one(&self.before).chain(meter.wire()).chain(one(&self.after)).boxed()
    }
}

impl Client {
    /// Sends the data of a template, a volume or an ISO with its ticket.
    ///
    /// The answer is read *while* the data is sent: a refusal ends the upload at once. Success means that the data
    /// has arrived; whether it becomes a template is told by [`wait_ready`](Self::wait_ready), of a volume by
    /// [`wait_volume`](Self::wait_volume), of an ISO by [`wait_iso`](Self::wait_iso).
    ///
    /// # Errors
    /// [`ErrorKind::Transport`] if the storage VM cannot be reached or the connection breaks, [`ErrorKind::Source`] for
    /// bad data, [`ErrorKind::UnsupportedFormat`] before anything is sent, [`ErrorKind::Invalid`] and
    /// [`ErrorKind::Server`] for refusals. The ticket is used up then: delete the template.
    pub async fn upload(&self, ticket: UploadTicket, upload: Upload) -> Result<Uploaded> {
        let what = format!("{} {}: upload", ticket.kind, ticket.id);
        let result = self.send_data(&ticket, upload, &what).await;
        result.map_err(|error| {
            let kind = ticket.kind;
            ticket.redact(error).with_hint(&format!(
                "an upload can be tried only once: delete this {kind} and begin with a new one"
            ))
        })
    }

    async fn send_data(
        &self,
        ticket: &UploadTicket,
        upload: Upload,
        what: &str,
    ) -> Result<Uploaded> {
        let Upload { len, body, file_name, preflight: check, stall, answer, cancel, progress } =
            upload;
        let file_name = file_name.unwrap_or_else(|| ticket.format.file_name(&ticket.name));
        let plain_name = file_name.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
        if !plain_name || ticket.format.of_file(&file_name).is_none() {
            let text = format!(
                "{what}: the server does not take a file named {file_name:?} for {}",
                ticket.format
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        if len == 0 {
            return Err(Error::new(
                ErrorKind::Source,
                format!("{what}: there is no data to be sent"),
            ));
        }
        let form = Form::new(&file_name)?;
        let total = form.len(len).ok_or_else(|| {
            Error::new(ErrorKind::Source, format!("{what}: no body can have {len} bytes"))
        })?;
        let headers = ticket.headers(&form.boundary)?;
        let meter = Meter::new(len, body(), progress);
        let watch = Watch { what, meter: &meter, stall, answer, cancel: cancel.as_deref() };
        let _stop = Stop(meter.clone());
        let head =
            watch.over(meter.peek(HEAD_LEN)).await?.map_err(|error| bad_data(what, error))?;
        if check == Preflight::Enforce {
            preflight(&ticket.format, &file_name, &head).map_err(|error| {
                Error::new(error.kind(), format!("{what}: {error}; nothing was sent"))
            })?;
        }
        let mut request =
            http::Request::new(Body::Stream { len: total, stream: form.around(&meter) });
        *request.method_mut() = Method::POST;
        *request.headers_mut() = headers;
        *request.uri_mut() =
            ticket.url.as_str().parse().map_err(|error: http::uri::InvalidUri| {
                Error::protocol(format!("{what}: the server's postURL cannot be used"))
                    .with_source(error)
            })?;
        let answer = match watch.over(self.uploads().send(request)).await? {
            Ok(answer) => answer,
            Err(error) => {
                return Err(match meter.failure() {
                    Some(failure) => bad_data(what, failure),
                    None => unreachable_end(what, error, meter.given()),
                });
            }
        };
        finish(ticket, what, answer, &meter).await
    }
}

fn unreachable_end(what: &str, error: Error, given: u64) -> Error {
    let hint = if given == 0 {
        "is the secondary storage VM running, its name resolvable here, its certificate trusted?"
            .to_owned()
    } else {
        format!("{given} bytes were on their way")
    };
    Error::new(error.kind(), format!("{what}: {error}; {hint}")).with_source(error)
}

async fn finish(
    ticket: &UploadTicket,
    what: &str,
    answer: http::Response<BodyStream>,
    meter: &Meter,
) -> Result<Uploaded> {
    let (parts, body) = answer.into_parts();
    if !parts.status.is_success() {
        // The server may send a text and never end it.
        let text = tokio::time::timeout(Duration::from_secs(10), read_some(body, 64 << 10))
            .await
            .unwrap_or_default();
        return Err(refusal(what, parts.status, &plain(&text)));
    }
    if !meter.is_finished() {
        let text = format!("{what}: the server reported success before it had all of the data");
        return Err(Error::protocol(text).with_status(parts.status));
    }
    Ok(Uploaded { template_id: ticket.id.clone(), bytes: meter.given() })
}

fn refusal(what: &str, status: StatusCode, said: &str) -> Error {
    let lower = said.to_ascii_lowercase();
    let (kind, hint) = match status.as_u16() {
        400 | 401 | 403 if lower.contains("expire") => (
            ErrorKind::Unauthorized,
            "the ticket is too old, or the clocks of management server and storage VM differ",
        ),
        400 | 413 if lower.contains("size exceeded") || is_quota(said) => (
            ErrorKind::Quota,
            "it is more than the cloud takes, or than what is left of the account's secondary storage",
        ),
        400 | 401 | 403 if lower.contains("signature") => (
            ErrorKind::Unauthorized,
            "a proxy on the way may have changed the host or lost the headers",
        ),
        300..=399 => (ErrorKind::Protocol, "data is not sent after a redirect"),
        404 => (ErrorKind::NotFound, "no storage VM takes uploads at this address"),
        413 => (ErrorKind::Quota, "it is more than the storage VM or a proxy before it takes"),
        422 => (ErrorKind::Protocol, "the storage VM found no file in the form"),
        429 | 502..=504 => (ErrorKind::Busy, "the storage VM is not ready: see whether it runs"),
        400..=499 => (ErrorKind::Invalid, "the storage VM refused the data"),
        500.. => {
            (ErrorKind::Server, "the storage VM could not process the data: its log tells more")
        }
        _ => (ErrorKind::Protocol, "this is no answer to an upload"),
    };
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    Error::new(kind, format!("{what}: the storage VM answered {}{said}", status.as_u16()))
        .with_status(status)
        .with_hint(hint)
}

/// Stops the producer on every way out.
struct Stop(Meter);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn bad_data(what: &str, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Source, format!("{what}: the data to be sent is bad: {error}"))
        .with_source(error)
}

/// The limits of one upload.
struct Watch<'a> {
    what: &'a str,
    meter: &'a Meter,
    stall: Duration,
    answer: Duration,
    cancel: Option<&'a AtomicBool>,
}

impl Watch<'_> {
    /// Runs `work` under the cancel flag and the time limits.
    async fn over<T>(&self, work: impl Future<Output = T> + Send) -> Result<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return Ok(result),
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
            if self.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
                let text = format!("{}: it was cancelled", self.what);
                return Err(Error::new(ErrorKind::Cancelled, text));
            }
            let (limit, problem) = if self.meter.is_finished() {
                (self.answer, "the server has not answered after the last byte")
            } else {
                (self.stall, "no data has moved")
            };
            if Instant::now().saturating_duration_since(self.meter.moved()) > limit {
                let text = format!("{}: {problem} for {} s", self.what, limit.as_secs_f32());
                return Err(Error::new(ErrorKind::Timeout, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::templates::{NewTemplate, upload_params};

    fn parse(body: &str) -> Result<UploadTicket> {
        let template = NewTemplate::new("web 01", "XenServer", Format::Vhd, "z1");
        upload_params(&template).parse(StatusCode::OK, body.as_bytes())
    }

    fn ticket() -> UploadTicket {
        parse(
            r#"{"postuploadtemplateresponse":{"getuploadparams":{"id":"t1",
                "postURL":"https://10-0-0-9.cloud.example/upload/7c1d","metadata":"bWV0YWRhdGE=+/","expires":"2026-11-23T11:34:35.123Z",
                "signature":"c2lnbmF0dXJl+/="}}}"#,
        )
        .unwrap()
    }

    #[test]
    fn a_ticket_is_read_and_not_shown() {
        let ticket = ticket();
        assert_eq!(
            (ticket.template_id(), ticket.place().as_str()),
            ("t1", "https://10-0-0-9.cloud.example")
        );
        let headers = ticket.headers("b").unwrap();
        assert_eq!(headers["x-metadata"], "bWV0YWRhdGE=+/");
        assert_eq!(headers["x-signature"], "c2lnbmF0dXJl+/=");
        assert_eq!(headers["x-expires"], "2026-11-23T11:34:35.123Z");
        let printed = format!("{ticket:?} {headers:?}");
        assert!(!printed.contains("bWV0") && !printed.contains("c2ln"), "{printed}");
        let told =
            Error::new(ErrorKind::Invalid, "signature c2lnbmF0dXJl+/= and bWV0YWRhdGE=+/ differ");
        assert_eq!(ticket.redact(told).to_string(), "signature [redacted] and [redacted] differ");
    }

    #[test]
    fn tickets_without_a_part_are_refused() {
        let whole = serde_json::json!({"id": "t", "postURL": "http://h/upload/1", "metadata": "m", "expires": "e", "signature": "s"});
        let with = |name: &str, value: serde_json::Value| {
            let mut one = whole.clone();
            one[name] = value;
            parse(&serde_json::json!({"r": one}).to_string()).err().map(|error| error.kind())
        };
        assert_eq!(with("id", "t".into()), None);
        for name in ["id", "postURL", "metadata", "expires", "signature"] {
            assert_eq!(with(name, serde_json::Value::Null), Some(ErrorKind::Protocol), "{name}");
            assert_eq!(with(name, "".into()), Some(ErrorKind::Protocol), "{name}");
        }
        for url in ["file:///etc/passwd", "h/upload", "http://", "https://user@h/upload/1"] {
            assert_eq!(with("postURL", url.into()), Some(ErrorKind::Protocol), "{url}");
        }
        let mut ticket = ticket();
        ticket.metadata = Zeroizing::new("a\r\nX-Evil: 1".into());
        assert_eq!(ticket.headers("b").unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[tokio::test]
    async fn the_length_of_the_form_is_exact() {
        let form = Form::new("web_01.vhd").unwrap();
        let meter = Meter::new(6, stream::iter([Ok(Bytes::from_static(b"conect"))]).boxed(), None);
        let mut wire = form.around(&meter);
        let mut all = Vec::new();
        while let Some(chunk) = wire.next().await {
            all.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!(form.len(6), Some(all.len() as u64));
        assert_eq!(form.len(u64::MAX), None);
        let text = String::from_utf8(all).unwrap();
        let b = &form.boundary;
        assert_eq!(
            text,
            format!(
                "--{b}\r\nContent-Disposition: form-data; name=\"files[]\"; filename=\"web_01.vhd\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\nconect\r\n--{b}--\r\n"
            )
        );
        assert_ne!(b, &Form::new("x").unwrap().boundary);
    }

    #[test]
    fn refusals_have_their_kinds() {
        let kind = |status: u16, said: &str| {
            refusal("x", StatusCode::from_u16(status).unwrap(), said).kind()
        };
        assert_eq!(kind(400, "signature expired"), ErrorKind::Unauthorized);
        assert_eq!(kind(400, "signature mismatch"), ErrorKind::Unauthorized);
        assert_eq!(kind(400, "content length is not set"), ErrorKind::Invalid);
        assert_eq!(kind(422, ""), ErrorKind::Protocol);
        assert_eq!(kind(500, ""), ErrorKind::Server);
        assert_eq!(kind(503, ""), ErrorKind::Busy);
        assert_eq!(kind(302, ""), ErrorKind::Protocol);
        assert_eq!(kind(413, ""), ErrorKind::Quota);
        assert_eq!(kind(400, "Maximum file upload size exceeded."), ErrorKind::Quota);
    }
}
