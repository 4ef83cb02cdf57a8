//! The way to a guest's console, against scripted hosts and against the simulated pool.
#![cfg(feature = "console")]
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Reply, Request, Server, or_login};
use serde_json::json;
use simulator::Simulator;
use simulator::xen::XenConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use xenapi::console::{BootCommand, Console, RfbOptions, RfbVersion};
use xenapi::enums::{ConsoleProtocol, VmPowerState};
use xenapi::vm::{self, Vm};
use xenapi::{Client, ErrorKind, Pin, Ref, Session, Trust};

const PATIENCE: Duration = Duration::from_secs(30);

fn quick() -> RfbOptions {
    RfbOptions::new().with_key_interval(Duration::from_millis(1))
}

// ---- scripted hosts ----------------------------------------------------------------------------

/// A pool whose console answers CONNECT with these bytes.
async fn host(location: &'static str, answer: &'static [u8], hang: bool) -> (Server, Session) {
    let server = Server::plain(move |request: Request| async move {
        if request.head.starts_with("CONNECT") {
            return Reply { hang, ..Reply::raw(answer) };
        }
        or_login(&request, |method, _| match method {
            "console.get_record" => Reply::result(json!({
                "uuid": "c-1", "protocol": "rfb", "location": location, "VM": "OpaqueRef:vm"})),
            "host.get_all_records" => {
                Reply::result(json!({"OpaqueRef:h": {"address": "127.0.0.1", "hostname": "h1"}}))
            }
            other => panic!("{other}"),
        })
    })
    .await;
    let client = Client::builder(server.url()).build().unwrap();
    let session = client.login(common::USER, common::PASSWORD, "test").await.unwrap();
    (server, session)
}

const HERE: &str = "http://127.0.0.1/console?uuid=c-1";

fn console() -> Ref<Console> {
    Ref::new("OpaqueRef:c")
}

#[tokio::test]
async fn trap_9_the_request_is_written_by_hand_and_what_follows_the_head_is_kept() {
    let answer = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\nRFB 003.008\n\r\n\r\n";
    let (server, session) = host(HERE, answer, false).await;
    let mut stream = session.open_console(&console()).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"RFB 003.008\n\r\n\r\n");
    let asked = server.seen().into_iter().find(|r| r.head.starts_with("CONNECT")).unwrap();
    assert!(asked.head.starts_with("CONNECT /console?uuid=c-1 HTTP/1.0\r\n"), "{}", asked.head);
    assert_eq!(asked.headers("cookie"), ["session_id=OpaqueRef:session-1"]);
    assert_eq!(asked.header("host").unwrap(), server.address.to_string());
    assert!(!format!("{stream:?}").contains("session-1"));
}

#[tokio::test]
async fn refusals_are_errors_of_the_right_kind_and_never_show_the_session() {
    let cases: [(&'static [u8], ErrorKind, &str); 9] = [
        (
            b"HTTP/1.1 401 Unauthorized\r\n\r\nOpaqueRef:session-1",
            ErrorKind::Authentication,
            "session",
        ),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", ErrorKind::Authentication, "must not"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", ErrorKind::Connect, "run"),
        (b"HTTP/1.1 500 Internal Error\r\n\r\n", ErrorKind::Connect, "run"),
        (b"HTTP/1.1 503 Busy\r\n\r\n<h1>Limit</h1>", ErrorKind::Connect, "one viewer"),
        (b"HTTP/1.1 302 Found\r\n\r\n", ErrorKind::Protocol, "302"),
        (b"RFB 003.008\n\r\n\r\n", ErrorKind::Protocol, "RFB"),
        (b"HTTP/1.1 200 OK\r\n", ErrorKind::Transport, "before"),
        (b"", ErrorKind::Transport, "before"),
    ];
    for (answer, kind, word) in cases {
        let (_server, session) = host(HERE, answer, false).await;
        let e = session.open_console(&console()).await.unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(word) && e.to_string().contains("c-1"), "{e}");
        assert!(!format!("{e} {e:?}").contains("session-1"), "{e:?}");
    }
    let (_server, session) = host(HERE, &[b'x'; 40_000], true).await;
    let e = session.open_console(&console()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn a_console_elsewhere_gets_no_session() {
    for (location, kind) in [
        ("http://192.0.2.1/console?uuid=c-1", ErrorKind::Redirect),
        ("http://127.0.0.1/export?uuid=c-1", ErrorKind::Redirect),
        ("ftp://127.0.0.1/console", ErrorKind::Redirect),
        ("", ErrorKind::Connect),
    ] {
        let (server, session) = host(location, b"", false).await;
        let e = session.open_console(&console()).await.unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
        assert!(server.seen().iter().all(|r| !r.head.starts_with("CONNECT")));
    }
}

// ---- the simulated pool --------------------------------------------------------------------------

async fn pool(config: XenConfig) -> (Simulator, Session, Ref<Vm>) {
    let simulator = Simulator::builder().xen(config).start().await.unwrap();
    let xen = &simulator.ready().xen;
    let trust = match &xen.pin_sha256 {
        Some(pin) => Trust::Pins(Pin::parse_list(pin).unwrap()),
        None => Trust::SystemRoots,
    };
    let client = Client::builder(&xen.url).trust(trust).build().unwrap();
    let session = client.login(&xen.username, xen.password.as_str(), "test").await.unwrap();
    let all = session.call(vm::get_all_records()).await.unwrap();
    let running = |r: &Vm| r.power_state == VmPowerState::Running && !r.is_control_domain;
    let vm = all.into_iter().find(|(_, r)| running(r)).unwrap().0;
    (simulator, session, vm)
}

/// The text on a picture of the simulator's screen, whose characters carry their code in their
/// second row of pixels.
fn text_of(shot: &xenapi::console::Screenshot) -> String {
    let lit = |x: usize, y: usize| shot.rgb[3 * (y * shot.width + x)] > 0;
    let code = |row: usize, column: usize| {
        (0..8).fold(0_u8, |all, x| all << 1 | u8::from(lit(column * 8 + x, row * 8 + 1)))
    };
    let cell = |row, column| if code(row, column) == 0 { ' ' } else { code(row, column).into() };
    let row = |row| (0..shot.width / 8).map(|column| cell(row, column)).collect::<String>();
    let rows: Vec<_> = (0..shot.height / 8).map(|n| row(n).trim_end().to_owned()).collect();
    rows.join("\n")
}

#[tokio::test]
async fn a_boot_command_is_typed_and_seen() {
    for (plain, pv, version) in [
        (false, false, RfbVersion::V3_8),
        (true, false, RfbVersion::V3_8),
        (false, true, RfbVersion::V3_3),
    ] {
        let config = XenConfig::new().with_plain(plain).with_pv_guests(pv);
        let (simulator, session, vm) = pool(config).await;
        let mut rfb = session.open_rfb(&vm, &quick(), PATIENCE).await.unwrap();
        assert_eq!((rfb.version(), rfb.size()), (version, (640, 200)));
        rfb.wait_stable(Duration::from_millis(50), PATIENCE).await.unwrap();
        let shown = text_of(&rfb.screenshot().await.unwrap());
        assert!(shown.contains("web01 login:"), "{shown}");

        let line: String = (' '..='~').collect();
        rfb.type_text(&(line.clone() + "\n")).await.unwrap();
        let command = "<f2><leftCtrlOn>c<leftCtrlOff><wait10ms>Done!<enter>";
        rfb.run(&BootCommand::parse(command).unwrap()).await.unwrap();
        // The answer to a request comes behind the keys that were sent before it.
        let shown = text_of(&rfb.screenshot().await.unwrap());
        let expected = line + "\n<f2><ctrl-c>Done!\n";
        assert_eq!(simulator.xen().typed("web01").unwrap(), expected);
        assert_eq!(shown, simulator.xen().screen_text("web01").unwrap());
        assert!(shown.contains("Done!"), "{shown}");
        simulator.stop().await;
    }
}

#[tokio::test]
async fn a_guest_that_reboots_has_another_console() {
    let (simulator, session, vm) = pool(XenConfig::new()).await;
    let before = session.find_console(&vm, &ConsoleProtocol::Rfb).await.unwrap().unwrap();
    let mut rfb = session.open_rfb(&vm, &quick(), PATIENCE).await.unwrap();
    simulator.xen().faults().set_str("console-reboot=7").unwrap();
    let e = rfb.run(&BootCommand::parse("reboot<wait20>").unwrap()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Transport, "{e}");
    // The first consoles of the new guest answer before its screen is there.
    simulator.xen().faults().set_str("console-eof=2").unwrap();
    let mut rfb = session.open_rfb(&vm, &quick(), PATIENCE).await.unwrap();
    rfb.type_text("x").await.unwrap();
    let after = session.find_console(&vm, &ConsoleProtocol::Rfb).await.unwrap().unwrap();
    assert_ne!(before, after);
    assert!(session.open_console(&before).await.unwrap_err().is_not_found());
    simulator.stop().await;
}

#[tokio::test]
async fn waiting_for_a_console_ends_in_time_or_at_once() {
    let (simulator, session, vm) = pool(XenConfig::new()).await;
    let short = Duration::from_millis(1_500);
    simulator.xen().faults().set_str("console-limit").unwrap();
    let begin = Instant::now();
    let e = session.open_rfb(&vm, &quick(), short).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Connect, "{e}");
    assert!(e.to_string().contains("one viewer"), "{e}");
    assert!(simulator.xen().calls().iter().filter(|c| *c == "CONNECT /console").count() > 1);
    simulator.xen().faults().clear();

    session.call(vm::hard_shutdown(&vm)).await.unwrap();
    let e = session.open_rfb(&vm, &quick(), short).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Connect && e.to_string().contains("does it run"), "{e}");
    assert!(begin.elapsed() < PATIENCE);
    // A guest that is started while we wait is found.
    let options = quick();
    let (opened, started) = tokio::join!(session.open_rfb(&vm, &options, PATIENCE), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        session.call(vm::start(&vm, false, false)).await
    });
    started.unwrap();
    opened.unwrap();

    let nobody = Ref::new("OpaqueRef:nobody");
    let begin = Instant::now();
    let e = session.open_rfb(&nobody, &quick(), PATIENCE).await.unwrap_err();
    assert!(e.is_not_found() && begin.elapsed() < PATIENCE / 2, "{e}");
    let e = session.open_terminal(&vm, short).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Connect, "{e}");
    simulator.stop().await;
}

#[tokio::test]
async fn a_session_that_died_is_renewed_on_the_way() {
    let (simulator, session, vm) = pool(XenConfig::new()).await;
    let console = session.find_console(&vm, &ConsoleProtocol::Rfb).await.unwrap().unwrap();
    simulator.xen().drop_sessions();
    session.open_console(&console).await.unwrap();
    assert_eq!(session.logins(), 2);
    simulator.stop().await;
}

#[tokio::test]
async fn what_a_screen_must_not_draw_is_an_error() {
    let (simulator, session, vm) = pool(XenConfig::new()).await;
    for (absurd, kind) in [
        ("outside", ErrorKind::Protocol),
        ("huge", ErrorKind::Protocol),
        ("copy", ErrorKind::Protocol),
        ("encoding", ErrorKind::Protocol),
        ("resize", ErrorKind::TooLarge),
    ] {
        simulator.xen().faults().set_str(&format!("console-absurd={absurd}")).unwrap();
        let mut rfb = session.open_rfb(&vm, &quick(), PATIENCE).await.unwrap();
        assert_eq!(rfb.screenshot().await.unwrap_err().kind(), kind, "{absurd}");
    }
    simulator.stop().await;
}

#[tokio::test]
async fn a_terminal_is_read_and_written() {
    let (simulator, session, vm) = pool(XenConfig::new().with_pv_guests(true)).await;
    let mut terminal = session.open_terminal(&vm, PATIENCE).await.unwrap();
    terminal.wait_for("web01 login:", PATIENCE).await.unwrap();
    terminal.send_text("root\n").await.unwrap();
    terminal.wait_for("login:root", PATIENCE).await.unwrap();
    assert_eq!(simulator.xen().typed("web01").unwrap(), "root\n");
    session.call(vm::hard_shutdown(&vm)).await.unwrap();
    assert_eq!(terminal.listen(PATIENCE).await.unwrap_err().kind(), ErrorKind::Transport);
    simulator.stop().await;
}

#[tokio::test]
async fn a_host_refuses_who_it_does_not_know() {
    let (simulator, session, vm) = pool(XenConfig::new().with_plain(true)).await;
    let console = session.find_console(&vm, &ConsoleProtocol::Rfb).await.unwrap().unwrap();
    let record = session.call(xenapi::console::get_record(&console)).await.unwrap();
    let address = simulator.xen().url(0).unwrap().replace("http://", "");
    let (_, target) = record.location.split_once(&address).unwrap();
    let mut tcp = tokio::net::TcpStream::connect(&address).await.unwrap();
    let request = format!("CONNECT {target} HTTP/1.0\r\nCookie: session_id=OpaqueRef:x\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    simulator.stop().await;
}
