//! JSON-RPC 2.0 and 1.0 as XAPI speaks them, with the three forms of an error.

use serde_json::{Map, Value, json};

use super::{excerpt, rescue};
use crate::error::{Error, ErrorCode, ErrorKind, Result};

/// Writes a call. The `id` is fixed: one request, one answer, one connection.
pub(crate) fn encode(method: &str, params: &[Value]) -> Vec<u8> {
    json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 1 })
        .to_string()
        .into_bytes()
}

/// Writes a call in the form of 1.0, which names no version.
pub(crate) fn encode_1(method: &str, params: &[Value]) -> Vec<u8> {
    json!({ "method": method, "params": params, "id": 1 }).to_string().into_bytes()
}

/// Reads an answer of either version: a server older than the second answers in its own.
///
/// An error is an object (2.0), an array in an object (1.0), or a bare array: that is what a
/// server in emergency mode sends whatever it was asked in.
pub(crate) fn decode(body: &[u8]) -> Result<Value> {
    let value = parse(body)?;
    match value {
        Value::Array(items) => Err(array_error(items)),
        Value::Object(mut answer) => match answer.remove("error") {
            Some(Value::Object(error)) => Err(object_error(error)),
            Some(Value::Array(items)) => Err(array_error(items)),
            Some(Value::String(code)) => Err(Error::api(ErrorCode::new(code), Vec::new())),
            Some(Value::Null) | None => answer
                .remove("result")
                .ok_or_else(|| not_an_answer("it has neither result nor error", body)),
            Some(_) => Err(not_an_answer("its error has an unknown form", body)),
        },
        _ => Err(not_an_answer("it is no object", body)),
    }
}

/// Parses; where that fails because the server printed a float that JSON does not have, once more
/// with those put in quotes.
fn parse(body: &[u8]) -> Result<Value> {
    let first = match serde_json::from_slice(body) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if let Some(rescued) = rescue::quote_bare_floats(body)
        && let Ok(value) = serde_json::from_slice(&rescued)
    {
        return Ok(value);
    }
    Err(not_an_answer("it is not JSON", body).with_source(first))
}

fn not_an_answer(why: &str, body: &[u8]) -> Error {
    Error::new(
        ErrorKind::Protocol,
        format!("the answer is not one of JSON-RPC: {why}; it starts with {}", excerpt(body)),
    )
}

/// The 2.0 form: the code of the API is in `message`, `code` is always 1.
fn object_error(mut error: Map<String, Value>) -> Error {
    let code = match error.remove("message") {
        Some(Value::String(code)) => code,
        Some(other) => other.to_string(),
        None => "UNKNOWN".to_owned(),
    };
    let params = match error.remove("data") {
        Some(Value::Array(items)) => items.into_iter().map(text).collect(),
        Some(Value::Null) | None => Vec::new(),
        Some(one) => vec![text(one)],
    };
    Error::api(ErrorCode::new(code), params)
}

/// The form `[code, parameter, …]`.
pub(super) fn array_error(items: Vec<Value>) -> Error {
    let mut items = items.into_iter().map(text);
    match items.next() {
        Some(code) => Error::api(ErrorCode::new(code), items.collect()),
        None => Error::new(ErrorKind::Protocol, "the server answered with an empty error"),
    }
}

/// Parameters are text; a server may send others.
fn text(value: Value) -> String {
    match value {
        Value::String(s) => s,
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> (String, Vec<String>) {
        let e = decode(body.as_bytes()).unwrap_err();
        (e.code().unwrap().to_string(), e.params().to_vec())
    }

    #[test]
    fn a_call_is_written_by_the_book() {
        let body = encode("VM.get_record", &[json!("OpaqueRef:s"), json!(1.0), json!({"k": []})]);
        let text = String::from_utf8(body).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["jsonrpc"], "2.0");
        assert_eq!(value["params"][0], "OpaqueRef:s");
        assert!(text.contains("1.0"), "a float stays a float: {text}");
        assert!(!value["id"].is_null(), "a null id makes servers answer 500");
    }

    #[test]
    fn three_forms_of_an_error() {
        let expected = ("VDI_IN_USE".to_owned(), vec!["OpaqueRef:v".to_owned(), "x".to_owned()]);
        assert_eq!(
            error(
                r#"{"jsonrpc":"2.0","error":{"code":1,"message":"VDI_IN_USE","data":["OpaqueRef:v","x"]},"id":1}"#
            ),
            expected
        );
        assert_eq!(
            error(r#"{"result":null,"error":["VDI_IN_USE","OpaqueRef:v","x"],"id":1}"#),
            expected
        );
        assert_eq!(error(r#"["VDI_IN_USE","OpaqueRef:v","x"]"#), expected);
    }

    #[test]
    fn odd_errors_are_still_errors() {
        assert_eq!(
            error(r#"{"error":{"message":"X","data":null},"id":null}"#),
            ("X".into(), vec![])
        );
        assert_eq!(error(r#"{"error":{"message":"X","data":["a",5,null]}}"#).1, ["a", "5", ""]);
        assert_eq!(error(r#"{"error":{"code":"many","message":"X"}}"#).0, "X");
        for body in ["", "[]", "7", "{}", "{\"id\":1}", "<html>", "{\"result\":", "\u{0}"] {
            let e = decode(body.as_bytes()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Protocol, "{body}");
        }
    }

    #[test]
    fn trap_3_floats_that_json_does_not_have() {
        let value = decode(
            br#"{"jsonrpc":"2.0","result":{"a":NaN,"b":[-Infinity,Infinity],"name":": NaN, Infinity"},"id":1}"#,
        )
        .unwrap();
        assert_eq!(value["a"], "NaN");
        assert_eq!(value["b"], json!(["-Infinity", "Infinity"]));
        assert_eq!(value["name"], ": NaN, Infinity", "text is not touched");
    }

    #[test]
    fn trap_4_of_a_duplicated_key_the_last_wins() {
        let value =
            decode(br#"{"result":{"restrict_vtpm":"false","restrict_vtpm":"true"}}"#).unwrap();
        assert_eq!(value["restrict_vtpm"], "true");
    }

    #[test]
    fn depth_does_not_overflow_the_stack() {
        let deep = format!("{{\"result\":{}", "[".repeat(200_000));
        assert_eq!(decode(deep.as_bytes()).unwrap_err().kind(), ErrorKind::Protocol);
    }
}
