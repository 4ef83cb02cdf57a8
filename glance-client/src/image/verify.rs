//! Comparing what Glance stored with what was sent.

use super::digest::canonical;
use super::record::Image;
use crate::error::{Error, ErrorKind, Result};

/// Digests of the bytes that were sent, in hexadecimal. One that Glance uses is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Digests {
    /// MD5, for `checksum`.
    pub md5: Option<String>,
    /// SHA-256.
    pub sha256: Option<String>,
    /// SHA-384.
    pub sha384: Option<String>,
    /// SHA-512, which most clouds use for `os_hash_value`.
    pub sha512: Option<String>,
}

impl Digests {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With the MD5.
    #[must_use]
    pub fn with_md5(mut self, hex: impl Into<String>) -> Self {
        self.md5 = Some(hex.into());
        self
    }

    /// With the SHA-256.
    #[must_use]
    pub fn with_sha256(mut self, hex: impl Into<String>) -> Self {
        self.sha256 = Some(hex.into());
        self
    }

    /// With the SHA-384.
    #[must_use]
    pub fn with_sha384(mut self, hex: impl Into<String>) -> Self {
        self.sha384 = Some(hex.into());
        self
    }

    /// With the SHA-512.
    #[must_use]
    pub fn with_sha512(mut self, hex: impl Into<String>) -> Self {
        self.sha512 = Some(hex.into());
        self
    }

    fn by_name(&self, algorithm: &str) -> Option<&str> {
        match canonical(algorithm).as_str() {
            "md5" => self.md5.as_deref(),
            "sha256" => self.sha256.as_deref(),
            "sha384" => self.sha384.as_deref(),
            "sha512" => self.sha512.as_deref(),
            _ => None,
        }
    }

    /// The algorithm that is missing: the cloud has a digest by it and none that is here.
    pub(super) fn missing<'i>(&self, image: &'i Image) -> Option<&'i str> {
        let known = stored(image).any(|(name, _)| self.by_name(name).is_some());
        if known { None } else { stored(image).map(|(name, _)| name).next() }
    }

    /// Adds a digest by any algorithm that has a place here.
    pub(super) fn add(&mut self, algorithm: &str, hex: String) {
        match canonical(algorithm).as_str() {
            "md5" => self.md5 = Some(hex),
            "sha256" => self.sha256 = Some(hex),
            "sha384" => self.sha384 = Some(hex),
            "sha512" => self.sha512 = Some(hex),
            _ => {}
        }
    }
}

/// Compares size and digest of an *active* image with what was sent; gives the name of the digest that was
/// compared. The cloud chooses the algorithm (`os_hash_algo`); where we have no digest of it, `checksum` (MD5) serves.
///
/// This is for images whose bytes the cloud stores as they are: an import plugin that converts changes all of them.
///
/// # Errors
/// [`ErrorKind::Mismatch`] with both values; also if nothing can be compared, because an unverified image is
/// not a verified one. [`ErrorKind::Failed`] if the image is not active: digests of other states can be stale.
///
/// ```
/// use glance_client::image::{Digests, Image, verify};
/// let image = Image::from_json(serde_json::json!({
///     "id": "1", "status": "active", "size": 3, "checksum": "900150983cd24fb0d6963f7d28e17f72"
/// }))?;
/// let digests = Digests::new().with_md5("900150983cd24fb0d6963f7d28e17f72");
/// assert_eq!(verify(&image, &digests, 3)?, "md5");
/// # Ok::<(), glance_client::Error>(())
/// ```
pub fn verify(image: &Image, digests: &Digests, size: u64) -> Result<String> {
    let id = &image.id;
    if image.status != super::ImageStatus::Active {
        let text = format!(
            "image {id}: it is {} and not active, so its digests say nothing",
            image.status
        );
        return Err(Error::new(ErrorKind::Failed, text));
    }
    let same = |what: &str, sent: &str, stored: &str| {
        same(id, what, ("sent", sent), stored, "delete the image and send it again")
    };
    let stored_size = image.size.map_or_else(|| "unknown".to_owned(), |size| size.to_string());
    same("size", &size.to_string(), &stored_size)?;
    let found =
        stored(image).find_map(|(name, stored)| Some((name, digests.by_name(name)?, stored)));
    let Some((name, sent, stored)) = found else {
        let has = image.os_hash_algo.as_deref().unwrap_or("no digest");
        let text = format!(
            "image {id}: nothing to compare: the cloud has {has} and no checksum that was computed here"
        );
        return Err(Error::new(ErrorKind::Mismatch, text));
    };
    same(name, sent, stored)?;
    Ok(name.to_owned())
}

/// The digests that a cloud has of an image's data, by the names of their algorithms: the multihash, then MD5.
pub(super) fn stored(image: &Image) -> impl Iterator<Item = (&str, &str)> {
    let multihash = image.os_hash_algo.as_deref().zip(image.os_hash_value.as_deref());
    let checksum = image.checksum.as_deref().map(|stored| ("md5", stored));
    [multihash, checksum].into_iter().flatten()
}

/// Compares what was seen here, `(how, value)`, with what the cloud has stored.
pub(super) fn same(
    id: &str,
    what: &str,
    (how, seen): (&str, &str),
    stored: &str,
    remedy: &str,
) -> Result<()> {
    if seen.eq_ignore_ascii_case(stored) {
        return Ok(());
    }
    let text = format!("image {id}: {what} differs: {how} {seen}, stored {stored}; {remedy}");
    Err(Error::new(ErrorKind::Mismatch, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn image(more: &serde_json::Value) -> Image {
        let mut value = json!({"id": "1", "status": "active", "size": 3});
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Image::from_json(value).unwrap()
    }

    #[test]
    fn the_clouds_algorithm_comes_first_and_the_checksum_second() {
        let ours = Digests::new().with_md5("aa").with_sha256("bb").with_sha512("CC");
        let with = |algo: &str, value: &str| {
            image(&json!({"os_hash_algo": algo, "os_hash_value": value, "checksum": "aa"}))
        };
        assert_eq!(verify(&with("sha512", "cc"), &ours, 3).unwrap(), "sha512");
        assert_eq!(verify(&with("sha256", "bb"), &ours, 3).unwrap(), "sha256");
        assert_eq!(verify(&with("blake2b", "zz"), &ours, 3).unwrap(), "md5");
        assert_eq!(
            verify(&with("sha512", "cc"), &Digests::new().with_md5("aa"), 3).unwrap(),
            "md5"
        );

        let error = verify(&with("sha512", "dd"), &ours, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("sha512 differs: sent CC, stored dd"), "{error}");
    }

    #[test]
    fn nothing_passes_unverified() {
        let ours = Digests::new().with_md5("aa");
        let kind = |image: &Image, size| verify(image, &ours, size).unwrap_err().kind();
        assert_eq!(kind(&image(&json!({"checksum": "aa"})), 4), ErrorKind::Mismatch);
        assert_eq!(kind(&image(&json!({"size": null, "checksum": "aa"})), 3), ErrorKind::Mismatch);
        assert_eq!(kind(&image(&json!({"checksum": null})), 3), ErrorKind::Mismatch);
        assert_eq!(
            kind(&image(&json!({"os_hash_algo": "sha512", "os_hash_value": "x"})), 3),
            ErrorKind::Mismatch
        );
        assert_eq!(
            kind(&image(&json!({"status": "queued", "checksum": "aa"})), 3),
            ErrorKind::Failed
        );
    }
}
