//! JSON-RPC as the server speaks it: 1.0 and 2.0, with floats that JSON does not know.

use std::fmt::Write as _;

use serde_json::json;

use super::value::{ApiError, ApiResult, Value};

/// A call, before anything is known about its method.
#[derive(Debug)]
pub(crate) struct JsonCall {
    pub(crate) method: String,
    pub(crate) params: Vec<Value>,
    id: serde_json::Value,
    v2: bool,
}

/// Deviations of the writer that faults ask for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quirks {
    /// `license_params` repeats its first key.
    pub(crate) duplicate_keys: bool,
    /// Errors are a bare array and the id is 0, as in emergency mode.
    pub(crate) bare_array_error: bool,
}

/// Reads a call; `None` when the server would answer with HTTP status 500.
pub(crate) fn parse(body: &[u8]) -> Option<JsonCall> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    let id = json.get("id").filter(|id| !id.is_null())?.clone();
    let method = json.get("method")?.as_str()?.to_owned();
    let params = match json.get("params") {
        None | Some(serde_json::Value::Null) => Vec::new(),
        Some(serde_json::Value::Array(a)) => a.iter().map(Value::from_json).collect(),
        Some(named) => vec![Value::from_json(named)],
    };
    let v2 = json.get("jsonrpc").and_then(|v| v.as_str()) == Some("2.0");
    Some(JsonCall { method, params, id, v2 })
}

/// Writes the answer to `call`.
pub(crate) fn write(call: &JsonCall, result: &ApiResult, quirks: Quirks) -> String {
    let id = &call.id;
    match result {
        Err(error) if quirks.bare_array_error || !call.v2 => {
            let id = if quirks.bare_array_error { &json!(0) } else { id };
            let list = Value::Array(error.description());
            format!("{{\"result\":null,\"error\":{},\"id\":{id}}}", text(&list, quirks))
        }
        Err(ApiError { code, params }) => json!({
            "jsonrpc": "2.0",
            "error": {"code": 1, "message": code, "data": params},
            "id": id,
        })
        .to_string(),
        Ok(value) if call.v2 => {
            format!("{{\"jsonrpc\":\"2.0\",\"result\":{},\"id\":{id}}}", text(value, quirks))
        }
        Ok(value) => format!("{{\"result\":{},\"error\":null,\"id\":{id}}}", text(value, quirks)),
    }
}

/// A value as the server prints it.
pub(crate) fn text(value: &Value, quirks: Quirks) -> String {
    let mut out = String::new();
    put(&mut out, value, quirks);
    out
}

fn put(out: &mut String, value: &Value, quirks: Quirks) {
    match value {
        Value::Nil => out.push_str("null"),
        Value::Str(s) | Value::Time(s) => put_string(out, s),
        Value::Float(f) => put_float(out, *f),
        Value::Int(i) => {
            let _ = write!(out, "{i}");
        }
        Value::I4(i) => {
            let _ = write!(out, "{i}");
        }
        Value::Bool(b) => {
            let _ = write!(out, "{b}");
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                put(out, item, quirks);
            }
            out.push(']');
        }
        Value::Map(fields) => {
            out.push('{');
            let mut first = true;
            for (key, field) in fields {
                put_member(out, key, field, &mut first, quirks);
                if key == "restrict_vtpm" && quirks.duplicate_keys {
                    put_member(out, key, field, &mut first, quirks);
                }
            }
            out.push('}');
        }
    }
}

fn put_member(out: &mut String, key: &str, value: &Value, first: &mut bool, quirks: Quirks) {
    if !std::mem::take(first) {
        out.push(',');
    }
    put_string(out, key);
    out.push(':');
    put(out, value, quirks);
}

fn put_string(out: &mut String, s: &str) {
    out.push_str(&serde_json::Value::from(s).to_string());
}

/// The server prints a whole float with a point, and the special ones bare.
fn put_float(out: &mut String, f: f64) {
    if f.is_nan() {
        out.push_str("NaN");
    } else if f.is_infinite() {
        out.push_str(if f > 0.0 { "Infinity" } else { "-Infinity" });
    } else {
        let _ = write!(out, "{f:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: &str) -> JsonCall {
        parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn both_versions_are_told_apart_by_the_member() {
        let two = call(r#"{"jsonrpc":"2.0","method":"a.b","params":["x",1],"id":7}"#);
        assert_eq!(two.params, ["x".into(), Value::Int(1)]);
        assert_eq!(
            write(&two, &Ok(Value::Float(1.0)), Quirks::default()),
            r#"{"jsonrpc":"2.0","result":1.0,"id":7}"#
        );
        let one = call(r#"{"method":"a.b","params":{"k":"v"},"id":"s"}"#);
        assert_eq!(one.params.len(), 1);
        let error = Err(ApiError::new("HANDLE_INVALID", ["VM", "x"]));
        assert_eq!(
            write(&one, &error, Quirks::default()),
            r#"{"result":null,"error":["HANDLE_INVALID","VM","x"],"id":"s"}"#
        );
        let json: serde_json::Value =
            serde_json::from_str(&write(&two, &error, Quirks::default())).unwrap();
        assert_eq!(json["error"]["message"], "HANDLE_INVALID");
    }

    #[test]
    fn a_call_without_an_id_is_malformed() {
        assert!(parse(br#"{"method":"a.b","params":[],"id":null}"#).is_none());
        assert!(parse(br#"{"method":"a.b","params":[]}"#).is_none());
    }

    #[test]
    fn quirks_are_not_json() {
        let value = Value::Array(vec![
            Value::Float(f64::NAN),
            Value::Float(f64::NEG_INFINITY),
            super::super::value::map([("restrict_vtpm", "x")]),
        ]);
        let quirks = Quirks { duplicate_keys: true, bare_array_error: true };
        assert_eq!(
            text(&value, quirks),
            r#"[NaN,-Infinity,{"restrict_vtpm":"x","restrict_vtpm":"x"}]"#
        );
        let two = call(r#"{"jsonrpc":"2.0","method":"a.b","params":[],"id":7}"#);
        let error = Err(ApiError::new("HOST_STILL_BOOTING", []));
        assert_eq!(
            write(&two, &error, quirks),
            r#"{"result":null,"error":["HOST_STILL_BOOTING"],"id":0}"#
        );
    }
}
