//! The server of one file, with a client that speaks bare HTTP.

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use bytes::Bytes;
use cloudstack_client::serve::{Content, Server};
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One request, and everything that comes back.
async fn ask(server: &Server, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
    let mut tcp = TcpStream::connect(server.local_addr()).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let _ = tcp.write_all(request.as_bytes()).await;
    let mut all = Vec::new();
    let _ = tcp.read_to_end(&mut all).await;
    match all.windows(4).position(|w| w == b"\r\n\r\n") {
        Some(end) => (
            String::from_utf8(all[..end].to_vec()).unwrap().to_lowercase(),
            all[end + 4..].to_vec(),
        ),
        None => (String::new(), all),
    }
}

fn data() -> Vec<u8> {
    (0..1_000_000u32).map(|n| (n % 251) as u8).collect()
}

#[tokio::test]
async fn the_file_and_nothing_else_is_served() {
    let server =
        Server::builder("web01.vhd.gz", Content::from_bytes(data())).start().await.unwrap();
    let path = server.url().path().to_owned();
    let segment = path.split('/').nth(1).unwrap();
    assert!(segment.len() == 32 && segment.bytes().all(|b| b.is_ascii_hexdigit()), "{segment}");
    assert!(path.ends_with("/web01.vhd.gz"));
    assert!(!format!("{server:?}").contains(segment));
    assert!(server.local_addr().ip().is_loopback(), "the default is reached by nobody else");

    let (head, body) = ask(&server, "HEAD", &path, "").await;
    assert!(head.starts_with("http/1.1 200") && head.contains("content-length: 1000000"), "{head}");
    assert!(body.is_empty());
    let (head, body) = ask(&server, "GET", &path, "").await;
    assert!(
        head.contains("content-length: 1000000") && !head.contains("transfer-encoding"),
        "{head}"
    );
    assert_eq!(body, data());
    let (head, body) = ask(&server, "GET", &path, "Range: bytes=999990-\r\n").await;
    assert!(
        head.starts_with("http/1.1 206")
            && head.contains("content-range: bytes 999990-999999/1000000"),
        "{head}"
    );
    assert_eq!(body, data()[999_990..]);
    let (head, _) = ask(&server, "GET", &path, "Range: bytes=1000000-\r\n").await;
    assert!(head.starts_with("http/1.1 416") && head.contains("bytes */1000000"), "{head}");
    let (head, _) = ask(&server, "POST", &path, "Content-Length: 0\r\n").await;
    assert!(head.starts_with("http/1.1 405"), "{head}");
    let requests = server.requests();
    for wrong in
        ["/", "/web01.vhd.gz", "/0123456789abcdef0123456789abcdef/web01.vhd.gz", "/../etc/passwd"]
    {
        assert!(ask(&server, "GET", wrong, "").await.0.starts_with("http/1.1 404"), "{wrong}");
    }
    assert_eq!(server.requests(), requests);
    assert_eq!(server.bytes(), 1_000_010);

    let other = Server::builder("web01.vhd", Content::from_bytes("x")).start().await.unwrap();
    assert_ne!(other.url().path(), path);
    let address = server.local_addr();
    server.stop().await;
    assert!(TcpStream::connect(address).await.is_err(), "its lifetime is that of the value");
}

#[tokio::test]
async fn only_the_named_peers_are_answered() {
    let peer = |text: &str| text.parse::<IpAddr>().unwrap();
    for (peers, served) in
        [(vec![], false), (vec![peer("10.1.2.3")], false), (vec![peer("::ffff:127.0.0.1")], true)]
    {
        let server = Server::builder("a.vhd", Content::from_bytes("abc"))
            .peers(peers.clone())
            .start()
            .await
            .unwrap();
        let (head, _) = ask(&server, "GET", server.url().path(), "").await;
        assert_eq!(head.starts_with("http/1.1 200"), served, "{peers:?}");
    }
}

#[tokio::test]
async fn a_source_that_fails_ends_the_connection_and_is_told() {
    let pieces = |failure: bool| {
        move || {
            let mut pieces = vec![Ok(Bytes::from(vec![1; 1000])), Ok(Bytes::from(vec![2; 1000]))];
            if failure {
                pieces.push(Err(std::io::Error::other("the export task failed")));
            }
            stream::iter(pieces).boxed()
        }
    };
    for (len, failure, words) in [
        (2000, true, "export task failed"),
        (3000, false, "ended after 2000"),
        (1500, false, "longer"),
    ] {
        let server =
            Server::builder("a.vhd", Content::new(len, pieces(failure))).start().await.unwrap();
        assert_eq!(server.failure(), None);
        let (head, body) = ask(&server, "GET", server.url().path(), "").await;
        // What is wrong at once ends the connection before its head is sent.
        assert!(head.is_empty() || head.contains(&format!("content-length: {len}")), "{head}");
        assert!((body.len() as u64) < len, "a client that counts sees that it is not whole");
        assert!(server.failure().unwrap().contains(words), "{words}");
    }
    // The next one gets the stream from its start, or from where it asks.
    let server = Server::builder("a.vhd", Content::new(2000, pieces(false))).start().await.unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&server, "GET", server.url().path(), "").await.1.len(), 2000);
    }
    assert_eq!(
        ask(&server, "GET", server.url().path(), "Range: bytes=999-1000\r\n").await.1,
        [1, 2]
    );
}

#[tokio::test]
async fn urls_are_those_by_which_the_cloud_reaches_us() {
    let content = || Content::from_bytes("x");
    let server =
        Server::builder("a.vhd", content()).public_host("files.example").start().await.unwrap();
    assert_eq!(server.url().host_str(), Some("files.example"));
    assert_eq!(server.url().port_or_known_default(), Some(server.local_addr().port()));
    let wrong = Server::builder("a.vhd", content())
        .bind("0.0.0.0:0".parse().unwrap())
        .start()
        .await
        .unwrap_err();
    assert!(wrong.to_string().contains("public host"), "{wrong}");
    for host in ["a/b", "u@h", "a b", ""] {
        assert!(
            Server::builder("a.vhd", content()).public_host(host).start().await.is_err(),
            "{host:?}"
        );
    }
    for name in ["", "a", ".vhd", "a/b.vhd", "a b.vhd", "..", "ä.vhd", "a.vhd?x"] {
        assert!(Server::builder(name, content()).start().await.is_err(), "{name:?}");
    }
    let taken = server.local_addr();
    let busy = Server::builder("a.vhd", content()).bind(taken).start().await.unwrap_err();
    assert!(busy.to_string().contains("cannot listen"), "{busy}");
}

#[tokio::test]
async fn garbage_on_the_wire_harms_nobody() {
    let server = Server::builder("a.vhd", Content::from_bytes("abc")).start().await.unwrap();
    for garbage in
        [&b"\x16\x03\x01\x02\x00"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", &[b'a'; 100_000]]
    {
        let mut tcp = TcpStream::connect(server.local_addr()).await.unwrap();
        let _ = tcp.write_all(garbage).await;
        let _ = tcp.shutdown().await;
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    }
    assert_eq!(ask(&server, "GET", server.url().path(), "").await.1, b"abc");
}
