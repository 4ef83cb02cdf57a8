//! Consoles over WebSockets, as bytes: nothing here is shared with the pool but the sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod common;

use common::{Pool, get, split};
use serde_json::json;
use simulator::xen::XenConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The key of RFC 6455, 1.3, and what is to be answered.
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPT: &str = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// The version that a client of RFB says; as the only message it makes a guest offer "None".
const VERSION: &[u8] = b"RFB 003.008\n";

/// A client that knows nothing but frames.
struct Client {
    tcp: TcpStream,
    /// The header block of the answer.
    head: String,
}

impl Client {
    /// Opens the console of a VM; `early` is sent in one piece with the request.
    async fn open(pool: &Pool, vm: &str, early: &[u8]) -> Self {
        let mut tcp = TcpStream::connect(pool.address()).await.unwrap();
        let session = &pool.session;
        let head = format!(
            "GET /console?ref={vm} HTTP/1.1\r\nHost: x\r\nCookie: session_id={session}\r\n\
             Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n{KEY}\r\n"
        );
        tcp.write_all(&[head.as_bytes(), early].concat()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(tcp.read_u8().await.unwrap()));
        }
        Self { tcp, head }
    }

    /// The same, past the banner of the guest's screen.
    async fn greeted(pool: &Pool) -> Self {
        let mut client = Self::open(pool, &pool.vm("web01").await, b"").await;
        assert_eq!(client.frame().await, (BINARY, VERSION.to_vec()));
        client
    }

    async fn send(&mut self, first: u8, payload: &[u8]) {
        self.tcp.write_all(&masked(first, payload)).await.unwrap();
    }

    /// The first byte of the next frame, and what it carries. A server has no mask.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        self.maybe_frame().await.expect("a frame")
    }

    /// `None` at the orderly end of the connection.
    async fn maybe_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut first = [0];
        if self.tcp.read(&mut first).await.unwrap() == 0 {
            return None;
        }
        let length = match self.tcp.read_u8().await.unwrap() {
            126 => usize::from(self.tcp.read_u16().await.unwrap()),
            short @ ..126 => usize::from(short),
            long => panic!("a length of {long}"),
        };
        let mut payload = vec![0; length];
        self.tcp.read_exact(&mut payload).await.unwrap();
        Some((first[0], payload))
    }

    /// What the guest says, put together from as many frames as it takes.
    async fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < length {
            let (first, payload) = self.frame().await;
            assert_eq!(first, BINARY);
            // As the server reads from the guest.
            assert!((1..=1024).contains(&payload.len()), "{}", payload.len());
            all.extend(payload);
        }
        assert_eq!(all.len(), length);
        all
    }

    /// The code of the close frame that comes next; then the connection ends.
    async fn closed(&mut self) -> u16 {
        let (first, payload) = self.frame().await;
        assert_eq!(first, CLOSE);
        assert_eq!(self.maybe_frame().await, None);
        u16::from_be_bytes([payload[0], payload[1]])
    }

    /// Goes through the handshake of RFB 3.8 and wants to see the screen: its size.
    async fn start_rfb(&mut self) -> (usize, usize) {
        self.send(BINARY, VERSION).await;
        assert_eq!(self.bytes(2).await, [1, 1]);
        self.send(BINARY, &[1]).await;
        assert_eq!(self.bytes(4).await, [0; 4]);
        self.send(BINARY, &[1]).await;
        let init = self.bytes(24 + "a guest of the simulator".len()).await;
        let side = |at: usize| usize::from(u16::from_be_bytes([init[at], init[at + 1]]));
        (side(0), side(2))
    }
}

/// A frame of a client, with a mask as the RFC wants it.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        short @ ..126 => frame.push(0x80 | short as u8),
        middle @ ..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((middle as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

async fn pool() -> Pool {
    Pool::start(XenConfig::new()).await
}

#[tokio::test]
async fn the_handshake_is_the_servers() {
    let pool = pool().await;
    let client = Client::open(&pool, &pool.vm("web01").await, b"").await;
    assert!(client.head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{}", client.head);
    for line in ["Upgrade: websocket\r\n", "Connection: Upgrade\r\n", ACCEPT] {
        assert!(client.head.contains(line), "{}", client.head);
    }
    // Also to a client that offered none.
    assert!(client.head.contains("Sec-WebSocket-Protocol: binary\r\n"), "{}", client.head);
    assert!(pool.xen().calls().contains(&"GET /console".to_owned()));
}

#[tokio::test]
async fn nothing_but_the_key_makes_it_a_websocket() {
    let pool = pool().await;
    let target = format!("/console?ref={}&session_id={}", pool.vm("web01").await, pool.session);
    pool.xen().faults().set_str("console-eof=1").unwrap();
    let response = get(&pool.address(), &target, KEY).await;
    let (head, body) = split(&response);
    assert!(head.contains(ACCEPT), "{head}");
    // And then there is no screen: the end, without a word.
    assert!(body.is_empty());
}

#[tokio::test]
async fn a_screen_and_a_key_through_frames() {
    let pool = pool().await;
    let mut client = Client::greeted(&pool).await;
    let (width, height) = client.start_rfb().await;
    let update = 16 + width * height * 4;
    let everything =
        [&[3, 0, 0, 0, 0, 0], &(width as u16).to_be_bytes()[..], &(height as u16).to_be_bytes()]
            .concat();
    client.send(BINARY, &everything).await;
    let before = client.bytes(update).await;
    assert!(before[16..].chunks(4).any(|pixel| pixel == [0xaa, 0xaa, 0xaa, 0]));

    client.send(BINARY, &[4, 1, 0, 0, 0, 0, 0, b'r']).await;
    client.send(BINARY, &[4, 0, 0, 0, 0, 0, 0, b'r']).await;
    client.send(BINARY, &[3, 1, 0, 0, 0, 0, 0, 8, 0, 8]).await;
    let after = client.bytes(update).await;
    assert!(before != after);
    assert_eq!(pool.xen().typed("web01").as_deref(), Some("r"));
}

#[tokio::test]
async fn what_follows_the_header_block_is_not_lost() {
    let pool = pool().await;
    // A whole frame and the beginning of another.
    let (version, choice) = (masked(BINARY, VERSION), masked(BINARY, &[1]));
    let early = [&version[..], &choice[..3]].concat();
    let mut client = Client::open(&pool, &pool.vm("web01").await, &early).await;
    assert_eq!(client.bytes(12).await, VERSION);
    assert_eq!(client.bytes(2).await, [1, 1]);
    client.tcp.write_all(&choice[3..]).await.unwrap();
    assert_eq!(client.bytes(4).await, [0; 4]);
}

#[tokio::test]
async fn a_message_in_fragments_with_a_ping_between() {
    let pool = pool().await;
    let mut client = Client::greeted(&pool).await;
    client.send(0x02, &VERSION[..5]).await;
    client.send(PING, b"still there?").await;
    assert_eq!(client.frame().await, (PONG, b"still there?".to_vec()));
    client.send(0x00, b"").await;
    // A pong that nobody asked for means nothing.
    client.send(PONG, b"").await;
    client.send(0x80, &VERSION[5..]).await;
    assert_eq!(client.bytes(2).await, [1, 1]);
    let longest = [b'x'; 125];
    client.send(PING, &longest).await;
    assert_eq!(client.frame().await, (PONG, longest.to_vec()));
}

#[tokio::test]
async fn bytes_may_come_one_by_one_and_a_text_is_data() {
    let pool = pool().await;
    let mut client = Client::greeted(&pool).await;
    for byte in masked(TEXT, VERSION) {
        client.tcp.write_all(&[byte]).await.unwrap();
    }
    assert_eq!(client.bytes(2).await, [1, 1]);
}

#[tokio::test]
async fn long_messages_are_taken_up_to_the_limit() {
    let pool = pool().await;
    let mut client = Client::greeted(&pool).await;
    client.start_rfb().await;
    // A list of encodings makes no difference: 4 bytes each, behind 4 bytes.
    for length in [125, 126, 0xffff, 0x1_0000, 0x4_0000] {
        let count = (length - 4) / 4;
        let mut message = vec![2, 0];
        message.extend((count as u16).to_be_bytes());
        message.resize(4 + 4 * count, 0);
        client.send(BINARY, &message).await;
    }
    // Four of the longest in one message.
    let mut message = vec![2, 0, 0xff, 0xff];
    message.resize(1 << 18, 0);
    client.send(BINARY, &message.repeat(4)).await;
    client.send(PING, b"").await;
    assert_eq!(client.frame().await, (PONG, Vec::new()));
}

#[tokio::test]
async fn what_is_against_the_protocol_ends_with_its_code() {
    let pool = pool().await;
    let too_long = ((1_u64 << 20) + 1).to_be_bytes();
    let endless = u64::MAX.to_be_bytes();
    for (what, frames, code) in [
        ("unmasked", [&[BINARY, 12], VERSION].concat(), 1002),
        ("a reserved bit", masked(0xc2, VERSION), 1002),
        ("a reserved kind of data", masked(0x83, VERSION), 1002),
        ("a reserved kind of control", masked(0x8b, b""), 1002),
        ("a long ping", masked(PING, &[0; 126]), 1002),
        ("a ping in fragments", masked(0x09, b""), 1002),
        ("a continuation of nothing", masked(0x80, VERSION), 1002),
        ("a message in a message", [masked(0x02, b""), masked(BINARY, b"")].concat(), 1002),
        ("half a code", masked(CLOSE, &[3]), 1002),
        ("a text that is none", masked(TEXT, &[0xff]), 1007),
        // Of these there is no more than the header.
        ("1 MiB and more", [&[BINARY, 0x80 | 127], &too_long[..], &[0; 4]].concat(), 1009),
        ("endless", [&[BINARY, 0x80 | 127], &endless[..], &[0; 4]].concat(), 1009),
        (
            "1 MiB and more in fragments",
            [masked(0x02, &[0; 1 << 19]), masked(0x80, &[0; (1 << 19) + 1])].concat(),
            1009,
        ),
    ] {
        let mut client = Client::greeted(&pool).await;
        client.tcp.write_all(&frames).await.unwrap();
        assert_eq!(client.closed().await, code, "{what}");
    }
}

#[tokio::test]
async fn a_close_is_answered() {
    let pool = pool().await;
    for (sent, answered) in [
        (&b""[..], &b""[..]),
        (b"\x03\xe8", b"\x03\xe8"),
        (b"\x0f\xa0bye", b"\x0f\xa0bye"),
        // 1005 must not be sent.
        (b"\x03\xed", b"\x03\xea"),
    ] {
        let mut client = Client::greeted(&pool).await;
        client.send(CLOSE, sent).await;
        let (first, payload) = client.frame().await;
        assert_eq!(first, CLOSE);
        assert!(payload.starts_with(answered) && payload.is_empty() == sent.is_empty());
        assert_eq!(client.maybe_frame().await, None);
    }
}

#[tokio::test]
async fn the_guests_end_is_the_consoles() {
    let pool = pool().await;
    let vm = pool.vm("web01").await;
    let mut client = Client::greeted(&pool).await;
    pool.ok("VM.hard_shutdown", json!([vm])).await;
    assert_eq!(client.closed().await, 1001);
    // It also ends for a client that speaks no RFB.
    pool.ok("VM.start", json!([vm, false, false])).await;
    let mut client = Client::greeted(&pool).await;
    client.send(BINARY, b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.closed().await, 1001);
}

/// What the text console of the guest shows first.
const SHOWN: &[u8] = b"\x1b[2J\x1b[HDebian GNU/Linux 12 web01 tty1\r\n\r\nweb01 login:";

#[tokio::test]
async fn a_text_console() {
    let pool = Pool::start(XenConfig::new().with_pv_guests(true)).await;
    let vt100 = pool.console(&pool.vm("web01").await, "vt100").await;
    let mut client = Client::open(&pool, &vt100, &masked(BINARY, b"ro")).await;
    assert_eq!(client.bytes(SHOWN.len()).await, SHOWN);
    assert_eq!(client.bytes(2).await, b"ro");
    client.send(BINARY, b"ot\r").await;
    assert_eq!(client.bytes(4).await, b"ot\r\n");
    assert_eq!(pool.xen().typed("web01").as_deref(), Some("root\n"));
}

#[tokio::test]
async fn raw_frames_are_those_of_the_servers_proxy() {
    let pool = Pool::start(XenConfig::new().with_pv_guests(true)).await;
    pool.xen().faults().set_str("console-raw-frames").unwrap();
    let vm = pool.vm("web01").await;
    let vt100 = pool.console(&vm, "vt100").await;
    let mut client = Client::open(&pool, &vt100, &masked(BINARY, b"e")).await;
    assert_eq!(client.bytes(SHOWN.len()).await, SHOWN);
    assert_eq!(client.bytes(1).await, b"e");
    client.send(PING, b"p").await;
    assert_eq!(client.bytes(1).await, b"p");
    client.tcp.write_all(&[BINARY, 1, b'u']).await.unwrap();
    assert_eq!(client.bytes(1).await, b"u");
    client.send(0x02, b"a").await;
    client.send(0x80, b"b").await;
    assert_eq!(client.bytes(2).await, b"ab");
    client.send(CLOSE, b"").await;
    assert_eq!(client.maybe_frame().await, None);
    // The guest's end is no frame either.
    let mut client = Client::open(&pool, &vt100, b"").await;
    assert_eq!(client.bytes(SHOWN.len() + 6).await, [SHOWN, b" epuab"].concat());
    pool.ok("VM.hard_shutdown", json!([vm])).await;
    assert_eq!(client.maybe_frame().await, None);
}

#[tokio::test]
async fn refusals() {
    let config = XenConfig::new().with_second_host(true);
    let pool = Pool::start(config).await;
    let vm = pool.vm("web01").await;
    let address = pool.address();
    let other = pool.xen().url(1).unwrap();
    let other = other.strip_prefix("http://").unwrap();
    let session = format!("session_id={}", pool.session);
    let named = format!("/console?ref={vm}&{session}");
    // root:simulated-password, read-only:simulated-password
    let of_root = format!("{KEY}Authorization: Basic cm9vdDpzaW11bGF0ZWQtcGFzc3dvcmQ=\r\n");
    let of_reader =
        format!("{KEY}Authorization: Basic cmVhZC1vbmx5OnNpbXVsYXRlZC1wYXNzd29yZA==\r\n");
    let keys_of_76 = "Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\n\
                      Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\n";
    let unknown = "ref=OpaqueRef:none";
    for (host, target, headers, status) in [
        (&*address, format!("/console?ref={vm}"), KEY, "HTTP/1.1 401 "),
        (&address, format!("/console?ref={vm}&session_id=none"), KEY, "HTTP/1.1 401 "),
        (&address, format!("/console?ref={vm}"), &of_reader, "HTTP/1.1 403 "),
        (&address, format!("/console?ref={vm}"), &of_root, "HTTP/1.1 101 "),
        (&address, format!("/console?{unknown}&{session}"), KEY, "HTTP/1.1 500 "),
        (&address, format!("/console?{session}"), KEY, "HTTP/1.1 500 "),
        (other, named.clone(), KEY, "HTTP/1.1 500 "),
        (&address, named.clone(), "", "HTTP/1.0 501 "),
        (&address, named.clone(), keys_of_76, "HTTP/1.0 501 "),
    ] {
        pool.xen().faults().set_str("console-eof=1").unwrap();
        let response = get(host, &target, headers).await;
        let (head, body) = split(&response);
        assert!(head.starts_with(status), "{target}: {head}");
        let page = String::from_utf8_lossy(body);
        assert_eq!(headers == keys_of_76, page.contains("hixie-76"), "{page}");
    }
    pool.xen().faults().clear();
    pool.xen().faults().set_str("console-limit").unwrap();
    let response = get(&address, &named, KEY).await;
    let limited = "HTTP/1.0 503 Service Unavailable\r\nConnection: close\r\n\
                   Cache-Control: no-cache, no-store\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&response), limited);
}
