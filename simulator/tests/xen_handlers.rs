//! The raw handlers beside exports, imports and consoles: descriptions of machines, measurements,
//! blobs, the audit log; and who may ask for what.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod common;

use common::{Pool, get, raw, split};
use serde_json::{Value, json};
use simulator::xen::XenConfig;

impl Pool {
    /// The whole response to a `GET` with this session's cookie.
    async fn fetch(&self, target: &str) -> Vec<u8> {
        get(&self.address(), target, &self.cookie()).await
    }

    fn cookie(&self) -> String {
        format!("Cookie: session_id={}\r\n", self.session)
    }

    async fn uuid(&self, class: &str, reference: &str) -> String {
        common::text(&self.ok(&format!("{class}.get_uuid"), json!([reference])).await)
    }

    /// A session of one of the lesser accounts.
    async fn login_as(&self, role: &str) -> String {
        let params = json!([role, self.server.config().password(), "1.0", "tests"]);
        let method = "session.login_with_password";
        let answer = common::rpc(&self.address(), method, params).await.unwrap();
        common::text(&answer["result"])
    }
}

async fn pool() -> Pool {
    Pool::start(XenConfig::new()).await
}

/// The only file of a tar archive, read by the format's rules.
fn only_file(tar: &[u8]) -> (String, String) {
    let field = |from: usize, to: usize| {
        let text = String::from_utf8(tar[from..to].to_vec()).unwrap();
        text.trim_end_matches('\0').to_owned()
    };
    let size = usize::from_str_radix(&field(124, 136), 8).unwrap();
    let sum: u32 = tar[..512]
        .iter()
        .enumerate()
        .map(|(i, b)| u32::from(if (148..156).contains(&i) { b' ' } else { *b }))
        .sum();
    assert_eq!(u32::from_str_radix(field(148, 154).trim(), 8).unwrap(), sum);
    let padded = size.next_multiple_of(512);
    assert_eq!(tar.len(), 512 + padded + 1024, "one file, then two blocks of zeros");
    (field(0, 100), String::from_utf8(tar[512..512 + size].to_vec()).unwrap())
}

#[tokio::test]
async fn a_description_has_a_length_and_is_a_tar_of_one_file() {
    let pool = pool().await;
    let vm = pool.vm("web01").await;
    pool.snapshot(&vm, "of the test").await;
    let task = pool.task().await;
    let target = format!("/export_metadata?ref={vm}&task_id={task}");
    let response = pool.fetch(&target).await;
    let (head, body) = split(&response);
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    assert_eq!(pool.wait(&task).await["status"], "success");
    let (name, ova) = only_file(body);
    assert_eq!(name, "ova.xml");
    // The running machine and its snapshot, each with its two disks.
    assert_eq!(ova.matches("<value>VM</value>").count(), 2, "{ova}");
    assert_eq!(ova.matches("<value>VDI</value>").count(), 4);
    assert!(!ova.contains(&vm), "references have names of the archive");
    let response = pool.fetch(&format!("{target}&export_snapshots=false")).await;
    let (_, ova) = only_file(split(&response).1);
    assert_eq!(ova.matches("<value>VM</value>").count(), 1);
    let response =
        pool.fetch(&format!("{target}&excluded_device_types=vif,vbd&export_snapshots=false")).await;
    let (_, ova) = only_file(split(&response).1);
    assert_eq!(
        (ova.matches("<value>VDI</value>").count(), ova.matches("<value>VIF<").count()),
        (0, 0)
    );
}

#[tokio::test]
async fn all_machines_are_those_that_are_no_default_templates() {
    let pool = pool().await;
    let response = pool.fetch("/export_metadata?all=true").await;
    let (_, with) = only_file(split(&response).1);
    let response = pool.fetch("/export_metadata?all=true&include_dom0=false").await;
    let (_, without) = only_file(split(&response).1);
    assert!(with.contains("Control domain on host") && !without.contains("Control domain on host"));
    let default = |is| format!("<name>is_default_template</name><value><boolean>{is}</boolean>");
    assert!(without.contains("web01") && without.contains(&default(0)));
    assert!(!with.contains(&default(1)));
}

#[tokio::test]
async fn a_description_is_refused_with_its_reason_in_the_task() {
    let pool = pool().await;
    let vm = pool.vm("web01").await;
    let snapshot = pool.snapshot(&vm, "of the test").await;
    for (query, code) in [
        (format!("ref={snapshot}"), "OPERATION_NOT_ALLOWED"),
        ("ref=OpaqueRef:none".to_owned(), "HANDLE_INVALID"),
        (format!("ref={vm}&export_snapshots=yes"), "INTERNAL_ERROR"),
        (format!("ref={vm}&excluded_device_types=vdi"), "INVALID_VALUE"),
    ] {
        let task = pool.task().await;
        let response = pool.fetch(&format!("/export_metadata?{query}&task_id={task}")).await;
        assert!(split(&response).0.starts_with("HTTP/1.1 500 "), "{query}");
        assert_eq!(pool.wait(&task).await["error_info"][0], code, "{query}");
    }
}

#[tokio::test]
async fn measurements_are_told_in_xml_and_in_json() {
    let pool = pool().await;
    let vm = pool.uuid("VM", &pool.vm("web01").await).await;
    let start = jiff::Timestamp::now().as_second() - 60;
    let target = format!("/rrd_updates?start={start}&cf=AVERAGE&host=true&interval=5");
    let task = pool.task().await;
    let response = pool.fetch(&format!("{target}&json=true&task_id={task}")).await;
    assert_eq!(pool.wait(&task).await["status"], "success");
    let (head, body) = split(&response);
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    let json: Value = serde_json::from_slice(body).unwrap();
    let legend: Vec<_> =
        json["meta"]["legend"].as_array().unwrap().iter().map(common::text).collect();
    assert!(legend.contains(&format!("AVERAGE:vm:{vm}:cpu0")), "{legend:?}");
    assert!(
        legend
            .iter()
            .any(|entry| entry.starts_with("AVERAGE:host:") && entry.ends_with(":loadavg"))
    );
    assert_eq!(json["meta"]["columns"], legend.len().to_string(), "numbers are texts");
    let rows = json["data"].as_array().unwrap();
    assert!((11..=13).contains(&rows.len()), "{}", rows.len());
    let times: Vec<i64> = rows.iter().map(|row| common::text(&row["t"]).parse().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[0] - pair[1] == 5), "newest first");
    assert!(rows.iter().all(|row| row["values"].as_array().unwrap().len() == legend.len()));

    let response = pool.fetch(&target).await;
    let (head, body) = split(&response);
    let xml = std::str::from_utf8(body).unwrap();
    assert!(head.contains("content-type: text/xml"), "{head}");
    assert_eq!(xml.matches("<entry>").count(), legend.len());
    assert!(xml.contains(&format!("<columns>{}</columns>", legend.len())), "{xml}");

    pool.xen().faults().set_str("old-metrics").unwrap();
    let response = pool.fetch(&format!("{target}&json=true")).await;
    let old = std::str::from_utf8(split(&response).1).unwrap();
    assert!(old.starts_with("{meta: {start:"), "{old}");
    assert!(serde_json::from_str::<Value>(old).is_err());
}

#[tokio::test]
async fn a_client_chooses_what_it_is_told_of() {
    let pool = pool().await;
    let vm = pool.uuid("VM", &pool.vm("web01").await).await;
    let legend = async |query: &str| {
        let response = pool.fetch(&format!("/rrd_updates?start=-60&json=1&{query}")).await;
        let (head, body) = split(&response);
        assert!(head.starts_with("HTTP/1.1 200"), "{query}: {head}");
        let json: Value = serde_json::from_slice(body).unwrap();
        json["meta"]["legend"].as_array().unwrap().iter().map(common::text).collect::<Vec<_>>()
    };
    let one = legend(&format!("vm_uuid={vm}")).await;
    assert!(!one.is_empty() && one.iter().all(|entry| entry.contains(&vm)));
    let storage = legend("vm_uuid=none&sr_uuid=all").await;
    assert!(!storage.is_empty() && storage.iter().all(|entry| entry.contains(":sr:")));
    // All kinds exist of the archive with a row a minute alone.
    let kinds = legend("interval=60").await;
    assert!(kinds.iter().any(|entry| entry.starts_with("MAX:vm:")));
    for (target, status) in [
        ("/rrd_updates?json=1", "400"),
        ("/rrd_updates?start=now", "500"),
        ("/rrd_updates?start=1&vm_uuid=none", "500"),
        ("/vm_rrd", "400"),
        ("/vm_rrd?uuid=none", "500"),
        ("/sr_rrd?uuid=none", "500"),
    ] {
        let response = pool.fetch(target).await;
        let head = split(&response).0;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {head}");
    }
}

#[tokio::test]
async fn whole_databases_come_without_a_length() {
    let pool = Pool::start(XenConfig::new().with_second_host(true)).await;
    let vm = pool.uuid("VM", &pool.vm("web01").await).await;
    let sr = pool.ok("SR.get_all", json!([])).await[0].as_str().unwrap().to_owned();
    let sr = pool.uuid("SR", &sr).await;
    for target in
        [format!("/vm_rrd?uuid={vm}"), format!("/sr_rrd?uuid={sr}"), "/host_rrd".to_owned()]
    {
        let response = pool.fetch(&target).await;
        let (head, body) = split(&response);
        assert!(head.starts_with("HTTP/1.0 200 OK") && !head.contains("ontent-"), "{head}");
        let xml = std::str::from_utf8(body).unwrap();
        assert_eq!(xml.matches("<rra>").count(), 10, "{target}");
        assert_eq!(xml.matches("<row>").count(), 120 + 3 * (120 + 168 + 366), "{target}");
    }
    let response = pool.fetch(&format!("/vm_rrd?uuid={vm}&json=true")).await;
    let json: Value = serde_json::from_slice(split(&response).1).unwrap();
    assert_eq!((&json["step"], &json["version"]), (&json!("5"), &json!("0003")));
    assert_eq!(json["rra"].as_array().unwrap().len(), 10);
    // The other host does not measure it, and knows who does.
    let other = pool.xen().url(1).unwrap();
    let response =
        get(other.strip_prefix("http://").unwrap(), &format!("/vm_rrd?uuid={vm}"), &pool.cookie())
            .await;
    let head = split(&response).0;
    assert!(head.starts_with("HTTP/1.1 302 Found"), "{head}");
    assert!(
        head.contains(&format!("Location: {}/vm_rrd?uuid={vm}\r\n", pool.server.url())),
        "{head}"
    );
}

#[tokio::test]
async fn data_sources_are_read_by_calls_too() {
    let pool = pool().await;
    let vm = pool.vm("web01").await;
    let answer =
        common::rpc(&pool.address(), "VM.query_data_source", json!([pool.session, vm, "memory"]))
            .await
            .unwrap();
    assert_eq!(answer["result"].as_f64().unwrap(), 2.0 * f64::from(1 << 30));
    let failed = pool.call("VM.query_data_source", json!([vm, "mood"])).await.unwrap_err();
    assert_eq!(failed[0], "INTERNAL_ERROR");
    // Without a limit the greatest value is not a number of JSON.
    let body = json!({"jsonrpc": "2.0", "method": "VM.get_data_sources", "params": [pool.session, vm], "id": 1});
    let response = common::post(&pool.address(), "/jsonrpc", &body.to_string()).await;
    assert!(std::str::from_utf8(split(&response).1).unwrap().contains("\"max\":Infinity"));
}

/// Sends a body in one piece with its header block.
async fn put(pool: &Pool, target: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("PUT {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    raw(&pool.address(), &[head.as_bytes(), body].concat()).await
}

#[tokio::test]
async fn a_blob_is_written_and_read() {
    let pool = pool().await;
    let vm = pool.vm("web01").await;
    let blob = pool.ok("VM.create_new_blob", json!([vm, "notes", "text/plain", false])).await;
    let blob = blob.as_str().unwrap();
    assert_eq!(pool.ok("VM.get_blobs", json!([vm])).await["notes"], blob);
    let again = pool.call("VM.create_new_blob", json!([vm, "notes", ""])).await.unwrap_err();
    assert_eq!(again[0], "MAP_DUPLICATE_KEY");
    let target = format!("/blob?ref={blob}");
    // Nothing was ever written to it.
    assert!(split(&pool.fetch(&target).await).0.starts_with("HTTP/1.1 404 "));
    let with_length = |length: usize| format!("{}Content-Length: {length}\r\n", pool.cookie());
    let task = pool.task().await;
    let with_task = format!("{target}&task_id={task}");
    let response = put(&pool, &with_task, &with_length(5), b"hello").await;
    assert!(split(&response).0.starts_with("HTTP/1.1 200 OK\r\nConnection: keep-alive"));
    assert_eq!(pool.wait(&task).await["status"], "success");
    let uuid = pool.uuid("blob", blob).await;
    let response = pool.fetch(&format!("/blob?uuid={uuid}")).await;
    let (head, body) = split(&response);
    assert_eq!(body, b"hello");
    assert!(
        head.contains("Content-Length: 5\r\n") && head.contains("content-type: text/plain\r\n")
    );
    let record = pool.ok("blob.get_record", json!([blob])).await;
    assert_eq!((&record["size"], &record["name_label"]), (&json!(5), &json!("notes")));
    let response = put(&pool, &target, &pool.cookie(), b"hello").await;
    assert!(split(&response).0.starts_with("HTTP/1.1 500 "), "no length");
    pool.ok("blob.destroy", json!([blob])).await;
    assert_eq!(pool.ok("VM.get_blobs", json!([vm])).await, json!({}));
    let response = pool.fetch(&target).await;
    assert_eq!(split(&response).1, b"Unknown reference\n");
}

#[tokio::test]
async fn a_public_blob_is_read_without_a_session() {
    let pool = pool().await;
    let blob = pool.ok("blob.create", json!(["", true])).await;
    let target = format!("/blob?ref={}", blob.as_str().unwrap());
    let body = vec![7; 200_000];
    let headers = format!("Content-Length: {}\r\n", body.len());
    let refused = put(&pool, &target, &headers, b"").await;
    assert!(split(&refused).0.starts_with("HTTP/1.1 401 "), "to write takes a session");
    put(&pool, &target, &format!("{}{headers}", pool.cookie()), &body).await;
    let response = get(&pool.address(), &target, "").await;
    let (head, read) = split(&response);
    assert!(read == body && head.contains("content-type: application/octet-stream"), "{head}");
    pool.ok("blob.set_public", json!([blob, false])).await;
    let response = get(&pool.address(), &target, "").await;
    assert!(split(&response).0.starts_with("HTTP/1.1 401 "));
    assert!(split(&get(&pool.address(), "/blob", "").await).0.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn the_audit_log_holds_what_changes_something() {
    let pool = pool().await;
    let vm = pool.vm("web01").await;
    pool.ok("VM.set_name_description", json!([vm, "x"])).await;
    let reader = pool.login_as("read-only").await;
    let denied = common::rpc(&pool.address(), "VM.set_name_label", json!([reader, vm, "x"])).await;
    assert_eq!(denied.unwrap()["error"]["message"], "RBAC_PERMISSION_DENIED");
    let response = pool.fetch("/audit_log").await;
    let (head, body) = split(&response);
    assert!(!head.contains("ontent-length") && !head.contains("ontent-Length"), "{head}");
    let log = std::str::from_utf8(body).unwrap();
    assert!(
        log.contains("'LOCAL_SUPERUSER' 'root' 'ALLOWED' 'OK' 'API' 'VM.set_name_description'")
    );
    assert!(log.contains("'read-only' 'DENIED' '' 'API' 'VM.set_name_label'"), "{log}");
    assert!(!log.contains("VM.get_by_name_label") && !log.contains(&pool.session), "{log}");
    let response = pool.fetch("/audit_log?since=2999-01-01").await;
    assert_eq!(split(&response).1, b"");
}

#[tokio::test]
async fn every_handler_knows_who_may_ask() {
    let pool = pool().await;
    let vm = pool.vm("web01").await;
    let blob = pool.ok("blob.create", json!(["", false])).await;
    let blob = blob.as_str().unwrap();
    let roles = ["read-only", "vm-operator", "vm-admin", "vm-power-admin", "pool-operator"];
    for (method, target, least) in [
        ("GET", format!("/export_metadata?ref={vm}"), "vm-admin"),
        ("GET", "/rrd_updates?start=-60".to_owned(), "read-only"),
        ("GET", "/audit_log".to_owned(), "read-only"),
        ("GET", format!("/blob?ref={blob}"), "read-only"),
        ("PUT", format!("/blob?ref={blob}"), "vm-power-admin"),
        ("GET", "/system-status".to_owned(), "pool-operator"),
        ("GET", "/host_backup".to_owned(), "pool-admin"),
        ("PUT", "/bundle".to_owned(), "pool-operator"),
    ] {
        let status = async |cookie: String| {
            let request = format!(
                "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{cookie}\r\n"
            );
            let response = raw(&pool.address(), request.as_bytes()).await;
            split(&response).0[9..12].to_owned()
        };
        assert_eq!(status(String::new()).await, "401", "{method} {target}");
        let first = roles.iter().position(|role| *role == least).unwrap_or(roles.len());
        for (place, role) in roles.iter().enumerate() {
            let session = pool.login_as(role).await;
            let status = status(format!("Cookie: session_id={session}\r\n")).await;
            assert_eq!(status == "403", place < first, "{method} {target} as {role}: {status}");
        }
    }
    assert!(split(&pool.fetch("/nothing_here").await).0.starts_with("HTTP/1.1 403 "));
    assert!(split(&pool.fetch("/system-status").await).0.starts_with("HTTP/1.1 501 "));
}
