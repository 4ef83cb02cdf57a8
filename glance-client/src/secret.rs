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

    /// The user and password in a URL, as they are written there.
    pub(crate) fn in_url(url: &str) -> Option<Self> {
        let rest = url.split_once("://")?.1;
        let host = rest.split(['/', '?', '#']).next()?;
        let (user, _) = host.rsplit_once('@')?;
        (!user.is_empty()).then(|| Self::new(user))
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
        let part = |url: &str| Secret::in_url(url).map(|secret| secret.expose().to_owned());
        assert_eq!(part("http://u:p@h/x@y").as_deref(), Some("u:p"));
        assert_eq!(part("http://u:p@q@h").as_deref(), Some("u:p@q"));
        for plain in ["http://h/a@b", "http://h?x=a@b", "http://@h", "u@h", ""] {
            assert_eq!(part(plain), None, "{plain}");
        }
    }
}
