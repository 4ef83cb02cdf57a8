//! The listener and its connections.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Response;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use url::Url;

use super::answer::answer;
use super::content::{Content, first};
use crate::error::{Error, Result};
use crate::meter::{Meter, Producer};
use crate::random::random_hex;

/// More than the storage VMs of any cloud ask for at once.
const MOST_CONNECTIONS: usize = 64;

/// Serves one file until it is stopped or dropped.
pub struct Server {
    url: Url,
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    path: String,
    content: Content,
    peers: Option<Vec<IpAddr>>,
    requests: AtomicU64,
    bytes: AtomicU64,
    failure: Mutex<Option<String>>,
}

/// The settings of a [`Server`].
#[derive(Debug)]
pub struct ServerBuilder {
    name: String,
    content: Content,
    bind: SocketAddr,
    host: Option<String>,
    peers: Option<Vec<IpAddr>>,
}

impl Server {
    /// Serves `content` as a file of this name, which decides what the cloud takes it for: `web01.vhd`, `web01.vhd.gz`.
    pub fn builder(name: impl Into<String>, content: Content) -> ServerBuilder {
        ServerBuilder {
            name: name.into(),
            content,
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            host: None,
            peers: None,
        }
    }

    /// The file's URL. Who knows it can fetch the file, so keep it out of logs.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// How many requests for the file there were.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// How many bytes of the content were handed to connections, over all requests.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// What was last wrong with the content. The cloud only sees a connection that breaks off, so look here when a
    /// template has failed.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it, with all of its connections. Dropping does the same without waiting.
    pub async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ServerBuilder {
    /// The address to listen at; port 0 takes a free one. The default, loopback, is reached by nobody else.
    #[must_use]
    pub fn bind(mut self, address: SocketAddr) -> Self {
        self.bind = address;
        self
    }

    /// The host name or address by which the cloud reaches this computer, if not the address to listen at.
    #[must_use]
    pub fn public_host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Only these may connect: the management servers and the secondary storage VMs. Others are disconnected.
    #[must_use]
    pub fn peers(mut self, peers: impl IntoIterator<Item = IpAddr>) -> Self {
        self.peers = Some(peers.into_iter().map(|peer| peer.to_canonical()).collect());
        self
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a name or host that cannot be in a URL, and an address that
    /// cannot be listened at.
    pub async fn start(self) -> Result<Server> {
        let Self { name, content, bind, host, peers } = self;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        if name.starts_with('.') || !name.contains('.') || !name.bytes().all(plain) {
            return Err(Error::config(format!(
                "{name:?} cannot be served: the name must have letters, digits, '.', '-' and '_' only, and an ending"
            )));
        }
        if bind.ip().is_unspecified() && host.is_none() {
            return Err(Error::config(format!(
                "{bind} is every address of this computer: name the public host by which the cloud reaches it"
            )));
        }
        let listen = |error: std::io::Error| {
            Error::config(format!("cannot listen at {bind}: {error}")).with_source(error)
        };
        let listener = TcpListener::bind(bind).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let path = format!("/{}/{name}", random_hex()?);
        let url = url(host.as_deref(), address, &path)?;
        let shared = Arc::new(Shared {
            path,
            content,
            peers,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failure: Mutex::new(None),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Server { url, address, shared, task })
    }
}

fn url(host: Option<&str>, address: SocketAddr, path: &str) -> Result<Url> {
    let port = address.port();
    let base = match host {
        Some(host) => format!("http://{host}:{port}"),
        None => format!("http://{address}"),
    };
    let base = Url::parse(&base).ok().filter(|url| {
        url.path() == "/" && url.port_or_known_default() == Some(port) && url.username().is_empty()
    });
    let joined = base.and_then(|base| base.join(path).ok());
    joined.ok_or_else(|| {
        Error::config(format!("{:?} cannot be the host of a URL", host.unwrap_or_default()))
    })
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        let tcp = match listener.accept().await {
            Ok((tcp, peer)) if shared.admits(peer.ip()) => tcp,
            Ok(_) => continue,
            // Too many open files, a connection that is gone already: it passes.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.len() >= MOST_CONNECTIONS {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(tcp, Arc::clone(&shared)));
    }
}

async fn serve(tcp: TcpStream, shared: Arc<Shared>) {
    let service =
        hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let answer = shared.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
    // One request for each connection: the next client waits behind nobody.
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(15))
        .keep_alive(false)
        .max_headers(100)
        .serve_connection(TokioIo::new(tcp), service);
    let _ = connection.await;
}

type Body = StreamBody<futures_util::stream::BoxStream<'static, std::io::Result<Frame<Bytes>>>>;

impl Shared {
    fn admits(&self, peer: IpAddr) -> bool {
        self.peers.as_ref().is_none_or(|peers| peers.contains(&peer.to_canonical()))
    }

    fn answer(self: &Arc<Self>, request: &http::Request<hyper::body::Incoming>) -> Response<Body> {
        let len = self.content.len();
        let (method, path) = (request.method(), request.uri().path());
        let answer = answer(method, path, request.headers(), &self.path, len);
        if answer.head.status() != http::StatusCode::NOT_FOUND {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        let data = match answer.part {
            Some((start, count)) => self.data(start, count),
            None => stream::empty().boxed(),
        };
        answer.head.map(|()| StreamBody::new(data.map(|chunk| chunk.map(Frame::data)).boxed()))
    }

    fn data(self: &Arc<Self>, start: u64, count: u64) -> Producer {
        let producer = self.content.open(start);
        // Up to the end of the content the length of the source is checked too.
        let producer =
            if start + count < self.content.len() { first(producer, count) } else { producer };
        let meter = Meter::new(count, producer, None);
        let shared = Arc::clone(self);
        let wire = meter.wire();
        wire.map(move |chunk| {
            match &chunk {
                Ok(chunk) => {
                    shared.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                }
                Err(_) => {
                    if let Some(failure) = meter.failure() {
                        *shared.failure.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(failure.to_string());
                    }
                }
            }
            chunk
        })
        .boxed()
    }
}
