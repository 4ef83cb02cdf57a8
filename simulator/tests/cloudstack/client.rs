//! The plainest HTTP client: one connection per request, bytes as they are on the wire.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha1::Sha1;
use simulator::cloudstack::{CloudStack, CloudStackConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer, or what was there of it when the connection ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn parse(raw: &[u8]) -> Option<Self> {
        let end = raw.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&raw[..end]).into_owned();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, head, body: raw[end + 4..].to_vec() })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The one key and what is below it.
    pub(crate) fn rooted(&self) -> (String, Value) {
        let value: Value = serde_json::from_slice(&self.body).unwrap_or(Value::Null);
        let map = value.as_object().unwrap();
        assert_eq!(map.len(), 1, "{}", self.text());
        map.iter().next().map(|(key, value)| (key.clone(), value.clone())).unwrap()
    }

    /// What is below the one key.
    pub(crate) fn json(&self) -> Value {
        self.rooted().1
    }
}

/// Sends one raw request; `None` when the server hangs up without an answer.
pub(crate) async fn raw(authority: &str, request: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(authority).await.unwrap();
    // The server may answer and stop reading before all is sent.
    let _ = stream.write_all(request).await;
    let mut raw = Vec::new();
    let _ = stream.read_to_end(&mut raw).await;
    Answer::parse(&raw)
}

pub(crate) fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-*_".contains(&byte);
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

pub(crate) fn sign(secret: &str, text: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// A query with its signature; names are expected in lower case.
pub(crate) fn signed(secret: &str, params: &[(&str, &str)]) -> String {
    let mut sorted = params.to_vec();
    sorted.sort_unstable();
    let pair = |(name, value): &(&str, &str)| format!("{name}={}", encode(value));
    let text = sorted.iter().map(pair).collect::<Vec<_>>().join("&");
    let signature = encode(&sign(secret, &text.to_lowercase()));
    let query = params.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    format!("{}&signature={signature}", query.collect::<Vec<_>>().join("&"))
}

/// A dynamic VHD with nothing in it, as far as the double looks.
pub(crate) fn vhd() -> Vec<u8> {
    let mut bytes = vec![7; 300_000];
    let mut footer = [0; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[48..56].copy_from_slice(&(64_u64 << 20).to_be_bytes());
    let end = bytes.len() - 512;
    bytes[end..].copy_from_slice(&footer);
    bytes[..512].copy_from_slice(&footer);
    bytes
}

/// A cloud and its one user.
pub(crate) struct Session {
    pub(crate) cloud: CloudStack,
}

impl Session {
    pub(crate) async fn open() -> Self {
        Self { cloud: CloudStack::start(CloudStackConfig::new()).await.unwrap() }
    }

    pub(crate) fn fault(&self, text: &str) {
        self.cloud.faults().set_str(text).unwrap();
    }

    pub(crate) fn authority(&self) -> String {
        self.cloud.endpoint()["http://".len()..].split('/').next().unwrap().to_owned()
    }

    pub(crate) fn secret(&self) -> &str {
        self.cloud.config().secret()
    }

    fn with_key<'a>(
        &'a self,
        command: &'a str,
        more: &[(&'a str, &'a str)],
    ) -> Vec<(&'a str, &'a str)> {
        let key = self.cloud.config().key();
        let common = [("command", command), ("apikey", key), ("response", "json")];
        common.into_iter().chain(more.iter().copied()).collect()
    }

    /// The query of a command, signed.
    pub(crate) fn query(&self, command: &str, more: &[(&str, &str)]) -> String {
        signed(self.secret(), &self.with_key(command, more))
    }

    pub(crate) async fn get_query(&self, query: &str) -> Option<Answer> {
        let request = format!(
            "GET /client/api?{query} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.authority()
        );
        raw(&self.authority(), request.as_bytes()).await
    }

    pub(crate) async fn post_form(&self, query: &str, form: &str) -> Option<Answer> {
        let request = format!(
            "POST /client/api?{query} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
            self.authority(),
            form.len()
        );
        raw(&self.authority(), request.as_bytes()).await
    }

    pub(crate) async fn get(&self, command: &str, more: &[(&str, &str)]) -> Answer {
        self.get_query(&self.query(command, more)).await.unwrap()
    }

    /// As [`get`](Self::get), of another account.
    pub(crate) async fn get_as(
        &self,
        account: &str,
        command: &str,
        more: &[(&str, &str)],
    ) -> Answer {
        let (key, secret) = self.cloud.config().keys_of(account);
        let common = [("command", command), ("apikey", key.as_str()), ("response", "json")];
        let all: Vec<_> = common.into_iter().chain(more.iter().copied()).collect();
        self.get_query(&signed(&secret, &all)).await.unwrap()
    }

    pub(crate) async fn post(&self, command: &str, more: &[(&str, &str)]) -> Option<Answer> {
        self.post_form("", &self.query(command, more)).await
    }

    pub(crate) async fn zone(&self, number: usize) -> String {
        let zones = self.get("listZones", &[]).await.json();
        zones["zone"][number]["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn os_type(&self) -> String {
        let wanted = [("description", "Other Linux (64-bit)")];
        let types = self.get("listOsTypes", &wanted).await.json();
        types["ostype"][0]["id"].as_str().unwrap().to_owned()
    }

    /// Sends a command that describes a template.
    pub(crate) async fn describe(&self, command: &str, more: &[(&str, &str)]) -> Option<Answer> {
        let (zone, os_type) = (self.zone(0).await, self.os_type().await);
        let mut params =
            vec![("name", "web01"), ("hypervisor", "XenServer"), ("ostypeid", os_type.as_str())];
        let given = |name: &str| more.iter().any(|(known, _)| *known == name);
        if !given("zoneids") && !given("zoneid") {
            params.push(("zoneid", &zone));
        }
        if !given("format") {
            params.push(("format", "VHD"));
        }
        params.extend(more);
        self.post(command, &params).await
    }

    /// A ticket for an upload.
    pub(crate) async fn ticket(&self, more: &[(&str, &str)]) -> Ticket {
        let answer = self.describe("getUploadParamsForTemplate", more).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let (root, value) = answer.rooted();
        assert_eq!(root, "postuploadtemplateresponse");
        let field = |name: &str| value["getuploadparams"][name].as_str().unwrap().to_owned();
        Ticket {
            id: field("id"),
            url: field("postURL"),
            metadata: field("metadata"),
            expires: field("expires"),
            signature: field("signature"),
        }
    }

    /// The rows of a template.
    pub(crate) async fn rows(&self, id: &str) -> Vec<Value> {
        let params = [("templatefilter", "self"), ("id", id)];
        let list = self.get("listTemplates", &params).await.json();
        list["template"].as_array().cloned().unwrap_or_default()
    }

    pub(crate) async fn download_state(&self, id: &str) -> String {
        let rows = self.rows(id).await;
        rows[0]["downloaddetails"][0]["downloadState"].as_str().unwrap().to_owned()
    }

    /// Waits until something is the case.
    pub(crate) async fn until(&self, id: &str, good: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        for _ in 0..600 {
            let rows = self.rows(id).await;
            if good(&rows) {
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never: {:?}", self.rows(id).await);
    }

    /// Waits for the end of the job that an answer names.
    pub(crate) async fn job(&self, answer: &Answer) -> Value {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let id = answer.json()["jobid"].as_str().unwrap().to_owned();
        for _ in 0..600 {
            let answer = self.get("queryAsyncJobResult", &[("jobid", &id)]).await;
            assert_eq!(answer.status, 200, "a job that failed is no error of the question");
            let job = answer.json();
            if job["jobstatus"] != 0 {
                return job;
            }
            assert!(job.get("jobresult").is_none());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the job {id} never ends");
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    pub(crate) id: String,
    pub(crate) url: String,
    pub(crate) metadata: String,
    pub(crate) expires: String,
    pub(crate) signature: String,
}

impl Ticket {
    pub(crate) fn authority(&self) -> &str {
        self.url["http://".len()..].split('/').next().unwrap()
    }

    /// The head of an upload up to the ticket, without an end.
    pub(crate) fn head(&self, length: u64) -> String {
        format!(
            "POST /upload/{} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\nX-signature: {}\r\n\
             X-metadata: {}\r\nX-expires: {}\r\ncontent-length: {length}\r\n\
             content-type: multipart/form-data; boundary=xx\r\n",
            self.id,
            self.authority(),
            self.signature,
            self.metadata,
            self.expires
        )
    }

    pub(crate) fn body(name: &str, data: &[u8]) -> Vec<u8> {
        let head = format!(
            "--xx\r\nContent-Disposition: form-data; name=\"files[]\"; filename=\"{name}\"\r\n\r\n"
        );
        [head.as_bytes(), data, b"\r\n--xx--\r\n"].concat()
    }

    pub(crate) async fn send(&self, name: &str, data: &[u8]) -> Option<Answer> {
        let body = Self::body(name, data);
        let head = format!("{}\r\n", self.head(body.len() as u64));
        raw(self.authority(), &[head.as_bytes(), &body].concat()).await
    }
}
