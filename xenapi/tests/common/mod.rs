//! A scripted server: raw bytes over TCP or TLS, so that it can break every rule that real servers
//! break and that no HTTP library would.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::exhaustive_structs,
    clippy::future_not_send,
    clippy::needless_pass_by_value,
    clippy::unwrap_used
)]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub const USER: &str = "root";
pub const PASSWORD: &str = "correct horse battery staple";

/// A self-signed certificate with its key.
pub struct Identity {
    pub der: CertificateDer<'static>,
    pub pem: String,
    key: Vec<u8>,
}

impl Identity {
    /// For `names` (DNS names and addresses).
    pub fn new(names: &[&str]) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "xenapi test");
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.parse() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self { der: cert.der().clone(), pem: cert.pem(), key: key.serialize_der() }
    }

    pub fn pin(&self) -> xenapi::Pin {
        xenapi::Pin::of_der(&self.der)
    }

    /// As XenServer's proxy is set up when `xen` is true: TLS 1.2 only, P-384 only.
    pub fn acceptor(&self, xen: bool) -> TlsAcceptor {
        self.acceptor_showing(self, xen)
    }

    /// Shows the certificate of another, but signs with the key of this one.
    pub fn acceptor_showing(&self, shown: &Self, xen: bool) -> TlsAcceptor {
        let mut provider = rustls::crypto::ring::default_provider();
        let versions: &[&rustls::SupportedProtocolVersion] = if xen {
            provider.kx_groups = vec![rustls::crypto::ring::kx_group::SECP384R1];
            &[&rustls::version::TLS12]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shown(Arc::new(rustls::sign::CertifiedKey::new(
                vec![shown.der.clone()],
                rustls::crypto::ring::sign::any_supported_type(&key).unwrap(),
            )))));
        TlsAcceptor::from(Arc::new(config))
    }
}

/// One certificate for every client; unlike rustls' own resolver it does not ask whether the key
/// fits.
#[derive(Debug)]
struct Shown(Arc<rustls::sign::CertifiedKey>);

impl rustls::server::ResolvesServerCert for Shown {
    fn resolve(
        &self,
        _: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The request line and the headers, as sent.
    pub head: String,
    pub body: Vec<u8>,
}

impl Request {
    pub fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.headers(name).into_iter().next()
    }

    pub fn headers(&self, name: &str) -> Vec<String> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|l| l.split_once(':'))
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim().to_owned())
            .collect()
    }

    /// The call of a JSON-RPC request.
    pub fn call(&self) -> (String, Vec<Value>) {
        let value: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let method = value["method"].as_str().unwrap_or_default().to_owned();
        (method, value["params"].as_array().cloned().unwrap_or_default())
    }
}

/// What to send back, byte by byte, and how to part.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub bytes: Vec<u8>,
    pub close: bool,
    /// Close TLS without its word of parting.
    pub unclean: bool,
    /// Reset the TCP connection, as a host that dies does.
    pub reset: bool,
    /// Keep the connection open and silent instead.
    pub hang: bool,
}

impl Reply {
    pub fn json(value: &Value) -> Self {
        Self::typed("application/json", value.to_string().as_bytes())
    }

    pub fn result(value: Value) -> Self {
        Self::json(&json!({"jsonrpc": "2.0", "result": value, "id": 1}))
    }

    pub fn error(code: &str, params: &[&str]) -> Self {
        Self::json(&json!({"jsonrpc": "2.0", "id": 1,
            "error": {"code": 1, "message": code, "data": params}}))
    }

    pub fn typed(content_type: &str, body: &[u8]) -> Self {
        let mut bytes = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        Self { bytes, ..Self::default() }
    }

    /// Raw bytes, then the end of the connection.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), close: true, ..Self::default() }
    }

    pub fn with_header(mut self, line: &str) -> Self {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        let at = text.find("\r\n").unwrap() + 2;
        let insert = format!("{line}\r\n");
        self.bytes.splice(at..at, insert.into_bytes());
        self
    }
}

/// A server on loopback that answers by a function; ends with this.
pub struct Server {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<Request>>>,
    connected: Arc<AtomicUsize>,
    scheme: &'static str,
    accepting: JoinHandle<()>,
}

impl Server {
    pub async fn plain<F, R>(answer: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send,
    {
        Self::start("127.0.0.1:0", None, answer).await
    }

    pub async fn tls<F, R>(acceptor: TlsAcceptor, answer: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send,
    {
        Self::start("127.0.0.1:0", Some(acceptor), answer).await
    }

    pub async fn start<F, R>(bind: &str, tls: Option<TlsAcceptor>, answer: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send,
    {
        Self::begin(bind, tls, false, answer).await
    }

    /// One that answers a PUT when it has its head, as real servers do; the body is read after a
    /// 200, and not otherwise.
    pub async fn early<F, R>(tls: Option<TlsAcceptor>, answer: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send,
    {
        Self::begin("127.0.0.1:0", tls, true, answer).await
    }

    async fn begin<F, R>(bind: &str, tls: Option<TlsAcceptor>, early: bool, answer: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Reply> + Send,
    {
        let listener = TcpListener::bind(bind).await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (answer, seen) = (Arc::new(answer), Arc::clone(&requests));
        let connected = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connected);
        let accepting = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (answer, seen, tls) = (Arc::clone(&answer), Arc::clone(&seen), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(tcp, &seen, early, &*answer).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(tcp).await {
                                serve(stream, &seen, early, &*answer).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, requests, connected, scheme, accepting }
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub fn seen(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.connected.load(Ordering::SeqCst)
    }

    pub fn methods(&self) -> Vec<String> {
        self.seen().iter().map(|r| r.call().0).filter(|m| !m.is_empty()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Streams that can be told to reset when they are dropped.
trait Linger {
    fn zero_linger(&self);
}

impl Linger for TcpStream {
    fn zero_linger(&self) {
        self.set_zero_linger().unwrap();
    }
}

impl Linger for TlsStream<TcpStream> {
    fn zero_linger(&self) {
        self.get_ref().0.zero_linger();
    }
}

async fn serve<S, F, R>(mut stream: S, seen: &Mutex<Vec<Request>>, early: bool, answer: &F)
where
    S: AsyncRead + AsyncWrite + Linger + Unpin,
    F: Fn(Request) -> R,
    R: Future<Output = Reply>,
{
    while let Some(mut request) = read_head(&mut stream).await {
        let late = !(early && request.head.starts_with("PUT "));
        if late && read_body(&mut stream, &mut request).await.is_none() {
            return;
        }
        let reply = answer(request.clone()).await;
        let accepted = reply.bytes.starts_with(b"HTTP/1.1 200");
        if late || !accepted {
            seen.lock().unwrap().push(request.clone());
        }
        if stream.write_all(&reply.bytes).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        if !late && accepted {
            let _ = read_body(&mut stream, &mut request).await;
            seen.lock().unwrap().push(request);
        }
        if reply.hang {
            std::future::pending::<()>().await;
        }
        if reply.reset {
            stream.zero_linger();
        }
        if reply.unclean || reply.reset {
            return;
        }
        if reply.close {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    Some(Request { head: String::from_utf8_lossy(&head).into_owned(), body: Vec::new() })
}

async fn read_body<S: AsyncRead + Unpin>(stream: &mut S, request: &mut Request) -> Option<()> {
    let length = request.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    stream.read_exact(&mut request.body).await.ok()?;
    Some(())
}

/// Answers a login, so that a script holds only what its test is about.
pub fn or_login(request: &Request, otherwise: impl FnOnce(&str, &[Value]) -> Reply) -> Reply {
    let (method, params) = request.call();
    match method.as_str() {
        "session.login_with_password" => Reply::result(json!("OpaqueRef:session-1")),
        "session.logout" => Reply::result(json!("")),
        _ => otherwise(&method, &params),
    }
}

/// A task's record.
pub fn task(status: &str, extra: Value) -> Value {
    let mut record = json!({
        "uuid": "t", "name_label": "work", "status": status, "progress": 0.5, "result": "",
        "error_info": [], "allowed_operations": ["cancel"], "other_config": {},
    });
    for (name, value) in extra.as_object().cloned().unwrap_or_default() {
        record[name] = value;
    }
    record
}

/// A batch of events about `task/OpaqueRef:task`.
pub fn batch(token: &str, records: Vec<Value>) -> Value {
    let events: Vec<Value> = records
        .into_iter()
        .map(|record| {
            json!({"id": "1", "timestamp": "0.0", "class": "task", "operation": "mod",
                "ref": "OpaqueRef:task", "snapshot": record})
        })
        .collect();
    json!({"token": token, "valid_ref_counts": {"task": 1}, "events": events})
}
