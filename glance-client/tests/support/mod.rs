//! A scripted cloud on loopback: one listener that plays Keystone and Glance, request by request, down to the bytes.

#![allow(dead_code, unreachable_pub, missing_docs, missing_debug_implementations)]
#![allow(clippy::unwrap_used, clippy::exhaustive_structs, clippy::exhaustive_enums)]

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use glance_client::Glance;
use glance_client::keystone::{CloudConfig, Domain, Principal, Scope, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const ID: &str = "9b4b0a5c-6d41-4f3b-9d6f-0b1e5a6a2c11";
pub const PASSWORD: &str = "hunter2-password";

/// The head of a request, and its body where `Content-Length` is small.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub method: String,
    /// Without the origin that a request to a proxy has in front.
    pub path: String,
    pub origin: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn token(&self) -> &str {
        self.headers.get("x-auth-token").map_or("", String::as_str)
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

pub enum Reply {
    /// This answer, and the connection stays.
    Send(Vec<u8>),
    /// The script takes the connection over, with the body's bytes that have been read already.
    Take(Box<dyn FnOnce(TcpStream, Vec<u8>) -> Work + Send>),
    /// What a small cloud would answer.
    Default,
}

pub fn take<F: Future<Output = ()> + Send + 'static>(
    f: impl FnOnce(TcpStream, Vec<u8>) -> F + Send + 'static,
) -> Reply {
    Reply::Take(Box::new(move |tcp, body| Box::pin(f(tcp, body))))
}

pub fn answer(status: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nx-openstack-request-id: req-77\r\n",
        body.len()
    );
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n" + body).into_bytes()
}

pub fn json(status: &str, body: &serde_json::Value) -> Vec<u8> {
    answer(status, &[("Content-Type", "application/json")], &body.to_string())
}

pub struct Cloud {
    pub url: String,
    pub logins: Arc<AtomicUsize>,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cloud {
    /// A cloud that answers by `script`, and usually where the script has nothing to say. Tokens are `token-1`,
    /// `token-2`…, each valid for `ttl` seconds.
    pub async fn start(ttl: i64, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1", ttl, script).await
    }

    /// The same at another address of this machine.
    pub async fn start_at(
        address: &str,
        ttl: i64,
        script: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(format!("{address}:0")).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let logins = Arc::new(AtomicUsize::new(0));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let state = (url.clone(), Arc::clone(&logins), Arc::clone(&seen), Arc::new(script));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (url, logins, seen, script) = state.clone();
                connections
                    .spawn(async move { serve(tcp, &url, ttl, &logins, &seen, &*script).await });
            }
        });
        Self { url, logins, seen, task }
    }

    pub fn config(&self) -> CloudConfig {
        CloudConfig::builder(format!("{}/v3", self.url))
            .with_password(Principal::named("demo", Domain::default()), PASSWORD)
            .with_scope(Scope::Project(Principal::named("demo", Domain::default())))
            .build()
            .unwrap()
    }

    pub async fn session(&self) -> Session {
        Session::connect(&self.config()).await.unwrap()
    }

    pub async fn glance(&self) -> Glance {
        Glance::connect(&self.session().await).await.unwrap()
    }

    pub fn logins(&self) -> usize {
        self.logins.load(Ordering::SeqCst)
    }

    pub fn seen(&self, method: &str, path: &str) -> Vec<Seen> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|s| s.method == method && s.path == path)
            .cloned()
            .collect()
    }
}

async fn serve(
    mut tcp: TcpStream,
    url: &str,
    ttl: i64,
    logins: &AtomicUsize,
    seen: &Mutex<Vec<Seen>>,
    script: &(dyn Fn(&Seen) -> Reply + Send + Sync),
) {
    loop {
        let Some((mut request, mut rest)) = head(&mut tcp).await else { return };
        let len: usize =
            request.headers.get("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
        let is_data = request.method == "PUT";
        while !is_data && rest.len() < len {
            let mut part = vec![0; 65536];
            match tcp.read(&mut part).await {
                Ok(n) if n > 0 => rest.extend_from_slice(&part[..n]),
                _ => return,
            }
        }
        if !is_data {
            request.body = std::mem::take(&mut rest);
        }
        seen.lock().unwrap().push(request.clone());
        let bytes = match script(&request) {
            Reply::Send(bytes) => bytes,
            Reply::Take(work) => return work(tcp, rest).await,
            Reply::Default if is_data => {
                while rest.len() < len {
                    let mut part = vec![0; 65536];
                    match tcp.read(&mut part).await {
                        Ok(n) if n > 0 => rest.extend_from_slice(&part[..n]),
                        _ => return,
                    }
                }
                b"HTTP/1.1 204 No Content\r\nx-openstack-request-id: req-204\r\n\r\n".to_vec()
            }
            Reply::Default => usual(&request, url, ttl, logins),
        };
        if tcp.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn head(tcp: &mut TcpStream) -> Option<(Seen, Vec<u8>)> {
    let mut data = Vec::new();
    let end = loop {
        if let Some(end) = data.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        let mut part = [0; 4096];
        let n = tcp.read(&mut part).await.ok().filter(|n| *n > 0)?;
        data.extend_from_slice(&part[..n]);
    };
    let text = String::from_utf8_lossy(&data[..end]).into_owned();
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let at = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or(target.len(), |at| at + "http://".len()),
        None => 0,
    };
    let (origin, path) = (target[..at].to_owned(), target[at..].to_owned());
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Some((Seen { method, path, origin, headers, body: Vec::new() }, data[end + 4..].to_vec()))
}

fn usual(request: &Seen, url: &str, ttl: i64, logins: &AtomicUsize) -> Vec<u8> {
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/v3/auth/tokens") => token(url, ttl, logins.fetch_add(1, Ordering::SeqCst) + 1),
        ("GET", "/") => json(
            "300 Multiple Choices",
            &serde_json::json!({"versions": [
                {"id": "v2.9", "status": "SUPPORTED", "links": [{"rel": "self", "href": "http://behind:9292/v2/"}]},
                {"id": "v2.17", "status": "CURRENT", "links": [{"rel": "self", "href": "http://behind:9292/v2/"}]}]}),
        ),
        ("GET", path) if path.starts_with("/v2/images/") => json("200 OK", &image("queued")),
        _ => answer(
            "404 Not Found",
            &[],
            "<html><body><h1>404 Not Found</h1>No such thing</body></html>",
        ),
    }
}

pub fn image(status: &str) -> serde_json::Value {
    serde_json::json!({"id": ID, "status": status, "name": "web01", "disk_format": "raw", "container_format": "bare"})
}

pub fn token(url: &str, ttl: i64, number: usize) -> Vec<u8> {
    // The years do not matter: only the difference of Keystone's own two times counts.
    let stamp = |seconds: i64| {
        format!(
            "2031-01-01T{:02}:{:02}:{:02}.000000Z",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        )
    };
    let body = serde_json::json!({"token": {
        "user": {"id": "u", "name": "demo"}, "project": {"id": "p", "name": "demo"}, "roles": [{"name": "member"}],
        "issued_at": stamp(0), "expires_at": stamp(ttl),
        "catalog": [{"type": "image", "name": "glance", "id": "s", "endpoints": [
            {"id": "e", "interface": "public", "region": "one", "region_id": "one", "url": url}]}]}});
    let name = format!("token-{number}");
    answer(
        "201 Created",
        &[("X-Subject-Token", &name), ("Content-Type", "application/json")],
        &body.to_string(),
    )
}
