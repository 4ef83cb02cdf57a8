//! A client of a few lines, so that the tests see bytes and not what a library makes of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use simulator::xen::{XenConfig, XenHandle, XenServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A pool over plain http, and a session in it.
pub struct Pool {
    pub server: XenServer,
    pub session: String,
}

impl Pool {
    pub async fn start(config: XenConfig) -> Self {
        let server = XenServer::start(config.with_plain(true)).await.unwrap();
        let mut pool = Self { server, session: String::new() };
        pool.session = pool.login().await;
        pool
    }

    pub fn xen(&self) -> &XenHandle {
        self.server.handle()
    }

    pub fn address(&self) -> String {
        self.server.url().strip_prefix("http://").unwrap().to_owned()
    }

    pub async fn login(&self) -> String {
        let config = self.server.config();
        let params = json!([config.username(), config.password(), "1.0", "tests"]);
        let answer = rpc(&self.address(), "session.login_with_password", params).await.unwrap();
        text(&answer["result"])
    }

    /// A call with the session in front; the result, or the error's code and parameters.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, Vec<String>> {
        let mut all = vec![json!(self.session)];
        all.extend(params.as_array().unwrap().iter().cloned());
        let answer = rpc(&self.address(), method, Value::Array(all)).await.unwrap();
        match answer.get("error") {
            None => Ok(answer["result"].clone()),
            Some(error) => {
                let mut list = vec![text(&error["message"])];
                list.extend(error["data"].as_array().unwrap().iter().map(text));
                Err(list)
            }
        }
    }

    pub async fn ok(&self, method: &str, params: Value) -> Value {
        self.call(method, params).await.unwrap_or_else(|e| panic!("{method}: {e:?}"))
    }

    pub async fn vm(&self, name: &str) -> String {
        text(&self.ok("VM.get_by_name_label", json!([name])).await[0])
    }

    /// The console of a running VM for a protocol.
    pub async fn console(&self, vm: &str, protocol: &str) -> String {
        for console in self.ok("VM.get_consoles", json!([vm])).await.as_array().unwrap() {
            if self.ok("console.get_protocol", json!([console])).await == protocol {
                return text(console);
            }
        }
        panic!("there is no console for {protocol}");
    }

    /// The VDIs of a VM's disks by position.
    pub async fn vdis(&self, vm: &str) -> Vec<String> {
        let vbds = self.ok("VM.get_VBDs", json!([vm])).await;
        let mut disks = Vec::new();
        for vbd in vbds.as_array().unwrap() {
            let vbd = self.ok("VBD.get_record", json!([vbd])).await;
            if vbd["type"] == "Disk" {
                disks.push((text(&vbd["userdevice"]), text(&vbd["VDI"])));
            }
        }
        disks.sort();
        disks.into_iter().map(|(_, vdi)| vdi).collect()
    }

    /// Waits for a task by its events and gives its last record.
    pub async fn wait(&self, task: &str) -> Value {
        let mut token = json!("");
        loop {
            let class = format!("task/{task}");
            let batch = self.ok("event.from", json!([[class], token, 10.0])).await;
            token = batch["token"].clone();
            for event in batch["events"].as_array().unwrap() {
                let status = event["snapshot"]["status"].as_str().unwrap();
                if !matches!(status, "pending" | "cancelling") {
                    return event["snapshot"].clone();
                }
            }
        }
    }

    /// Runs a call as a task, waits for it and takes the record away.
    pub async fn run(&self, method: &str, params: Value) -> Value {
        let task = self.ok(&format!("Async.{method}"), params).await;
        let record = self.wait(task.as_str().unwrap()).await;
        self.ok("task.destroy", json!([task])).await;
        record
    }

    /// A snapshot of the VM.
    pub async fn snapshot(&self, vm: &str, name: &str) -> String {
        let record = self.run("VM.snapshot", json!([vm, name])).await;
        assert_eq!(record["status"], "success", "{record}");
        reference(&record["result"])
    }

    /// A VDI of a snapshot of the only running VM, ready to be exported.
    pub async fn snapshot_vdi(&self, name: &str) -> String {
        let vm = self.vm(name).await;
        let snapshot = self.snapshot(&vm, "for the test").await;
        self.vdis(&snapshot).await.remove(0)
    }

    pub async fn task(&self) -> String {
        text(&self.ok("task.create", json!(["export", "of a test"])).await)
    }

    /// The whole response to an export, and how its task ended.
    pub async fn export(&self, vdi: &str, format: &str) -> (Vec<u8>, Value) {
        let task = self.task().await;
        let target = format!("/export_raw_vdi?vdi={vdi}&format={format}&task_id={task}");
        let cookie = format!("Cookie: session_id={}\r\n", self.session);
        let response = get(&self.address(), &target, &cookie).await;
        let record = self.wait(&task).await;
        self.ok("task.destroy", json!([task])).await;
        (response, record)
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

/// The reference in a task's result.
pub fn reference(result: &Value) -> String {
    let result = result.as_str().unwrap();
    result.strip_prefix("<value>").unwrap().strip_suffix("</value>").unwrap().to_owned()
}

/// A call of JSON-RPC 2.0; `None` if the connection ended without an answer.
pub async fn rpc(address: &str, method: &str, params: Value) -> Option<Value> {
    let body = json!({"jsonrpc": "2.0", "method": method, "params": params, "id": 7}).to_string();
    let response = post(address, "/jsonrpc", &body).await;
    if response.is_empty() {
        return None;
    }
    let (head, body) = split(&response);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    Some(serde_json::from_slice(body).unwrap())
}

pub async fn post(address: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    raw(address, request.as_bytes()).await
}

/// `headers` are whole lines with their ends.
pub async fn get(address: &str, target: &str, headers: &str) -> Vec<u8> {
    raw(address, format!("GET {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").as_bytes()).await
}

/// Sends bytes and reads until the end; a reset ends the answer where it is.
pub async fn raw(address: &str, request: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(request).await.unwrap();
    let mut response = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = tcp.read(&mut buffer).await {
        response.extend_from_slice(&buffer[..n]);
    }
    response
}

/// As [`raw`], and how the connection ended: true is a reset, false an orderly end.
pub async fn raw_to_its_end(address: &str, request: &[u8]) -> (Vec<u8>, bool) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(request).await.unwrap();
    let mut response = Vec::new();
    let end = tcp.read_to_end(&mut response).await;
    (response, end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset))
}

/// The header block with its end, and the body.
pub fn split(response: &[u8]) -> (&str, &[u8]) {
    let end = response.windows(4).position(|w| w == b"\r\n\r\n").expect("a header block") + 4;
    (std::str::from_utf8(&response[..end]).unwrap(), &response[end..])
}

/// A raw image: a marker in some places, holes between them.
pub fn raw_disk(path: &Path, size: u64) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (n, at) in [0, 5 << 20, (7 << 20) + 512, size - 512].into_iter().enumerate() {
        file.write_all_at(&[n as u8 + 1; 512], at).unwrap();
    }
}

/// What the disk in a dynamic VHD holds, read by the format's rules with none of our code.
pub fn expand(vhd: &[u8]) -> Vec<u8> {
    let u32_at = |at: usize| u32::from_be_bytes(vhd[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_be_bytes(vhd[at..at + 8].try_into().unwrap());
    assert_eq!(&vhd[..8], b"conectix");
    assert_eq!(&vhd[28..32], b"caml");
    assert_eq!(&vhd[..512], &vhd[vhd.len() - 512..], "the footers differ");
    assert_eq!((u64_at(16), u64_at(512 + 16)), (512, 2048));
    let size = u64_at(48) as usize;
    let block = u32_at(512 + 32) as usize;
    let mut disk = vec![0; size];
    let mut last = 0;
    for (index, target) in disk.chunks_mut(block).enumerate() {
        let entry = u32_at(2048 + index * 4);
        if entry == u32::MAX {
            continue;
        }
        assert!(entry > last, "blocks are not ascending");
        last = entry;
        let at = entry as usize * 512;
        assert!(vhd[at..at + 512].iter().all(|b| *b == 0xff));
        target.copy_from_slice(&vhd[at + 512..at + 512 + target.len()]);
    }
    disk
}

/// A moment for work that nobody announces.
pub async fn moment() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}
