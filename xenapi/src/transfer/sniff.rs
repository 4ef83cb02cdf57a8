//! A failure that pretends to be data.
//!
//! An export handler sends its status 200 before it opens the disk. If that fails, the server
//! writes a second answer, `HTTP/1.1 500 …`, into what the client must take for the body.

use crate::error::drop_cut_word;

/// How many bytes decide.
pub(super) const ENOUGH: usize = 12;

/// The status in a body that starts as an HTTP answer of failure: `HTTP/1.1 500`.
pub(super) fn error_status(body: &[u8]) -> Option<u16> {
    let rest = body.strip_prefix(b"HTTP/1.")?;
    let [b'0' | b'1', b' ', digits @ ..] = rest else { return None };
    let digits = digits.get(..3)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (400..=599).contains(&status).then_some(status)
}

/// Whether a body may still turn out to be one, when only its start is known.
pub(super) fn may_be_error(start: &[u8]) -> bool {
    let pattern = b"HTTP/1.";
    start.len() < ENOUGH && start.iter().zip(pattern).all(|(a, b)| a == b)
}

/// What an answer of failure says that ends exactly where the data do: a server that fails half way
/// writes one behind what it has sent. Data that only speak of one go on after it.
pub(super) fn answer_at_end(tail: &[u8]) -> Option<String> {
    let starts =
        tail.windows(ENOUGH).enumerate().filter(|(_, start)| start.starts_with(b"HTTP/1."));
    let mut answers = starts.filter_map(|(at, _)| tail.get(at..));
    answers.find(|answer| is_whole_error(answer)).map(error_text)
}

/// Whether this is an answer of failure, its head and a body of just the length that the head says.
fn is_whole_error(answer: &[u8]) -> bool {
    if error_status(answer).is_none() {
        return false;
    }
    let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return false };
    let (head, body) = answer.split_at(end + 4);
    let head = String::from_utf8_lossy(head);
    // Lines of text that speak of an answer end otherwise.
    if head.replace("\r\n", "").contains('\n') {
        return false;
    }
    let mut headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let length = headers.find(|(name, _)| name.trim().eq_ignore_ascii_case("content-length"));
    match length {
        Some((_, length)) => length.trim().parse() == Ok(body.len()),
        None => body.is_empty(),
    }
}

/// What the second answer says, in one line.
pub(super) fn error_text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let said = text.split_once("\r\n\r\n").map_or("", |(_, said)| said.trim());
    let first = text.lines().next().unwrap_or_default().trim();
    if said.is_empty() { first.to_owned() } else { format!("{first}: {}", strip_tags(said)) }
}

/// Error pages are small HTML; only their words matter.
pub(super) fn strip_tags(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in text.chars() {
        match c {
            '<' => inside = true,
            '>' => {
                inside = false;
                out.push(' ');
            }
            _ if inside => {}
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
        if out.len() > 300 {
            drop_cut_word(&mut out);
            break;
        }
    }
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_failure_are_told_from_disks() {
        assert_eq!(error_status(b"HTTP/1.1 500 Internal Error\r\n"), Some(500));
        assert_eq!(error_status(b"HTTP/1.0 404"), Some(404));
        for data in [
            &b"conectix\0\0\0\0"[..],
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1 5x0",
            b"HTTP/1.1 50",
            b"HTTP/2 500  ",
            b"",
            b"\0\0\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(error_status(data), None, "{data:?}");
        }
    }

    #[test]
    fn a_short_start_is_held_only_as_long_as_it_fits() {
        assert!(may_be_error(b"HTT"));
        assert!(may_be_error(b"HTTP/1.1 50"));
        assert!(!may_be_error(b"con"));
        assert!(!may_be_error(b"HTTP/1.1 500"), "that is enough to decide");
    }

    #[test]
    fn an_answer_of_failure_is_found_at_the_end() {
        let plain = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n";
        assert_eq!(answer_at_end(plain).unwrap(), "HTTP/1.1 404 Not Found");
        let behind = [b"data HTTP/1.1 500 is spoken of\n", &plain[..]].concat();
        assert_eq!(answer_at_end(&behind).unwrap(), "HTTP/1.1 404 Not Found");
        for data in [
            &b""[..],
            b"HTTP/1.1 500",
            b"HTTP/1.1 500 Internal Error\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 500 Internal Error\r\n\r\nmore",
            b"HTTP/1.1 500 Internal Error\r\nContent-Length: 3\r\n\r\nmore",
        ] {
            assert_eq!(answer_at_end(data), None, "{data:?}");
        }
    }

    #[test]
    fn the_words_of_an_error_page() {
        let body = b"HTTP/1.1 500 Internal Error\r\ncontent-length: 9\r\n\r\n<html><b>VDI_TOO_LARGE</b>\r\n[x]</html>";
        assert_eq!(error_text(body), "HTTP/1.1 500 Internal Error: VDI_TOO_LARGE [x]");
        assert_eq!(error_text(b"HTTP/1.1 500"), "HTTP/1.1 500");
    }
}
