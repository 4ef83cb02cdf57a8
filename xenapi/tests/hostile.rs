//! Answers that no server should give: whatever comes, an error comes out, never a panic.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use xenapi::vm::Vm;
use xenapi::{Client, FromValue as _, Protocol, Ref, Session, TaskHandle, Transport, WaitOptions};

/// Gives the login, then whatever it was told to.
#[derive(Debug, Default)]
struct Canned {
    json: bool,
    next: std::sync::Arc<Mutex<Vec<u8>>>,
}

#[async_trait]
impl Transport for Canned {
    async fn send(&self, request: http::Request<Bytes>) -> xenapi::Result<http::Response<Bytes>> {
        let login = String::from_utf8_lossy(request.body()).contains("session.login");
        let body = match (login, self.json) {
            (true, true) => br#"{"jsonrpc":"2.0","result":"OpaqueRef:s","id":1}"#.to_vec(),
            (true, false) => xml("OpaqueRef:s").into_bytes(),
            (false, _) => self.next.lock().unwrap().clone(),
        };
        Ok(http::Response::new(Bytes::from(body)))
    }
}

fn xml(value: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>Status\
         </name><value>Success</value></member><member><name>Value</name><value>{value}</value>\
         </member></struct></value></param></params></methodResponse>"
    )
}

async fn session(json: bool) -> (Session, std::sync::Arc<Mutex<Vec<u8>>>) {
    let canned = Canned { json, ..Canned::default() };
    let next = std::sync::Arc::clone(&canned.next);
    let protocol = if json { Protocol::JsonRpc } else { Protocol::XmlRpc };
    let client =
        Client::builder("http://double").transport(canned).protocol(protocol).build().unwrap();
    (client.login("root", "x", "test").await.unwrap(), next)
}

/// A small generator of our own, so that a failure names the seed that repeats it.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below.max(1) as u64).unwrap()
    }

    /// One to four changes: a byte replaced, a piece cut, doubled, or moved.
    fn mutate(&mut self, seed: &[u8]) -> Vec<u8> {
        const BYTES: &[u8] = b"\0\"'<>&{}[],:0-9eE.\\n\xff\xc3tNIu/ ";
        let mut out = seed.to_vec();
        for _ in 0..=self.next(4) {
            let (a, b) = (self.next(out.len()), self.next(out.len()));
            let (a, b) = (a.min(b), a.max(b));
            match self.next(4) {
                0 if !out.is_empty() => out[a] = BYTES[self.next(BYTES.len())],
                1 => drop(out.drain(a..b.min(a + 40))),
                2 => {
                    let piece = out[a..b.min(a + 40)].to_vec();
                    out.splice(a..a, piece);
                }
                _ => out.truncate(b),
            }
        }
        out
    }
}

fn records() -> Value {
    json!({"OpaqueRef:1": {"uuid": "u", "name_label": "é \" \\ n", "VCPUs_max": "4",
        "memory_static_max": 1.0, "power_state": "Running", "other_config": {"a": "b"},
        "VBDs": ["OpaqueRef:2"], "snapshot_time": "20250131T12:00:00Z", "is_a_template": false}})
}

#[tokio::test]
async fn mutated_json_answers() {
    let (session, next) = session(true).await;
    let whole = json!({"jsonrpc": "2.0", "result": records(), "id": 1}).to_string();
    let float = r#"{"jsonrpc":"2.0","result":{"a":NaN,"b":-Infinity},"id":1}"#.to_owned();
    let error =
        r#"{"jsonrpc":"2.0","error":{"code":1,"message":"X","data":["a"]},"id":1}"#.to_owned();
    let (mut good, mut bad) = (0, 0);
    for seed in 1..=3_000_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let base = [&whole, &float, &error][random.next(3)];
        *next.lock().unwrap() = random.mutate(base.as_bytes());
        match session.call(xenapi::vm::get_all_records()).await {
            Ok(_) => good += 1,
            Err(e) => {
                bad += 1;
                assert!(!e.to_string().contains('\n'), "seed {seed}: {e}");
            }
        }
    }
    assert!(good > 0 && bad > 0, "{good} good, {bad} bad: the mutations say nothing");
}

#[tokio::test]
async fn mutated_xml_answers() {
    let (session, next) = session(false).await;
    let whole = xml(
        "<struct><member><name>OpaqueRef:1</name><value><struct><member><name>uuid</name><value>u\
         </value></member><member><name>VBDs</name><value><array><data><value>OpaqueRef:2</value>\
         </data></array></value></member><member><name>is_a_template</name><value><boolean>0\
         </boolean></value></member></struct></value></member></struct>",
    );
    let (mut good, mut bad) = (0, 0);
    for seed in 1..=3_000_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        *next.lock().unwrap() = random.mutate(whole.as_bytes());
        match session.call(xenapi::vm::get_all_records()).await {
            Ok(_) => good += 1,
            Err(e) => {
                bad += 1;
                assert!(!e.to_string().contains('\n'), "seed {seed}: {e}");
            }
        }
    }
    assert!(good > 0 && bad > 0, "{good} good, {bad} bad: the mutations say nothing");
}

#[tokio::test]
async fn mutated_task_results() {
    let (session, next) = session(true).await;
    let handle: TaskHandle<Ref<Vm>> = TaskHandle::new(Ref::new("OpaqueRef:task"));
    for seed in 1..=500_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let result =
            random.mutate(b"<value><array><data><value>OpaqueRef:1</value></data></array></value>");
        let record = json!({"status": "success", "result": String::from_utf8_lossy(&result)});
        let batch =
            json!({"token": "t", "events": [{"ref": "OpaqueRef:task", "snapshot": record}]});
        *next.lock().unwrap() = json!({"result": batch}).to_string().into_bytes();
        let _ = session.wait(&handle, &WaitOptions::new()).await;
    }
}

#[test]
fn a_record_takes_any_shape_or_says_where_it_cannot() {
    for (name, value) in [
        ("VCPUs_max", json!([])),
        ("power_state", json!(5)),
        ("other_config", json!([1])),
        ("VBDs", json!("x")),
        ("is_a_template", json!("maybe")),
    ] {
        let e = Vm::from_value(json!({ name: value })).unwrap_err();
        assert!(e.to_string().starts_with(&format!("VM.{name}")), "{e}");
    }
    let vm = Vm::from_value(json!({"VCPUs_max": null, "power_state": null, "VBDs": null})).unwrap();
    assert_eq!(vm.vcpus_max, 0);
    assert_eq!(vm.power_state.as_str(), "");
    // trap 4, for a known field: the last one wins, also where serde is used directly.
    let vm: Vm = serde_json::from_str(r#"{"uuid": "first", "uuid": "last"}"#).unwrap();
    assert_eq!(vm.uuid, "last");
    let back = serde_json::to_value(&vm).unwrap();
    assert_eq!(back["uuid"], "last");
    assert_eq!(back["VCPUs_max"], 0, "written under the API's names");
}
