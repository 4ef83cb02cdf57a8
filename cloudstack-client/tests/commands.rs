//! The typed calls and records against the facts about the API, and the table against both.
//!
//! The facts are what `cargo xtask codegen` makes the table from; they are part of the repository and not of the crate.

#![allow(clippy::unwrap_used)]

mod typed;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cloudstack_client::commands::{self, Repeat};
use cloudstack_client::{Credentials, ErrorKind, command, rows, start};
use http::StatusCode;
use serde_json::{Value, json};

fn facts() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/data/cloudstack.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[test]
fn the_table_is_that_of_the_facts() {
    let facts = facts();
    let known = facts["commands"].as_object().unwrap();
    assert_eq!((known.len(), commands::all().len()), (915, 915));
    for (name, fact) in known {
        let command = commands::find(name).unwrap();
        assert_eq!(command.is_async(), fact["async"] == true, "{name}");
        assert_eq!(command.makes_object(), fact["creates"] == true, "{name}");
        let root = fact["root"].as_str().map(str::to_owned);
        let root = root.unwrap_or_else(|| format!("{}response", name.to_lowercase()));
        assert_eq!(command.root_key(), root, "{name}");
        assert_eq!(command.since(), fact["since"].as_str(), "{name}");
        assert_eq!(command.list_key(), fact["list"].as_str(), "{name}");
        // Every job can be given an id, and nothing else has one.
        let params = fact["params"].as_array().unwrap();
        let has = |wanted: &str| params.iter().any(|param| param[0] == wanted);
        assert!(!has("customjobid") || command.is_async(), "{name}");
        assert_eq!(command.is_paged(), has("page"), "{name}");
    }
}

#[test]
fn every_command_is_sent_and_read_by_what_is_known_of_it() {
    let keys = Credentials::new("key", "secret");
    let now = std::time::SystemTime::now();
    for known in commands::all() {
        let name = known.name();
        let call = command(name);
        assert_eq!(call.is_read(), known.repeat() == Repeat::Always, "{name}");
        let form = call.sign(&keys, now).unwrap();
        assert!(form.as_str().contains(&format!("command={name}&")), "{name}");
        // Under its own root key, under any other, and beside something new.
        let root = known.root_key().into_owned();
        for body in [
            json!({root.as_str(): {"a": "1"}}),
            json!({"someresponse": {"a": "1"}}),
            json!({root.as_str(): {"a": "1"}, "zz": {}, "aa": 7}),
        ] {
            let content = call.parse(StatusCode::OK, body.to_string().as_bytes()).unwrap();
            assert_eq!(content["a"], "1", "{name}: {body}");
        }
        // Errors come under the same key, or under that of commands that do not exist.
        for key in [root.as_str(), "errorresponse"] {
            let body = json!({key: {"errorcode": "531", "cserrorcode": "4365", "errortext": "no"}});
            let refused =
                call.parse(StatusCode::from_u16(531).unwrap(), body.to_string().as_bytes());
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Forbidden, "{name}");
        }
        let job = start(name);
        assert_eq!(job.sign(&keys, now).is_ok(), known.is_async(), "{name}");
        if known.is_async() {
            let body = json!({root.as_str(): {"jobid": "j1", "id": 7}}).to_string();
            let job = job.parse(StatusCode::OK, body.as_bytes()).unwrap();
            assert_eq!((job.id.as_str(), job.object.as_deref()), ("j1", Some("7")), "{name}");
        }
        let list = rows(name);
        assert_eq!(list.sign(&keys, now).is_ok(), known.is_read(), "{name}");
        if let (true, Some(key)) = (known.is_read(), known.list_key()) {
            let body =
                json!({root.as_str(): {"count": "1", key: [{"id": 7}], "other": []}}).to_string();
            let list = list.parse(StatusCode::OK, body.as_bytes()).unwrap();
            assert_eq!(list.items[0].text("id").as_deref(), Some("7"), "{name}");
            let none = rows(name).parse(StatusCode::OK, json!({root: {}}).to_string().as_bytes());
            assert!(none.unwrap().items.is_empty(), "{name}");
        }
    }
    assert_eq!(commands::all().iter().filter(|known| known.is_irregular()).count(), 68);
}

/// `details[0].UEFI` is a key of `details`.
fn base(parameter: &str) -> &str {
    parameter.split(['[', '.']).next().unwrap()
}

#[test]
fn every_parameter_of_a_typed_call_is_one_of_its_command() {
    let facts = facts();
    let calls = typed::calls();
    for call in &calls {
        let fact = &facts["commands"][&call.command];
        assert!(fact.is_object(), "there is no command {}", call.command);
        let params: BTreeMap<_, _> = fact["params"]
            .as_array()
            .unwrap()
            .iter()
            .map(|param| (param[0].as_str().unwrap(), param[2] == 1))
            .collect();
        let given: BTreeSet<_> = call.parameters.iter().map(|name| base(name)).collect();
        for name in &given {
            assert!(params.contains_key(name), "{} has no parameter {name}", call.command);
        }
        for (name, required) in &params {
            assert!(!required || given.contains(name), "{} must have {name}", call.command);
        }
        // A call that starts a job is one of a command that does, and a look changes nothing.
        let known = commands::find(&call.command).unwrap();
        assert_eq!(call.starts_job, known.is_async(), "{}", call.command);
        assert_eq!(call.reads, known.is_read(), "{}", call.command);
    }
    let commands: BTreeSet<_> = calls.iter().map(|call| call.command.as_str()).collect();
    assert!(commands.len() >= 60, "{}", commands.len());
    println!("{} typed commands", commands.len());
}

/// The names of commands that stand in the source, so that none is forgotten above.
#[test]
fn every_typed_command_is_checked() {
    fn look(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                look(&path, found);
            } else if !path.ends_with("commands/table.rs") && !path.ends_with("commands/mod.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                // Up to the tests, and no documentation.
                let text = text.split("mod tests {").next().unwrap();
                let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                let code: String = lines.collect::<Vec<_>>().join("\n");
                let quoted = code.split('"').skip(1).step_by(2).map(str::to_owned);
                found.extend(quoted.filter(|word| commands::find(word).is_some()));
            }
        }
    }
    let mut written = BTreeSet::new();
    look(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut written);
    let checked: BTreeSet<_> = typed::calls().into_iter().map(|call| call.command).collect();
    assert_eq!(written, checked);
}

#[test]
fn every_field_of_a_record_is_one_that_the_server_sends() {
    let facts = facts();
    for (name, fields) in typed::records() {
        let record = facts["commands"][name]["record"].as_str().unwrap();
        let known: BTreeSet<_> = facts["records"][record]
            .as_array()
            .unwrap()
            .iter()
            .map(|field| field[0].as_str().unwrap())
            .collect();
        assert!(!fields.is_empty(), "{name}");
        for field in fields {
            assert!(known.contains(field), "{name} sends no {field}");
        }
    }
    // The lists of typed calls are looked for under the server's key.
    for (name, key) in typed::lists() {
        assert_eq!(commands::find(name).unwrap().list_key(), Some(key), "{name}");
    }
}

/// A record with every field that the server can send, of the types that it declares; nested ones as far as `depth`.
fn full(facts: &Value, record: &str, depth: u8) -> Value {
    let fields = facts["records"][record].as_array().unwrap();
    let of = |kind: &str| -> Value {
        let inner = kind.trim_start_matches('[').trim_end_matches(']');
        let one = match inner {
            "boolean" => json!(true),
            "integer" | "int" | "long" | "short" => json!(7),
            "map" => json!({"key": "12", "value": "34"}),
            "any" | "list" | "object" => json!({}),
            _ => match inner.strip_prefix('#') {
                Some(nested) if depth > 0 => full(facts, nested, depth - 1),
                Some(_) => json!({}),
                // Texts of digits, so that they can be sent as numbers.
                None => json!("12"),
            },
        };
        if kind.starts_with('[') { json!([one]) } else { one }
    };
    let pairs = fields
        .iter()
        .map(|field| (field[0].as_str().unwrap().to_owned(), of(field[1].as_str().unwrap())));
    Value::Object(pairs.collect())
}

fn change(value: &mut Value, how: fn(&mut Value)) {
    match value {
        Value::Object(map) => map.values_mut().for_each(|value| change(value, how)),
        Value::Array(items) => items.iter_mut().for_each(|value| change(value, how)),
        leaf => how(leaf),
    }
}

/// The same records from a server of another age.
#[test]
fn records_are_the_same_however_their_fields_are_typed() {
    let facts = facts();
    for (command, read) in typed::readers() {
        let record = facts["commands"][command]["record"].as_str().unwrap();
        let full = full(&facts, record, 2);
        let right = read(&full).unwrap_or_else(|| panic!("{command}: {full}"));

        let mut text = full.clone();
        change(&mut text, |leaf| {
            if !leaf.is_string() {
                *leaf = json!(leaf.to_string());
            }
        });
        assert_eq!(read(&text).as_ref(), Some(&right), "{command}: everything as text");

        let mut number = full.clone();
        change(&mut number, |leaf| {
            if leaf == "12" {
                *leaf = json!(12);
            }
        });
        assert_eq!(read(&number).as_ref(), Some(&right), "{command}: ids as numbers");

        let mut more = full.clone();
        more["somethingnew"] = json!({"of": ["tomorrow"]});
        assert_eq!(read(&more).as_ref(), Some(&right), "{command}: something new");

        // Each field missing, null, or of a type that makes no sense: no panic, and only what tells it from others is missed.
        let names: Vec<String> = full.as_object().unwrap().keys().cloned().collect();
        let mut needed = 0;
        for name in &names {
            let mut one = full.clone();
            one.as_object_mut().unwrap().remove(name);
            needed += usize::from(read(&one).is_none());
            for odd in [json!(null), json!([[]]), json!({"x": {}}), json!(-1.5e300), json!("\u{0}")]
            {
                one[name] = odd;
                let _ = read(&one);
            }
        }
        assert!(needed <= 2, "{command}: {needed} fields are needed");
        for value in [json!(null), json!([]), json!("x"), json!(7), json!({})] {
            assert_eq!(read(&value), None, "{command}: {value}");
        }
    }
}
