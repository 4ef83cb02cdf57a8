//! Every fault, seen from the wire.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use simulator::openstack::Fault;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{OCTETS, Session};

const IMAGES: &str = "/image/v2/images";

#[tokio::test]
async fn token_ttl() {
    let session = Session::open().await;
    session.fault("token-ttl=0");
    let token = session.login().await;
    let answer = session.send("GET", IMAGES, &[("x-auth-token", &token)], b"").await.unwrap();
    assert_eq!(answer.status, 401);
    assert_eq!(session.get(IMAGES).await.status, 200, "the older token lives on");
}

#[tokio::test]
async fn expire_after() {
    let session = Session::open().await;
    session.fault("expire-after=2");
    let statuses = [
        session.get(IMAGES).await.status,
        session.get(IMAGES).await.status,
        session.get(IMAGES).await.status,
    ];
    assert_eq!(statuses, [200, 200, 401]);
    let token = session.login().await;
    let again = session.send("GET", IMAGES, &[("x-auth-token", &token)], b"").await.unwrap();
    assert_eq!(again.status, 200);
}

#[tokio::test]
async fn quota() {
    let session = Session::open().await;
    session.fault("quota=2097152");
    let usage = session.get("/image/v2/info/usage").await.json();
    assert_eq!(usage["usage"]["image_size_total"]["limit"], 2, "in MiB");
    let (first, second) = (session.image("raw", "ovf").await, session.image("raw", "ovf").await);
    assert_eq!(session.put(&first, &vec![0; 1 << 20]).await.unwrap().status, 204);
    assert_eq!(session.put(&second, &vec![0; (1 << 20) + 1]).await.unwrap().status, 413);
    let path = format!("{second}/file");
    let unknown = session.send_chunked(&path, &[OCTETS], &vec![0; (1 << 20) + 1]).await;
    assert_eq!(unknown.unwrap().status, 413, "noticed on the way");
    assert_eq!(session.status(&second).await, "queued");
    assert_eq!(session.put(&second, &vec![0; 1 << 20]).await.unwrap().status, 204);
}

/// An endless upload with a size far beyond the cap must be answered while it is being sent.
#[tokio::test]
async fn size_cap_is_told_early() {
    let session = Session::open().await;
    session.fault("size-cap=1000000");
    for framing in [
        "content-length: 999999999999",
        "transfer-encoding: chunked",
        "transfer-encoding: chunked\r\nx-openstack-image-size: 999999999999",
    ] {
        let image = session.image("raw", "ovf").await;
        let mut head = session.head("PUT", &format!("{image}/file"), &[OCTETS]);
        head.extend_from_slice(format!("{framing}\r\n\r\n").as_bytes());
        let stream = TcpStream::connect(("127.0.0.1", session.port())).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let sender = tokio::spawn(async move {
            if write.write_all(&head).await.is_err() {
                return;
            }
            let mut block = b"10000\r\n".to_vec();
            block.resize(7 + 0x10000, 0);
            block.extend_from_slice(b"\r\n");
            while write.write_all(&block).await.is_ok() {}
        });
        let mut first = [0; 12];
        read.read_exact(&mut first).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&first), "HTTP/1.1 413", "{framing}");
        sender.abort();
        assert_eq!(session.status(&image).await, "queued");
    }
    let image = session.image("raw", "ovf").await;
    assert_eq!(session.put(&image, &vec![0; 1_000_000]).await.unwrap().status, 204);
}

#[tokio::test]
async fn upload_fails_then_works() {
    let session = Session::open().await;
    session.fault("upload-fails=503:1000@1");
    session.fault("upload-fails=403@1");
    let image = session.image("raw", "ovf").await;
    for status in [403, 503, 204] {
        let answer = session.put(&image, &vec![0; 1 << 20]).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
        let after = if status == 204 { "active" } else { "queued" };
        assert_eq!(session.status(&image).await, after);
    }
}

#[tokio::test]
async fn upload_close() {
    let session = Session::open().await;
    session.fault("upload-close=100000@1");
    let image = session.image("raw", "ovf").await;
    assert!(session.put(&image, &vec![0; 1 << 20]).await.is_none());
    session.until(&image, "queued").await;
    assert_eq!(session.put(&image, &vec![0; 1 << 20]).await.unwrap().status, 204);
}

#[tokio::test]
async fn image_killed_and_back_to_queued() {
    let session = Session::open().await;
    for (fault, status) in [("image-killed@1", "killed"), ("image-back-to-queued@1", "queued")] {
        session.fault(fault);
        let image = session.image("raw", "ovf").await;
        assert_eq!(session.put(&image, b"data").await.unwrap().status, 204);
        let shown = session.get(&image).await.json();
        assert_eq!(shown["status"], status);
        assert_eq!(shown["size"], Value::Null);
        assert!(shown["checksum"].is_string(), "stale");
        assert!(session.cloud.image_path(shown["id"].as_str().unwrap()).is_none());
        let again = if status == "killed" { 409 } else { 204 };
        assert_eq!(session.put(&image, b"data").await.unwrap().status, again);
    }
}

#[tokio::test]
async fn slow_activate() {
    let session = Session::open().await;
    session.fault("slow-activate=300");
    let image = session.image("raw", "ovf").await;
    let start = Instant::now();
    assert_eq!(session.put(&image, b"data").await.unwrap().status, 204);
    session.until(&image, "active").await;
    assert!(start.elapsed() >= Duration::from_millis(300), "not before its time");
}

#[tokio::test]
async fn stuck_saving() {
    let session = Session::open().await;
    session.fault("stuck-saving");
    let image = session.image("raw", "ovf").await;
    assert_eq!(session.put(&image, b"data").await.unwrap().status, 204);
    assert_eq!(session.status(&image).await, "saving");
    assert_eq!(session.put(&image, b"data").await.unwrap().status, 409);
    assert_eq!(session.send("DELETE", &image, &[], b"").await.unwrap().status, 204);
}

#[tokio::test]
async fn digests() {
    let session = Session::open().await;
    let plain = session.image("raw", "ovf").await;
    session.put(&plain, b"data").await.unwrap();
    let right = session.get(&plain).await.json();
    session.fault("hash-mismatch@1");
    let wrong = session.image("raw", "ovf").await;
    session.put(&wrong, b"data").await.unwrap();
    let wrong = session.get(&wrong).await.json();
    for key in ["checksum", "os_hash_value"] {
        assert_ne!(right[key], wrong[key]);
        assert_eq!(right[key].as_str().unwrap().len(), wrong[key].as_str().unwrap().len());
    }
    session.fault("sha256-multihash");
    session.fault("no-checksum");
    let image = session.image("raw", "ovf").await;
    session.put(&image, b"data").await.unwrap();
    let shown = session.get(&image).await.json();
    assert_eq!((&shown["os_hash_algo"], &shown["checksum"]), (&json!("sha256"), &Value::Null));
    // As sha256sum says of "data".
    let known = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7";
    assert_eq!(shown["os_hash_value"], known);
}

#[tokio::test]
async fn create_500_after_store() {
    let session = Session::open().await;
    session.cloud.faults().set_times(Fault::Create500AfterStore, 1);
    let id = "6f2b3c1e-1111-4222-8333-444455556666";
    let body = json!({"id": id, "name": "a"});
    assert_eq!(session.post(IMAGES, &body).await.status, 500);
    assert_eq!(session.cloud.images()[0]["id"], id, "stored all the same");
    assert_eq!(session.post(IMAGES, &body).await.status, 409);
}

#[tokio::test]
async fn fail_nth_has_no_effect() {
    let session = Session::open().await;
    session.fault("fail-nth=2:POST /v2/images 503");
    session.fault("fail-nth=1:POST /identity/v3/auth/tokens");
    let body = json!({"name": "a"});
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(session.post(IMAGES, &body).await.status);
    }
    assert_eq!(statuses, [201, 503, 201]);
    assert_eq!(session.cloud.images().len(), 2);
    let refused = session.authenticate(&session.password()).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (500, &json!(500)));
    assert_eq!(session.authenticate(&session.password()).await.status, 201);
}

#[tokio::test]
async fn drop_after_effect() {
    let session = Session::open().await;
    session.fault("drop-after-effect");
    let body = json!({"id": "6f2b3c1e-1111-4222-8333-444455556666"}).to_string();
    assert_eq!(session.get(IMAGES).await.status, 200, "changes nothing, so it is not hit");
    let post = || session.send("POST", IMAGES, &[crate::client::JSON], body.as_bytes());
    assert!(post().await.is_none());
    assert_eq!(session.cloud.images().len(), 1);
    assert_eq!(post().await.unwrap().status, 409);
    session.fault("drop-after-effect=PUT /v2/images");
    let image = session.image("raw", "ovf").await;
    assert!(session.put(&image, b"data").await.is_none());
    assert_eq!(session.status(&image).await, "active");
}

async fn catalogue(session: &Session) -> Vec<(String, String)> {
    let token = session.authenticate(&session.password()).await.json();
    let services = token["token"]["catalog"].as_array().unwrap().clone();
    let images = services.iter().filter(|service| service["type"] == "image");
    let endpoints = images.flat_map(|service| service["endpoints"].as_array().unwrap());
    endpoints
        .filter(|endpoint| endpoint["interface"] == "public")
        .map(|e| (e["region"].as_str().unwrap().to_owned(), e["url"].as_str().unwrap().to_owned()))
        .collect()
}

#[tokio::test]
async fn catalogues() {
    let session = Session::open().await;
    let url = session.cloud.image_url();
    assert_eq!(catalogue(&session).await, [("RegionOne".to_owned(), url.clone())]);
    for (fault, suffix) in [("catalogue-v2-suffix", "/v2"), ("catalogue-slash", "/v2/")] {
        session.fault(fault);
        assert_eq!(catalogue(&session).await[0].1, format!("{url}{suffix}"));
    }
    session.cloud.faults().clear();
    session.fault("no-image-endpoint");
    assert_eq!(catalogue(&session).await, []);
    session.cloud.faults().clear();
    session.fault("two-regions");
    let regions = catalogue(&session).await;
    assert_eq!(regions.len(), 2);
    assert_eq!(regions[1].0, "RegionTwo");
    // Two services with images of their own.
    let second = session.post("/image-two/v2/images", &json!({"name": "two"})).await;
    assert_eq!(second.status, 201);
    let id = second.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(session.get(&format!("/image/v2/images/{id}")).await.status, 404);
    assert_eq!(session.get(&format!("/image-two/v2/images/{id}")).await.status, 200);
}

#[tokio::test]
async fn older_servers() {
    let session = Session::open().await;
    session.fault("no-size-header");
    session.fault("no-format-check");
    let image = session.image("vhd", "bare").await;
    let headers = [OCTETS, ("x-openstack-image-size", "100")];
    let path = format!("{image}/file");
    let answer = session.send_chunked(&path, &headers, b"not a VHD, and short").await.unwrap();
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(session.status(&image).await, "active");
}
