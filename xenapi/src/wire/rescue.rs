//! Second reading of a body that is nearly JSON.
//!
//! The server's JSON printer writes floats as `NaN`, `Infinity` and `-Infinity`. This pass puts
//! those words in quotes, and only those that stand outside of text: a rewrite by pattern would
//! also change a name such as `rate: NaN`. It runs only after a first parse has failed.

/// The words, longest first.
const WORDS: [&[u8]; 6] = [b"-Infinity", b"Infinity", b"-nan", b"NaN", b"nan", b"inf"];

/// The body with bare floats in quotes; `None` if it holds none.
pub(super) fn quote_bare_floats(body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(body.len().saturating_add(64));
    let mut rest = body;
    let mut found = false;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'"' {
            let end = text_end(tail);
            let (text, after) = tail.split_at(end);
            out.push(byte);
            out.extend_from_slice(text);
            rest = after;
        } else if let Some(word) = WORDS.iter().find(|word| rest.starts_with(word)) {
            out.push(b'"');
            out.extend_from_slice(word);
            out.push(b'"');
            rest = rest.get(word.len()..)?;
            found = true;
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    found.then_some(out)
}

/// The body with all bare words in quotes, keys as well as floats, but for those that JSON has;
/// `None` if it holds none.
pub(crate) fn quote_bare_words(body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(body.len().saturating_add(body.len() / 8));
    let mut rest = body;
    let mut found = false;
    while let Some((&byte, tail)) = rest.split_first() {
        let (token, after) = match byte {
            b'"' => rest.split_at(1 + text_end(tail)),
            b'-' | b'+' | b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                let end = rest.iter().position(|byte| !is_of_word(*byte));
                rest.split_at(end.unwrap_or(rest.len()))
            }
            _ => rest.split_at(1),
        };
        rest = after;
        // A number's exponent is no word.
        let is_word = matches!(
            token.strip_prefix(b"-").unwrap_or(token),
            [b'_' | b'A'..=b'Z' | b'a'..=b'z', ..]
        );
        if is_word && !matches!(token, b"true" | b"false" | b"null") {
            out.push(b'"');
            out.extend_from_slice(token);
            out.push(b'"');
            found = true;
        } else {
            out.extend_from_slice(token);
        }
    }
    found.then_some(out)
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-+._".contains(&byte)
}

/// Length of a text behind its opening quote, the closing quote included.
fn text_end(tail: &[u8]) -> usize {
    let mut escaped = false;
    for (i, &byte) in tail.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return i + 1,
            _ => {}
        }
    }
    tail.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rescued(text: &str) -> Option<String> {
        quote_bare_floats(text.as_bytes()).map(|b| String::from_utf8(b).unwrap())
    }

    #[test]
    fn only_bare_words_are_quoted() {
        assert_eq!(rescued(r#"{"a":-Infinity}"#).unwrap(), r#"{"a":"-Infinity"}"#);
        assert_eq!(rescued("NaN").unwrap(), "\"NaN\"");
        assert_eq!(rescued(r#"{"a":"NaN"}"#), None);
        assert_eq!(rescued(r#"["\"NaN", NaN]"#).unwrap(), r#"["\"NaN", "NaN"]"#);
        assert_eq!(rescued(r#"["\\", NaN]"#).unwrap(), r#"["\\", "NaN"]"#);
        assert_eq!(rescued(r#"["open NaN"#), None);
    }

    #[test]
    fn keys_are_words_as_well_and_numbers_are_not() {
        let quoted = |text: &str| {
            quote_bare_words(text.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
        };
        let old = "{meta: {start:-1,x_2:1.5e-3},data:[-Infinity,NaN,true,null,\"a:NaN\"]}";
        let new = "{\"meta\": {\"start\":-1,\"x_2\":1.5e-3},\"data\":[\"-Infinity\",\"NaN\",true,null,\"a:NaN\"]}";
        assert_eq!(quoted(old).unwrap(), new);
        assert_eq!(quoted(r#"{"a":[1E5,-2.0,false]}"#), None);
        assert_eq!(quoted("[\"open NaN"), None);
    }
}
