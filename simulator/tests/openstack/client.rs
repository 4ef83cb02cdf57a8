//! The plainest HTTP client: one connection per request, bytes as they are on the wire.

use std::time::Duration;

use serde_json::{Value, json};
use simulator::openstack::OpenStack;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const OCTETS: (&str, &str) = ("content-type", "application/octet-stream");
pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");
pub(crate) const PATCH: (&str, &str) =
    ("content-type", "application/openstack-images-v2.1-json-patch");

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
        let body = raw[end + 4..].to_vec();
        if status == 100 {
            return Self::parse(&body);
        }
        Some(Self { status, head, body })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends one raw request; `None` when the server hangs up without an answer.
pub(crate) async fn raw(port: u16, request: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // The server may answer and stop reading before all is sent.
    let _ = stream.write_all(request).await;
    let mut raw = Vec::new();
    let _ = stream.read_to_end(&mut raw).await;
    Answer::parse(&raw)
}

pub(crate) fn chunked(body: &[u8]) -> Vec<u8> {
    let mut sent = Vec::new();
    for block in body.chunks(50_000) {
        sent.extend_from_slice(format!("{:x}\r\n", block.len()).as_bytes());
        sent.extend_from_slice(block);
        sent.extend_from_slice(b"\r\n");
    }
    sent.extend_from_slice(b"0\r\n\r\n");
    sent
}

/// A cloud with a token.
pub(crate) struct Session {
    pub(crate) cloud: OpenStack,
    pub(crate) token: String,
}

impl Session {
    pub(crate) async fn open() -> Self {
        Self::with(OpenStack::start(Default::default()).await.unwrap()).await
    }

    pub(crate) async fn with(cloud: OpenStack) -> Self {
        let mut session = Self { cloud, token: String::new() };
        session.token = session.login().await;
        session
    }

    pub(crate) fn port(&self) -> u16 {
        let url = self.cloud.auth_url();
        url.rsplit(':').next().and_then(|rest| rest.split('/').next()).unwrap().parse().unwrap()
    }

    pub(crate) fn password(&self) -> Value {
        let config = self.cloud.config();
        json!({"auth": {"identity": {"methods": ["password"], "password": {"user": {
            "name": config.username(),
            "domain": {"id": "default"},
            "password": config.password(),
        }}}}})
    }

    pub(crate) async fn login(&self) -> String {
        let answer = self.authenticate(&self.password()).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.header("x-subject-token").unwrap().to_owned()
    }

    pub(crate) async fn authenticate(&self, body: &Value) -> Answer {
        let body = body.to_string();
        self.send("POST", "/identity/v3/auth/tokens", &[JSON], body.as_bytes()).await.unwrap()
    }

    /// One request with the session's token and a `Content-Length`.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer> {
        let mut request = self.head(method, path, headers);
        request.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        request.extend_from_slice(body);
        raw(self.port(), &request).await
    }

    /// The same in chunks.
    pub(crate) async fn send_chunked(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer> {
        let mut request = self.head("PUT", path, headers);
        request.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
        request.extend_from_slice(&chunked(body));
        raw(self.port(), &request).await
    }

    pub(crate) fn head(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n", self.port());
        if !headers.iter().any(|(key, _)| *key == "x-auth-token") && !self.token.is_empty() {
            head.push_str(&format!("x-auth-token: {}\r\n", self.token));
        }
        for (key, value) in headers {
            head.push_str(&format!("{key}: {value}\r\n"));
        }
        head.push_str("connection: close\r\n");
        head.into_bytes()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[JSON], body.to_string().as_bytes()).await.unwrap()
    }

    /// A queued image; the path of its record.
    pub(crate) async fn image(&self, disk: &str, container: &str) -> String {
        let body = json!({"name": "test", "disk_format": disk, "container_format": container});
        let answer = self.post("/image/v2/images", &body).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        format!("/image/v2/images/{}", answer.json()["id"].as_str().unwrap())
    }

    pub(crate) async fn put(&self, image: &str, body: &[u8]) -> Option<Answer> {
        self.send("PUT", &format!("{image}/file"), &[OCTETS], body).await
    }

    pub(crate) async fn status(&self, image: &str) -> String {
        let shown = self.get(image).await.json();
        shown["status"].as_str().unwrap_or("none").to_owned()
    }

    /// Waits until the image has the status; the test's time limit ends a vain wait.
    pub(crate) async fn until(&self, image: &str, status: &str) {
        while self.status(image).await != status {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn fault(&self, text: &str) {
        self.cloud.faults().set_str(text).unwrap();
    }
}
