//! Registration by URL, with a real download.

use std::io::Write;
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::client::{Session, vhd};

/// A web server with one file; notes the request lines.
pub(crate) struct Web {
    pub(crate) base: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Web {
    /// `status` and `length` are what its answers claim.
    pub(crate) async fn serve(status: &'static str, data: Vec<u8>, length: Option<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let line = String::from_utf8_lossy(&head).lines().next().unwrap_or("").to_owned();
                let get = line.starts_with("GET");
                notes.lock().unwrap().push(line);
                let length = length.unwrap_or(data.len());
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                );
                let _ = stream.write_all(head.as_bytes()).await;
                if get {
                    let _ = stream.write_all(&data).await;
                }
            }
        });
        Self { base, seen }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn methods(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }
}

async fn registered(session: &Session, more: &[(&str, &str)]) -> String {
    let answer = session.describe("registerTemplate", more).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let value = answer.json();
    assert_eq!(value["template"][0]["isready"], false, "an array, and no data yet");
    value["template"][0]["id"].as_str().unwrap().to_owned()
}

fn ready(rows: &[serde_json::Value]) -> bool {
    rows.iter().all(|row| row["isready"] == true)
}

fn failed(rows: &[serde_json::Value]) -> bool {
    rows[0]["downloaddetails"][0]["downloadState"] == "DOWNLOAD_ERROR"
}

#[tokio::test]
async fn the_url_is_asked_for_its_length_and_then_fetched() {
    let session = Session::open().await;
    let web = Web::serve("200 OK", vhd(), None).await;
    let id = registered(&session, &[("url", &web.url("/a.vhd?one=two"))]).await;
    let rows = session.until(&id, ready).await;
    assert_eq!(rows[0]["size"], 64 << 20);
    assert_eq!(web.methods(), ["HEAD", "GET"]);
    assert!(web.seen.lock().unwrap()[1].starts_with("GET /a.vhd?one=two "));
    assert!(std::fs::read(session.cloud.template_path(&id).unwrap()).unwrap() == vhd());
}

#[tokio::test]
async fn every_zone_fetches_for_itself_and_has_its_row() {
    let session = Session::open().await;
    session.fault("two-zones");
    let web = Web::serve("200 OK", vhd(), None).await;
    let id = registered(&session, &[("url", &web.url("/a.vhd")), ("zoneids", "-1")]).await;
    let rows = session.until(&id, ready).await;
    assert_eq!(rows.len(), 2);
    assert_ne!(rows[0]["zoneid"], rows[1]["zoneid"]);
    assert_eq!(web.methods(), ["HEAD", "GET", "GET"]);
    let second = session.zone(1).await;
    let params = [("id", id.as_str()), ("zoneid", second.as_str())];
    let answer = session.post("deleteTemplate", &params).await.unwrap();
    session.job(&answer).await;
    assert_eq!(session.rows(&id).await.len(), 1);
}

#[tokio::test]
async fn gzip_is_unpacked_and_the_checksum_is_that_of_the_download() {
    let session = Session::open().await;
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(&vhd()).unwrap();
    let packed = packer.finish().unwrap();
    let sum = {
        use sha2::Digest;
        format!("{{SHA-512}}{}", hex::encode(sha2::Sha512::digest(&packed)))
    };
    let web = Web::serve("200 OK", packed, None).await;
    let url = web.url("/a.VHD.gz");
    let id = registered(&session, &[("url", &url), ("checksum", &sum)]).await;
    session.until(&id, ready).await;
    assert!(std::fs::read(session.cloud.template_path(&id).unwrap()).unwrap() == vhd());
    let id = registered(&session, &[("url", &url), ("checksum", "00")]).await;
    let rows = session.until(&id, failed).await;
    assert!(rows[0]["status"].as_str().unwrap().starts_with("Checksum mismatch"));
}

#[tokio::test]
async fn a_download_that_fails_is_a_status_and_no_error() {
    let session = Session::open().await;
    let missing = Web::serve("404 Not Found", Vec::new(), None).await;
    let short = Web::serve("200 OK", vhd(), Some(1 << 20)).await;
    let wrong = Web::serve("200 OK", vec![1; 5000], None).await;
    // Bound and dropped: nobody listens there.
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/a.vhd", listener.local_addr().unwrap())
    };
    let cases = [
        (missing.url("/a.vhd"), "HTTP Server returned 404"),
        (short.url("/a.vhd"), "Download failed after"),
        (wrong.url("/a.vhd"), "Failed post download script"),
        (nobody, "Connection to"),
    ];
    for (url, text) in cases {
        let id = registered(&session, &[("url", &url)]).await;
        let rows = session.until(&id, failed).await;
        assert!(rows[0]["status"].as_str().unwrap().starts_with(text), "{}", rows[0]);
        assert!(session.cloud.template_path(&id).is_none());
        let answer = session.post("deleteTemplate", &[("id", &id)]).await.unwrap();
        assert_eq!(session.job(&answer).await["jobstatus"], 1);
    }
    assert!(session.cloud.templates().is_empty());
}

#[tokio::test]
async fn a_fixed_image_has_the_size_of_its_file() {
    let session = Session::open().await;
    let fixed = [vec![0; 1 << 20], vhd()[..512].to_vec()].concat();
    let web = Web::serve("200 OK", fixed, None).await;
    let id = registered(&session, &[("url", &web.url("/a.vhd"))]).await;
    assert_eq!(session.until(&id, ready).await[0]["size"], (1 << 20) + 512);
}

#[tokio::test]
async fn what_a_registration_refuses() {
    let session = Session::open().await;
    let long = format!("http://127.0.0.1/{}.vhd", "a".repeat(2048));
    let cases: [&[(&str, &str)]; 11] = [
        &[("url", "http://127.0.0.1/a.qcow2")],
        &[("url", "http://127.0.0.1/a?name=a.vhd")],
        &[("url", "ftp://127.0.0.1/a.vhd")],
        &[("url", "http://0.0.0.0/a.vhd")],
        &[("url", "http://[::1]/a.vhd")],
        &[("url", &long)],
        &[("url", "http://127.0.0.1/a.vhd"), ("format", "FLOPPY")],
        &[("url", "http://127.0.0.1/a.vhd"), ("bits", "16")],
        &[("url", "http://127.0.0.1/a.vhd"), ("zoneid", "x")],
        &[("url", "http://127.0.0.1/a.vhd"), ("zoneids", ",")],
        &[("url", "http://127.0.0.1/a.vhd"), ("arch", "m68k")],
    ];
    for case in cases {
        let answer = session.describe("registerTemplate", case).await.unwrap();
        assert_eq!(answer.status, 431, "{case:?}: {}", answer.text());
    }
    let administrators = [("url", "http://127.0.0.1/a.vhd"), ("templatetag", "fast")];
    let answer = session.describe("registerTemplate", &administrators).await.unwrap();
    assert_eq!(answer.status, 531);
    session.fault("refuse-loopback");
    let answer = session.describe("registerTemplate", &[("url", "http://127.0.0.1/a.vhd")]).await;
    let answer = answer.unwrap();
    assert!(answer.text().contains("Illegal host"), "{}", answer.text());
    assert!(session.cloud.templates().is_empty());
}

#[tokio::test]
async fn a_template_cannot_be_deleted_while_it_is_downloaded() {
    let session = Session::open().await;
    // The server keeps the connection, so the download goes on.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/a.vhd", listener.local_addr().unwrap());
    let (let_go, mut go) = tokio::sync::mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (mut stream, _) = accepted.unwrap();
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
                    kept.push(stream);
                }
                _ = go.recv() => kept.clear(),
            }
        }
    });
    let id = registered(&session, &[("url", &url)]).await;
    session.until(&id, |rows| rows[0]["status"] == "0% Downloaded").await;
    let answer = session.post("deleteTemplate", &[("id", &id)]).await.unwrap();
    let job = session.job(&answer).await;
    assert_eq!((&job["jobstatus"], &job["jobresult"]["errorcode"]), (&2.into(), &530.into()));
    let_go.send(()).await.unwrap();
    session.until(&id, failed).await;
    let answer = session.post("deleteTemplate", &[("id", &id)]).await.unwrap();
    assert_eq!(session.job(&answer).await["jobstatus"], 1);
}
