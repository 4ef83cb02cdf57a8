//! XML-RPC as XAPI speaks it, and the values that task results are written in.

use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::{Map, Value};

use super::{excerpt, json};
use crate::error::{Error, ErrorKind, Result};

/// Deeper answers are refused: the deepest real one has six levels.
const DEEPEST: usize = 64;

/// Writes a call.
pub(crate) fn encode(method: &str, params: &[Value]) -> Vec<u8> {
    let mut out = String::from("<?xml version=\"1.0\"?><methodCall><methodName>");
    escape(method, &mut out);
    out.push_str("</methodName><params>");
    for param in params {
        out.push_str("<param>");
        write_value(param, &mut out);
        out.push_str("</param>");
    }
    out.push_str("</params></methodCall>");
    out.into_bytes()
}

/// Writes a value. Integers go untagged, because `<int>` has only 32 bits.
fn write_value(value: &Value, out: &mut String) {
    out.push_str("<value>");
    match value {
        Value::Null => {}
        Value::Bool(b) => {
            out.push_str(if *b { "<boolean>1</boolean>" } else { "<boolean>0</boolean>" });
        }
        Value::Number(n) if n.is_f64() => {
            out.push_str("<double>");
            out.push_str(&n.to_string());
            out.push_str("</double>");
        }
        Value::Number(n) => out.push_str(&n.to_string()),
        Value::String(s) => {
            out.push_str("<string>");
            escape(s, out);
            out.push_str("</string>");
        }
        Value::Array(items) => {
            out.push_str("<array><data>");
            for item in items {
                write_value(item, out);
            }
            out.push_str("</data></array>");
        }
        Value::Object(map) => {
            out.push_str("<struct>");
            for (name, item) in map {
                out.push_str("<member><name>");
                escape(name, out);
                out.push_str("</name>");
                write_value(item, out);
                out.push_str("</member>");
            }
            out.push_str("</struct>");
        }
    }
    out.push_str("</value>");
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            _ => out.push(c),
        }
    }
}

/// Reads an answer: a structure of `Status` and `Value` or `ErrorDescription`.
pub(crate) fn decode(body: &[u8]) -> Result<Value> {
    let text = String::from_utf8_lossy(body);
    let mut parser = Parser::new(&text);
    let answer = parser.answer().map_err(|why| {
        Error::new(
            ErrorKind::Protocol,
            format!("the answer is not one of XML-RPC: {why}; it starts with {}", excerpt(body)),
        )
    })?;
    if answer.fault {
        let text = |name: &str| match answer.value.get(name) {
            Some(Value::String(s)) => s.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        return Err(Error::api(
            crate::error::ErrorCode::new("Fault"),
            vec![text("faultCode"), text("faultString")],
        ));
    }
    match answer.value {
        Value::Object(mut map) if map.contains_key("Status") => {
            if map.get("Status").and_then(Value::as_str) == Some("Success") {
                return Ok(map.remove("Value").unwrap_or(Value::String(String::new())));
            }
            match map.remove("ErrorDescription") {
                Some(Value::Array(items)) => Err(json::array_error(items)),
                _ => Err(Error::new(ErrorKind::Protocol, "the server failed without saying why")),
            }
        }
        // `system.listMethods` answers without the wrapping.
        other => Ok(other),
    }
}

/// Reads the text of a task's result: `<value>…</value>`, plain or escaped once more; an empty
/// text is an empty value.
pub(crate) fn decode_result(text: &str) -> Result<Value> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(Value::String(String::new()));
    }
    if let Some(unescaped) = text.starts_with("&lt;").then(|| unescape(text)) {
        return decode_result(&unescaped);
    }
    if !text.starts_with('<') {
        // A result that a plugin or a client wrote itself.
        return Ok(Value::String(text.to_owned()));
    }
    Parser::new(text).single_value().map_err(|why| {
        Error::new(
            ErrorKind::Protocol,
            format!("the task's result cannot be read: {why}; it is {}", excerpt(text.as_bytes())),
        )
    })
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// What `methodResponse` holds.
struct Answer {
    fault: bool,
    value: Value,
}

/// A reader of values: recursive over nesting, which is limited.
pub(crate) struct Parser<'a> {
    reader: Reader<&'a [u8]>,
}

/// What matters of XML here.
pub(crate) enum Token {
    Open(String),
    Close,
    Text(String),
    End,
}

pub(crate) type Parsed<T> = std::result::Result<T, String>;

impl<'a> Parser<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let mut reader = Reader::from_str(text);
        let config = reader.config_mut();
        config.expand_empty_elements = true;
        config.check_end_names = true;
        Self { reader }
    }

    /// The next token; comments, declarations and instructions are skipped. Entities other than
    /// the predefined ones are refused, so nothing expands.
    pub(crate) fn next(&mut self) -> Parsed<Token> {
        loop {
            return Ok(match self.reader.read_event().map_err(|e| e.to_string())? {
                Event::Start(tag) => Token::Open(tag.local_name().as_ref().to_owned()),
                Event::End(_) => Token::Close,
                Event::Text(text) => Token::Text(text.xml10_content().into_owned()),
                Event::CData(text) => Token::Text(text.xml10_content().into_owned()),
                Event::GeneralRef(entity) => Token::Text(resolve(&entity)?),
                Event::Eof => Token::End,
                Event::DocType(_) => return Err("it declares a document type".to_owned()),
                _ => continue,
            });
        }
    }

    /// Skips blanks and opens an element; `None` at a closing tag.
    fn open(&mut self) -> Parsed<Option<String>> {
        loop {
            match self.next()? {
                Token::Open(name) => return Ok(Some(name)),
                Token::Close => return Ok(None),
                Token::Text(text) if text.trim().is_empty() => {}
                Token::Text(_) => return Err("text stands where an element is due".to_owned()),
                Token::End => return Err("it ends early".to_owned()),
            }
        }
    }

    fn expect_open(&mut self, name: &str) -> Parsed<()> {
        match self.open()? {
            Some(found) if found == name => Ok(()),
            _ => Err(format!("{name} is missing")),
        }
    }

    fn expect_close(&mut self) -> Parsed<()> {
        match self.open()? {
            None => Ok(()),
            Some(_) => Err("an element too many".to_owned()),
        }
    }

    fn answer(&mut self) -> Parsed<Answer> {
        self.expect_open("methodResponse")?;
        match self.open()?.as_deref() {
            Some("params") => {
                self.expect_open("param")?;
                self.expect_open("value")?;
                Ok(Answer { fault: false, value: self.value(0)? })
            }
            Some("fault") => {
                self.expect_open("value")?;
                Ok(Answer { fault: true, value: self.value(0)? })
            }
            _ => Err("neither params nor fault".to_owned()),
        }
    }

    fn single_value(&mut self) -> Parsed<Value> {
        self.expect_open("value")?;
        let value = self.value(0)?;
        match self.next()? {
            Token::End => Ok(value),
            Token::Text(t) if t.trim().is_empty() => Ok(value),
            _ => Err("something follows the value".to_owned()),
        }
    }

    /// A value whose opening tag was read; reads its closing tag.
    fn value(&mut self, depth: usize) -> Parsed<Value> {
        if depth > DEEPEST {
            return Err("it is nested too deeply".to_owned());
        }
        let mut untagged = String::new();
        loop {
            match self.next()? {
                Token::Text(text) => untagged.push_str(&text),
                Token::Close => return Ok(Value::String(untagged)),
                Token::Open(tag) => {
                    let value = self.tagged(&tag, depth)?;
                    self.expect_close()?;
                    return Ok(value);
                }
                Token::End => return Err("it ends early".to_owned()),
            }
        }
    }

    /// The content of a type element; reads its closing tag.
    fn tagged(&mut self, tag: &str, depth: usize) -> Parsed<Value> {
        match tag {
            "struct" => self.structure(depth),
            "array" => self.array(depth),
            "nil" => self.text().map(|_| Value::Null),
            "boolean" => match self.text()?.trim() {
                "1" | "true" => Ok(Value::Bool(true)),
                "0" | "false" => Ok(Value::Bool(false)),
                _ => Err("a boolean is neither 0 nor 1".to_owned()),
            },
            "int" | "i4" | "i8" => {
                let text = self.text()?;
                let number: i64 =
                    text.trim().parse().map_err(|_| "an integer is none".to_owned())?;
                Ok(Value::from(number))
            }
            // Kept as text: `nan` and `inf` are floats too, and the reader of a float knows them.
            "double" | "string" | "dateTime.iso8601" | "base64" => self.text().map(Value::String),
            other => Err(format!("unknown type {}", excerpt(other.as_bytes()))),
        }
    }

    fn text(&mut self) -> Parsed<String> {
        let mut out = String::new();
        loop {
            match self.next()? {
                Token::Text(text) => out.push_str(&text),
                Token::Close => return Ok(out),
                Token::Open(_) => return Err("an element stands where text is due".to_owned()),
                Token::End => return Err("it ends early".to_owned()),
            }
        }
    }

    fn structure(&mut self, depth: usize) -> Parsed<Value> {
        let mut map = Map::new();
        while let Some(member) = self.open()? {
            if member != "member" {
                return Err("a structure holds something else than members".to_owned());
            }
            self.expect_open("name")?;
            let name = self.text()?;
            self.expect_open("value")?;
            let value = self.value(depth + 1)?;
            self.expect_close()?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }

    fn array(&mut self, depth: usize) -> Parsed<Value> {
        self.expect_open("data")?;
        let mut items = Vec::new();
        while let Some(tag) = self.open()? {
            if tag != "value" {
                return Err("a list holds something else than values".to_owned());
            }
            items.push(self.value(depth + 1)?);
        }
        self.expect_close()?;
        Ok(Value::Array(items))
    }
}

/// A predefined entity or a character by its number.
fn resolve(entity: &quick_xml::events::BytesRef<'_>) -> Parsed<String> {
    if let Some(c) = entity.resolve_char_ref().map_err(|e| e.to_string())? {
        return Ok(c.to_string());
    }
    match entity.xml10_content().as_ref() {
        "lt" => Ok("<".to_owned()),
        "gt" => Ok(">".to_owned()),
        "amp" => Ok("&".to_owned()),
        "quot" => Ok("\"".to_owned()),
        "apos" => Ok("'".to_owned()),
        _ => Err("it uses an entity of its own".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn success(value: &str) -> String {
        format!(
            "<?xml version='1.0'?><methodResponse><params><param><value><struct>\
             <member><name>Status</name><value>Success</value></member>\
             <member><name>Value</name><value>{value}</value></member>\
             </struct></value></param></params></methodResponse>"
        )
    }

    #[test]
    fn values_of_every_type() {
        let cases = [
            ("OpaqueRef:1", json!("OpaqueRef:1")),
            ("<string>a &lt;b&gt; &amp; &#65;</string>", json!("a <b> & A")),
            ("<boolean>1</boolean>", json!(true)),
            ("<i4>7</i4>", json!(7)),
            ("<double>nan</double>", json!("nan")),
            ("<nil/>", json!(null)),
            ("<array><data><value>x</value> <value/></data></array>", json!(["x", ""])),
            (
                "<struct><member><name>a</name><value>1</value></member>\
                 <member><name>a</name><value>2</value></member></struct>",
                json!({"a": "2"}),
            ),
            (
                "<dateTime.iso8601>20250131T12:00:00Z</dateTime.iso8601>",
                json!("20250131T12:00:00Z"),
            ),
            ("", json!("")),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(success(text).as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn failures_and_faults_are_errors() {
        let body = "<methodResponse><params><param><value><struct>\
             <member><name>Status</name><value>Failure</value></member>\
             <member><name>ErrorDescription</name><value><array><data>\
             <value>HANDLE_INVALID</value><value>VM</value></data></array></value></member>\
             </struct></value></param></params></methodResponse>";
        let e = decode(body.as_bytes()).unwrap_err();
        assert!(e.is_not_found());
        assert_eq!(e.params(), ["VM"]);
        let fault = "<methodResponse><fault><value><struct><member><name>faultString</name>\
             <value>no</value></member></struct></value></fault></methodResponse>";
        assert_eq!(decode(fault.as_bytes()).unwrap_err().params()[1], "no");
    }

    #[test]
    fn what_is_not_an_answer_is_an_error() {
        let deep = success(&"<array><data><value>".repeat(50_000));
        let bomb = "<!DOCTYPE x [<!ENTITY a 'aaaa'>]><methodResponse/>";
        for body in [
            "",
            "<html>",
            "{}",
            "<methodResponse/>",
            &success("&own;"),
            &success("<a/>"),
            &success("<i4>x</i4>"),
            &deep,
            bomb,
        ] {
            let e = decode(body.as_bytes()).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Protocol, "{}", excerpt(body.as_bytes()));
        }
    }

    #[test]
    fn a_call_survives_the_way_there() {
        let text = String::from_utf8(encode(
            "VM.set_name_label",
            &[json!("a<&>b"), json!(9_007_199_254_740_993_i64), json!(30.0), json!({"k": [true]})],
        ))
        .unwrap();
        assert!(text.contains("<string>a&lt;&amp;&gt;b</string>"));
        assert!(text.contains("<value>9007199254740993</value>"), "untagged: {text}");
        assert!(text.contains("<double>30.0</double>"));
        assert!(text.contains("<member><name>k</name><value><array>"));
    }

    #[test]
    fn results_of_tasks() {
        assert_eq!(decode_result("").unwrap(), json!(""));
        assert_eq!(decode_result("<value>OpaqueRef:1</value>").unwrap(), json!("OpaqueRef:1"));
        assert_eq!(
            decode_result("&lt;value&gt;OpaqueRef:1&lt;/value&gt;").unwrap(),
            json!("OpaqueRef:1")
        );
        assert_eq!(
            decode_result("<value><array><data><value>a</value></data></array></value>").unwrap(),
            json!(["a"])
        );
        assert_eq!(decode_result("OpaqueRef:1").unwrap(), json!("OpaqueRef:1"));
        assert!(decode_result("<value>").is_err());
        assert!(decode_result("<value>a</value><value>b</value>").is_err());
    }
}
