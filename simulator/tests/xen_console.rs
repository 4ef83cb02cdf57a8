//! `CONNECT /console`, as bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod common;

use common::{Pool, raw, split, text};
use serde_json::json;
use simulator::xen::XenConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Asks for a console; `early` is sent in one piece with the request.
async fn connect(pool: &Pool, query: &str, early: &str) -> TcpStream {
    let mut tcp = TcpStream::connect(pool.address()).await.unwrap();
    let session = &pool.session;
    let request =
        format!("CONNECT /console?{query} HTTP/1.0\r\nCookie: session_id={session}\r\n\r\n{early}");
    tcp.write_all(request.as_bytes()).await.unwrap();
    tcp
}

/// Reads until what came ends so.
async fn until(tcp: &mut TcpStream, end: &str) {
    let mut came = Vec::new();
    while !came.ends_with(end.as_bytes()) {
        let more = tcp.read_buf(&mut came).await.unwrap();
        assert!(more > 0, "{end:?} is missing: {}", String::from_utf8_lossy(&came));
    }
}

#[tokio::test]
async fn what_follows_the_header_block_is_not_lost() {
    let pool = Pool::start(XenConfig::new().with_pv_guests(true)).await;
    let vm = pool.vm("web01").await;
    let mut screen = connect(&pool, &format!("ref={vm}"), "RFB 003.003\n").await;
    until(&mut screen, "\r\n\r\nRFB 003.003\n\0\0\0\x01").await;
    let vt100 = pool.console(&vm, "vt100").await;
    let mut terminal = connect(&pool, &format!("ref={vt100}"), "root\r").await;
    until(&mut terminal, "login:root\r\n").await;
    assert_eq!(pool.xen().typed("web01").as_deref(), Some("root\n"));
}

#[tokio::test]
async fn the_guests_end_is_the_consoles_from_the_greeting_on() {
    let pool = Pool::start(XenConfig::new().with_pv_guests(true)).await;
    let vm = pool.vm("web01").await;
    let mut screen = connect(&pool, &format!("ref={vm}"), "").await;
    until(&mut screen, "RFB 003.003\n").await;
    let mut terminal =
        connect(&pool, &format!("ref={}", pool.console(&vm, "vt100").await), "").await;
    until(&mut terminal, "login:").await;
    pool.ok("VM.hard_shutdown", json!([vm])).await;
    for mut console in [screen, terminal] {
        assert_eq!(console.read(&mut [0]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn names_that_are_none_and_hosts_that_are_others() {
    let pool = Pool::start(XenConfig::new().with_second_host(true)).await;
    let vm = pool.vm("web01").await;
    let other = pool.xen().url(1).unwrap();
    let other = other.strip_prefix("http://").unwrap();
    let uuid = text(&pool.ok("VM.get_uuid", json!([vm])).await);
    for (host, query, status) in [
        (&*pool.address(), "ref=OpaqueRef:none", "500 "),
        (&pool.address(), "uuid=none", "500 "),
        (&pool.address(), "", "500 "),
        (other, &format!("ref={vm}"), "500 "),
        // The uuid comes first.
        (&pool.address(), &format!("ref={vm}&uuid=none"), "500 "),
        (&pool.address(), &format!("ref=OpaqueRef:none&uuid={uuid}"), "200 "),
    ] {
        pool.xen().faults().set_str("console-eof=1").unwrap();
        let session = &pool.session;
        let request = format!("CONNECT /console?{query}&session_id={session} HTTP/1.1\r\n\r\n");
        let response = raw(host, request.as_bytes()).await;
        let (head, _) = split(&response);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{query}: {head}");
    }
    pool.xen().faults().clear();
    pool.xen().faults().set_str("console-limit").unwrap();
    let session = &pool.session;
    let request = format!("CONNECT /console?ref={vm}&session_id={session} HTTP/1.1\r\n\r\n");
    let response = raw(&pool.address(), request.as_bytes()).await;
    assert!(response.starts_with(b"HTTP/1.1 503 Connection Limit Exceeded\r\n"));
}

#[tokio::test]
async fn keys_that_come_too_fast_are_lost() {
    for (fault, typed) in [("key-loss=0", "ab"), ("key-loss=600000", "a")] {
        let pool = Pool::start(XenConfig::new()).await;
        pool.xen().faults().set_str(fault).unwrap();
        let vm = pool.vm("web01").await;
        let mut screen = connect(&pool, &format!("ref={vm}"), "").await;
        until(&mut screen, "RFB 003.008\n").await;
        let mut says = b"RFB 003.003\n\x01".to_vec();
        for (key, down) in [(b'a', 1), (b'a', 0), (b'b', 1), (b'b', 0)] {
            says.extend([4, down, 0, 0, 0, 0, 0, key]);
        }
        // The whole screen, whose picture comes after what was typed before.
        says.extend([3, 0, 0, 0, 0, 0, 2, 0x80, 0, 200]);
        screen.write_all(&says).await.unwrap();
        screen.read_exact(&mut [0; 1000]).await.unwrap();
        assert_eq!(pool.xen().typed("web01").as_deref(), Some(typed), "{fault}");
    }
}
