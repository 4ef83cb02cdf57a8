//! Text that must never be printed.

use std::fmt;

use zeroize::Zeroizing;

/// A password, token or application credential secret.
///
/// It has neither `Display` nor a telling `Debug`, and its memory is wiped when it is dropped. The
/// only way to the text is [`expose`](Self::expose), which is easy to search for in a review.
///
/// ```
/// let secret = glance_client::Secret::new("correct horse");
/// assert_eq!(format!("{secret:?}"), "Secret([redacted])");
/// assert_eq!(secret.expose(), "correct horse");
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The user and password in a URL, and its query, as they are written there: a signature is a password.
    pub(crate) fn in_url(url: &str) -> Vec<Self> {
        let Some((_, rest)) = url.split_once("://") else { return Vec::new() };
        let rest = rest.split('#').next().unwrap_or_default();
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        let user = host.rsplit_once('@').map(|(user, _)| user);
        let query = rest.split_once('?').map(|(_, query)| query);
        [user, query].into_iter().flatten().filter(|text| !text.is_empty()).map(Self::new).collect()
    }

    /// The text itself, for the one place that has to send it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is no text at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_part_of_a_url() {
        let parts = |url: &str| -> Vec<_> {
            Secret::in_url(url).iter().map(|secret| secret.expose().to_owned()).collect()
        };
        assert_eq!(parts("http://u:p@h/x@y"), ["u:p"]);
        assert_eq!(parts("http://u:p@q@h"), ["u:p@q"]);
        assert_eq!(parts("http://u@h/x?a=1&sig=b?c/d#e"), ["u", "a=1&sig=b?c/d"]);
        assert_eq!(parts("http://h?x=a@b"), ["x=a@b"]);
        for plain in ["http://h/a@b", "http://h/x?#y=z", "http://@h", "u@h", ""] {
            assert_eq!(parts(plain), [""; 0], "{plain}");
        }
    }
}
