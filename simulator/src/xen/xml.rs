//! XML-RPC as the server speaks it: integers are untagged strings.

use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;

use super::value::{ApiError, ApiResult, Record, Value};

/// Values nest no deeper than this; a hostile call must not exhaust the stack.
const DEPTH: usize = 32;

/// A call, before anything is known about its method.
#[derive(Debug)]
pub(crate) struct XmlCall {
    pub(crate) method: String,
    pub(crate) params: Vec<Value>,
}

/// Reads a call; `None` when the server would answer with HTTP status 500.
pub(crate) fn parse(body: &[u8]) -> Option<XmlCall> {
    let text = std::str::from_utf8(body).ok()?;
    let root = tree(text)?;
    if root.name != "methodCall" {
        return None;
    }
    let method = root.child("methodName")?.text.trim().to_owned();
    let params = match root.child("params") {
        None => Vec::new(),
        Some(params) => params
            .children
            .iter()
            .map(|param| param.child("value").and_then(value))
            .collect::<Option<_>>()?,
    };
    Some(XmlCall { method, params })
}

/// Writes an answer; `bare` leaves out Status and Value, as `system.listMethods` does.
pub(crate) fn write(result: &ApiResult, bare: bool) -> String {
    let answer = match result {
        Ok(value) if bare => value.clone(),
        Ok(value) => status("Success", "Value", value.clone()),
        Err(error) => failure(error),
    };
    let mut out = String::from("<?xml version=\"1.0\"?><methodResponse><params><param>");
    put(&mut out, &answer);
    out.push_str("</param></params></methodResponse>");
    out
}

/// A value as a task's `result` holds it.
pub(crate) fn text(value: &Value) -> String {
    let mut out = String::new();
    put(&mut out, value);
    out
}

/// Reads what [`text`] writes, as the description of an archive holds it.
pub(crate) fn read(text: &str) -> Option<Value> {
    tree(text).filter(|root| root.name == "value").as_ref().and_then(value)
}

fn failure(error: &ApiError) -> Value {
    status("Failure", "ErrorDescription", Value::Array(error.description()))
}

fn status(status: &str, key: &str, value: Value) -> Value {
    Value::Map(Record::from([("Status".to_owned(), status.into()), (key.to_owned(), value)]))
}

fn put(out: &mut String, value: &Value) {
    out.push_str("<value>");
    match value {
        Value::Nil => out.push_str("<nil/>"),
        Value::Str(s) => put_text(out, s),
        Value::Int(i) => out.push_str(&i.to_string()),
        Value::I4(i) => out.push_str(&format!("<i4>{i}</i4>")),
        Value::Float(f) => out.push_str(&format!("<double>{}</double>", float(*f))),
        Value::Bool(b) => out.push_str(&format!("<boolean>{}</boolean>", u8::from(*b))),
        Value::Time(t) => out.push_str(&format!("<dateTime.iso8601>{t}</dateTime.iso8601>")),
        Value::Array(items) => {
            out.push_str("<array><data>");
            items.iter().for_each(|item| put(out, item));
            out.push_str("</data></array>");
        }
        Value::Map(fields) => {
            out.push_str("<struct>");
            for (name, field) in fields {
                out.push_str("<member><name>");
                put_text(out, name);
                out.push_str("</name>");
                put(out, field);
                out.push_str("</member>");
            }
            out.push_str("</struct>");
        }
    }
    out.push_str("</value>");
}

/// Control characters are dropped silently, as the server drops them.
fn put_text(out: &mut String, s: &str) {
    let clean: String =
        s.chars().filter(|c| *c >= ' ' || matches!(c, '\t' | '\n' | '\r')).collect();
    out.push_str(&escape(clean.as_str()));
}

fn float(f: f64) -> String {
    if f.is_nan() {
        "nan".to_owned()
    } else if f.is_infinite() {
        if f > 0.0 { "inf".to_owned() } else { "-inf".to_owned() }
    } else {
        f.to_string()
    }
}

/// An element of the call: calls are small (300 KiB at most), so a tree is fine.
#[derive(Debug, Default)]
struct Element {
    name: String,
    text: String,
    children: Vec<Self>,
}

impl Element {
    fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|c| c.name == name)
    }
}

fn tree(text: &str) -> Option<Element> {
    let mut reader = Reader::from_str(text);
    let mut stack = vec![Element::default()];
    loop {
        match reader.read_event().ok()? {
            Event::Start(start) => {
                if stack.len() > 4 * DEPTH {
                    return None;
                }
                let name = start.name();
                stack.push(element(name.as_ref())?);
            }
            Event::Empty(start) => {
                let name = start.name();
                let child = element(name.as_ref())?;
                stack.last_mut()?.children.push(child);
            }
            Event::End(_) => {
                let done = stack.pop()?;
                stack.last_mut()?.children.push(done);
            }
            Event::Text(t) => stack.last_mut()?.text.push_str(&t.xml10_content()),
            Event::CData(t) => stack.last_mut()?.text.push_str(&t.xml10_content()),
            Event::GeneralRef(r) => {
                let c = match r.resolve_char_ref().ok()? {
                    Some(c) => c,
                    None => named(r.as_ref())?,
                };
                stack.last_mut()?.text.push(c);
            }
            Event::Eof => break,
            _ => {}
        }
    }
    if stack.len() != 1 {
        return None;
    }
    stack.pop()?.children.pop()
}

fn element(name: &str) -> Option<Element> {
    Some(Element { name: name.to_owned(), ..Element::default() })
}

fn named(entity: &str) -> Option<char> {
    Some(match entity {
        "lt" => '<',
        "gt" => '>',
        "amp" => '&',
        "quot" => '"',
        "apos" => '\'',
        _ => return None,
    })
}

fn value(element: &Element) -> Option<Value> {
    let Some(typed) = element.children.first() else {
        return Some(Value::Str(element.text.clone()));
    };
    let text = typed.text.as_str();
    Some(match typed.name.as_str() {
        "string" => text.into(),
        "int" | "i4" | "i8" => Value::Int(text.trim().parse().ok()?),
        "double" => Value::Float(text.trim().parse().ok()?),
        "boolean" => Value::Bool(match text.trim() {
            "1" => true,
            "0" => false,
            _ => return None,
        }),
        "dateTime.iso8601" => Value::Time(text.trim().to_owned()),
        "nil" => Value::Nil,
        "array" => {
            let data = typed.child("data")?;
            Value::Array(data.children.iter().map(value).collect::<Option<_>>()?)
        }
        "struct" => Value::Map(typed.children.iter().map(member).collect::<Option<_>>()?),
        _ => return None,
    })
}

fn member(element: &Element) -> Option<(String, Value)> {
    Some((element.child("name")?.text.clone(), value(element.child("value")?)?))
}

#[cfg(test)]
mod tests {
    use super::super::value::map;
    use super::*;

    #[test]
    fn a_call_of_an_ordinary_client_is_read() {
        let body = "<?xml version='1.0'?>\n<methodCall>\n<methodName>VM.x</methodName>\n<params>\n\
            <param>\n<value><string>a&amp;b &#65;</string></value>\n</param>\n\
            <param><value>untagged</value></param>\
            <param><value><int>5</int></value></param>\
            <param><value><boolean>1</boolean></value></param>\
            <param><value><array><data>\n<value><string>x</string></value>\n</data></array></value></param>\
            <param><value><struct>\n<member>\n<name>k</name>\n<value><string>v</string></value>\n\
            </member>\n</struct></value></param></params></methodCall>";
        let call = parse(body.as_bytes()).unwrap();
        assert_eq!(call.method, "VM.x");
        assert_eq!(
            call.params,
            [
                "a&b A".into(),
                "untagged".into(),
                Value::Int(5),
                Value::Bool(true),
                Value::Array(vec!["x".into()]),
                map([("k", "v")]),
            ]
        );
    }

    #[test]
    fn integers_are_untagged_and_void_is_an_empty_string() {
        assert_eq!(text(&Value::Int(5)), "<value>5</value>");
        assert_eq!(text(&"".into()), "<value></value>");
        assert_eq!(text(&"a<b\u{1}".into()), "<value>a&lt;b</value>");
        assert_eq!(text(&Value::Float(0.5)), "<value><double>0.5</double></value>");
        let error = Err(ApiError::new("X", ["y"]));
        assert!(write(&error, false).contains("<name>ErrorDescription</name>"));
        assert!(!write(&Ok(Value::Array(vec![])), true).contains("Status"));
    }

    #[test]
    fn nonsense_is_refused() {
        for body in ["", "<methodCall>", "<a/>", "<methodCall><params/></methodCall>"] {
            assert!(parse(body.as_bytes()).is_none(), "{body}");
        }
    }
}
