//! `PUT /import`, `/import_metadata` and `/import_raw_vdi`: the answer comes before the body is
//! read, and what becomes of it is told by the task alone.

use std::fs::File;
use std::io::{self, Seek as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

use super::export::{authenticate, find_vdi, injected, refuse, second_answer, turn_away};
use super::fault::Plan;
use super::http::{Conn, Head};
use super::import_disk::{self, Form};
use super::import_store::Stored;
use super::import_xva::{self, Wishes};
use super::pool::{Pool, State};
use super::role::Role;
use super::serve::Host;
use super::value::{ApiError, NULL, Record, Value, text};
use super::vdi;

/// How much is read from the network at a time.
const PIECE: usize = 256 * 1024;

/// A refusal before the body: version and status, and what the task says.
type Refused = (&'static str, &'static str, ApiError);

const BAD: &str = "400 Bad Request";
const FAILED: &str = "500 Internal Error";

/// What is to be done with the body.
enum Job {
    Disk { vdi: String, form: Form },
    Machine(Wishes),
}

/// A request with what is left of the connection's buffer.
struct Put<'a> {
    host: &'a Host,
    conn: &'a mut Conn,
    buffer: &'a mut BytesMut,
    plan: Plan,
    task: &'a str,
    length: Option<u64>,
}

/// How the body ended, if it did not end as it should.
enum Broken {
    /// The client left, or a cancellation or a fault ended it with the connection.
    Silent(ApiError),
    /// The connection is still there for a second answer.
    Told(ApiError),
    Reset,
}

/// Answers the request; the connection ends with it.
pub(crate) async fn serve(
    host: &Host,
    conn: &mut Conn,
    head: &Head,
    buffer: &mut BytesMut,
) -> io::Result<()> {
    let pool = &host.pool;
    let task = head.task();
    let plan = pool.faults.plan();
    if let Err(error) = authenticate(pool, head, Role::VmAdmin) {
        return turn_away(pool, conn, task, error).await;
    }
    if plan.import_forbidden {
        let permission = format!("http{}", head.path.replace('/', "/put_"));
        let error = ApiError::new("RBAC_PERMISSION_DENIED", [&permission, "No permission"]);
        pool.finish_task(task, Err(error));
        return refuse(conn, "HTTP/1.1", "403 Forbidden", &[]).await;
    }
    let sr = match storage(pool, head) {
        Ok(sr) => sr,
        Err((version, status, error)) => {
            pool.finish_task(task, Err(error));
            return refuse(conn, version, status, &[]).await;
        }
    };
    if let Some(other) = host.redirect_target(plan.redirect).or_else(|| host.who_sees(&sr)) {
        // The host that redirects leaves the task alone: only the last host ends it.
        let location = format!("Location: {other}{}?{}", head.path, head.raw_query);
        return refuse(conn, "HTTP/1.1", "302 Found", &[&location]).await;
    }
    let job = match job(pool, head, sr) {
        Ok(job) => job,
        Err((version, status, error)) => {
            pool.finish_task(task, Err(error));
            return refuse(conn, version, status, &[]).await;
        }
    };
    pool.adopt_task(task);
    let length = head.header("content-length").and_then(|text| text.trim().parse().ok());
    Put { host, conn, buffer, plan, task, length }.run(job).await
}

/// The storage that this host must see.
fn storage(pool: &Pool, head: &Head) -> Result<String, Refused> {
    pool.with(|state| {
        if let Some(handle) = head.query("vdi") {
            let vdi = find_vdi(state, handle)
                .ok_or_else(|| ("HTTP/1.1", FAILED, ApiError::handle("VDI", handle)))?;
            let record = state.db.raw("VDI", &vdi).cloned().unwrap_or_default();
            return Ok(text(&record, "SR").to_owned());
        }
        let named = match (head.query("sr_id"), head.query("sr_uuid")) {
            (Some(sr), _) => state.db.raw("SR", sr).ok().map(|_| sr.to_owned()).ok_or(sr),
            (None, Some(uuid)) => state.db.by_uuid("SR", uuid).ok_or(uuid),
            (None, None) if head.path == "/import_raw_vdi" => {
                return Err(("HTTP/1.1", BAD, ApiError::new("VDI_MISSING", ["", ""])));
            }
            (None, None) => return Ok(default_storage(state)),
        };
        named.map_err(|handle| ("HTTP/1.1", BAD, ApiError::handle("SR", handle)))
    })
}

fn default_storage(state: &State) -> String {
    let pool = state.db.iter("pool").next();
    pool.map(|(_, record)| text(record, "default_SR").to_owned()).unwrap_or_default()
}

fn job(pool: &Pool, head: &Head, sr: String) -> Result<Job, Refused> {
    if head.path == "/import_raw_vdi" {
        return disk_job(pool, head, sr);
    }
    if head.header("transfer-encoding").is_some() {
        let error = ApiError::new("IMPORT_ERROR_CANNOT_HANDLE_CHUNKED", []);
        return Err(("HTTP/1.1", "403 Forbidden", error));
    }
    let flag = |name: &str| head.query(name) == Some("true");
    Ok(Job::Machine(Wishes {
        sr,
        restore: flag("restore"),
        force: flag("force"),
        metadata: head.path == "/import_metadata",
        dry_run: flag("dry_run") && head.path == "/import_metadata",
    }))
}

fn disk_job(pool: &Pool, head: &Head, sr: String) -> Result<Job, Refused> {
    let refused = |status, why: &str| ("HTTP/1.0", status, ApiError::new("INTERNAL_ERROR", [why]));
    let missing = "404 Not Found";
    // The parameter's presence counts, whatever it says.
    let pieces = head.has_query("chunked") || head.cookie("chunked").is_some();
    let form = match head.query("format").map(str::to_ascii_lowercase).as_deref() {
        None | Some("raw") if pieces => Form::Pieces,
        None | Some("raw") => Form::Raw,
        Some("vhd" | "qcow2") if pieces => {
            return Err(refused(missing, "Cannot handle chunked VHD"));
        }
        Some("vhd") => Form::Vhd,
        Some("qcow2") => Form::Qcow2,
        Some(other) => return Err(refused(missing, &format!("Unknown format {other}"))),
    };
    if let Some(encoding) = head.header("transfer-encoding") {
        return Err(refused(missing, &format!("Cannot handle encoding: {encoding}")));
    }
    if let Some(handle) = head.query("vdi") {
        let vdi = pool.with(|state| find_vdi(state, handle)).unwrap_or_default();
        return Ok(Job::Disk { vdi, form });
    }
    let length = head.header("content-length").and_then(|text| text.trim().parse().ok());
    let Some(length) = length.filter(|_| form == Form::Raw) else {
        return Err(refused(BAD, "Not enough info supplied to import"));
    };
    let mut record = Record::from([
        ("name_label".to_owned(), "Imported VDI".into()),
        ("SR".to_owned(), sr.into()),
        ("type".to_owned(), "user".into()),
    ]);
    let made = pool.with(|state| vdi::blank(state, &mut record, length));
    let vdi = made.map_err(|error| ("HTTP/1.1", FAILED, error))?;
    Ok(Job::Disk { vdi, form })
}

impl Put<'_> {
    async fn run(mut self, job: Job) -> io::Result<()> {
        if !self.plan.import_late_200 {
            self.accept().await?;
        }
        let outcome = self.work(job).await;
        if self.plan.import_late_200 && outcome.is_ok() {
            self.accept().await?;
        }
        let pool = &self.host.pool;
        let result = match outcome {
            Ok(_) if self.plan.import_task_fails => Err(injected()),
            Ok(value) => Ok(value),
            Err(Broken::Reset) => {
                self.conn.reset_on_close();
                pool.finish_task(self.task, Err(injected()));
                self.host.go();
                // An orderly end would announce itself to the client before the reset does.
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Err(Broken::Silent(error)) => Err(error),
            Err(Broken::Told(error)) => {
                second_answer(self.conn, &error).await;
                Err(error)
            }
        };
        let _ = self.conn.flush().await;
        pool.finish_task(self.task, result);
        let _ = self.conn.shutdown().await;
        Ok(())
    }

    /// The whole head of the answer, before a byte of the body is read.
    async fn accept(&mut self) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n\
             task-id: {}\r\nContent-Type: application/octet-stream\r\n\r\n",
            self.task
        );
        self.conn.write_all(head.as_bytes()).await?;
        self.conn.flush().await
    }

    async fn work(&mut self, job: Job) -> Result<Value, Broken> {
        if let Job::Disk { vdi, .. } = &job
            && self.host.pool.with(|state| state.vdi_user(vdi)).is_some()
        {
            return Err(Broken::Told(ApiError::new("VDI_IN_USE", [vdi, "import"])));
        }
        let pieces = matches!(job, Job::Disk { form: Form::Pieces, .. });
        let (body, length) = self.receive(pieces).await?;
        if let Some(wanted) = self.length
            && length < wanted
        {
            return Err(Broken::Silent(match job {
                Job::Disk { .. } => io_error(),
                Job::Machine(_) => ApiError::new("IMPORT_ERROR_PREMATURE_EOF", []),
            }));
        }
        let pool = Arc::clone(&self.host.pool);
        let task = self.task.to_owned();
        let made = tokio::task::spawn_blocking(move || make(&pool, &task, job, body, length)).await;
        made.unwrap_or_else(|_| Err(injected())).map_err(Broken::Told)
    }

    /// Reads the body into a file.
    async fn receive(&mut self, pieces: bool) -> Result<(File, u64), Broken> {
        let failed = |_| Broken::Told(io_error());
        let file = tempfile::tempfile().map_err(failed)?;
        let mut out = tokio::fs::File::from_std(file.try_clone().map_err(failed)?);
        let start = Instant::now();
        let mut frames = Frames::default();
        let mut received = 0_u64;
        while self.length.is_none_or(|length| received < length) && !(pieces && frames.ended) {
            if self.buffer.is_empty() {
                self.buffer.reserve(PIECE);
                match self.conn.read_buf(self.buffer).await {
                    Ok(n) if n > 0 => {}
                    _ => break,
                }
            }
            let left = self.length.map_or(u64::MAX, |length| length - received);
            let count = left.min(self.buffer.len() as u64) as usize;
            let piece = self.buffer.split_to(count);
            frames.see(&piece);
            out.write_all(&piece).await.map_err(failed)?;
            received += count as u64;
            self.trouble(received).await?;
            if let Some(length) = self.length {
                let done = received as f64 / length.max(1) as f64;
                self.host.pool.progress(self.task, (done * 100.0).floor().min(99.0) / 100.0);
            }
            if let Some(pace) = self.plan.slow_import {
                let due = Duration::from_secs_f64(received as f64 / pace as f64);
                tokio::time::sleep_until(start + due).await;
            }
        }
        out.flush().await.map_err(failed)?;
        Ok((file, received))
    }

    /// Cancellation and faults, after so many bytes.
    async fn trouble(&self, received: u64) -> Result<(), Broken> {
        let cancelled = || Broken::Silent(ApiError::new("TASK_CANCELLED", [self.task]));
        if self.host.pool.is_cancelled(self.task) {
            return Err(cancelled());
        }
        let due = |at: Option<u64>| at.is_some_and(|at| received >= at);
        if due(self.plan.host_gone) {
            return Err(Broken::Reset);
        }
        if due(self.plan.import_500_in_body) {
            return Err(Broken::Told(injected()));
        }
        if due(self.plan.import_stall) {
            while !self.host.pool.is_cancelled(self.task) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return Err(cancelled());
        }
        Ok(())
    }
}

fn io_error() -> ApiError {
    ApiError::new("VDI_IO_ERROR", ["Device I/O errors"])
}

/// Makes of the body what was asked for, and the task's result.
fn make(pool: &Pool, task: &str, job: Job, mut body: File, length: u64) -> Result<Value, ApiError> {
    match job {
        Job::Machine(wishes) => {
            body.rewind().map_err(|_| io_error())?;
            let archive = import_xva::read(io::BufReader::new(body), &wishes)?;
            pool.with(|state| {
                let made = import_xva::create(state, archive, &wishes)?;
                let done = Record::from([("object_creation".to_owned(), "complete".into())]);
                let _ = state.db.set("task", task, "other_config", Value::Map(done));
                Ok(Value::Array(made.into_iter().map(Value::Str).collect()))
            })
        }
        Job::Disk { vdi, form } => {
            let (size, below) = pool.with(|state| {
                let record = state.db.raw("VDI", &vdi)?;
                let size = record.get("virtual_size").and_then(Value::as_int).unwrap_or_default();
                Ok((size.unsigned_abs(), state.disks.get(&vdi).cloned()))
            })?;
            let mut stored = Stored::new(size, below).map_err(|_| io_error())?;
            let written = import_disk::read(form, &body, length, &mut stored);
            pool.with(|state| {
                // What was written before it failed stays, as on a device.
                if state.db.raw("VDI", &vdi).is_ok() {
                    state.disks.insert(vdi.clone(), Arc::new(stored));
                }
                state.db.touch("VDI", &vdi);
            });
            written.map_err(|_| io_error())?;
            Ok(if vdi == NULL { "".into() } else { vdi.into() })
        }
    }
}

/// Finds the end of a body of pieces while it comes.
#[derive(Debug, Default)]
struct Frames {
    head: Vec<u8>,
    /// Bytes of data that are still to come.
    data: u64,
    ended: bool,
}

impl Frames {
    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.ended {
            if self.data > 0 {
                let count = self.data.min(bytes.len() as u64);
                self.data -= count;
                bytes = bytes.get(count as usize..).unwrap_or_default();
                continue;
            }
            let count = (12 - self.head.len()).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            self.head.extend_from_slice(now);
            bytes = later;
            if self.head.len() == 12 {
                let length = self.head.get(8..12).and_then(|b| b.try_into().ok());
                self.data = u64::from(length.map_or(0, u32::from_le_bytes));
                self.ended = self.head.iter().all(|byte| *byte == 0);
                self.head.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_pieces_is_found_wherever_they_are_cut() {
        let mut body = 7_u64.to_le_bytes().to_vec();
        body.extend_from_slice(&20_u32.to_le_bytes());
        body.extend_from_slice(&[0; 20]);
        body.extend_from_slice(&[0; 12]);
        for cut in 0..body.len() {
            let mut frames = Frames::default();
            let (first, second) = body.split_at(cut);
            frames.see(first);
            assert!(!frames.ended);
            frames.see(second);
            assert!(frames.ended, "{cut}");
        }
    }
}
