//! The export of disks: its bytes, its traps and its faults.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod common;

use std::process::Command;

use common::{Pool, expand, get, moment, raw, raw_disk, raw_to_its_end, split};
use serde_json::json;
use simulator::xen::XenConfig;
use tokio::net::TcpStream;

/// A pool whose VM `web01` has one raw disk, and the disk's content.
async fn pool(size: u64) -> (Pool, Vec<u8>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    raw_disk(&path, size);
    let content = std::fs::read(&path).unwrap();
    (Pool::start(XenConfig::new().with_disk("web01", path)).await, content, folder)
}

const SIZE: u64 = 24 << 20;

#[tokio::test]
async fn a_vhd_holds_the_disk_in_few_blocks() {
    let (pool, content, _folder) = pool(SIZE).await;
    let vdi = pool.snapshot_vdi("web01").await;
    let (response, task) = pool.export(&vdi, "VHD").await;
    let (head, body) = split(&response);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("ontent-length"), "{head}");
    assert!(head.contains("Connection: close") && head.contains("application/vhd"), "{head}");
    assert_eq!((&task["status"], &task["result"]), (&json!("success"), &json!("")));
    assert_eq!(expand(body), content);
    // Sectors at 0, 5 MiB, 7 MiB and at the end: four blocks of 2 MiB.
    assert_eq!(body.len(), 2048 + 512 + 4 * (512 + (2 << 20)) + 512);
    let (response, task) = pool.export(&vdi, "raw").await;
    assert_eq!(split(&response).1, content);
    assert_eq!(task["status"], "success");
}

#[tokio::test]
async fn a_chain_is_collapsed_and_qemu_reads_it() {
    let pool = Pool::start(XenConfig::new()).await;
    let vm = pool.vm("web01").await;
    let snapshot = pool.snapshot(&vm, "s").await;
    let vdi = pool.vdis(&snapshot).await.remove(0);
    let (vhd, _) = pool.export(&vdi, "vhd").await;
    let (raw, _) = pool.export(&vdi, "raw").await;
    let (vhd, raw) = (split(&vhd).1, split(&raw).1);
    assert_eq!(raw.len(), 64 << 20);
    assert!(expand(vhd) == raw);

    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("in.vhd"), folder.path().join("out.raw"));
    std::fs::write(&from, vhd).unwrap();
    let converted = Command::new("qemu-img")
        .args(["convert", "-f", "vpc", "-O", "raw"])
        .args([&from, &to])
        .status();
    match converted {
        Ok(status) => assert!(status.success()),
        Err(_) => return println!("skipped: there is no qemu-img here"),
    }
    // qemu computes the size from the geometry, which rounds down for this creator.
    let theirs = std::fs::read(to).unwrap();
    assert!(theirs.len() > (64 << 20) - (1 << 20) && theirs.len() <= raw.len());
    assert!(theirs == raw[..theirs.len()]);
}

#[tokio::test]
async fn a_difference_holds_the_blocks_that_differ() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old.raw"), folder.path().join("new.raw"));
    raw_disk(&old, SIZE);
    raw_disk(&new, SIZE);
    let mut content = std::fs::read(&new).unwrap();
    content[9 << 20] = 1;
    content[0] = 0;
    std::fs::write(&new, &content).unwrap();
    let config = XenConfig::new().with_disk("web01", old).with_disk("web01", new);
    let pool = Pool::start(config).await;
    let snapshot = pool.snapshot(&pool.vm("web01").await, "s").await;
    let vdis = pool.vdis(&snapshot).await;
    let (response, task) = pool.export(&vdis[1], &format!("vhd&base={}", vdis[0])).await;
    assert_eq!(task["status"], "success");
    let body = split(&response).1;
    assert_eq!(body[60..64], 4u32.to_be_bytes());
    let uuid = pool.ok("VDI.get_uuid", json!([vdis[0]])).await;
    let name = format!("file://./{}.vhd", uuid.as_str().unwrap());
    assert_eq!(&body[1536..1536 + name.len()], name.as_bytes());
    let mut present = Vec::new();
    for (block, entry) in body[2048..2048 + 12 * 4].chunks(4).enumerate() {
        let at = u32::from_be_bytes(entry.try_into().unwrap()) as usize * 512;
        if entry != [0xff; 4] {
            assert_eq!(body[at + 512..][..2 << 20], content[block << 21..][..2 << 20]);
            present.push(block);
        }
    }
    assert_eq!(present, [0, 4]);
    let (response, _) = pool.export(&vdis[1], &format!("vhd&base={}", vdis[1])).await;
    assert_eq!(split(&response).1.len(), 2048 + 512 + 512);
}

#[tokio::test]
async fn a_disk_in_use_is_refused_inside_the_body() {
    let (pool, _, _folder) = pool(SIZE).await;
    let vdi = pool.vdis(&pool.vm("web01").await).await.remove(0);
    let (response, task) = pool.export(&vdi, "vhd").await;
    let (head, body) = split(&response);
    assert!(head.starts_with("HTTP/1.1 200 OK"));
    assert!(body.starts_with(b"HTTP/1.1 500 Internal Error\r\ncontent-length: "));
    assert_eq!(task["status"], "failure");
    assert_eq!(task["error_info"][0], "VDI_IN_USE");
}

#[tokio::test]
async fn a_disk_too_large_is_an_empty_body() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.raw");
    std::fs::File::create(&path).unwrap().set_len(2041 << 30).unwrap();
    let pool = Pool::start(XenConfig::new().with_disk("web01", path)).await;
    let vdi = pool.snapshot_vdi("web01").await;
    let (response, task) = pool.export(&vdi, "vhd").await;
    let (head, body) = split(&response);
    assert!(head.starts_with("HTTP/1.1 200 OK") && body.is_empty());
    assert_eq!(task["error_info"][0], "VDI_TOO_LARGE");
}

#[tokio::test]
async fn what_is_read_cannot_be_destroyed() {
    let (pool, _, _folder) = pool(SIZE).await;
    let vdi = pool.snapshot_vdi("web01").await;
    for fault in ["slow-export=20000000", "slow-unplug=150"] {
        pool.xen().faults().set_str(fault).unwrap();
    }
    let (_, ()) = tokio::join!(pool.export(&vdi, "vhd"), async {
        moment().await;
        moment().await;
        let error = pool.call("VDI.destroy", json!([vdi])).await.unwrap_err();
        assert_eq!(error[0], "VDI_IN_USE");
    });
    // The end of the task comes before the disk is free.
    assert_eq!(pool.call("VDI.destroy", json!([vdi])).await.unwrap_err()[0], "VDI_IN_USE");
    while pool.call("VDI.destroy", json!([vdi])).await.is_err() {
        moment().await;
    }
}

#[tokio::test]
async fn sessions_come_by_query_or_by_the_only_cookie() {
    let (pool, _, _folder) = pool(SIZE).await;
    let vdi = pool.snapshot_vdi("web01").await;
    let (address, session) = (pool.address(), &pool.session);
    let target = format!("/export_raw_vdi?vdi={vdi}");
    let cookie = |text: &str| format!("Cookie: {text}\r\n");
    for (target, headers, status) in [
        (format!("{target}&session_id={session}"), String::new(), "200"),
        (target.clone(), cookie(&format!("session_id={session}")), "200"),
        (target.clone(), cookie(&format!("a=b;session_id={session}")), "200"),
        (target.clone(), cookie(&format!("a=b; session_id={session}")), "401"),
        (target.clone(), cookie("session_id=OpaqueRef:none"), "401"),
        (target.clone(), String::new(), "401"),
    ] {
        let response = get(&address, &target, &headers).await;
        let head = split(&response).0.to_owned();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {head}");
        assert_eq!(status == "401", head.contains("WWW-Authenticate"));
    }
    // A refused session fails the task, too.
    let task = pool.task().await;
    get(&address, &format!("{target}&task_id={task}"), "").await;
    assert_eq!(pool.ok("task.get_status", json!([task])).await, "failure");
}

#[tokio::test]
async fn requests_are_refused_by_their_form() {
    let (pool, _, _folder) = pool(SIZE).await;
    let address = pool.address();
    let vdi = pool.snapshot_vdi("web01").await;
    let session = format!("Cookie: session_id={}\r\n", pool.session);
    let fill = |n: usize| format!("X: {}\r\n", "x".repeat(n));
    let start = async |request: &str| {
        let response = raw(&address, request.as_bytes()).await;
        String::from_utf8_lossy(&response[..response.len().min(12)]).into_owned()
    };
    // GET / HTTP/1.1, Host: x, X: .., and the two ends: 16 + 9 + 5 + n + 2 bytes.
    let fits = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", fill(1024 - 32));
    assert_eq!(fits.len(), 1024);
    assert_eq!(start(&fits).await, "HTTP/1.1 200");
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", fill(1025 - 32));
    assert_eq!(start(&long).await, "HTTP/1.1 431");
    assert_eq!(start("HEAD / HTTP/1.1\r\n\r\n").await, "HTTP/1.1 501");
    assert_eq!(start("GET /nowhere HTTP/1.1\r\n\r\n").await, "HTTP/1.1 403");
    let chunked = "POST /jsonrpc HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(start(chunked).await, "HTTP/1.1 500");
    let target = format!("/export_raw_vdi?vdi={vdi}&format=vmdk");
    let response = get(&address, &target, &session).await;
    assert!(response.starts_with(b"HTTP/1.0 404 "));
}

#[tokio::test]
async fn exports_break_as_they_are_told_to() {
    let (pool, content, _folder) = pool(SIZE).await;
    let vdi = pool.snapshot_vdi("web01").await;
    let faults = pool.xen().faults();

    faults.set_str("export-truncate=100000").unwrap();
    let (response, task) = pool.export(&vdi, "vhd").await;
    assert_eq!(split(&response).1.len(), 100_000);
    assert_eq!(task["status"], "failure");

    faults.clear();
    faults.set_str("export-500-in-body=100000").unwrap();
    let (response, task) = pool.export(&vdi, "vhd").await;
    assert!(split(&response).1[100_000..].starts_with(b"HTTP/1.1 500 Internal Error\r\n"));
    assert_eq!(task["status"], "failure");

    faults.clear();
    faults.set_str("export-500-in-body=1000000000").unwrap();
    let (response, task) = pool.export(&vdi, "vhd").await;
    let body = split(&response).1;
    let error = body.windows(13).rposition(|w| w == b"HTTP/1.1 500 ").unwrap();
    assert_eq!(expand(&body[..error]), content);
    assert_eq!(task["status"], "failure");

    faults.clear();
    faults.set_str("export-task-fails").unwrap();
    let (response, task) = pool.export(&vdi, "vhd").await;
    assert_eq!(expand(split(&response).1), content);
    assert_eq!(task["status"], "failure");

    faults.clear();
    let task = pool.task().await;
    faults.set_str("host-gone=100000").unwrap();
    let target = format!("/export_raw_vdi?vdi={vdi}&format=vhd&task_id={task}");
    let request = format!("GET {target} HTTP/1.1\r\nCookie: session_id={}\r\n\r\n", pool.session);
    let (response, reset) = raw_to_its_end(&pool.address(), request.as_bytes()).await;
    assert!(response.len() < 110_000);
    assert!(reset, "a host that is gone sends no orderly end");
    let mut refused = false;
    for _ in 0..100 {
        refused = TcpStream::connect(pool.address()).await.is_err();
        if refused {
            break;
        }
        moment().await;
    }
    assert!(refused, "the port is still open");
}

#[tokio::test]
async fn a_cancelled_export_ends_with_its_task() {
    let (pool, _, _folder) = pool(SIZE).await;
    let vdi = pool.snapshot_vdi("web01").await;
    pool.xen().faults().set_str("slow-export=4000000").unwrap();
    let task = pool.task().await;
    let target = format!("/export_raw_vdi?vdi={vdi}&format=vhd&task_id={task}");
    let cookie = format!("Cookie: session_id={}\r\n", pool.session);
    let address = pool.address();
    let (response, ()) = tokio::join!(get(&address, &target, &cookie), async {
        // Progress moves while bytes flow.
        loop {
            let progress = pool.ok("task.get_progress", json!([task])).await;
            if progress.as_f64().unwrap() > 0.0 {
                break;
            }
            moment().await;
        }
        pool.ok("task.cancel", json!([task])).await;
    });
    assert!(response.len() < (8 << 20));
    let record = pool.wait(&task).await;
    assert_eq!(record["status"], "cancelled");
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_disk() {
    let (pool, _, _folder) = pool(SIZE).await;
    let vdi = pool.snapshot_vdi("web01").await;
    pool.xen().faults().set_str("slow-export=4000000").unwrap();
    let task = pool.task().await;
    let session = &pool.session;
    let target = format!("/export_raw_vdi?vdi={vdi}&task_id={task}&session_id={session}");
    let address = pool.address();
    let leaving = get(&address, &target, "");
    assert!(tokio::time::timeout(std::time::Duration::from_millis(100), leaving).await.is_err());
    assert_eq!(pool.wait(&task).await["status"], "failure");
    while pool.call("VDI.destroy", json!([vdi])).await.is_err() {
        moment().await;
    }
}

#[tokio::test]
async fn the_master_redirects_and_leaves_the_task_to_the_other_host() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.raw");
    raw_disk(&path, SIZE);
    let content = std::fs::read(&path).unwrap();
    let config = XenConfig::new().with_disk("web01", path).with_second_host(true);
    let pool = Pool::start(config).await;
    pool.xen().faults().set_str("redirect").unwrap();
    let vdi = pool.snapshot_vdi("web01").await;
    let task = pool.task().await;
    let target = format!("/export_raw_vdi?vdi={vdi}&format=vhd&task_id={task}");
    let cookie = format!("Cookie: session_id={}\r\n", pool.session);
    let response = get(&pool.address(), &target, &cookie).await;
    let (head, _) = split(&response);
    let other = pool.xen().url(1).unwrap();
    assert!(head.starts_with("HTTP/1.1 302 "));
    assert!(head.contains(&format!("Location: {other}{target}\r\n")), "{head}");
    assert_eq!(pool.ok("task.get_status", json!([task])).await, "pending");
    let address = other.strip_prefix("http://").unwrap();
    let response = get(address, &target, &cookie).await;
    assert_eq!(expand(split(&response).1), content);
    assert_eq!(pool.wait(&task).await["status"], "success");
    let login = json!(["root", "x", "1.0", "tests"]);
    let answer = common::rpc(address, "session.login_with_password", login).await.unwrap();
    assert_eq!(answer["error"]["message"], "HOST_IS_SLAVE");
}

#[tokio::test]
async fn roles_bound_what_a_session_may() {
    let (pool, content, _folder) = pool(SIZE).await;
    let vdi = pool.snapshot_vdi("web01").await;
    let vm = pool.vm("web01").await;
    let session = async |role: &str| {
        let login = json!([role, pool.server.config().password(), "1.0", "tests"]);
        let answer = common::rpc(&pool.address(), "session.login_with_password", login).await;
        answer.unwrap()["result"].as_str().unwrap_or_default().to_owned()
    };
    let code = async |session: &str, method: &str, params: serde_json::Value| {
        let mut all = vec![json!(session)];
        all.extend(params.as_array().unwrap().iter().cloned());
        let answer = common::rpc(&pool.address(), method, json!(all)).await.unwrap();
        let said = |name: &str| answer["error"][name].as_str().unwrap_or_default().to_owned();
        (said("message"), answer["error"]["data"][0].as_str().unwrap_or_default().to_owned())
    };
    let reader = session("read-only").await;
    assert_eq!(code(&reader, "VM.get_all_records", json!([])).await.0, "");
    let denied = ("RBAC_PERMISSION_DENIED".to_owned(), "vm.snapshot".to_owned());
    assert_eq!(code(&reader, "VM.snapshot", json!([vm, "s"])).await, denied);
    assert_eq!(code(&reader, "Async.VM.snapshot", json!([vm, "s"])).await, denied);
    // The model lets only those snapshot who may do more than administer machines.
    let admin = session("vm-admin").await;
    assert_eq!(code(&admin, "VM.snapshot", json!([vm, "s"])).await, denied);
    let power = session("vm-power-admin").await;
    assert_eq!(code(&power, "VM.snapshot", json!([vm, "s"])).await.0, "");
    assert_eq!(session("pool-emperor").await, "");

    let task = pool.task().await;
    let target = format!("/export_raw_vdi?vdi={vdi}&task_id={task}");
    let cookie = |session: &str| format!("Cookie: session_id={session}\r\n");
    let response = get(&pool.address(), &target, &cookie(&reader)).await;
    assert!(split(&response).0.starts_with("HTTP/1.1 403 "), "{}", split(&response).0);
    let record = pool.wait(&task).await;
    assert_eq!(record["error_info"][0], "RBAC_PERMISSION_DENIED");
    assert_eq!(record["error_info"][1], "http/get_export_raw_vdi");
    let task = pool.task().await;
    let target = format!("/export_raw_vdi?vdi={vdi}&task_id={task}");
    let response = get(&pool.address(), &target, &cookie(&admin)).await;
    assert_eq!(split(&response).1, content);
}

#[tokio::test]
async fn a_disk_comes_as_files_of_a_tar() {
    let (pool, content, folder) = pool(SIZE).await;
    let vdi = pool.snapshot_vdi("web01").await;
    let task = pool.task().await;
    let target = format!("/export_raw_vdi?vdi={vdi}&format=tar&task_id={task}");
    let cookie = format!("Cookie: session_id={}\r\n", pool.session);
    let response = get(&pool.address(), &target, &cookie).await;
    let (head, body) = split(&response);
    assert!(head.contains("Content-Type: application/x-tar\r\n"), "{head}");
    assert_eq!(pool.wait(&task).await["status"], "success");
    let archive = folder.path().join("vdi.tar");
    std::fs::write(&archive, body).unwrap();
    // GNU tar decides what it holds.
    let mut tar = std::process::Command::new("tar");
    tar.arg("-xf").arg(&archive).arg("-C").arg(folder.path());
    assert!(tar.status().unwrap().success());
    let mut disk = vec![0; content.len()];
    let mut files = 0;
    for entry in std::fs::read_dir(folder.path().join("vdi")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if let Ok(index) = name.parse::<usize>() {
            let data = std::fs::read(&path).unwrap();
            disk[index << 20..][..data.len()].copy_from_slice(&data);
            let sum = std::fs::read_to_string(path.with_extension("checksum")).unwrap();
            assert_eq!((name.len(), sum.len()), (8, 40));
            files += 1;
        }
    }
    assert!(disk == content);
    assert!(files > 1 && files <= content.len() >> 20, "{files} files");
}
