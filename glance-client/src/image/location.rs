//! Locations: where a store keeps an image's data.

use std::fmt;

use http::Method;
use serde_json::{Map, Value, json};

use super::call::on_image;
use crate::call::Call;
use crate::secret::Secret;
use crate::take::Take;

/// Where a store keeps an image's data.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Location {
    /// The URL in the store's own terms (`file:///…`, `rbd://…`, `https://…`). It may hold a password.
    pub url: Secret,
    /// The store's id.
    pub store: Option<String>,
    /// What else the store notes of it.
    pub metadata: Map<String, Value>,
}

impl Location {
    /// Reads a list; what has no URL is left out.
    pub(super) fn list(value: &Value) -> Vec<Self> {
        let list = value.as_array().map_or(&[][..], Vec::as_slice);
        list.iter().filter_map(Self::from_json).collect()
    }

    fn from_json(value: &Value) -> Option<Self> {
        let mut map = value.as_object()?.clone();
        let mut take = Take(&mut map);
        let url = Secret::new(take.text("url")?);
        let metadata = take.object("metadata");
        let store = metadata.get("store").and_then(Value::as_str).map(str::to_owned);
        Some(Self { url, store, metadata })
    }
}

/// Data that lie elsewhere already, to be registered with [`add_location`].
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewLocation {
    url: String,
    hash: Option<(String, String)>,
}

impl NewLocation {
    /// Data at an `http:` or `https:` URL. Plain users may register no other, and the cloud must have a store of that
    /// kind; clouds refuse addresses of their own hosts, and ports other than 80 and 443 unless the operator allows them.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), hash: None }
    }

    /// The digest that the data must have, by an algorithm that Glance knows there: `sha512`, `sha256`, `sha1` or `md5`.
    /// Without it the cloud computes it, if it does so at all, after the image is active.
    #[must_use]
    pub fn with_hash(mut self, algorithm: impl Into<String>, hex: impl Into<String>) -> Self {
        self.hash = Some((algorithm.into(), hex.into()));
        self
    }
}

impl fmt::Debug for NewLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewLocation").field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// Makes an image of data that stay where they are: `POST /v2/images/{id}/locations`, 202 (Glance 29, 2024.2). The image
/// must be `queued`; it becomes active within moments, and is read from the URL whenever it is used.
///
/// Errors: [`Invalid`](crate::ErrorKind::Invalid) if the cloud does not take this URL,
/// [`Forbidden`](crate::ErrorKind::Forbidden) if it has no store for it, [`Conflict`](crate::ErrorKind::Conflict) if the
/// image is not `queued`.
#[must_use]
pub fn add_location(id: &str, location: &NewLocation) -> Call<()> {
    let mut body = json!({"url": location.url});
    if let Some((algorithm, hex)) = &location.hash {
        body["validation_data"] = json!({"os_hash_algo": algorithm, "os_hash_value": hex});
    }
    let call =
        on_image("add location", id, "/locations", Method::POST, |_| Ok(())).with_json(&body);
    Secret::in_url(&location.url).into_iter().fold(call, Call::with_secret)
}

/// Where an image's data are: `GET /v2/images/{id}/locations` (Glance 29, 2024.2). For services; plain users and
/// administrators are [`Forbidden`](crate::ErrorKind::Forbidden), and see [`Image::locations`](super::Image::locations)
/// where the cloud shows them.
#[must_use]
pub fn locations(id: &str) -> Call<Vec<Location>> {
    on_image("list locations", id, "/locations", Method::GET, |answer| {
        Ok(Location::list(&answer.json()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, StatusCode};

    #[test]
    fn a_location_is_registered_and_its_password_is_in_no_text() {
        let url = "http://user:hunter2@h/disk.vhd";
        let call = add_location("1", &NewLocation::new(url).with_hash("sha512", "ab"));
        assert_eq!((call.method().as_str(), call.path()), ("POST", "images/1/locations"));
        assert_eq!(
            serde_json::from_slice::<Value>(call.body()).unwrap(),
            json!({"url": url, "validation_data": {"os_hash_algo": "sha512", "os_hash_value": "ab"}})
        );
        let error = call
            .parse(StatusCode::BAD_REQUEST, &HeaderMap::new(), format!("no: {url}").as_bytes())
            .unwrap_err();
        let texts = format!("{call:?} {error:?} {:?}", NewLocation::new(url));
        assert!(!texts.contains("hunter2"), "{texts}");
    }

    #[test]
    fn locations_are_read_leniently() {
        let body = br#"[{"url": "file:///a", "metadata": {"store": "fast"}}, {"metadata": {}}, 1]"#;
        let found = locations("1").parse(StatusCode::OK, &HeaderMap::new(), body).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].url.expose(), found[0].store.as_deref()), ("file:///a", Some("fast")));
    }
}
