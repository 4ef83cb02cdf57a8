//! Reading answers: the content under the one key, or the error that status and body tell.

use std::fmt;

use http::StatusCode;
use serde_json::Value;

use super::Call;
use crate::commands;
use crate::error::{Error, ErrorKind, Result, classify, one_line};
use crate::value::Fields;

/// How many values are read of an answer. The largest pages have a tenth of it, and a value of one byte takes thirty in
/// memory.
const MOST_VALUES: usize = 1_000_000;

/// The content of a successful answer: what is under its root key. Its `Debug` shows the names of the fields only.
#[non_exhaustive]
pub struct Answer<'a> {
    /// What was asked, for error texts: `template web01: register`.
    pub what: &'a str,
    /// The content.
    pub content: &'a Value,
}

impl fmt::Debug for Answer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = crate::record::names(self.content);
        f.debug_struct("Answer").field("what", &self.what).field("fields", &fields).finish()
    }
}

impl Answer<'_> {
    /// [`ErrorKind::Protocol`], with what is wrong with the answer.
    #[must_use]
    pub fn wrong(&self, problem: &str) -> Error {
        Error::protocol(format!("{}: {problem}; is the endpoint a CloudStack API?", self.what))
    }

    pub(crate) fn fields(&self) -> Result<Fields<'_>> {
        Fields::of(self.content).ok_or_else(|| self.wrong("the answer is no object"))
    }
}

impl<T> Call<T> {
    /// Reads an answer: the value, or the error that the status and the body tell.
    ///
    /// # Errors
    /// The error of the status or of the body, else what the reader says.
    pub fn parse(&self, status: StatusCode, body: &[u8]) -> Result<T> {
        // Marks within texts count as well: there are never nearly so many.
        if body.iter().filter(|b| matches!(b, b',' | b'[' | b'{')).count() > MOST_VALUES {
            let text = format!("{}: the answer has more than {MOST_VALUES} values", self.what);
            return Err(Error::protocol(text).with_status(status));
        }
        let root = serde_json::from_slice::<Value>(body);
        let content = root.as_ref().map(|root| content(root, &self.command));
        // What stands before the server may speak JSON as well, but tells no errors as CloudStack does.
        let own = |content: &Value| status.is_success() || is_error(content);
        let content = match content {
            Ok(Some(content)) if own(content) => content,
            _ if !status.is_success() => return Err(self.refused(status, &plain(body))),
            Ok(_) => {
                let text = "the answer is not one object under one key";
                return Err(Answer { what: &self.what, content: &Value::Null }.wrong(text));
            }
            Err(error) => {
                return Err(Error::protocol(format!(
                    "{}: the answer is not JSON (line {} column {}); is the endpoint a CloudStack API (it mostly \
                     ends in /client/api)?",
                    self.what,
                    error.line(),
                    error.column()
                ))
                .with_status(status));
            }
        };
        let fields = Fields::of(content);
        let code = fields.and_then(|fields| fields.number("errorcode"));
        if status.is_success() && code.is_none() {
            return (self.parse)(&Answer { what: &self.what, content });
        }
        let said = fields.and_then(|fields| fields.text("errortext")).unwrap_or_default();
        let code = code.and_then(|code| u16::try_from(code).ok());
        let cs_code = fields
            .and_then(|fields| fields.number("cserrorcode"))
            .and_then(|code| u32::try_from(code).ok());
        Err(failure(&self.what, code.unwrap_or(status.as_u16()), cs_code, &said)
            .with_status(status))
    }

    /// The refusal of something that is not CloudStack, such as a proxy before it: it knows nothing of objects.
    fn refused(&self, status: StatusCode, said: &str) -> Error {
        let error = failure(&self.what, status.as_u16(), None, said).with_status(status);
        if error.is_not_found() { error.with_kind(ErrorKind::Protocol) } else { error }
    }
}

/// Whether it is one of CloudStack's errors.
fn is_error(content: &Value) -> bool {
    let named = |name| content.get(name).is_some_and(|value| !value.is_null());
    ["errorcode", "cserrorcode", "errortext"].into_iter().any(named)
}

/// The error for one of CloudStack's codes and texts, wherever they came.
pub(crate) fn failure(what: &str, code: u16, cs_code: Option<u32>, said: &str) -> Error {
    let (kind, remedy) = classify(code, cs_code, said);
    let said = one_line(said, 400);
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    let error = Error::new(kind, format!("{what}: the server answered {code}{said}"))
        .with_codes(Some(code), cs_code);
    match remedy {
        Some(remedy) => error.with_hint(remedy),
        None => error,
    }
}

/// What is under the only key, whatever its name: dozens of commands have irregular ones. Should there be several, it is
/// the one that belongs to the command, or to an error.
fn content<'a>(root: &'a Value, command: &str) -> Option<&'a Value> {
    let object = root.as_object()?;
    let mut values = object.values();
    let first = values.next()?;
    if values.next().is_none() {
        return Some(first);
    }
    let key = commands::root_key(command);
    let own = object.iter().find(|(name, _)| name.eq_ignore_ascii_case(&key));
    own.map(|(_, value)| value).or_else(|| object.get("errorresponse"))
}

/// The readable part of an error that is not CloudStack's: a proxy's page or plain text.
pub(crate) fn plain(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    if !text.trim_start().starts_with('<') {
        return one_line(&text, 400);
    }
    let title = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let start = lower.find("<title>")? + "<title>".len();
        let end = start + lower[start..].find('<')?;
        Some(one_line(text.get(start..end)?, 200))
    };
    title(&text).unwrap_or_else(|| "a page of HTML".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::command;

    fn parse(status: u16, body: &str) -> Result<Value> {
        command("listZones").parse(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn the_root_key_is_the_only_one_whatever_its_name() {
        for root in ["listzonesresponse", "postuploadtemplateresponse", "x"] {
            assert_eq!(parse(200, &format!(r#"{{"{root}":{{"a":1}}}}"#)).unwrap()["a"], 1);
        }
        // Should a server send more than one, the command's own is taken.
        assert_eq!(parse(200, r#"{"new":{},"listZonesResponse":{"a":1}}"#).unwrap()["a"], 1);
        for body in ["", "[]", "{}", r#"{"a":{},"b":{}}"#, "null", "<html>", "{\"a\":", "\u{0}"] {
            let error = parse(200, body).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{body}");
            assert!(error.to_string().starts_with("listZones: the answer"), "{error}");
        }
        // In memory every value takes many times what it takes here.
        let many = format!(r#"{{"r":[0{}]}}"#, ",0".repeat(2_000_000));
        let error = parse(200, &many).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains("more than 1000000 values"), "{error}");
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(parse(200, &deep).unwrap_err().kind(), ErrorKind::Protocol);
    }

    #[test]
    fn errors_are_told_with_their_codes_and_remedy() {
        let body = r#"{"registertemplateresponse":{"uuidList":[],"errorcode":535,"cserrorcode":4370,
            "errortext":"Maximum number of resources of type 'template' for account name=demo has been exceeded."}}"#;
        let error = parse(535, body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Quota);
        assert_eq!((error.code(), error.cs_code()), (Some(535), Some(4370)));
        assert_eq!(error.status().unwrap().as_u16(), 535);
        assert_eq!(
            error.to_string(),
            "listZones: the server answered 535: Maximum number of resources of type 'template' for account name=demo \
             has been exceeded.; delete templates that are no longer needed, or have an operator raise the account's limit"
        );
        // The status alone, a page of a proxy, an error below a success.
        assert_eq!(parse(531, "").unwrap_err().kind(), ErrorKind::Forbidden);
        let error =
            parse(502, "<html><head><title>502 Bad\nGateway</title></head></html>").unwrap_err();
        assert!(error.to_string().contains("502 Bad Gateway"), "{error}");
        let hidden = parse(200, r#"{"x":{"errorcode":"431","errortext":"no"}}"#).unwrap_err();
        assert_eq!(hidden.kind(), ErrorKind::Invalid);
        let odd = parse(431, r#"{"x":{"errorcode":99999999999,"errortext":[]}}"#).unwrap_err();
        assert_eq!((odd.kind(), odd.code()), (ErrorKind::Invalid, Some(431)));
        assert_eq!(parse(200, r#"{"x":"text"}"#).unwrap(), "text");
    }

    #[test]
    fn hostile_pages_are_no_panic() {
        for page in ["<", "<title>", "<title>é", "<TITLE></", "<\u{130}<title>x</title>"] {
            plain(page.as_bytes());
        }
        assert_eq!(plain(b"a\x1b[0m\nb"), "a [0m b");
    }
}
