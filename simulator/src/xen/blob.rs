//! Blobs: small pieces of data that hang on objects, and `GET`/`PUT /blob`.

use std::fs::File;
use std::io::{self, Seek as _};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::export::{authenticate, fail, turn_away};
use super::http::{Conn, Head, respond};
use super::pool::{Pool, State, now};
use super::role::Role;
use super::serve::Host;
use super::value::{ApiError, ApiResult, Record, Value, text, truth};

/// How much is moved at a time.
const PIECE: usize = 64 * 1024;

/// Answers a message that makes or destroys blobs; `None` for anything else.
pub(crate) fn perform(
    state: &mut State,
    class: &'static str,
    name: &str,
    args: &[Value],
) -> Option<ApiResult> {
    let arg = |i: usize| args.get(i).and_then(Value::as_str).unwrap_or_default();
    let public = |i: usize| args.get(i).and_then(Value::as_bool).unwrap_or_default();
    Some(match (class, name) {
        ("blob", "create") => Ok(create(state, "", arg(0), public(1)).into()),
        ("blob", "destroy") => destroy(state, arg(0)),
        (_, "create_new_blob") => hang(state, class, arg(0), arg(1), (arg(2), public(3))),
        _ => return None,
    })
}

fn create(state: &mut State, name: &str, mime_type: &str, public: bool) -> String {
    let mime_type = if mime_type.is_empty() { "application/octet-stream" } else { mime_type };
    state.db.insert(
        "blob",
        Record::from([
            ("name_label".to_owned(), name.into()),
            ("mime_type".to_owned(), mime_type.into()),
            ("public".to_owned(), public.into()),
            ("last_updated".to_owned(), Value::Time("19700101T00:00:00Z".to_owned())),
        ]),
    )
}

/// A new blob under a name that the owner does not have yet.
fn hang(
    state: &mut State,
    class: &'static str,
    owner: &str,
    name: &str,
    (mime_type, public): (&str, bool),
) -> ApiResult {
    let record = state.db.raw(class, owner)?;
    let uuid = text(record, "uuid").to_owned();
    let mut blobs = record.get("blobs").and_then(Value::as_map).cloned().unwrap_or_default();
    if blobs.contains_key(name) {
        return Err(ApiError::new("MAP_DUPLICATE_KEY", [class, "blobs", &uuid, name]));
    }
    let blob = create(state, name, mime_type, public);
    blobs.insert(name.to_owned(), blob.as_str().into());
    state.db.set(class, owner, "blobs", Value::Map(blobs))?;
    Ok(blob.into())
}

/// A machine loses it from its map; other owners keep the dead reference, as on the real server.
fn destroy(state: &mut State, blob: &str) -> ApiResult {
    state.db.raw("blob", blob)?;
    let owners: Vec<(String, Record)> = state
        .db
        .iter("VM")
        .filter_map(|(vm, record)| Some((vm.to_owned(), record.get("blobs")?.as_map()?.clone())))
        .filter(|(_, blobs)| blobs.values().any(|b| b.as_str() == Some(blob)))
        .collect();
    for (vm, mut blobs) in owners {
        blobs.retain(|_, value| value.as_str() != Some(blob));
        state.db.set("VM", &vm, "blobs", Value::Map(blobs))?;
    }
    state.db.remove("blob", blob);
    state.blobs.remove(blob);
    Ok("".into())
}

/// Answers the request; the connection ends with it.
pub(crate) async fn serve(
    host: &Host,
    conn: &mut Conn,
    head: &Head,
    buffer: &mut BytesMut,
) -> io::Result<()> {
    let pool = &host.pool;
    if head.query("ref").or_else(|| head.query("uuid")).is_none() {
        return fail(pool, conn, head, "400 Bad Request").await;
    }
    let found = find(pool, head);
    let public = found.as_ref().is_some_and(|(_, record)| truth(record, "public"));
    let reads = head.method == "GET";
    if !(public && reads) {
        let least = if reads { Role::ReadOnly } else { Role::VmPowerAdmin };
        if let Err(error) = authenticate(pool, head, least) {
            return turn_away(pool, conn, head.task(), error).await;
        }
    }
    let Some((blob, record)) = found else {
        let headers = ["connection: close", "cache-control: no-cache, no-store"];
        pool.finish_task(head.task(), Err(ApiError::new("INTERNAL_ERROR", ["no such blob"])));
        return respond(conn, "HTTP/1.1 404 Not Found", &headers, b"Unknown reference\n").await;
    };
    if reads {
        send(pool, conn, head, (&blob, text(&record, "mime_type"))).await
    } else {
        receive(pool, conn, head, buffer, &blob).await
    }
}

fn find(pool: &Pool, head: &Head) -> Option<(String, Record)> {
    pool.with(|state| {
        let blob = match (head.query("ref"), head.query("uuid")) {
            (Some(reference), _) => reference.to_owned(),
            (None, uuid) => state.db.by_uuid("blob", uuid?)?,
        };
        let record = state.db.raw("blob", &blob).ok()?.clone();
        Some((blob, record))
    })
}

async fn send(
    pool: &Pool,
    conn: &mut Conn,
    head: &Head,
    (blob, mime_type): (&str, &str),
) -> io::Result<()> {
    let held = pool.with(|state| state.blobs.get(blob).map(File::try_clone));
    // A blob that was never written has no file.
    let Some(held) = held else {
        return fail(pool, conn, head, "404 Not Found").await;
    };
    let mut held = held?;
    let length = held.metadata()?.len();
    held.rewind()?;
    let hello = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\
         Cache-Control: no-cache, no-store\r\ncontent-type: {mime_type}\r\n\r\n"
    );
    conn.write_all(hello.as_bytes()).await?;
    tokio::io::copy(&mut tokio::fs::File::from_std(held).take(length), conn).await?;
    conn.flush().await?;
    pool.finish_task(head.task(), Ok("".into()));
    Ok(())
}

/// The answer comes before the body, as with imports; what comes short is kept all the same.
async fn receive(
    pool: &Pool,
    conn: &mut Conn,
    head: &Head,
    buffer: &mut BytesMut,
    blob: &str,
) -> io::Result<()> {
    let length = head.header("content-length").and_then(|text| text.trim().parse::<u64>().ok());
    let Some(length) = length else {
        return fail(pool, conn, head, "500 Internal Error").await;
    };
    let ok = "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nCache-Control: no-cache, no-store\r\n\
              Access-Control-Allow-Origin: *\r\n\r\n";
    conn.write_all(ok.as_bytes()).await?;
    conn.flush().await?;
    let file = tempfile::tempfile()?;
    let mut out = tokio::fs::File::from_std(file.try_clone()?);
    let mut left = length;
    while left > 0 {
        if buffer.is_empty() {
            buffer.reserve(PIECE);
            if conn.read_buf(buffer).await? == 0 {
                break;
            }
        }
        let n = left.min(buffer.len() as u64) as usize;
        out.write_all(buffer.get(..n).unwrap_or_default()).await?;
        buffer.advance(n);
        left -= n as u64;
    }
    out.flush().await?;
    let size = i64::try_from(length - left).unwrap_or(i64::MAX);
    pool.with(|state| {
        let _ = state.db.set("blob", blob, "size", Value::Int(size));
        let _ = state.db.set("blob", blob, "last_updated", now());
        state.blobs.insert(blob.to_owned(), file);
        state.finish_task(head.task(), Ok("".into()));
    });
    Ok(())
}
