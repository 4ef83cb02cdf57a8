//! `GET /export`: a machine with its disks as an XVA archive, put together field by field.

use std::io::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::CompressionLevel;
use sha1::{Digest as _, Sha1};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use vmimage::{BlockMap, Disk};

use super::export::{Body, Ended, Piece, READ_AHEAD, authenticate, finish, refuse, turn_away};
use super::http::{Conn, Head};
use super::ova::{Members, find_vm};
use super::pool::{Pool, State};
use super::role::Role;
use super::serve::Host;
use super::value::{ApiError, Value, text, truth};

const CHUNK: u64 = 1 << 20;

/// How the archive is compressed.
#[derive(Clone, Copy)]
enum Packing {
    None,
    Gzip,
    Zstd,
}

/// A disk by its name in the archive.
struct Part {
    name: String,
    disk: Arc<dyn Disk>,
    size: u64,
}

/// Answers the request; the connection ends with it.
pub(crate) async fn serve(host: &Host, conn: &mut Conn, head: &Head) -> io::Result<()> {
    let pool = &host.pool;
    let task = head.task();
    if let Err(error) = authenticate(pool, head, Role::VmAdmin) {
        return turn_away(pool, conn, task, error).await;
    }
    let plan = pool.faults.plan();
    if let Some(other) = host.redirect_target(plan.redirect) {
        let location = format!("Location: {other}{}?{}", head.path, head.raw_query);
        return refuse(conn, "HTTP/1.1", "302 Found", &[&location]).await;
    }
    let packing = match head.query("use_compression") {
        Some("true" | "gzip") => Packing::Gzip,
        Some("zstd") => Packing::Zstd,
        _ => Packing::None,
    };
    let handle = head.query("ref").or_else(|| head.query("uuid")).unwrap_or_default();
    let (description, parts) = match pool.with(|state| archive(state, handle)) {
        Ok(archive) => archive,
        Err(error) => {
            pool.finish_task(task, Err(error));
            return refuse(conn, "HTTP/1.1", "500 Internal Error", &[]).await;
        }
    };
    pool.adopt_task(task);
    let ended = send(pool, conn, task, (description, parts, packing)).await;
    let reset = matches!(ended, Ended::Reset);
    finish(host, plan, conn, "", task, ended).await;
    if reset { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
}

async fn send(
    pool: &Arc<Pool>,
    conn: &mut Conn,
    task: &str,
    (description, parts, packing): (String, Vec<Part>, Packing),
) -> Ended {
    let head = format!(
        "HTTP/1.0 200 OK\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n\
         task-id: {task}\r\nContent-Type: application/octet-stream\r\n\
         Content-Disposition: attachment; filename=\"export.xva\"\r\n\r\n"
    );
    if conn.write_all(head.as_bytes()).await.is_err() || conn.flush().await.is_err() {
        return Ended::ClientGone;
    }
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    let writer = tokio::task::spawn_blocking(move || {
        if let Err(error) = write(&description, &parts, packing, &sender) {
            let _ = sender.blocking_send(Err(error.to_string()));
        }
    });
    let ended = Body::new(pool, pool.faults.plan(), conn, task).send(receiver).await;
    let _ = writer.await;
    ended
}

/// The description and the disks of a machine that can be exported.
fn archive(state: &State, handle: &str) -> Result<(String, Vec<Part>), ApiError> {
    let vm = find_vm(state, handle)?;
    let record = state.db.raw("VM", &vm)?;
    let power = text(record, "power_state");
    if !matches!(power, "Halted" | "Suspended") && !truth(record, "is_a_snapshot") {
        let actual = power.to_ascii_lowercase();
        return Err(ApiError::new("VM_BAD_POWER_STATE", [&vm, "halted", &actual]));
    }
    let mut members = Members::default();
    members.add_vm(state, &vm)?;
    let names = members.names();
    let mut parts = Vec::new();
    for vdi in members.of_class("VDI") {
        let Some(disk) = state.disks.get(vdi) else { continue };
        let size = state.db.raw("VDI", vdi)?.get("virtual_size").and_then(Value::as_int);
        parts.push(Part {
            name: names.get(vdi).cloned().unwrap_or_default(),
            disk: Arc::clone(disk),
            size: size.unwrap_or_default().unsigned_abs(),
        });
    }
    // The disks come in the order of their names as text: Ref:10 before Ref:9.
    parts.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((members.describe(state)?, parts))
}

/// Hands pieces to the network; ends when nobody takes them.
struct Pieces<'a>(&'a mpsc::Sender<Piece>, u64);

impl io::Write for Pieces<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let piece = Ok((Bytes::copy_from_slice(buf), self.1));
        self.0.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(
    description: &str,
    parts: &[Part],
    packing: Packing,
    sender: &mpsc::Sender<Piece>,
) -> io::Result<()> {
    let total = parts.iter().map(|part| part.size).sum();
    let mut pieces = io::BufWriter::with_capacity(256 << 10, Pieces(sender, total));
    match packing {
        Packing::None => tar(description, parts, &mut pieces)?,
        Packing::Gzip => {
            let mut encoder = GzEncoder::new(&mut pieces, Compression::fast());
            tar(description, parts, &mut encoder)?;
            encoder.finish()?;
        }
        Packing::Zstd => zstd(description, parts, &mut pieces)?,
    }
    pieces.flush()
}

/// The encoder takes from a reader, so that the archive is written on a thread of its own.
fn zstd(description: &str, parts: &[Part], pieces: &mut dyn io::Write) -> io::Result<()> {
    let (reader, writer) = io::pipe()?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let mut writer = io::BufWriter::with_capacity(256 << 10, writer);
            tar(description, parts, &mut writer)?;
            writer.flush()
        });
        let mut drain = Patient { to: pieces, failed: None };
        let level = CompressionLevel::Fastest;
        ruzstd::encoding::compress(io::BufReader::new(reader), &mut drain, level);
        let failed = drain.failed.take();
        let written = writing.join().unwrap_or_else(|_| Err(io::Error::other("no archive")));
        failed.map_or(written, Err)
    })
}

/// Keeps an error for later: the encoder takes none.
struct Patient<'a> {
    to: &'a mut dyn io::Write,
    failed: Option<io::Error>,
}

impl io::Write for Patient<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.failed.is_none() {
            self.failed = self.to.write_all(buf).err();
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tar(description: &str, parts: &[Part], out: &mut dyn io::Write) -> io::Result<()> {
    member(out, "ova.xml", description.as_bytes())?;
    for part in parts {
        chunks(part, out)?;
    }
    out.write_all(&[0; 1024])
}

/// One disk alone, as `export_raw_vdi` sends it with `format=tar`.
pub(super) fn write_disk(
    disk: &Arc<dyn Disk>,
    size: u64,
    sender: &mpsc::Sender<Piece>,
) -> io::Result<()> {
    let part = Part { name: "vdi".to_owned(), disk: Arc::clone(disk), size };
    let mut pieces = io::BufWriter::with_capacity(256 << 10, Pieces(sender, size));
    chunks(&part, &mut pieces)?;
    pieces.write_all(&[0; 1024])?;
    pieces.flush()
}

/// A disk as files of 1 MiB with their checksums; those that hold nothing are left out.
fn chunks(part: &Part, out: &mut dyn io::Write) -> io::Result<()> {
    let map: BlockMap = part.disk.block_map().map_err(io::Error::other)?;
    let last = part.size.div_ceil(CHUNK).saturating_sub(1);
    for index in 0..=last {
        let (start, end) = (index * CHUNK, ((index + 1) * CHUNK).min(part.size));
        // The first and the last one are always there.
        if !matches!(index, 0) && index != last && !map.any(start..end) {
            continue;
        }
        let mut data = vec![0; (end - start) as usize];
        // The device may be larger than the file that it shows.
        let held = part.disk.virtual_size().clamp(start, end) - start;
        let held = data.get_mut(..held as usize).unwrap_or_default();
        part.disk.read_exact_at(held, start).map_err(io::Error::other)?;
        let name = format!("{}/{index:08}", part.name);
        member(out, &name, &data)?;
        member(out, &format!("{name}.checksum"), hex::encode(Sha1::digest(&data)).as_bytes())?;
    }
    Ok(())
}

/// A file of the archive: a header of the ustar format, the data, zeros up to a whole block.
pub(super) fn member(out: &mut dyn io::Write, name: &str, data: &[u8]) -> io::Result<()> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &[u8]| {
        if let Some(field) = header.get_mut(at..at + text.len()) {
            field.copy_from_slice(text);
        }
    };
    put(0, name.as_bytes());
    put(100, b"0000664\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    let sum = format!("{sum:06o}\0 ");
    header[148..156].copy_from_slice(sum.as_bytes());
    out.write_all(&header)?;
    out.write_all(data)?;
    let padding = data.len().next_multiple_of(512) - data.len();
    out.write_all(&[0; 512][..padding])
}
