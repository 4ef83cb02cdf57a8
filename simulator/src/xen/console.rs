//! `CONNECT /console`: the way to a guest's screen and keyboard, with its refusals.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::export::authenticate;
use super::http::{Conn, Head, page, respond};
use super::pool::{Pool, State};
use super::rfb;
use super::role::Role;
use super::serve::Host;
use super::value::{Record, text};

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
    /// Whether the record is still there: a guest that stops takes its consoles with it.
    pub(crate) fn exists(&self, pool: &Pool) -> bool {
        pool.with(|state| state.db.raw("console", &self.console).is_ok())
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

/// Answers the request; the connection ends with it.
pub(crate) async fn serve(
    host: &Host,
    conn: &mut Conn,
    head: &Head,
    buffer: &mut BytesMut,
) -> io::Result<()> {
    let pool = &host.pool;
    if let Err(error) = authenticate(pool, head, Role::VmOperator) {
        if error.code == "RBAC_PERMISSION_DENIED" {
            return refuse(conn, "403 Forbidden", &[]).await;
        }
        let challenge = "WWW-Authenticate: Basic realm=\"XAPI Realm\"";
        return refuse(conn, "401 Unauthorized", &[challenge]).await;
    }
    if pool.faults.plan().console_limit {
        return refuse(conn, "503 Connection Limit Exceeded", &[]).await;
    }
    let Some((place, protocol)) = find(pool, head) else {
        return refuse(conn, "404 Not Found", &[]).await;
    };
    if !runs_here(pool, host.index, &place.vm) {
        return refuse(conn, "500 Internal Error", &[]).await;
    }
    let booting = pool.faults.plan().slow_boot.is_some()
        && pool.with(|state| state.boots.contains_key(&place.vm));
    if pool.faults.console_is_empty() || booting {
        // The 200 is sent before anyone looks for the screen.
        conn.write_all(OK.as_bytes()).await?;
        return conn.flush().await;
    }
    if protocol == "vt100" {
        return terminal(pool, conn, &place).await;
    }
    // In one piece with the banner: a client that reads too far loses it.
    let hello = [OK.as_bytes(), rfb::banner(&place)].concat();
    conn.write_all(&hello).await?;
    conn.flush().await?;
    rfb::serve(pool, conn, buffer, &place).await
}

async fn refuse(conn: &mut Conn, status: &str, more: &[&str]) -> io::Result<()> {
    let mut headers = vec!["connection: close", "content-type: text/html"];
    headers.extend(more);
    respond(conn, &format!("HTTP/1.1 {status}"), &headers, &page(status)).await
}

/// The console, by its own name or as the first `rfb` one of a VM.
fn find(pool: &Pool, head: &Head) -> Option<(Place, String)> {
    pool.with(|state| {
        let by = |class: &str| match (head.query("ref"), head.query("uuid")) {
            (Some(handle), _) => state.db.raw(class, handle).is_ok().then(|| handle.to_owned()),
            (None, Some(uuid)) => state.db.by_uuid(class, uuid),
            (None, None) => None,
        };
        let console = by("console").or_else(|| {
            let all = state.db.referrers("console", "VM", &by("VM")?);
            let is_rfb =
                |c: &String| state.db.raw("console", c).is_ok_and(|r| text(r, "protocol") == "rfb");
            all.into_iter().find(is_rfb)
        })?;
        let record = state.db.raw("console", &console).ok()?;
        let (vm, protocol) = (text(record, "VM").to_owned(), text(record, "protocol").to_owned());
        let pv = state.db.raw("VM", &vm).is_ok_and(|r| text(r, "domain_type") == "pv");
        Some((Place { console, vm, pv }, protocol))
    })
}

fn runs_here(pool: &Pool, host: usize, vm: &str) -> bool {
    pool.with(|state| {
        state.db.raw("VM", vm).is_ok_and(|record| {
            text(record, "power_state") == "Running"
                && state.hosts.get(host).is_some_and(|h| text(record, "resident_on") == h)
        })
    })
}

/// A guest's text console: it shows what it did before, and writes back what it is told.
async fn terminal(pool: &Pool, conn: &mut Conn, place: &Place) -> io::Result<()> {
    let shown = pool.with(|state| state.desk(&place.vm).screen.text());
    let hello = format!("{OK}\x1b[2J\x1b[H{}", shown.trim_end().replace('\n', "\r\n"));
    conn.write_all(hello.as_bytes()).await?;
    conn.flush().await?;
    let mut news = pool.watch();
    let mut buffer = BytesMut::new();
    while place.exists(pool) {
        tokio::select! {
            changed = news.changed() => if changed.is_err() { break },
            read = conn.read_buf(&mut buffer) => {
                if read? == 0 {
                    break;
                }
                let came = buffer.split();
                let answer = pool.with(|state| {
                    let desk = state.desk(&place.vm);
                    came.iter().map(|byte| desk.hear(*byte)).collect::<String>()
                });
                conn.write_all(answer.as_bytes()).await?;
                conn.flush().await?;
            }
        }
    }
    Ok(())
}
