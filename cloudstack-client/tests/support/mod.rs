//! A scripted management server and storage VM on loopback, down to the bytes.

#![allow(dead_code, unreachable_pub, missing_docs, missing_debug_implementations)]
#![allow(clippy::unwrap_used, clippy::exhaustive_structs, clippy::exhaustive_enums)]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloudstack_client::{Client, Credentials, WaitOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const SECRET: &str = "hunter2-secret-key";

/// A request: its first line and headers as they were sent, and the parameters of its form.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub head: String,
    pub form: Vec<(String, String)>,
}

impl Seen {
    pub fn get(&self, name: &str) -> &str {
        self.form.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    pub fn command(&self) -> &str {
        self.get("command")
    }

    pub fn is_upload(&self) -> bool {
        self.head.starts_with("POST /upload/")
    }

    pub fn len(&self) -> u64 {
        let line = self.head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        line.and_then(|len| len.parse().ok()).unwrap_or(0)
    }
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

pub enum Reply {
    /// This answer, and the connection stays.
    Send(Vec<u8>),
    /// The script takes the connection over, with the body's bytes that have been read already.
    Take(Box<dyn FnOnce(TcpStream, Vec<u8>) -> Work + Send>),
}

pub fn take<F: Future<Output = ()> + Send + 'static>(
    f: impl FnOnce(TcpStream, Vec<u8>) -> F + Send + 'static,
) -> Reply {
    Reply::Take(Box::new(move |tcp, body| Box::pin(f(tcp, body))))
}

/// The connection is closed without an answer.
pub fn hang_up() -> Reply {
    take(|tcp, _| async move { drop(tcp) })
}

pub fn raw(status: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    (text + "\r\n" + body).into_bytes()
}

/// A success with this content under a root key.
pub fn ok(content: &serde_json::Value) -> Reply {
    Reply::Send(raw("200 OK", &[], &serde_json::json!({"someresponse": content}).to_string()))
}

pub fn error(code: u16, text: &str) -> Reply {
    let body = serde_json::json!({"someresponse": {"errorcode": code, "cserrorcode": 9999, "errortext": text, "uuidList": []}});
    Reply::Send(raw(&format!("{code} Some"), &[], &body.to_string()))
}

pub struct Cloud {
    pub url: String,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cloud {
    /// A cloud that answers by `script`, which is told how many requests came before.
    pub async fn start(script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    pub fn start_at(
        listener: TcpListener,
        script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, log) = (Arc::new(script), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                connections.spawn(async move { serve(tcp, &log, &*script).await });
            }
        });
        Self { url, seen, task }
    }

    pub fn client(&self) -> Client {
        Client::builder(format!("{}/client/api", self.url))
            .credentials(Credentials::new("key", SECRET))
            .build()
            .unwrap()
    }

    /// A client whose clock goes on by five minutes with every look at it: what it sent can no longer arrive.
    pub fn hasty_client(&self) -> Client {
        let looks = std::sync::atomic::AtomicU32::new(0);
        let clock = move || {
            let looks = looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            std::time::UNIX_EPOCH
                + Duration::from_secs(1_900_000_000)
                + Duration::from_secs(300) * looks
        };
        Client::builder(format!("{}/client/api", self.url))
            .credentials(Credentials::new("key", SECRET))
            .clock(clock)
            .build()
            .unwrap()
    }

    pub fn commands(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.command().to_owned()).collect()
    }

    pub fn ticket(&self) -> serde_json::Value {
        serde_json::json!({"getuploadparams": {"id": "t1", "postURL": format!("{}/upload/7c1d", self.url),
            "metadata": "bWV0YWRhdGEtMQ==", "expires": "2026-11-23T11:34:35.123Z", "signature": "c2lnbmF0dXJlLTE="}})
    }
}

pub fn soon() -> WaitOptions {
    WaitOptions::default()
        .with_timeout(Duration::from_secs(20))
        .with_pauses(Duration::from_millis(1), Duration::from_millis(5))
}

async fn serve(
    mut tcp: TcpStream,
    log: &Mutex<Vec<Seen>>,
    script: &(dyn Fn(&Seen, usize) -> Reply + Send + Sync),
) {
    let mut data = Vec::new();
    loop {
        let Some(end) = read_until(&mut tcp, &mut data).await else { return };
        let head = String::from_utf8_lossy(&data[..end]).into_owned();
        let mut rest = data.split_off(end + 4);
        let mut request = Seen { head, form: Vec::new() };
        if !request.is_upload() {
            let lower = request.head.to_ascii_lowercase();
            let len = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
            let len: usize = len.map_or(0, |len| len.parse().unwrap());
            while rest.len() < len {
                let mut part = vec![0; 65536];
                match tcp.read(&mut part).await {
                    Ok(n) if n > 0 => rest.extend_from_slice(&part[..n]),
                    _ => return,
                }
            }
            let form: Vec<u8> = rest.drain(..len).collect();
            request.form = parse(&String::from_utf8(form).unwrap());
        }
        let number = {
            let mut log = log.lock().unwrap();
            log.push(request.clone());
            log.len() - 1
        };
        match script(&request, number) {
            Reply::Send(bytes) => {
                if tcp.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Reply::Take(work) => return work(tcp, rest).await,
        }
        data = rest;
    }
}

async fn read_until(tcp: &mut TcpStream, data: &mut Vec<u8>) -> Option<usize> {
    loop {
        if let Some(end) = data.windows(4).position(|w| w == b"\r\n\r\n") {
            return Some(end);
        }
        let mut part = [0; 4096];
        let n = tcp.read(&mut part).await.ok().filter(|n| *n > 0)?;
        data.extend_from_slice(&part[..n]);
    }
}

fn parse(form: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text).decode_utf8().unwrap().into_owned()
    };
    form.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}
