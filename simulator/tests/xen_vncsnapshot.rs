//! `GET /vncsnapshot`: the picture against what the screen shows, by a decoder of another house.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod common;

use common::{Pool, get, split, text};
use serde_json::json;
use simulator::xen::XenConfig;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;

/// Asks for the picture; the header block and the body.
async fn snapshot(address: &str, query: &str, headers: &str) -> (String, Vec<u8>) {
    let response = get(address, &format!("/vncsnapshot?{query}"), headers).await;
    let (head, body) = split(&response);
    (head.to_owned(), body.to_vec())
}

/// The picture's pixels, three bytes each, and how many are in a row.
fn decode(jpeg: &[u8]) -> (usize, Vec<u8>) {
    let mut decoder = JpegDecoder::new(ZCursor::new(jpeg));
    let pixels = decoder.decode().unwrap();
    let (width, height) = decoder.dimensions().unwrap();
    assert_eq!(pixels.len(), width * height * 3);
    (width, pixels)
}

/// Whether a pixel of this text is lit, by the rule of the simulated font: a blank has none, the
/// second row of another character is its code, and each row after that is the one before it turned
/// to the left.
fn is_lit(rows: &[&str], x: usize, y: usize) -> bool {
    let cell = rows.get(y / 8).and_then(|row| row.as_bytes().get(x / 8)).copied();
    match (cell, y % 8) {
        (None | Some(b' '), _) | (_, 0) => false,
        (Some(cell), row) => cell.rotate_left(row as u32 - 1) & (0x80 >> (x % 8)) != 0,
    }
}

/// Compares a picture with a text.
fn check(jpeg: &[u8], shown: &str) {
    let (width, pixels) = decode(jpeg);
    assert_eq!((width, pixels.len() / 3 / width), (640, 200));
    let rows: Vec<_> = shown.split('\n').collect();
    let mut worst = 0;
    for (n, pixel) in pixels.chunks(3).enumerate() {
        let wanted = if is_lit(&rows, n % width, n / width) { 0xaa } else { 0 };
        worst = pixel.iter().map(|byte| byte.abs_diff(wanted)).max().unwrap().max(worst);
    }
    // Lit and dark are 170 apart.
    assert!(worst < 85, "a pixel is {worst} away from what it should be");
}

#[tokio::test]
async fn the_picture_is_what_the_screen_shows() {
    let pool = Pool::start(XenConfig::new()).await;
    let vm = pool.vm("web01").await;
    let query = format!("ref={vm}&session_id={}", pool.session);
    let (head, jpeg) = snapshot(&pool.address(), &query, "").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", jpeg.len())), "{head}");
    let (_, name) = head.split_once("Content-Disposition: attachment; filename=\"").unwrap();
    let number = name.strip_prefix("snapshot").unwrap().split_once(".jpg\"").unwrap().0;
    assert!(number.len() == 6 && number.bytes().all(|b| b.is_ascii_hexdigit()), "{number}");
    assert!(!head.to_lowercase().contains("content-type"), "{head}");
    assert_eq!((&jpeg[..3], &jpeg[jpeg.len() - 2..]), (&b"\xff\xd8\xff"[..], &b"\xff\xd9"[..]));
    let before = pool.xen().screen_text("web01").unwrap();
    assert!(before.contains("web01 login:"), "{before}");
    check(&jpeg, &before);

    let printable: String = (b' '..=b'~').map(char::from).collect();
    pool.xen().show("web01", &format!("\n{printable}\n"));
    let after = pool.xen().screen_text("web01").unwrap();
    assert!(before != after);
    check(&snapshot(&pool.address(), &query, "").await.1, &after);
    assert!(pool.xen().calls().contains(&"GET /vncsnapshot".to_owned()));
    assert!(pool.xen().interruptions().is_empty());
}

#[tokio::test]
async fn names_accounts_and_the_task() {
    let pool = Pool::start(XenConfig::new()).await;
    let vm = pool.vm("web01").await;
    let console = pool.console(&vm, "rfb").await;
    let uuid_of = async |class: &str, reference: &str| {
        text(&pool.ok(&format!("{class}.get_uuid"), json!([reference])).await)
    };
    let cookie = format!("Cookie: session_id={}\r\n", pool.session);
    // root and vm-operator, with the password `simulated-password`
    let of_root = "Authorization: Basic cm9vdDpzaW11bGF0ZWQtcGFzc3dvcmQ=\r\n";
    let of_operator = "Authorization: Basic dm0tb3BlcmF0b3I6c2ltdWxhdGVkLXBhc3N3b3Jk\r\n";
    for (query, headers) in [
        (format!("ref={console}"), &*cookie),
        (format!("uuid={}", uuid_of("VM", &vm).await), of_root),
        (format!("uuid={}", uuid_of("console", &console).await), of_operator),
        // The name that is known to be unique comes first.
        (format!("ref=OpaqueRef:none&uuid={}", uuid_of("VM", &vm).await), of_root),
    ] {
        let (head, jpeg) = snapshot(&pool.address(), &query, headers).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{query}: {head}");
        check(&jpeg, &pool.xen().screen_text("web01").unwrap());
    }
    for (vm, status) in [(&*vm, "success"), ("OpaqueRef:none", "failure")] {
        let task = pool.task().await;
        snapshot(&pool.address(), &format!("ref={vm}&task_id={task}"), &cookie).await;
        assert_eq!(pool.wait(&task).await["status"], status);
    }
}

#[tokio::test]
async fn refusals() {
    let pool = Pool::start(XenConfig::new().with_second_host(true).with_pv_guests(true)).await;
    let vm = pool.vm("web01").await;
    let named = format!("ref={vm}&session_id={}", pool.session);
    let (address, other) = (pool.address(), pool.xen().url(1).unwrap());
    let other = other.strip_prefix("http://").unwrap();
    let of_reader = "Authorization: Basic cmVhZC1vbmx5OnNpbXVsYXRlZC1wYXNzd29yZA==\r\n";
    let vt100 = format!("ref={}&session_id={}", pool.console(&vm, "vt100").await, pool.session);
    let unknown = format!("ref=OpaqueRef:none&session_id={}", pool.session);
    let nameless = format!("session_id={}", pool.session);
    for (host, query, headers, status) in [
        (&*address, &*format!("ref={vm}"), "", "HTTP/1.1 401 "),
        (&address, &format!("ref={vm}"), of_reader, "HTTP/1.1 403 "),
        (&address, &unknown, "", "HTTP/1.1 500 "),
        (&address, &nameless, "", "HTTP/1.1 500 "),
        (&address, &vt100, "", "HTTP/1.1 500 "),
        // Where the guest is not, there is no screen; and nobody says where it is.
        (other, &named, "", "HTTP/1.1 404 "),
    ] {
        let (head, _) = snapshot(host, query, headers).await;
        assert!(head.starts_with(status), "{query}: {head}");
        assert!(!head.contains("Location"), "{head}");
    }
    pool.xen().faults().set_str("redirect").unwrap();
    pool.xen().faults().set_str("console-limit").unwrap();
    pool.xen().faults().set_str("console-eof=1").unwrap();
    for status in ["HTTP/1.1 500 ", "HTTP/1.1 200 "] {
        let (head, _) = snapshot(&address, &named, "").await;
        assert!(head.starts_with(status), "{head}");
    }
    pool.ok("VM.hard_shutdown", json!([vm])).await;
    let (head, _) = snapshot(&address, &named, "").await;
    assert!(head.starts_with("HTTP/1.1 500 "), "{head}");
}
