//! The two codecs: pure functions between calls and bytes.

pub(crate) mod json;
mod rescue;
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
    /// XML-RPC, `POST /RPC2`: for servers that have no JSON-RPC.
    Xml,
}

impl Codec {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Json => "/jsonrpc",
            Self::Xml => "/RPC2",
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Xml => "text/xml",
        }
    }

    /// The body of a call.
    pub(crate) fn encode(self, method: &str, params: &[Value]) -> Result<Vec<u8>> {
        let body = match self {
            Self::Json => json::encode(method, params),
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
            Self::Json => json::decode(body),
            Self::Xml => xml::decode(body),
        }
    }
}

/// The start of a body, for a message about a body that makes no sense.
pub(crate) fn excerpt(body: &[u8]) -> String {
    let head = body.get(..body.len().min(120)).unwrap_or_default();
    let text = String::from_utf8_lossy(head);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().is_empty() { "an empty body".to_owned() } else { format!("{:?}", text.trim()) }
}
