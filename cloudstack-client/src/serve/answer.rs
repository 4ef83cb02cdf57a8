//! What a request gets, decided without a socket.

use http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

/// The head of an answer, and the part of the content that follows it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: Response<()>,
    /// First byte and number of bytes.
    pub(super) part: Option<(u64, u64)>,
}

/// The answer to a request for `path`, if `own` is the only path that there is.
pub(super) fn answer(
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    own: &str,
    len: u64,
) -> Answer {
    if !same(path, own) {
        return bare(StatusCode::NOT_FOUND);
    }
    if method != Method::GET && method != Method::HEAD {
        let mut answer = bare(StatusCode::METHOD_NOT_ALLOWED);
        answer.head.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    // There is nothing by which a client could know that the content is still the same.
    let range = match headers.get(RANGE) {
        Some(range) if !headers.contains_key(IF_RANGE) => parse(range.to_str().unwrap_or(""), len),
        _ => Range::Whole,
    };
    let (status, start, count) = match range {
        Range::Whole => (StatusCode::OK, 0, len),
        Range::Part(start, count) => (StatusCode::PARTIAL_CONTENT, start, count),
        Range::Outside => {
            let mut answer = bare(StatusCode::RANGE_NOT_SATISFIABLE);
            set(answer.head.headers_mut(), CONTENT_RANGE, &format!("bytes */{len}"));
            return answer;
        }
    };
    let mut answer = bare(status);
    let headers = answer.head.headers_mut();
    headers.insert(CONTENT_LENGTH, count.into());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if status == StatusCode::PARTIAL_CONTENT {
        let last = start.saturating_add(count).saturating_sub(1);
        set(headers, CONTENT_RANGE, &format!("bytes {start}-{last}/{len}"));
    }
    answer.part = (method == Method::GET && count > 0).then_some((start, count));
    answer
}

fn bare(status: StatusCode) -> Answer {
    let mut head = Response::new(());
    *head.status_mut() = status;
    Answer { head, part: None }
}

fn set(headers: &mut HeaderMap, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// Compares in a time that tells nothing of where two paths differ.
fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    /// First byte and number of bytes.
    Part(u64, u64),
    Outside,
}

/// One range of bytes. What cannot be read, and several ranges, are answered with the whole, as the standard allows.
fn parse(text: &str, len: u64) -> Range {
    let Some((first, last)) =
        text.trim().strip_prefix("bytes=").and_then(|spec| spec.split_once('-'))
    else {
        return Range::Whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            Some(0) => Range::Outside,
            Some(_) if len == 0 => Range::Outside,
            Some(count) => Range::Part(len - count.min(len), count.min(len)),
            None => Range::Whole,
        },
        (first, last) => {
            let end = if last.is_empty() { Some(u64::MAX) } else { number(last) };
            match (number(first), end) {
                (Some(first), Some(last)) if last < first => Range::Whole,
                (Some(first), Some(_)) if first >= len => Range::Outside,
                (Some(first), Some(last)) => Range::Part(first, last.min(len - 1) - first + 1),
                _ => Range::Whole,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_standard() {
        for (text, range) in [
            ("bytes=0-", Range::Part(0, 10)),
            ("bytes=0-0", Range::Part(0, 1)),
            ("bytes=9-", Range::Part(9, 1)),
            ("bytes=3-5", Range::Part(3, 3)),
            ("bytes=3-99999999999999999999999", Range::Part(3, 7)),
            ("bytes=-3", Range::Part(7, 3)),
            ("bytes=-99", Range::Part(0, 10)),
            ("bytes=10-", Range::Outside),
            ("bytes=-0", Range::Outside),
            ("bytes=5-3", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("bytes=a-b", Range::Whole),
            ("bytes=-", Range::Whole),
            ("bytes=+1-2", Range::Whole),
            ("lines=0-1", Range::Whole),
            ("", Range::Whole),
        ] {
            assert_eq!(parse(text, 10), range, "{text}");
        }
        assert_eq!(parse("bytes=0-", 0), Range::Outside);
        assert_eq!(parse("bytes=-1", 0), Range::Outside);
        assert_eq!(parse("bytes=0-18446744073709551615", u64::MAX), Range::Part(0, u64::MAX));
    }

    #[test]
    fn only_the_one_path_exists() {
        let get = |method: &Method, path: &str| {
            answer(method, path, &HeaderMap::new(), "/k/a.vhd", 10).head.status().as_u16()
        };
        assert_eq!(get(&Method::GET, "/k/a.vhd"), 200);
        for path in ["/", "/k", "/k/", "/k/a.vhd/", "/k/a.vhx", "/K/a.vhd", "/../k/a.vhd", ""] {
            for method in [Method::GET, Method::PUT] {
                assert_eq!(get(&method, path), 404, "{path}");
            }
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            assert_eq!(get(&method, "/k/a.vhd"), 405);
        }
        let head = answer(&Method::HEAD, "/k/a.vhd", &HeaderMap::new(), "/k/a.vhd", 10);
        assert_eq!(
            (head.head.headers()[CONTENT_LENGTH].to_str().unwrap(), head.part),
            ("10", None)
        );
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_static("bytes=4-5"));
        let part = answer(&Method::GET, "/k/a.vhd", &headers, "/k/a.vhd", 10);
        assert_eq!(part.head.headers()[CONTENT_RANGE], "bytes 4-5/10");
        assert_eq!(part.part, Some((4, 2)));
        headers.insert(IF_RANGE, HeaderValue::from_static("\"x\""));
        assert_eq!(answer(&Method::GET, "/k/a.vhd", &headers, "/k/a.vhd", 10).part, Some((0, 10)));
    }
}
