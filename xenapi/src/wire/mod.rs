//! The two codecs: pure functions between calls and bytes.

pub(crate) mod json;
pub(crate) mod rescue;
pub(crate) mod xml;

use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};

/// The server refuses longer requests (300 KiB).
const LONGEST_REQUEST: usize = 300 * 1024;

/// How calls are written and answers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    /// JSON-RPC 2.0, `POST /jsonrpc`.
    Json,
    /// JSON-RPC 1.0 at the same place: the server tells them apart by the request.
    Json1,
    /// XML-RPC, `POST /RPC2`: for servers that have no JSON-RPC.
    Xml,
}

impl Codec {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Json | Self::Json1 => "/jsonrpc",
            Self::Xml => "/RPC2",
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json | Self::Json1 => "application/json",
            Self::Xml => "text/xml",
        }
    }

    pub(crate) fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::Json1)
    }

    /// The body of a call.
    pub(crate) fn encode(self, method: &str, params: &[Value]) -> Result<Vec<u8>> {
        let body = match self {
            Self::Json => json::encode(method, params),
            Self::Json1 => json::encode_1(method, params),
            Self::Xml => xml::encode(method, params),
        };
        if body.len() > LONGEST_REQUEST {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "{method}: the request has {} bytes, and servers refuse more than \
                     {LONGEST_REQUEST}; send less in one call",
                    body.len()
                ),
            ));
        }
        Ok(body)
    }

    /// The value of an answer, or the error that it says.
    pub(crate) fn decode(self, body: &[u8]) -> Result<Value> {
        match self {
            Self::Json | Self::Json1 => json::decode(body),
            Self::Xml => xml::decode(body),
        }
    }
}

/// The start of a body, for a message about a body that makes no sense. References are left out:
/// the body may be the answer to a login, and its reference is the session.
pub(crate) fn excerpt(body: &[u8]) -> String {
    let head = body.get(..body.len().min(120)).unwrap_or_default();
    let text = String::from_utf8_lossy(head);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let text = without_references(text.trim());
    if text.is_empty() { "an empty body".to_owned() } else { format!("{text:?}") }
}

/// Replaces what follows `OpaqueRef:`, also where the text ends in the middle of it.
fn without_references(text: &str) -> String {
    const MARK: &str = "OpaqueRef:";
    let mut parts = text.split(MARK);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "-_".contains(c));
        out.push_str(MARK);
        out.push('…');
        out.push_str(rest);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_shows_no_reference_and_no_control() {
        let body = br#"{"result":"OpaqueRef:0f-9a_z","x":"OpaqueRef:NULL"}"#;
        assert_eq!(excerpt(body), r#""{\"result\":\"OpaqueRef:…\",\"x\":\"OpaqueRef:…\"}""#);
        let cut = format!("{}OpaqueRef:secret-that-is-cut", "x".repeat(100));
        assert!(excerpt(cut.as_bytes()).ends_with("OpaqueRef:…\""), "{}", excerpt(cut.as_bytes()));
        assert_eq!(excerpt(b"\r\n\x1b"), "an empty body");
        assert_eq!(excerpt(b"<h1>502\r\n"), "\"<h1>502\"");
    }
}
