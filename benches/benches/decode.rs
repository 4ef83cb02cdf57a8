//! The decoding of answers of the XenAPI: all records of a large pool, in JSON and in XML.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark that cannot run must stop")]

use std::fmt::Write as _;
use std::hint::black_box;

use async_trait::async_trait;
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::{Map, Value, json};
use simulator::Simulator;
use tokio::runtime::Runtime;
use xenapi::{Call, Client, Pin, Protocol, Session, Transport, Trust, vm};

const MACHINES: usize = 1000;

/// Answers every call but the login with the same body.
#[derive(Debug)]
struct Canned {
    body: Bytes,
    kind: &'static str,
}

#[async_trait]
impl Transport for Canned {
    async fn send(&self, request: http::Request<Bytes>) -> xenapi::Result<http::Response<Bytes>> {
        let asked = String::from_utf8_lossy(request.body());
        let body = match (asked.contains("session.login"), self.kind) {
            (false, _) => self.body.clone(),
            (true, "text/xml") => xml(&json!("OpaqueRef:session")).into(),
            (true, _) => r#"{"jsonrpc":"2.0","result":"OpaqueRef:session","id":1}"#.into(),
        };
        let mut answer = http::Response::new(body);
        answer.headers_mut().insert("content-type", self.kind.parse().unwrap());
        Ok(answer)
    }
}

/// The records of the simulated pool's machines, as often as needed under other references.
async fn records() -> Value {
    let simulator = Simulator::builder().start().await.unwrap();
    let xen = simulator.ready().xen.clone();
    let pins = Pin::parse_list(xen.pin_sha256.as_deref().unwrap()).unwrap();
    let client = Client::builder(&xen.url).trust(Trust::Pins(pins)).build().unwrap();
    let session = client.login(&xen.username, xen.password.as_str(), "bench").await.unwrap();
    let all: Value = session.call(Call::new("VM.get_all_records")).await.unwrap();
    simulator.stop().await;
    let records: Vec<&Value> = all.as_object().unwrap().values().collect();
    let many = (0..MACHINES).map(|n| {
        let reference = format!("OpaqueRef:{n:08x}-1111-2222-3333-444444444444");
        (reference, records[n % records.len()].clone())
    });
    Value::Object(many.collect::<Map<_, _>>())
}

/// An answer in XML, as the server writes it: numbers and text without a type.
fn xml(value: &Value) -> String {
    let mut text = "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member>\
                    <name>Status</name><value>Success</value></member><member><name>Value</name>"
        .to_owned();
    put(&mut text, value);
    text + "</member></struct></value></param></params></methodResponse>"
}

fn put(text: &mut String, value: &Value) {
    text.push_str("<value>");
    match value {
        Value::Null => {}
        Value::Bool(b) => write!(text, "<boolean>{}</boolean>", u8::from(*b)).unwrap(),
        Value::Number(n) if n.is_f64() => write!(text, "<double>{n}</double>").unwrap(),
        Value::Number(n) => write!(text, "{n}").unwrap(),
        Value::String(s) => text.push_str(&s.replace('&', "&amp;").replace('<', "&lt;")),
        Value::Array(items) => {
            text.push_str("<array><data>");
            items.iter().for_each(|item| put(text, item));
            text.push_str("</data></array>");
        }
        Value::Object(fields) => {
            text.push_str("<struct>");
            for (name, value) in fields {
                write!(text, "<member><name>{name}</name>").unwrap();
                put(text, value);
                text.push_str("</member>");
            }
            text.push_str("</struct>");
        }
    }
    text.push_str("</value>");
}

async fn session(body: String, kind: &'static str, protocol: Protocol) -> Session {
    let transport = Canned { body: body.into(), kind };
    let client = Client::builder("http://127.0.0.1").transport(transport).protocol(protocol);
    client.build().unwrap().login("root", "word", "bench").await.unwrap()
}

fn decode(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let records = runtime.block_on(records());
    let bodies = [
        ("json", json!({"jsonrpc": "2.0", "result": records, "id": 1}).to_string()),
        ("xml", xml(&records)),
    ];
    let mut group = c.benchmark_group("decode");
    for (name, body) in bodies {
        group.throughput(Throughput::Bytes(body.len() as u64));
        let (kind, protocol) = match name {
            "json" => ("application/json", Protocol::JsonRpc),
            _ => ("text/xml", Protocol::XmlRpc),
        };
        let session = runtime.block_on(session(body, kind, protocol));
        group.bench_function(format!("{MACHINES} machines, {name}"), |b| {
            b.iter(|| {
                let all = runtime.block_on(session.call(vm::get_all_records())).unwrap();
                assert_eq!(all.len(), MACHINES);
                black_box(all)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
