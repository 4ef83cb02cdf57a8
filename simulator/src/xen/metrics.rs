//! What is measured, over HTTP (`/rrd_updates`, `/host_rrd`, `/vm_rrd`, `/sr_rrd`) and by calls.

use std::io;

use super::export::{authenticate, fail, refuse, turn_away};
use super::http::{Conn, Head, respond};
use super::pool::State;
use super::role::Role;
use super::rrd::{Ask, Cf, Rrd, Updates};
use super::serve::Host;
use super::value::{ApiError, ApiResult, Record, Value, text};

/// Answers the request; the connection ends with it.
pub(crate) async fn serve(host: &Host, conn: &mut Conn, head: &Head) -> io::Result<()> {
    if let Err(error) = authenticate(&host.pool, head, Role::ReadOnly) {
        return turn_away(&host.pool, conn, head.task(), error).await;
    }
    let wanted = if head.path == "/rrd_updates" { "start" } else { "uuid" };
    if head.path != "/host_rrd" && head.query(wanted).is_none() {
        return fail(&host.pool, conn, head, "400 Bad Request").await;
    }
    match head.path.as_str() {
        "/rrd_updates" => updates(host, conn, head).await,
        "/vm_rrd" => of_vm(host, conn, head).await,
        "/host_rrd" => whole(host, conn, head, of_host(host)).await,
        _ => {
            let uuid = head.query("uuid").unwrap_or_default();
            let found = host.pool.with(|state| of_srs(state, uuid)).pop();
            whole(host, conn, head, found).await
        }
    }
}

/// One database, in a body that only the end of the connection ends.
async fn whole(host: &Host, conn: &mut Conn, head: &Head, found: Option<Rrd>) -> io::Result<()> {
    use tokio::io::AsyncWriteExt as _;
    let Some(rrd) = found else {
        return fail(&host.pool, conn, head, "500 Internal Error").await;
    };
    let body = if head.has_query("json") { rrd.json(now()) } else { rrd.xml(now()) };
    let hello = "HTTP/1.0 200 OK\r\nConnection: close\r\nCache-Control: no-cache, no-store\r\n\
                 Access-Control-Allow-Origin: *\r\n\r\n";
    conn.write_all(hello.as_bytes()).await?;
    conn.write_all(body.as_bytes()).await?;
    conn.flush().await?;
    host.pool.finish_task(head.task(), Ok("".into()));
    Ok(())
}

/// A guest that runs at another host is measured there.
async fn of_vm(host: &Host, conn: &mut Conn, head: &Head) -> io::Result<()> {
    let uuid = head.query("uuid").unwrap_or_default();
    let runs_at = host.pool.with(|state| {
        let vm = state.db.by_uuid("VM", uuid)?;
        let at = text(state.db.raw("VM", &vm).ok()?, "resident_on").to_owned();
        state.hosts.iter().position(|host| *host == at)
    });
    if let Some(other) = runs_at.and_then(|index| host.url_of(index)) {
        let location = format!("Location: {other}{}?{}", head.path, head.raw_query);
        return refuse(conn, "HTTP/1.1", "302 Found", &[&location]).await;
    }
    let found = host.pool.with(|state| {
        let vm = state.db.by_uuid("VM", uuid)?;
        // Of one that stopped the master has kept it.
        let was_on = runs_at.is_some() || state.ticks.contains_key(&vm);
        was_on.then(|| vm_rrd(state, &vm)).flatten()
    });
    whole(host, conn, head, found).await
}

async fn updates(host: &Host, conn: &mut Conn, head: &Head) -> io::Result<()> {
    let number = |name: &str| head.query(name).and_then(|text| text.trim().parse().ok());
    let ask = number("start").map(|start| Ask {
        start,
        interval: number("interval").unwrap_or_default(),
        cf: head.query("cf").and_then(Cf::from_name),
    });
    let mut databases = Vec::new();
    if head.query("host") == Some("true") {
        databases.extend(of_host(host));
    }
    host.pool.with(|state| {
        databases.extend(of_vms(state, host.index, head.query("vm_uuid").unwrap_or("all")));
        databases.extend(of_srs(state, head.query("sr_uuid").unwrap_or("none")));
    });
    let Some(found) = ask.and_then(|ask| Updates::of(&databases, ask, now())) else {
        return fail(&host.pool, conn, head, "500 Internal Error").await;
    };
    let old = host.pool.faults.plan().old_metrics;
    let (body, kind) = match head.has_query("json") {
        true if old => (found.old_json(), None),
        true => (found.json(), None),
        false => (found.xml(), Some("content-type: text/xml")),
    };
    let mut headers = vec![
        "Connection: keep-alive",
        "Cache-Control: no-cache, no-store",
        "Access-Control-Allow-Origin: *",
        "Access-Control-Allow-Headers: X-Requested-With",
    ];
    headers.extend(kind);
    respond(conn, "HTTP/1.1 200 OK", &headers, body.as_bytes()).await?;
    host.pool.finish_task(head.task(), Ok("".into()));
    Ok(())
}

fn of_host(host: &Host) -> Option<Rrd> {
    host.pool.with(|state| host_rrd(state, state.hosts.get(host.index)?))
}

fn host_rrd(state: &State, host: &str) -> Option<Rrd> {
    let record = state.db.raw("host", host).ok()?;
    let memory = state.db.raw("host_metrics", text(record, "metrics")).ok();
    let of = |field: &str| integer(memory, field);
    let memory = [of("memory_total"), of("memory_free")];
    Some(Rrd::host(text(record, "uuid"), state.measured_since, 8, memory))
}

/// `all`, `none` or one; of those that run at this host.
fn of_vms(state: &State, host: usize, which: &str) -> Vec<Rrd> {
    let Some(host) = state.hosts.get(host) else { return Vec::new() };
    let here = state.db.iter("VM").filter(|(_, record)| {
        text(record, "power_state") == "Running"
            && text(record, "resident_on") == host
            && (which == "all" || text(record, "uuid") == which)
    });
    here.filter_map(|(vm, _)| vm_rrd(state, vm)).collect()
}

fn vm_rrd(state: &State, vm: &str) -> Option<Rrd> {
    let record = state.db.raw("VM", vm).ok()?;
    let disks: Vec<String> = state
        .db
        .referrers("VBD", "VM", vm)
        .into_iter()
        .filter_map(|vbd| state.db.raw("VBD", &vbd).ok())
        .map(|vbd| text(vbd, "device").to_owned())
        .filter(|device| !device.is_empty())
        .collect();
    let cpus = integer(Some(record), "VCPUs_at_startup").clamp(1, 64) as usize;
    let memory = integer(Some(record), "memory_target");
    Some(Rrd::vm(text(record, "uuid"), state.measured_since, cpus, memory, &disks))
}

fn of_srs(state: &State, which: &str) -> Vec<Rrd> {
    let wanted =
        state.db.iter("SR").filter(|(_, record)| which == "all" || text(record, "uuid") == which);
    wanted.map(|(_, record)| sr_rrd(state, record)).collect()
}

fn sr_rrd(state: &State, record: &Record) -> Rrd {
    let sizes = ["physical_size", "physical_utilisation", "virtual_allocation"]
        .map(|field| integer(Some(record), field));
    Rrd::sr(text(record, "uuid"), state.measured_since, sizes)
}

fn integer(record: Option<&Record>, field: &str) -> i64 {
    record.and_then(|r| r.get(field)).and_then(Value::as_int).unwrap_or_default()
}

/// Answers a message about data sources; `None` for anything else.
pub(crate) fn perform(
    state: &State,
    class: &'static str,
    name: &str,
    args: &[Value],
) -> Option<ApiResult> {
    let arg = |i: usize| args.get(i).and_then(Value::as_str).unwrap_or_default();
    if !matches!(name, "get_data_sources" | "query_data_source") {
        return None;
    }
    let record = match state.db.raw(class, arg(0)) {
        Ok(record) => record,
        Err(error) => return Some(Err(error)),
    };
    let rrd = match class {
        "VM" if text(record, "power_state") != "Running" => {
            let actual = text(record, "power_state").to_ascii_lowercase();
            let params = [arg(0), "running", &actual];
            return Some(Err(ApiError::new("VM_BAD_POWER_STATE", params)));
        }
        "VM" => vm_rrd(state, arg(0))?,
        "host" => host_rrd(state, arg(0))?,
        "SR" => sr_rrd(state, record),
        _ => return None,
    };
    if name == "get_data_sources" {
        return Some(Ok(Value::Array(rrd.sources.iter().map(|s| described(&rrd, s)).collect())));
    }
    let found = rrd.sources.iter().find(|source| source.name == arg(1));
    Some(match found {
        Some(source) => Ok(Value::Float(rrd.value(source, Cf::Average, now()))),
        None => Err(ApiError::new("INTERNAL_ERROR", [&format!("no data source {}", arg(1))])),
    })
}

fn described(rrd: &Rrd, source: &super::rrd::Source) -> Value {
    Value::Map(Record::from([
        ("name_label".to_owned(), source.name.as_str().into()),
        ("name_description".to_owned(), "Made up by the simulator".into()),
        ("enabled".to_owned(), true.into()),
        ("standard".to_owned(), true.into()),
        ("units".to_owned(), source.units.into()),
        ("min".to_owned(), Value::Float(0.0)),
        ("max".to_owned(), Value::Float(source.most)),
        ("value".to_owned(), Value::Float(rrd.value(source, Cf::Average, now()))),
    ]))
}

/// Seconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
