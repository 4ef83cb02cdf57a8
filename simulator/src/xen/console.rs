//! `CONNECT /console` and `GET /console`: the ways to a guest's screen and keyboard, with their
//! refusals.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::export::{authenticate, refuse, turn_away};
use super::http::{Conn, Head};
use super::pool::{Pool, State};
use super::rfb;
use super::role::Role;
use super::serve::Host;
use super::value::{Record, text};
use super::{websocket, wsproxy};

const OK: &str =
    "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nCache-Control: no-cache, no-store\r\n\r\n";

/// A console that a client is connected to.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The console's record.
    pub(crate) console: String,
    pub(crate) vm: String,
    /// Without hardware emulation, whose screen speaks 3.3 only.
    pub(crate) pv: bool,
}

impl Place {
    /// Waits until the record is gone: a guest that stops takes its consoles with it.
    async fn gone(&self, pool: &Pool) {
        let mut news = pool.watch();
        while pool.with(|state| state.db.raw("console", &self.console).is_ok()) {
            if news.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Makes the consoles of a guest that starts.
pub(crate) fn create(state: &mut State, vm: &str) {
    let Ok(record) = state.db.raw("VM", vm) else { return };
    let pv = text(record, "domain_type") == "pv";
    let resident = text(record, "resident_on").to_owned();
    let host = state.hosts.iter().position(|host| *host == resident).unwrap_or(0);
    let url = state.urls.get(host).cloned().unwrap_or_default();
    let protocols: &[&str] = if pv { &["rfb", "vt100"] } else { &["rfb"] };
    for protocol in protocols {
        let console = state.db.insert(
            "console",
            Record::from([
                ("VM".to_owned(), vm.into()),
                ("protocol".to_owned(), (*protocol).into()),
            ]),
        );
        let uuid = state.db.raw("console", &console).map(|r| text(r, "uuid").to_owned());
        let location = format!("{url}/console?uuid={}", uuid.unwrap_or_default());
        let _ = state.db.set("console", &console, "location", location);
    }
}

/// Removes them; their connections end.
pub(crate) fn remove(state: &mut State, vm: &str) {
    for console in state.db.referrers("console", "VM", vm) {
        state.db.remove("console", &console);
    }
}

/// Whether there is nothing behind the console: by a fault, or since the guest is still booting.
pub(super) fn is_empty(pool: &Pool, vm: &str) -> bool {
    let booting =
        pool.faults.plan().slow_boot.is_some() && pool.with(|state| state.boots.contains_key(vm));
    booting || pool.faults.console_is_empty()
}

/// Answers `CONNECT`; the connection ends with it.
pub(crate) async fn serve(
    host: &Host,
    conn: &mut Conn,
    head: &Head,
    buffer: &mut BytesMut,
) -> io::Result<()> {
    let pool = &host.pool;
    let Some(found) = admit(host, conn, head).await? else { return Ok(()) };
    if pool.faults.plan().console_limit {
        return refuse(conn, "HTTP/1.1", "503 Connection Limit Exceeded", &[]).await;
    }
    if is_empty(pool, &found.0.vm) {
        // The 200 is sent before anyone looks for the screen.
        conn.write_all(OK.as_bytes()).await?;
        return conn.flush().await;
    }
    attend(pool, conn, buffer, &found, OK).await
}

/// Answers `GET`, which is for WebSockets; the connection ends with it.
pub(crate) async fn upgrade(
    host: &Host,
    conn: &mut Conn,
    head: &Head,
    buffer: &mut BytesMut,
) -> io::Result<()> {
    let pool = &host.pool;
    let Some(found) = admit(host, conn, head).await? else { return Ok(()) };
    let plan = pool.faults.plan();
    if plan.console_limit {
        // With the limit on, the server knows no count of these and turns all of them away.
        return without_body(conn, "HTTP/1.0 503 Service Unavailable").await;
    }
    if head.header("sec-websocket-key1").is_some() {
        let words = "501 The WebSocket of hixie-76 is left out of this simulator";
        return refuse(conn, "HTTP/1.0", words, &[]).await;
    }
    let Some(answer) = websocket::switching(head) else {
        return without_body(conn, "HTTP/1.0 501 Method Not Implemented").await;
    };
    conn.write_all(answer.as_bytes()).await?;
    conn.flush().await?;
    if is_empty(pool, &found.0.vm) {
        return Ok(());
    }
    let (mut screen, wire) = tokio::io::duplex(websocket::PIECE);
    // It owns its end of the pipe: so either one's end is the other's.
    let guest = async move { attend(pool, &mut screen, &mut BytesMut::new(), &found, "").await };
    if plan.console_raw_frames {
        // How the guest's side ended shows in the frames, or in their end.
        return tokio::join!(guest, wsproxy::relay(conn, buffer, wire)).1;
    }
    let _ = tokio::join!(guest, websocket::relay(conn, buffer, wire));
    Ok(())
}

/// Whom the request is from and which console it is for; `None` if it was turned away.
async fn admit(host: &Host, conn: &mut Conn, head: &Head) -> io::Result<Option<(Place, String)>> {
    let pool = &host.pool;
    if let Err(error) = authenticate(pool, head, Role::VmOperator) {
        let task = head.query("task_id").or_else(|| head.cookie("task_id")).unwrap_or_default();
        return turn_away(pool, conn, task, error).await.map(|()| None);
    }
    let found = find(pool, head).filter(|(place, _)| runs_here(pool, host.index, &place.vm));
    if found.is_none() {
        refuse(conn, "HTTP/1.1", "500 Internal Error", &[]).await?;
    }
    Ok(found)
}

/// Lets a client see and type. `head` goes out in one piece with what the guest says first: a
/// client that reads too far loses that.
async fn attend<S>(
    pool: &Pool,
    stream: &mut S,
    buffer: &mut BytesMut,
    (place, protocol): &(Place, String),
    head: &str,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let served = async {
        if protocol == "vt100" {
            return terminal(pool, stream, buffer, place, head).await;
        }
        let hello = [head.as_bytes(), rfb::banner(place)].concat();
        stream.write_all(&hello).await?;
        stream.flush().await?;
        rfb::serve(pool, stream, buffer, place).await
    };
    tokio::select! {
        served = served => served,
        () = place.gone(pool) => Ok(()),
    }
}

/// An answer that is nothing but a header block.
pub(super) async fn without_body(conn: &mut Conn, status_line: &str) -> io::Result<()> {
    let head =
        format!("{status_line}\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n\r\n");
    conn.write_all(head.as_bytes()).await?;
    conn.flush().await
}

/// The console, by its own name or as the first `rfb` one of a VM. A uuid is looked for before a
/// reference, and among VMs before consoles.
pub(super) fn find(pool: &Pool, head: &Head) -> Option<(Place, String)> {
    pool.with(|state| {
        let by = |class: &str| match (head.query("uuid"), head.query("ref")) {
            (Some(uuid), _) => state.db.by_uuid(class, uuid),
            (None, Some(handle)) => state.db.raw(class, handle).is_ok().then(|| handle.to_owned()),
            (None, None) => None,
        };
        let is_rfb =
            |c: &String| state.db.raw("console", c).is_ok_and(|r| text(r, "protocol") == "rfb");
        let console = match by("VM") {
            Some(vm) => state.db.referrers("console", "VM", &vm).into_iter().find(is_rfb),
            None => by("console"),
        }?;
        let record = state.db.raw("console", &console).ok()?;
        let (vm, protocol) = (text(record, "VM").to_owned(), text(record, "protocol").to_owned());
        let pv = state.db.raw("VM", &vm).is_ok_and(|r| text(r, "domain_type") == "pv");
        Some((Place { console, vm, pv }, protocol))
    })
}

pub(super) fn runs_here(pool: &Pool, host: usize, vm: &str) -> bool {
    pool.with(|state| {
        state.db.raw("VM", vm).is_ok_and(|record| {
            text(record, "power_state") == "Running"
                && state.hosts.get(host).is_some_and(|h| text(record, "resident_on") == h)
        })
    })
}

/// A guest's text console: it shows what it did before, and writes back what it is told.
async fn terminal<S>(
    pool: &Pool,
    stream: &mut S,
    buffer: &mut BytesMut,
    place: &Place,
    head: &str,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let shown = pool.with(|state| state.desk(&place.vm).screen.text());
    let hello = format!("{head}\x1b[2J\x1b[H{}", shown.trim_end().replace('\n', "\r\n"));
    stream.write_all(hello.as_bytes()).await?;
    stream.flush().await?;
    loop {
        if !buffer.is_empty() {
            let came = buffer.split();
            let answer = pool.with(|state| {
                let desk = state.desk(&place.vm);
                came.iter().map(|byte| desk.hear(*byte)).collect::<String>()
            });
            stream.write_all(answer.as_bytes()).await?;
            stream.flush().await?;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(());
        }
    }
}
