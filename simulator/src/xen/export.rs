//! `GET /export_raw_vdi`: the disk as a stream, with every way in which it can go wrong.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::Instant;
use vmimage::Disk;

use super::fault::Plan;
use super::http::{Conn, Head, page, respond};
use super::pool::{Pool, State};
use super::qcow2;
use super::role::Role;
use super::serve::Host;
use super::value::{ApiError, Value, text};
use super::vhd::{self, Layout};
use super::xva;

/// How many pieces of the disk are read ahead of the network.
pub(super) const READ_AHEAD: usize = 4;

/// What the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Raw,
    Vhd,
    Qcow2,
    Tar,
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Ask<'a> {
    vdi: &'a str,
    base: Option<&'a str>,
    format: Format,
    task: &'a str,
}

/// How the body ended.
pub(super) enum Ended {
    Whole,
    Cut,
    Failed(ApiError),
    Reset,
    ClientGone,
}

/// Answers the request; the connection ends with it.
pub(crate) async fn serve(host: &Host, conn: &mut Conn, head: &Head) -> io::Result<()> {
    let pool = &host.pool;
    let task = head.task();
    if let Err(error) = authenticate(pool, head, Role::VmAdmin) {
        return turn_away(pool, conn, task, error).await;
    }
    let plan = pool.faults.plan();
    let find_vdi = |handle: &str| pool.with(|state| find_vdi(state, handle));
    let Some(vdi) = find_vdi(head.query("vdi").unwrap_or_default()) else {
        let handle = head.query("vdi").unwrap_or_default();
        pool.finish_task(task, Err(ApiError::handle("VDI", handle)));
        return refuse(conn, "HTTP/1.1", "500 Internal Error", &[]).await;
    };
    let sr = pool.with(|state| state.db.raw("VDI", &vdi).map(|r| text(r, "SR").to_owned()));
    let there = host.who_sees(&sr.unwrap_or_default());
    if let Some(other) = host.redirect_target(plan.redirect).or(there) {
        // The host that redirects leaves the task alone: only the last host ends it.
        let location = format!("Location: {other}{}?{}", head.path, head.raw_query);
        return refuse(conn, "HTTP/1.1", "302 Found", &[&location]).await;
    }
    let format = match head.query("format").map(str::to_ascii_lowercase).as_deref() {
        None | Some("raw") => Format::Raw,
        Some("vhd") => Format::Vhd,
        Some("qcow2") => Format::Qcow2,
        Some("tar") => Format::Tar,
        Some(other) => {
            let error = ApiError::new("INTERNAL_ERROR", [&format!("Unknown format {other}")]);
            pool.finish_task(task, Err(error));
            return refuse(conn, "HTTP/1.0", "404 Not Found", &[]).await;
        }
    };
    let base = match head.query("base").map(|base| (base, find_vdi(base))) {
        None => None,
        Some((_, Some(base))) => Some(base),
        Some((handle, None)) => {
            pool.finish_task(task, Err(ApiError::handle("VDI", handle)));
            return refuse(conn, "HTTP/1.1", "500 Internal Error", &[]).await;
        }
    };
    pool.adopt_task(task);
    let ask = Ask { vdi: &vdi, base: base.as_deref(), format, task };
    let ended = send(pool, plan, conn, ask).await;
    let reset = matches!(ended, Ended::Reset);
    finish(host, plan, conn, &vdi, task, ended).await;
    // An orderly end after this would announce itself to the client before the reset does.
    if reset { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
}

/// A session in the query, in the cookie, or a login by Basic; of one who may use this handler.
pub(crate) fn authenticate(pool: &Pool, head: &Head, least: Role) -> Result<(), ApiError> {
    let role = match head.query("session_id").or_else(|| head.cookie("session_id")) {
        Some(session) => pool.session_role(session)?,
        None => basic(pool, head).ok_or_else(|| ApiError::new("SESSION_INVALID", [""]))?,
    };
    let method = head.method.to_lowercase();
    role.permit(least, &format!("http/{method}_{}", head.path.trim_start_matches('/')))
}

fn basic(pool: &Pool, head: &Head) -> Option<Role> {
    use base64::Engine as _;
    let given = head.header("authorization")?.strip_prefix("Basic ")?;
    let given = base64::engine::general_purpose::STANDARD.decode(given).ok()?;
    let given = String::from_utf8(given).ok()?;
    let (username, password) = given.split_once(':')?;
    pool.role_of(username, password)
}

/// Answers one whom [`authenticate`] has refused, and fails the task.
pub(super) async fn turn_away(
    pool: &Pool,
    conn: &mut Conn,
    task: &str,
    error: ApiError,
) -> io::Result<()> {
    let known = error.code == "RBAC_PERMISSION_DENIED";
    pool.finish_task(task, Err(error));
    if known {
        return refuse(conn, "HTTP/1.1", "403 Forbidden", &[]).await;
    }
    let challenge = "WWW-Authenticate: Basic realm=\"XAPI Realm\"";
    refuse(conn, "HTTP/1.1", "401 Unauthorized", &[challenge]).await
}

/// Refuses a request that nothing was sent for yet, and fails its task.
pub(super) async fn fail(
    pool: &Pool,
    conn: &mut Conn,
    head: &Head,
    status: &str,
) -> io::Result<()> {
    pool.finish_task(head.task(), Err(ApiError::new("INTERNAL_ERROR", [status])));
    refuse(conn, "HTTP/1.1", status, &[]).await
}

/// Reference or uuid.
pub(super) fn find_vdi(state: &State, handle: &str) -> Option<String> {
    match state.db.raw("VDI", handle) {
        Ok(_) => Some(handle.to_owned()),
        Err(_) => state.db.by_uuid("VDI", handle),
    }
}

pub(super) async fn refuse(
    conn: &mut Conn,
    version: &str,
    status: &str,
    headers: &[&str],
) -> io::Result<()> {
    let mut all = vec!["connection: close", "content-type: text/html"];
    all.extend_from_slice(headers);
    respond(conn, &format!("{version} {status}"), &all, &page(status)).await
}

/// The headers go out before anything is checked, as on the real server.
async fn send(pool: &Arc<Pool>, plan: Plan, conn: &mut Conn, ask: Ask<'_>) -> Ended {
    let Ask { vdi, base, format, task } = ask;
    let base = base.and_then(|base| {
        pool.with(|state| {
            let uuid = text(state.db.raw("VDI", base).ok()?, "uuid").parse().ok()?;
            Some(Base { disk: state.disks.get(base).cloned()?, uuid })
        })
    });
    let (disk, size, uuid, user) = pool.with(|state| {
        let record = state.db.raw("VDI", vdi).cloned().unwrap_or_default();
        let size = record.get("virtual_size").and_then(Value::as_int).unwrap_or_default();
        let user = state.vdi_user(vdi);
        let disk = state.disks.get(vdi).cloned();
        if user != Some("attached") {
            *state.exports.entry(vdi.to_owned()).or_insert(0) += 1;
        }
        (disk, size.unsigned_abs(), text(&record, "uuid").to_owned(), user)
    });
    let (kind, extension) = match format {
        Format::Raw => ("application/octet-stream", "raw"),
        Format::Vhd => ("application/vhd", "vhd"),
        Format::Qcow2 => ("application/x-qemu-disk", "qcow2"),
        Format::Tar => ("application/x-tar", "tar"),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n\
         Content-Type: {kind}\r\n\
         Content-Disposition: attachment; filename=\"{uuid}.{extension}\"\r\n\r\n"
    );
    if conn.write_all(head.as_bytes()).await.is_err() || conn.flush().await.is_err() {
        return Ended::ClientGone;
    }
    if user == Some("attached") {
        return Ended::Failed(ApiError::new("VDI_IN_USE", [vdi, "attached"]));
    }
    if format == Format::Vhd && size > vhd::MAX_VIRTUAL_SIZE {
        // 200 and an empty body; only the task tells.
        let limit = vhd::MAX_VIRTUAL_SIZE.to_string();
        pool.finish_task(task, Err(ApiError::new("VDI_TOO_LARGE", [vdi, &limit])));
        return Ended::Cut;
    }
    let Some(disk) = disk else {
        return Ended::Failed(ApiError::new("VDI_IO_ERROR", ["Device I/O errors"]));
    };
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let reader = tokio::task::spawn_blocking(move || read(&disk, size, format, base, &sender));
    let ended = Body::new(pool, plan, conn, task).send(receiver).await;
    let _ = reader.await;
    ended
}

/// A piece of the body, and the length of all of it.
pub(super) type Piece = Result<(Bytes, u64), String>;

/// The disk that a difference is made to.
struct Base {
    disk: Arc<dyn Disk>,
    uuid: uuid::Uuid,
}

/// Reads the disk on a thread of its own, at the pace of the network.
fn read(
    disk: &Arc<dyn Disk>,
    size: u64,
    format: Format,
    base: Option<Base>,
    sender: &mpsc::Sender<Piece>,
) {
    let failed = match format {
        // A base means nothing to it.
        Format::Tar => xva::write_disk(disk, size, sender).err().map(|e| e.to_string()),
        _ => try_read(disk.as_ref(), size, format, base, sender).err().map(|e| e.to_string()),
    };
    if let Some(error) = failed {
        let _ = sender.blocking_send(Err(error));
    }
}

fn try_read(
    disk: &dyn Disk,
    size: u64,
    format: Format,
    base: Option<Base>,
    sender: &mpsc::Sender<Piece>,
) -> vmimage::Result<()> {
    let map = disk.block_map()?;
    if format == Format::Qcow2 {
        let layout = match base {
            None => qcow2::Layout::whole(size, &map),
            Some(Base { disk: base, .. }) => {
                let base_map = base.block_map()?;
                qcow2::Layout::difference(size, (disk, &map), (base.as_ref(), &base_map))?
            }
        };
        return qcow2::send(disk, &layout, &mut sink(sender, layout.len()));
    }
    let layout = match base {
        None => Layout::whole(size, &map),
        Some(Base { disk: base, uuid }) => {
            let base_map = base.block_map()?;
            Layout::difference(size, (disk, &map), (base.as_ref(), &base_map), uuid)?
        }
    };
    match format {
        Format::Raw => vhd::send_raw(disk, size, &map, &mut sink(sender, size)),
        _ => vhd::send_vhd(disk, &map, &layout, &mut sink(sender, layout.len())),
    }
}

fn sink(sender: &mpsc::Sender<Piece>, total: u64) -> impl FnMut(Bytes) -> ControlFlow<()> + '_ {
    move |piece| match sender.blocking_send(Ok((piece, total))) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

pub(super) struct Body<'a> {
    pool: &'a Pool,
    plan: Plan,
    conn: &'a mut Conn,
    task: &'a str,
    sent: u64,
    told: f64,
}

impl<'a> Body<'a> {
    pub(super) fn new(pool: &'a Pool, plan: Plan, conn: &'a mut Conn, task: &'a str) -> Self {
        Self { pool, plan, conn, task, sent: 0, told: 0.0 }
    }

    pub(super) async fn send(mut self, mut pieces: mpsc::Receiver<Piece>) -> Ended {
        let start = Instant::now();
        while let Some(piece) = pieces.recv().await {
            let (mut piece, total) = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    return Ended::Failed(ApiError::new("VDI_IO_ERROR", [&error]));
                }
            };
            if self.pool.is_cancelled(self.task) {
                return Ended::Failed(ApiError::new("TASK_CANCELLED", [self.task]));
            }
            let stop = self.stop();
            if let Some((limit, _)) = &stop {
                let room = limit.saturating_sub(self.sent).min(piece.len() as u64);
                piece.truncate(room as usize);
            }
            if self.conn.write_all(&piece).await.is_err() {
                return Ended::ClientGone;
            }
            self.sent += piece.len() as u64;
            if let Some((limit, ended)) = stop
                && self.sent >= limit
            {
                let _ = self.conn.flush().await;
                return ended;
            }
            self.tell(total);
            if let Some(pace) = self.plan.slow_export {
                let due = Duration::from_secs_f64(self.sent as f64 / pace as f64);
                tokio::time::sleep_until(start + due).await;
            }
        }
        match self.plan.export_500_in_body {
            // Past the end of the disk: the stream is whole, and the error follows it.
            Some(_) => Ended::Failed(injected()),
            None => Ended::Whole,
        }
    }

    /// Where a fault ends this body, and how.
    fn stop(&self) -> Option<(u64, Ended)> {
        let stops = [
            self.plan.export_truncate.map(|at| (at, Ended::Cut)),
            self.plan.export_500_in_body.map(|at| (at, Ended::Failed(injected()))),
            self.plan.host_gone.map(|at| (at, Ended::Reset)),
        ];
        stops.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The task's progress moves in steps of a hundredth.
    fn tell(&mut self, total: u64) {
        let now = self.sent as f64 / total.max(1) as f64;
        if now - self.told >= 0.01 {
            self.told = now;
            self.pool.progress(self.task, now.min(0.99));
        }
    }
}

pub(super) fn injected() -> ApiError {
    ApiError::new("INTERNAL_ERROR", ["a fault was asked for"])
}

/// The server appends a whole second response to the body.
pub(super) async fn second_answer(conn: &mut Conn, error: &ApiError) {
    let text = error.description();
    let text: Vec<_> = text.iter().filter_map(Value::as_str).collect();
    let body = page(&format!("500 {}", text.join(" ")));
    let headers = ["connection: close", "content-type: text/html"];
    let _ = respond(conn, "HTTP/1.1 500 Internal Error", &headers, &body).await;
}

/// Ends the body and the task. `vdi` is the disk that was in use for it.
pub(super) async fn finish(
    host: &Host,
    plan: Plan,
    conn: &mut Conn,
    vdi: &str,
    task: &str,
    ended: Ended,
) {
    let pool = &host.pool;
    let result = match ended {
        Ended::Whole if plan.export_task_fails => Err(injected()),
        Ended::Whole => Ok("".into()),
        Ended::Cut | Ended::Reset => Err(injected()),
        Ended::ClientGone => Err(ApiError::new("VDI_IO_ERROR", ["Device I/O errors"])),
        Ended::Failed(ref error) => Err(error.clone()),
    };
    if let Ended::Failed(error) = &ended {
        second_answer(conn, error).await;
    }
    let _ = conn.flush().await;
    match ended {
        Ended::Reset => conn.reset_on_close(),
        Ended::Whole if plan.export_unclean_close => conn.shutdown_tcp().await,
        _ => {
            let _ = conn.shutdown().await;
        }
    }
    match plan.slow_unplug {
        Some(delay) => {
            let (pool, vdi) = (Arc::clone(pool), vdi.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                release(&pool, &vdi);
            });
        }
        None => release(pool, vdi),
    }
    pool.finish_task(task, result);
    if matches!(ended, Ended::Reset) {
        host.go();
    }
}

fn release(pool: &Pool, vdi: &str) {
    pool.with(|state| {
        if let Some(count) = state.exports.get_mut(vdi) {
            *count = count.saturating_sub(1);
        }
    });
}
