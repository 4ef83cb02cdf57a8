//! The check of a request's signature and expiry, written from the server's observed rules.
//!
//! The string to sign has the parameters in the order of their names (UTF-16 code units, before
//! any lowering), names as they are, values in Java's form encoding with `%20` for a space, all
//! of it lowered in the end. So the signature does not cover letter case.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use sha1::Sha1;

/// base64(HMAC-SHA1(key, text)).
pub(super) fn hmac_sha1(key: &str, text: &str) -> String {
    STANDARD.encode(mac(key, text).finalize().into_bytes())
}

fn mac(key: &str, text: &str) -> Hmac<Sha1> {
    // Keys of any length are accepted; an impossible failure would fail every signature.
    let mut mac = Hmac::<Sha1>::new_from_slice(key.as_bytes())
        .unwrap_or_else(|_| Hmac::new(&Default::default()));
    mac.update(text.as_bytes());
    mac
}

/// True when `signature` (base64) is that of `text`, in constant time.
pub(super) fn verify(key: &str, text: &str, signature: &str) -> bool {
    STANDARD.decode(signature).is_ok_and(|tag| mac(key, text).verify_slice(&tag).is_ok())
}

/// What has to be signed for these decoded parameters.
pub(super) fn string_to_sign(params: &[(String, String)]) -> String {
    let mut signed: Vec<_> =
        params.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("signature")).collect();
    signed.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    let pairs: Vec<_> =
        signed.iter().map(|(name, value)| format!("{name}={}", java_encode(value))).collect();
    pairs.join("&").to_lowercase()
}

/// `java.net.URLEncoder`, but `%20` for a space.
fn java_encode(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b".-*_".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// What is wrong with a request's time, if anything.
pub(super) fn in_time(expires: &str, now: Timestamp, enforced: bool) -> bool {
    let Some(expires) = parse_expires(expires) else { return false };
    let limit = now + SignedDuration::from_mins(15);
    expires >= now && (!enforced || expires <= limit)
}

/// The forms that servers since 4.11 take: an offset with or without a colon, `Z`, and the old
/// `Z+0530` with both.
fn parse_expires(text: &str) -> Option<Timestamp> {
    let text = text.replacen("Z+", "+", 1).replacen("Z-", "-", 1);
    let colon = match text.len().checked_sub(5).map(|at| text.split_at_checked(at)) {
        Some(Some((time, offset)))
            if offset.is_ascii()
                && offset.starts_with(['+', '-'])
                && !offset.contains(':')
                && time.contains('T') =>
        {
            format!("{time}{}:{}", &offset[..3], &offset[3..])
        }
        _ => text,
    };
    colon.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_the_servers_own_runtime() {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../shared/data/cloudstack-signature-vectors.json"
        );
        let Ok(text) = std::fs::read(file) else {
            eprintln!("skipped: the file of the vectors is not beside the project");
            return;
        };
        let document: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let vectors = document["vectors"].as_array().unwrap();
        assert!(vectors.len() > 20);
        for vector in vectors {
            let params = vector["params"].as_object().unwrap().iter();
            let params: Vec<_> = params
                .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
                .collect();
            let text = string_to_sign(&params);
            assert_eq!(text, vector["string_to_sign"].as_str().unwrap(), "{}", vector["name"]);
            let (key, signature) = (&vector["secret"], &vector["signature"]);
            let signature = signature.as_str().unwrap();
            assert!(verify(key.as_str().unwrap(), &text, signature), "{}", vector["name"]);
            assert!(!verify("another key", &text, signature));
        }
    }

    #[test]
    fn names_are_sorted_before_they_are_lowered() {
        let params = [("zoneId", "1"), ("apikey", "k~"), ("Zoneid", "É"), ("signature", "x")];
        let params = params.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(string_to_sign(&params), "zoneid=%c3%89&apikey=k%7e&zoneid=1");
    }

    #[test]
    fn every_written_form_of_a_time() {
        let wanted: Timestamp = "2030-01-02T03:04:05Z".parse().unwrap();
        for text in [
            "2030-01-02T03:04:05+0000",
            "2030-01-02T03:04:05Z",
            "2030-01-02T08:34:05+05:30",
            "2030-01-02T08:34:05Z+0530",
            "2030-01-02T03:04:05.000000Z",
            "2030-01-01T23:04:05-0400",
        ] {
            assert_eq!(parse_expires(text), Some(wanted), "{text}");
        }
        for text in
            ["", "soon", "2030-01-02", "2030-01-02T03:04:05", "2030-01-02T03:04:05 0000", "T+1éa"]
        {
            assert_eq!(parse_expires(text), None, "{text}");
        }
    }

    #[test]
    fn times() {
        let now: Timestamp = "2030-01-02T03:04:05Z".parse().unwrap();
        assert!(in_time("2030-01-02T03:04:06Z", now, true));
        assert!(!in_time("2030-01-02T03:04:04Z", now, false));
        assert!(in_time("2031-01-02T03:04:04Z", now, false));
        assert!(!in_time("2030-01-02T03:19:06Z", now, true), "15 minutes at most");
    }
}
