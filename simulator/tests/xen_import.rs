//! The import of disks and machines: what was put comes out again, and every trap is there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Pool, get, moment, raw, split, text};
use serde_json::{Value, json};
use simulator::Simulator;
use simulator::xen::XenConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SIZE: usize = 4 << 20;

async fn disk(pool: &Pool) -> String {
    let sr = pool.ok("SR.get_all", json!([])).await[0].clone();
    let record = json!({"SR": sr, "virtual_size": SIZE, "name_label": "to be filled",
        "type": "user", "sharable": false, "read_only": false, "other_config": {}});
    text(&pool.ok("VDI.create", json!([record])).await)
}

/// The head of a PUT of `length` bytes.
fn head(pool: &Pool, target: &str, length: usize) -> String {
    format!(
        "PUT {target} HTTP/1.1\r\nHost: x\r\nCookie: session_id={}\r\n\
         Content-Length: {length}\r\n\r\n",
        pool.session
    )
}

async fn put(pool: &Pool, target: &str, body: &[u8]) -> (Vec<u8>, Value) {
    let task = pool.task().await;
    let mut request = head(pool, &format!("{target}&task_id={task}"), body.len()).into_bytes();
    request.extend_from_slice(body);
    let response = raw(&pool.address(), &request).await;
    (response, pool.wait(&task).await)
}

async fn content(pool: &Pool, vdi: &str) -> Vec<u8> {
    let session = &pool.session;
    let target = format!("/export_raw_vdi?vdi={vdi}&session_id={session}");
    split(&get(&pool.address(), &target, "").await).1.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn python_puts_disks_and_machines_and_gets_them_back() {
    if Command::new("python3").arg("--version").output().is_err() {
        return println!("skipped: there is no python3 here");
    }
    let simulator = Simulator::builder().start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ready = folder.path().join("ready.json");
    std::fs::write(&ready, serde_json::to_string(simulator.ready()).unwrap()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles/import_client.py");
    let mut client = Command::new("python3");
    client.arg(script).arg(ready).arg(folder.path());
    let output = tokio::task::spawn_blocking(move || client.output()).await.unwrap().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(simulator.xen().sessions(), 0);
}

#[tokio::test]
async fn the_answer_comes_before_the_body_is_read() {
    let pool = Pool::start(XenConfig::new()).await;
    let vdi = disk(&pool).await;
    for late in [false, true] {
        if late {
            pool.xen().faults().set_str("import-late-200").unwrap();
        }
        let task = pool.task().await;
        let target = format!("/import_raw_vdi?vdi={vdi}&task_id={task}");
        let mut tcp = TcpStream::connect(pool.address()).await.unwrap();
        tcp.write_all(head(&pool, &target, SIZE).as_bytes()).await.unwrap();
        let mut answer = [0; 15];
        if late {
            tcp.write_all(&vec![5; SIZE]).await.unwrap();
            tcp.read_exact(&mut answer).await.unwrap();
        } else {
            tcp.read_exact(&mut answer).await.unwrap();
            assert_eq!(pool.ok("task.get_status", json!([task])).await, "pending");
            tcp.write_all(&vec![4; SIZE]).await.unwrap();
        }
        assert_eq!(answer, *b"HTTP/1.1 200 OK");
        let mut rest = String::new();
        tcp.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with("\r\n\r\n") && !rest.contains("ontent-length"), "{rest}");
        assert!(rest.contains(&format!("task-id: {task}\r\n")), "{rest}");
        let record = pool.wait(&task).await;
        assert_eq!(record["result"], format!("<value>{vdi}</value>"));
        assert_eq!(content(&pool, &vdi).await, vec![if late { 5 } else { 4 }; SIZE]);
    }
}

#[tokio::test]
async fn a_client_that_leaves_fails_the_task() {
    let pool = Pool::start(XenConfig::new()).await;
    let vdi = disk(&pool).await;
    for (target, code) in [
        (format!("/import_raw_vdi?vdi={vdi}"), "VDI_IO_ERROR"),
        ("/import?force=false".to_owned(), "IMPORT_ERROR_PREMATURE_EOF"),
    ] {
        let before = pool.xen().inventory()["VM"].clone();
        let task = pool.task().await;
        let mut tcp = TcpStream::connect(pool.address()).await.unwrap();
        let request = head(&pool, &format!("{target}&task_id={task}"), SIZE);
        tcp.write_all(request.as_bytes()).await.unwrap();
        tcp.write_all(&[1; 1000]).await.unwrap();
        drop(tcp);
        let record = pool.wait(&task).await;
        assert_eq!(
            (&record["status"], &record["error_info"][0]),
            (&json!("failure"), &json!(code))
        );
        assert_eq!(pool.xen().inventory()["VM"], before);
    }
}

#[tokio::test]
async fn a_snapshot_does_not_change_with_its_disk() {
    let pool = Pool::start(XenConfig::new()).await;
    let vdi = disk(&pool).await;
    put(&pool, &format!("/import_raw_vdi?vdi={vdi}"), &vec![1; SIZE]).await;
    let snapshot = text(&pool.ok("VDI.snapshot", json!([vdi])).await);
    put(&pool, &format!("/import_raw_vdi?vdi={vdi}"), &vec![2; 70_000]).await;
    assert_eq!(content(&pool, &snapshot).await, vec![1; SIZE]);
    let mut expected = vec![1; SIZE];
    expected[..70_000].fill(2);
    assert!(content(&pool, &vdi).await == expected);
    // A difference holds what changed, and brings it back.
    let (delta, _) = pool.export(&vdi, &format!("vhd&base={snapshot}")).await;
    let clone = text(&pool.ok("VDI.clone", json!([snapshot])).await);
    let target = format!("/import_raw_vdi?vdi={clone}&format=vhd");
    let (_, record) = put(&pool, &target, split(&delta).1).await;
    assert_eq!(record["status"], "success");
    assert!(content(&pool, &clone).await == expected);
}

#[tokio::test]
async fn imports_break_as_they_are_told_to() {
    let pool = Pool::start(XenConfig::new()).await;
    let vdi = disk(&pool).await;
    let target = format!("/import_raw_vdi?vdi={vdi}");
    let faults = pool.xen().faults();
    for (fault, start, in_body) in [
        ("import-forbidden", "HTTP/1.1 403 Forbidden", false),
        ("import-500-in-body=100000", "HTTP/1.1 200 OK", true),
        ("import-task-fails", "HTTP/1.1 200 OK", false),
    ] {
        faults.set_str(fault).unwrap();
        let body: &[u8] = if fault == "import-forbidden" { b"" } else { &[3; 200_000] };
        let (response, record) = put(&pool, &target, body).await;
        let (head, body) = split(&response);
        assert!(head.starts_with(start), "{fault}: {head}");
        assert_eq!(body.starts_with(b"HTTP/1.1 500 Internal Error\r\n"), in_body, "{fault}");
        assert_eq!(record["status"], "failure", "{fault}");
        faults.clear();
    }
    faults.set_str("import-stall=100000").unwrap();
    let task = pool.task().await;
    let request = head(&pool, &format!("{target}&task_id={task}"), SIZE);
    let mut tcp = TcpStream::connect(pool.address()).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    tcp.write_all(&[1; 100_000]).await.unwrap();
    moment().await;
    assert_eq!(pool.ok("task.get_status", json!([task])).await, "pending");
    pool.ok("task.cancel", json!([task])).await;
    assert_eq!(pool.wait(&task).await["status"], "cancelled");
    // An attached disk is refused after the answer.
    faults.clear();
    let attached = pool.vdis(&pool.vm("web01").await).await.remove(0);
    let (response, record) = put(&pool, &format!("/import_raw_vdi?vdi={attached}"), b"x").await;
    assert!(split(&response).1.starts_with(b"HTTP/1.1 500 "));
    assert_eq!(record["error_info"][0], "VDI_IN_USE");
}

#[tokio::test]
async fn a_host_without_the_storage_sends_the_client_to_one_that_has_it() {
    let pool = Pool::start(XenConfig::new().with_storage_at_second_host(true)).await;
    let vdi = disk(&pool).await;
    let task = pool.task().await;
    let target = format!("/import_raw_vdi?vdi={vdi}&task_id={task}");
    let response = raw(&pool.address(), head(&pool, &target, 5).as_bytes()).await;
    let other = pool.xen().url(1).unwrap();
    let (head, _) = split(&response);
    assert!(head.starts_with("HTTP/1.1 302 Found\r\n"), "{head}");
    assert!(head.contains(&format!("Location: {other}{target}\r\n")), "{head}");
    assert_eq!(pool.ok("task.get_status", json!([task])).await, "pending");
    let response = get(
        &pool.address(),
        &format!("/export_raw_vdi?vdi={vdi}"),
        &format!("Cookie: session_id={}\r\n", pool.session),
    )
    .await;
    assert!(response.starts_with(b"HTTP/1.1 302 "));
}
