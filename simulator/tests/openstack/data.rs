//! Glance with data: uploads, the format check, downloads.

use md5::{Digest, Md5};
use serde_json::{Value, json};
use sha2::Sha512;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{OCTETS, PATCH, Session, raw};

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[tokio::test]
async fn both_ways_to_upload_give_the_same_image() {
    let session = Session::open().await;
    let body = noise(1_234_567);
    for chunked in [false, true] {
        let image = session.image("raw", "ovf").await;
        let path = format!("{image}/file");
        let answer = match chunked {
            true => session.send_chunked(&path, &[OCTETS], &body).await.unwrap(),
            false => session.put(&image, &body).await.unwrap(),
        };
        assert_eq!((answer.status, answer.header("content-length")), (204, None));
        let shown = session.get(&image).await.json();
        assert_eq!(shown["status"], "active");
        assert_eq!(shown["size"], 1_234_567);
        assert_eq!(shown["checksum"], json!(hex::encode(Md5::digest(&body))));
        assert_eq!(shown["os_hash_algo"], "sha512");
        assert_eq!(shown["os_hash_value"], json!(hex::encode(Sha512::digest(&body))));
        assert_eq!(shown["virtual_size"], Value::Null, "not inspected");
        assert_eq!(shown["stores"], "fast");
        let id = shown["id"].as_str().unwrap();
        assert_eq!(std::fs::read(session.cloud.image_path(id).unwrap()).unwrap(), body);
        assert_eq!(session.put(&image, &body).await.unwrap().status, 409, "only once");
    }
    assert_eq!(session.cloud.images().len(), 2);
}

#[tokio::test]
async fn downloads_whole_and_in_part() {
    let session = Session::open().await;
    let body = noise(700_001);
    let image = session.image("raw", "ovf").await;
    let path = format!("{image}/file");
    assert_eq!(session.get(&path).await.status, 204, "no data yet");
    let range = |text: &'static str| {
        let (session, path) = (&session, &path);
        async move { session.send("GET", path, &[("range", text)], b"").await.unwrap() }
    };
    assert_eq!(range("bytes=0-1").await.status, 500, "as the real server does");
    assert_eq!(session.put(&image, &body).await.unwrap().status, 204);
    let md5 = hex::encode(Md5::digest(&body));
    let whole = session.get(&path).await;
    assert_eq!((whole.status, whole.header("content-md5")), (200, Some(md5.as_str())));
    assert_eq!(whole.header("content-length"), Some("700001"));
    assert!(whole.body == body);
    for (text, from, to) in
        [("bytes=5-9", 5, 10), ("bytes=700000-", 700_000, 700_001), ("bytes=-3", 699_998, 700_001)]
    {
        let part = range(text).await;
        assert_eq!(
            (part.status, part.header("content-md5")),
            (206, Some(md5.as_str())),
            "of the whole"
        );
        let shown = format!("bytes {from}-{}/700001", to - 1);
        assert_eq!(part.header("content-range"), Some(shown.as_str()));
        assert_eq!(part.body, &body[from..to]);
    }
    assert_eq!(range("bytes=700001-").await.status, 416);
    assert_eq!(range("bytes=0-1,3-4").await.status, 400);
    for (action, status) in [("deactivate", 403), ("reactivate", 200)] {
        let done = session.send("POST", &format!("{image}/actions/{action}"), &[], b"").await;
        assert_eq!(done.unwrap().status, 204);
        assert_eq!(session.get(&path).await.status, status);
    }
    let id = image.rsplit('/').next().unwrap();
    let file = session.cloud.image_path(id).unwrap();
    assert_eq!(session.send("DELETE", &image, &[], b"").await.unwrap().status, 204);
    assert!(!file.exists());
}

#[tokio::test]
async fn headers_are_checked_before_the_body() {
    let session = Session::open().await;
    let image = session.image("raw", "ovf").await;
    let path = format!("{image}/file");
    for (headers, status) in [
        (vec![], 415),
        (vec![("content-type", "text/plain")], 415),
        (vec![OCTETS, ("x-image-meta-store", "tape")], 400),
        (vec![OCTETS, ("x-openstack-image-size", "many")], 400),
        (vec![OCTETS, ("x-auth-token", "wrong")], 401),
    ] {
        let answer = session.send("PUT", &path, &headers, b"data").await.unwrap();
        assert_eq!(answer.status, status, "{headers:?}");
    }
    assert_eq!(session.status(&image).await, "queued");
    let bare = session.post("/image/v2/images", &json!({"name": "no formats"})).await.json();
    let path = format!("/image/v2/images/{}/file", bare["id"].as_str().unwrap());
    assert_eq!(session.send("PUT", &path, &[OCTETS], b"x").await.unwrap().status, 400);
}

#[tokio::test]
async fn a_declared_size_must_be_the_size() {
    let session = Session::open().await;
    for (declared, status) in [("5000", 204), ("5001", 400), ("4999", 400)] {
        let image = session.image("raw", "ovf").await;
        let headers = [OCTETS, ("x-openstack-image-size", declared)];
        let path = format!("{image}/file");
        let answer = session.send_chunked(&path, &headers, &noise(5000)).await.unwrap();
        assert_eq!(answer.status, status, "{declared}: {}", answer.text());
        if status == 400 {
            assert_eq!(session.status(&image).await, "queued");
            assert_eq!(session.put(&image, &noise(5000)).await.unwrap().status, 204, "again");
        }
    }
}

#[tokio::test]
async fn a_fragment_with_content_range_becomes_the_whole_image() {
    let session = Session::open().await;
    let image = session.image("raw", "ovf").await;
    let headers = [OCTETS, ("content-range", "bytes 0-99/1000")];
    let answer = session.send("PUT", &format!("{image}/file"), &headers, &noise(100)).await;
    assert_eq!(answer.unwrap().status, 204);
    assert_eq!(session.get(&image).await.json()["size"], 100);
}

#[tokio::test]
async fn an_aborted_upload_leaves_a_queued_image_that_takes_data_again() {
    let session = Session::open().await;
    for framing in
        ["content-length: 1000000\r\n\r\n", "transfer-encoding: chunked\r\n\r\nf4240\r\n"]
    {
        let image = session.image("raw", "ovf").await;
        let mut head = session.head("PUT", &format!("{image}/file"), &[OCTETS]);
        head.extend_from_slice(framing.as_bytes());
        let mut stream = TcpStream::connect(("127.0.0.1", session.port())).await.unwrap();
        stream.write_all(&head).await.unwrap();
        stream.write_all(&noise(300_000)).await.unwrap();
        session.until(&image, "saving").await;
        assert_eq!(session.put(&image, b"x").await.unwrap().status, 409, "one at a time");
        drop(stream);
        session.until(&image, "queued").await;
        assert_eq!(session.put(&image, &noise(10)).await.unwrap().status, 204);
    }
}

#[tokio::test]
async fn deleting_during_an_upload_is_told_to_the_uploader() {
    let session = Session::open().await;
    let image = session.image("raw", "ovf").await;
    let mut head = session.head("PUT", &format!("{image}/file"), &[OCTETS]);
    head.extend_from_slice(b"content-length: 1000\r\n\r\n");
    let mut stream = TcpStream::connect(("127.0.0.1", session.port())).await.unwrap();
    stream.write_all(&head).await.unwrap();
    session.until(&image, "saving").await;
    assert_eq!(session.send("DELETE", &image, &[], b"").await.unwrap().status, 204);
    stream.write_all(&noise(1000)).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 410"), "{answer}");
}

#[tokio::test]
async fn expect_continue_gets_the_refusal_or_the_go_ahead() {
    let session = Session::open().await;
    let image = session.image("raw", "ovf").await;
    let expect = ("expect", "100-continue");
    for (headers, wanted) in
        [(vec![expect], "HTTP/1.1 415"), (vec![expect, OCTETS], "HTTP/1.1 100")]
    {
        let mut head = session.head("PUT", &format!("{image}/file"), &headers);
        head.extend_from_slice(b"content-length: 4\r\n\r\n");
        let mut stream = TcpStream::connect(("127.0.0.1", session.port())).await.unwrap();
        stream.write_all(&head).await.unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&first), wanted);
        if wanted.ends_with("100") {
            stream.write_all(b"data").await.unwrap();
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.unwrap();
            assert!(rest.contains("HTTP/1.1 204"), "{rest}");
        }
    }
}

fn with_mbr(kind: u8) -> Vec<u8> {
    let mut disk = vec![0; 4096];
    disk[450] = kind;
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

fn qcow2(backing: u64) -> Vec<u8> {
    let mut head = b"QFI\xfb\0\0\0\x03".to_vec();
    head.extend_from_slice(&backing.to_be_bytes());
    head.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 16]);
    head.extend_from_slice(&(1u64 << 30).to_be_bytes());
    head.resize(1024, 0);
    head
}

fn vhd_footer() -> Vec<u8> {
    let mut footer = b"conectix".to_vec();
    footer.resize(40, 0);
    footer.extend_from_slice(&(1u64 << 26).to_be_bytes());
    footer.resize(512, 0);
    footer
}

#[tokio::test]
async fn bare_images_are_checked_against_their_format_after_the_whole_body() {
    let session = Session::open().await;
    let dynamic = [vhd_footer(), vec![0; 1024], vhd_footer()].concat();
    let fixed = [vec![0; 1 << 20], vhd_footer()].concat();
    for (disk, container, body, wanted) in [
        ("vhd", "bare", &dynamic, Ok(json!(1u64 << 26))),
        ("vhd", "bare", &fixed, Err("does not match stream data raw")),
        ("vhd", "bare", &b"\x1f\x8b\x08 a tar.gz".to_vec(), Err("does not match")),
        ("vhd", "ovf", &b"\x1f\x8b\x08 a tar.gz".to_vec(), Ok(Value::Null)),
        ("qcow2", "bare", &qcow2(0), Ok(json!(1u64 << 30))),
        ("qcow2", "bare", &qcow2(512), Err("failed safety checks")),
        ("raw", "bare", &qcow2(0), Ok(json!(1024))),
        ("raw", "bare", &with_mbr(0x83), Ok(json!(4096))),
        ("raw", "bare", &with_mbr(0), Err("failed safety checks")),
        ("iso", "bare", &vec![0; 64], Err("does not match")),
    ] {
        let image = session.image(disk, container).await;
        let answer = session.put(&image, body).await.unwrap();
        let shown = session.get(&image).await.json();
        match wanted {
            Ok(size) => {
                assert_eq!(answer.status, 204, "{disk}: {}", answer.text());
                assert_eq!((&shown["virtual_size"], &shown["status"]), (&size, &json!("active")));
            }
            Err(why) => {
                assert_eq!(answer.status, 415, "{disk}");
                assert!(answer.text().contains(why), "{}", answer.text());
                assert_eq!(shown["status"], "queued");
                assert_eq!(shown["size"], Value::Null);
                // Stale: only the status tells.
                assert_eq!(shown["checksum"], json!(hex::encode(Md5::digest(body))));
                assert_eq!(shown["stores"], "fast");
                // And the id is burnt: the store still has the object.
                assert_eq!(session.put(&image, &with_mbr(0x83)).await.unwrap().status, 500);
            }
        }
    }
}

#[tokio::test]
async fn formats_can_change_only_while_queued() {
    let session = Session::open().await;
    let image = session.image("raw", "ovf").await;
    let body = json!([{"op": "replace", "path": "/disk_format", "value": "vhd"}]).to_string();
    let patch = || session.send("PATCH", &image, &[PATCH], body.as_bytes());
    assert_eq!(patch().await.unwrap().status, 200);
    assert_eq!(session.put(&image, b"x").await.unwrap().status, 204);
    assert_eq!(patch().await.unwrap().status, 403);
}

#[tokio::test]
async fn stopping_ends_connections_and_removes_the_data() {
    let session = Session::open().await;
    let image = session.image("raw", "ovf").await;
    assert_eq!(session.put(&image, b"x").await.unwrap().status, 204);
    let file = session.cloud.image_path(image.rsplit('/').next().unwrap()).unwrap();
    let port = session.port();
    let mut idle = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    session.cloud.stop().await;
    assert!(!file.exists());
    let mut rest = Vec::new();
    let _ = idle.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

#[tokio::test]
async fn unknown_mounts_are_404() {
    let session = Session::open().await;
    let request = [session.head("GET", "/", &[]), b"\r\n".to_vec()].concat();
    assert_eq!(raw(session.port(), &request).await.unwrap().status, 404);
}
