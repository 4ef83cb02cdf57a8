//! Signature version 3.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha1::Sha1;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind};

/// How long a signature should be valid. Servers may refuse more than 15 minutes by *their* clock, so 15 is too many.
pub const VALIDITY: Duration = Duration::from_secs(600);

/// How the time of expiry is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Spelling {
    /// `2030-01-02T03:04:05+0000`, which every server since 4.11 reads.
    #[default]
    Offset,
    /// `2030-01-02T03:04:05Z+0000`, the only one that servers before 4.11 read; newer ones still do.
    Legacy,
}

/// Until when a signature is valid, and how that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expires {
    time: SystemTime,
    spelling: Spelling,
}

impl Expires {
    /// At this time, which should be now + [`VALIDITY`].
    #[must_use]
    pub fn at(time: SystemTime) -> Self {
        Self { time, spelling: Spelling::default() }
    }

    /// In another spelling.
    #[must_use]
    pub fn spelled(mut self, spelling: Spelling) -> Self {
        self.spelling = spelling;
        self
    }
}

impl From<SystemTime> for Expires {
    fn from(time: SystemTime) -> Self {
        Self::at(time)
    }
}

/// An account's API key and secret key. The secret is never printed and is wiped when dropped.
#[derive(Clone)]
pub struct Credentials {
    api_key: String,
    secret: Zeroizing<String>,
}

impl Credentials {
    /// From the two keys. White space around them, as it comes with copying, is cut off.
    pub fn new(api_key: impl Into<String>, secret: impl Into<String>) -> Self {
        let secret = Zeroizing::new(secret.into());
        Self {
            api_key: api_key.into().trim().to_owned(),
            secret: Zeroizing::new(secret.trim().to_owned()),
        }
    }

    /// The API key, which is no secret.
    #[must_use]
    pub fn api_key(&self) -> &str {
        &self.api_key
    }

    /// For finding it in texts of others.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("api_key", &self.api_key).finish_non_exhaustive()
    }
}

/// A signed request: text for a query or a form body. Whoever has it can send it until it expires, so it has
/// no `Debug` content.
#[derive(Clone, PartialEq, Eq)]
pub struct SignedQuery(String);

impl SignedQuery {
    /// The text, of type `application/x-www-form-urlencoded`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Debug for SignedQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignedQuery([redacted])")
    }
}

/// Signs a command by signature version 3: adds `apikey`, `signatureVersion`, `expires`, and `response=json` where it
/// is missing, and gives the whole as a query or form body. `expires` should be now + [`VALIDITY`].
///
/// # Errors
/// [`ErrorKind::Name`] for a name that is empty, not printable ASCII, holds `&` or `=`, is there twice, or is one that
/// the signer sets; [`ErrorKind::Value`] for control characters other than line breaks (servers answer them with
/// 431); [`ErrorKind::Expires`] for a time outside of four-digit years.
pub fn sign<N, V>(
    credentials: &Credentials,
    parameters: impl IntoIterator<Item = (N, V)>,
    expires: impl Into<Expires>,
) -> Result<SignedQuery, Error>
where
    N: Into<String>,
    V: Into<String>,
{
    let mut all: Vec<(String, String)> =
        parameters.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    for (name, value) in &all {
        check_name(name)?;
        check_value(name, value)?;
        if ["signature", "signatureversion", "expires", "apikey"]
            .iter()
            .any(|own| name.eq_ignore_ascii_case(own))
        {
            return Err(Error::new(
                ErrorKind::Name,
                format!("parameter {name:?} is set by the signer: leave it out"),
            ));
        }
    }
    let mut add = |name: &str, value: &str| all.push((name.to_owned(), value.to_owned()));
    add("apikey", &credentials.api_key);
    add("signatureVersion", "3");
    add("expires", &timestamp(expires.into())?);
    if all.iter().all(|(name, _)| name != "response") {
        all.push(("response".to_owned(), "json".to_owned()));
    }
    let signature = signature(credentials, &all)?;
    sort(&mut all);
    let mut text = String::new();
    for (name, value) in &all {
        text.push_str(&encode(name));
        text.push('=');
        text.push_str(&encode(value));
        text.push('&');
    }
    text.push_str("signature=");
    text.push_str(&encode(&signature));
    Ok(SignedQuery(text))
}

/// The signature of exactly these parameters, in Base64 and not yet escaped. `signature` itself is left out.
///
/// # Errors
/// As [`string_to_sign`].
pub fn signature<N: AsRef<str>, V: AsRef<str>>(
    credentials: &Credentials,
    parameters: &[(N, V)],
) -> Result<String, Error> {
    let text = Zeroizing::new(string_to_sign(parameters)?);
    // HMAC takes keys of every length.
    let mut mac = Hmac::<Sha1>::new_from_slice(credentials.secret.as_bytes())
        .map_err(|_| Error::new(ErrorKind::Name, "the secret key cannot be used"))?;
    mac.update(text.as_bytes());
    Ok(STANDARD.encode(mac.finalize().into_bytes()))
}

/// What is signed: `name=value` sorted by name as it is (capitals before small letters), joined by `&`; names as they
/// are, values escaped as Java does it; then all of it in lower case.
///
/// # Errors
/// [`ErrorKind::Name`] for a name that is ambiguous in it, or is there twice.
///
/// ```
/// let text = cloudstack_client::string_to_sign(&[("name", "~Home *"), ("Zone", "É")])?;
/// assert_eq!(text, "zone=%c3%89&name=%7ehome%20*");
/// # Ok::<(), cloudstack_client::Error>(())
/// ```
pub fn string_to_sign<N: AsRef<str>, V: AsRef<str>>(
    parameters: &[(N, V)],
) -> Result<String, Error> {
    let mut all = Vec::with_capacity(parameters.len());
    for (name, value) in parameters {
        check_name(name.as_ref())?;
        if !name.as_ref().eq_ignore_ascii_case("signature") {
            all.push((name.as_ref(), value.as_ref()));
        }
    }
    sort(&mut all);
    if let Some(twice) = all.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Error::new(
            ErrorKind::Name,
            format!("parameter {:?} is there twice", twice[0].0),
        ));
    }
    let pairs: Vec<_> =
        all.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    // Only ASCII is left, so that lowering does not depend on any language.
    Ok(pairs.join("&").to_ascii_lowercase())
}

/// By code units; of ASCII names these are the bytes.
fn sort<N: AsRef<str>, V>(parameters: &mut [(N, V)]) {
    parameters.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
}

/// Java's `URLEncoder`, with `%20` for a space.
fn encode(text: &str) -> String {
    const ESCAPED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'*').remove(b'_');
    utf8_percent_encode(text, ESCAPED).to_string()
}

fn check_name(name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_graphic() && c != '&' && c != '=';
    if name.is_empty() || !name.chars().all(plain) {
        let text = format!(
            "{name:?} cannot be the name of a parameter: it must be printable ASCII without & and ="
        );
        return Err(Error::new(ErrorKind::Name, text));
    }
    Ok(())
}

fn check_value(name: &str, value: &str) -> Result<(), Error> {
    // The server's one exception.
    let exempt = name.eq_ignore_ascii_case("activationrule");
    if !exempt && value.chars().any(|c| c.is_ascii_control() && c != '\n' && c != '\r') {
        let text = format!(
            "parameter {name:?} holds a control character (a tab?), which the server refuses"
        );
        return Err(Error::new(ErrorKind::Value, text));
    }
    Ok(())
}

fn timestamp(expires: Expires) -> Result<String, Error> {
    let wrong =
        || Error::new(ErrorKind::Expires, "the time of expiry is not in the years 1970 to 9999");
    let time = jiff::Timestamp::try_from(expires.time)
        .ok()
        .filter(|time| time.as_second() >= 0)
        .ok_or_else(wrong)?;
    let form = match expires.spelling {
        Spelling::Offset => "%Y-%m-%dT%H:%M:%S+0000",
        Spelling::Legacy => "%Y-%m-%dT%H:%M:%SZ+0000",
    };
    Ok(time.strftime(form).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Credentials {
        Credentials::new(" key\n", "\tsecret ")
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_query_carries_what_was_signed() {
        let given = [
            ("command", "registerTemplate"),
            ("details[0].Keyboard", "a+b ~*/"),
            ("text", "é&=\n"),
        ];
        let signed = sign(&keys(), given, at(0)).unwrap();
        // A servlet's view of the text: decode, then sign what was decoded.
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(&text.replace('+', " "))
                .decode_utf8()
                .unwrap()
                .into_owned()
        };
        let pairs: Vec<_> = signed
            .as_str()
            .split('&')
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(n, v)| (decode(n), decode(v)))
            .collect();
        let value =
            |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap();
        assert_eq!(value("signature"), signature(&keys(), &pairs).unwrap());
        assert_eq!(value("apikey"), "key");
        assert_eq!(value("signatureVersion"), "3");
        assert_eq!(value("response"), "json");
        assert_eq!(value("expires"), "1970-01-01T00:00:00+0000");
        for (name, text) in given {
            assert_eq!(value(name), text);
        }
        assert_eq!(pairs.len(), given.len() + 5);
        assert!(signed.as_str().contains("%2B0000"), "a plus would be read as a space");
    }

    #[test]
    fn old_servers_read_another_spelling() {
        let legacy = Expires::at(at(1_893_553_445)).spelled(Spelling::Legacy);
        let signed = sign(&keys(), [("command", "listZones")], legacy).unwrap();
        let text = signed.as_str();
        assert!(text.contains("expires=2030-01-02T03%3A04%3A05Z%2B0000&"), "{text}");
    }

    #[test]
    fn what_servers_refuse_or_mistake_is_refused_here() {
        let kind = |name: &str, value: &str| {
            sign(&keys(), [("command", "x"), (name, value)], at(0)).unwrap_err().kind()
        };
        for name in [
            "",
            "a b",
            "a&b",
            "a=b",
            "é",
            "\u{7f}",
            "ApiKey",
            "signature",
            "EXPIRES",
            "signatureversion",
            "command",
        ] {
            assert_eq!(kind(name, "1"), ErrorKind::Name, "{name:?}");
        }
        for value in ["\t", "\0", "\u{b}", "\u{7f}"] {
            assert_eq!(kind("name", value), ErrorKind::Value);
            sign(&keys(), [("activationrule", value)], at(0)).unwrap();
        }
        sign(&keys(), [("userdata", "a\r\nb"), ("response", "xml")], at(0)).unwrap();
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(sign(&keys(), [("a", "b")], early).unwrap_err().kind(), ErrorKind::Expires);
        assert_eq!(
            sign(&keys(), [("a", "b")], at(u64::from(u32::MAX) * 100)).unwrap_err().kind(),
            ErrorKind::Expires
        );
    }

    #[test]
    fn nothing_secret_is_printed() {
        let signed = sign(&keys(), [("password", "pass-word")], at(0)).unwrap();
        let error = sign(&keys(), [("password", "pass-word\t")], at(0)).unwrap_err();
        let printed = format!("{:?} {signed:?} {error} {error:?}", keys());
        assert!(!printed.contains("secret") && !printed.contains("pass-word"), "{printed}");
    }
}
