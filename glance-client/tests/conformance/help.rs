//! What the expectations share: users, data, a place on the web, and a line that breaks.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use glance_client::image::{ContainerFormat, Digests, DiskFormat, Download, NewImage, delete};
use glance_client::keystone::{Auth, Principal, Scope, Session};
use glance_client::{
    Body, BodyStream, CloudConfig, Error, ErrorKind, Glance, HttpTransport, Result, Transport,
};
use sha2::{Digest, Sha512};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

pub(crate) fn unique() -> String {
    uuid::Uuid::new_v4().to_string()
}

pub(crate) fn raw(name: &str) -> NewImage {
    NewImage::new(name, DiskFormat::Raw, ContainerFormat::Bare).with_id(unique())
}

pub(crate) async fn glance(config: &CloudConfig) -> Glance {
    Glance::connect(&Session::connect(config).await.unwrap()).await.unwrap()
}

/// The same cloud as another user of the same password, in a project of the same name: `other` is a plain tenant, `admin`
/// an administrator. `None` with a word where there is no such user.
pub(crate) async fn glance_as(config: &CloudConfig, name: &str) -> Option<Glance> {
    let Auth::Password { user, password } = &config.auth else {
        panic!("the tests need a password")
    };
    let Principal::Named { domain, .. } = user else { panic!("the tests need a user's name") };
    let named = || Principal::named(name, domain.clone());
    let mut config = config.clone();
    config.auth = Auth::Password { user: named(), password: password.clone() };
    config.scope = Scope::Project(named());
    match Session::connect(&config).await {
        Ok(session) => Some(Glance::connect(&session).await.unwrap()),
        Err(error) if error.kind() == ErrorKind::Unauthorized => {
            eprintln!("skipped: this cloud has no user {name:?} with the same password");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn digests(data: &[u8]) -> Digests {
    Digests::new()
        .with_md5(hex::encode(md5::Md5::digest(data)))
        .with_sha512(hex::encode(Sha512::digest(data)))
}

/// Bytes that look like no image format.
pub(crate) fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * i % 251) as u8 | 1).collect()
}

pub(crate) async fn read(download: Download) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut stream = download.stream;
    while let Some(piece) = stream.next().await {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}

pub(crate) async fn remove(glance: &Glance, ids: &[&str]) {
    for id in ids {
        glance.call(delete(id)).await.unwrap();
    }
}

/// A web server on loopback that has one file, `/disk.raw`, and nothing else.
pub(crate) struct Web {
    pub(crate) url: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Web {
    pub(crate) async fn start(data: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://127.0.0.1:{}/disk.raw", listener.local_addr().unwrap().port());
        let data = Bytes::from(data);
        let task = tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let data = data.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = tcp.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let found = head.split(' ').nth(1) == Some("/disk.raw");
                    let (status, len) =
                        if found { ("200 OK", data.len()) } else { ("404 Not Found", 0) };
                    let text = format!(
                        "HTTP/1.1 {status}\r\nContent-Length: {len}\r\n\
                         Content-Type: application/octet-stream\r\nConnection: close\r\n\r\n"
                    );
                    let _ = tcp.write_all(text.as_bytes()).await;
                    if found && !head.starts_with("HEAD") {
                        let _ = tcp.write_all(&data).await;
                    }
                });
            }
        });
        Self { url, task }
    }
}

/// A transport that does something to the data that come from a real one.
#[derive(Debug)]
pub(crate) struct Line {
    inner: HttpTransport,
    trouble: Trouble,
    answers: AtomicU32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    /// The connection breaks after so many bytes of each of the first answers with data.
    Breaks { after: usize, times: u32 },
    /// One bit is another.
    Flips,
}

impl Line {
    pub(crate) async fn glance(config: &CloudConfig, trouble: Trouble) -> (Glance, Arc<Self>) {
        let inner = HttpTransport::new(&config.tls, Duration::from_secs(10)).unwrap();
        let line = Arc::new(Self { inner, trouble, answers: AtomicU32::new(0) });
        let transport: Arc<dyn Transport> = Arc::<Self>::clone(&line);
        let session = Session::connect_with(config, transport).await.unwrap();
        (Glance::connect(&session).await.unwrap(), line)
    }

    /// How many answers had data.
    pub(crate) fn answers(&self) -> u32 {
        self.answers.load(Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl Transport for Line {
    async fn send(&self, request: http::Request<Body>) -> Result<http::Response<BodyStream>> {
        let data = request.uri().path().ends_with("/file") && request.method() == "GET";
        let answer = self.inner.send(request).await?;
        if !data {
            return Ok(answer);
        }
        let count = self.answers.fetch_add(1, Ordering::SeqCst);
        let (parts, body) = answer.into_parts();
        let body = match self.trouble {
            Trouble::Breaks { after, times } if count < times => breaking(body, after),
            Trouble::Breaks { .. } => body,
            Trouble::Flips => flipping(body),
        };
        Ok(http::Response::from_parts(parts, body))
    }
}

fn breaking(body: BodyStream, after: usize) -> BodyStream {
    let broken = || Error::transport("the line broke", std::io::Error::other("on purpose"));
    stream::unfold((body, after), move |(mut body, left)| async move {
        if left == 0 {
            return Some((Err(broken()), (stream::empty().boxed(), usize::MAX)));
        }
        let mut piece = match body.next().await? {
            Ok(piece) => piece,
            Err(error) => return Some((Err(error), (body, left))),
        };
        piece.truncate(left);
        let left = left - piece.len();
        Some((Ok(piece), (body, left)))
    })
    .boxed()
}

fn flipping(body: BodyStream) -> BodyStream {
    let mut first = true;
    body.map(move |piece| {
        let mut piece = piece?.to_vec();
        if let Some(byte) = piece.first_mut().filter(|_| std::mem::take(&mut first)) {
            *byte ^= 1;
        }
        Ok(Bytes::from(piece))
    })
    .boxed()
}
