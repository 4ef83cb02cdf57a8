//! Requests taken apart and answers put together, in JSON or in XML.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use serde_json::{Map, Value, json};

use super::error::ApiError;
use crate::net::pairs;

/// The version that the double claims to be.
pub(super) const VERSION: &str = "4.22.0.0";

/// Merges the parameters of the query and of the form: the query wins, in it the last of a name,
/// in the form the first.
pub(super) fn merge(query: &str, form: &str) -> Vec<(String, String)> {
    let mut merged: Vec<(String, String)> = Vec::new();
    for (name, value) in pairs(form) {
        if !merged.iter().any(|(known, _)| *known == name) {
            merged.push((name, value));
        }
    }
    for (name, value) in pairs(query) {
        match merged.iter_mut().find(|(known, _)| *known == name) {
            Some(pair) => pair.1 = value,
            None => merged.push((name, value)),
        }
    }
    merged
}

/// An answer under construction.
#[derive(Debug)]
pub(super) struct Reply {
    status: u16,
    media_type: &'static str,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Reply {
    pub(super) fn text(status: u16, body: impl Into<String>) -> Self {
        let media_type = "text/plain; charset=UTF-8";
        Self { status, media_type, headers: Vec::new(), body: body.into() }
    }

    pub(super) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The answer of a command: one key around everything.
    pub(super) fn command(json: bool, root: &str, value: &Value) -> Self {
        Self::rooted(200, json, root, value)
    }

    pub(super) fn refusal(json: bool, root: &str, error: &ApiError) -> Self {
        let mut body = Map::new();
        body.insert("uuidList".to_owned(), json!([]));
        body.insert("errorcode".to_owned(), json!(error.status));
        if let Some(cs) = error.cs {
            body.insert("cserrorcode".to_owned(), json!(cs));
        }
        body.insert("errortext".to_owned(), json!(error.text));
        let reply = Self::rooted(error.status, json, root, &Value::Object(body));
        reply.with_header("x-description", error.text.replace(['\r', '\n'], " "))
    }

    fn rooted(status: u16, json: bool, root: &str, value: &Value) -> Self {
        let (media_type, body) = if json {
            ("application/json;charset=UTF-8", json!({ root: value }).to_string())
        } else {
            let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>".to_owned();
            text.push_str(&format!("<{root} cloud-stack-version=\"{VERSION}\">"));
            write_xml(value, &mut text);
            text.push_str(&format!("</{root}>"));
            ("text/xml;charset=UTF-8", text)
        };
        Self { status, media_type, headers: Vec::new(), body }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut builder =
            Response::builder().status(self.status).header("content-type", self.media_type);
        for (name, value) in self.headers {
            // What cannot stand in a header is left out.
            if let Ok(value) = hyper::header::HeaderValue::from_str(&value) {
                builder = builder.header(name, value);
            }
        }
        let body = Full::new(Bytes::from(self.body));
        builder.body(body).unwrap_or_else(|_| Response::new(Full::new(Bytes::new())))
    }
}

/// Arrays become repeated elements.
fn write_xml(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let one = std::slice::from_ref(value);
                for item in value.as_array().map_or(one, Vec::as_slice) {
                    text.push_str(&format!("<{name}>"));
                    write_xml(item, text);
                    text.push_str(&format!("</{name}>"));
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| write_xml(item, text)),
        Value::Null => {}
        Value::String(string) => {
            text.push_str(&string.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_beats_the_form() {
        let merged = merge("a=1&b=x+y&a=2&bare", "a=3&c=4&c=5&d=%2B");
        let wanted = [("a", "2"), ("c", "4"), ("d", "+"), ("b", "x y"), ("bare", "")];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(merged, wanted);
    }

    #[test]
    fn xml_repeats_the_elements_of_an_array() {
        let reply = Reply::command(false, "r", &json!({"count": 2, "zone": [{"n": "a<"}, {}]}));
        assert!(
            reply.body.ends_with("<count>2</count><zone><n>a&lt;</n></zone><zone></zone></r>"),
            "{}",
            reply.body
        );
    }
}
