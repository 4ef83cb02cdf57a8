//! What can be done to an image as a whole: lock it, tag it, take it out of a store.

use http::Method;

use super::call::on_image;
use crate::call::{Call, segment};

/// Locks an image: its data can be read no more, but by administrators. `POST /v2/images/{id}/actions/deactivate`, 204.
/// It must be active (else 403), and may be locked already.
#[must_use]
pub fn deactivate(id: &str) -> Call<()> {
    on_image("deactivate", id, "/actions/deactivate", Method::POST, |_| Ok(()))
}

/// Unlocks an image: `POST /v2/images/{id}/actions/reactivate`, 204.
#[must_use]
pub fn reactivate(id: &str) -> Call<()> {
    on_image("reactivate", id, "/actions/reactivate", Method::POST, |_| Ok(()))
}

/// Adds a tag: `PUT /v2/images/{id}/tags/{tag}`, 204, also if it is there already.
/// [`TooLarge`](crate::ErrorKind::TooLarge) if there are as many as there may be (128).
///
/// A tag with a slash or a letter beyond ASCII is not sent: Glance would store another one. [`update`](super::update()) of
/// `tags` takes it.
#[must_use]
pub fn add_tag(id: &str, tag: &str) -> Call<()> {
    on_tag("add tag", id, tag, Method::PUT)
}

/// Removes a tag: `DELETE /v2/images/{id}/tags/{tag}`, 204; [`NotFound`](crate::ErrorKind::NotFound) if it is not there.
#[must_use]
pub fn remove_tag(id: &str, tag: &str) -> Call<()> {
    on_tag("remove tag", id, tag, Method::DELETE)
}

fn on_tag(verb: &str, id: &str, tag: &str, method: Method) -> Call<()> {
    let verb = format!("{verb} {tag:?}");
    match segment(tag) {
        // Glance's routes end at a slash, escaped or not, and it takes each byte of another letter for a letter.
        Some(_) if tag.contains('/') || !tag.is_ascii() => {
            on_image(&verb, id, "", method, |_| Ok(())).with_problem(
                "Glance garbles a tag with a slash or a letter beyond ASCII here: update \"tags\" as a whole",
            )
        }
        Some(tag) => on_image(&verb, id, &format!("/tags/{tag}"), method, |_| Ok(())),
        None => on_image(&verb, id, "", method, |_| Ok(()))
            .with_problem(format!("{tag:?} cannot be a tag")),
    }
}

/// Removes an image's data from one of several stores: `DELETE /v2/stores/{store}/{id}`, 204 (API 2.10). The last one
/// cannot be removed (403): delete the image. Most clouds let only administrators do it.
#[must_use]
pub fn remove_from_store(id: &str, store: &str) -> Call<()> {
    let what = format!("image {id}: remove from store {store:?}");
    let nothing = |_: &crate::call::Answer<'_>| Ok(());
    match (segment(store), segment(id)) {
        (Some(store), Some(id)) => {
            Call::new(what, Method::DELETE, format!("stores/{store}/{id}"), nothing)
        }
        _ => Call::new(what, Method::DELETE, "stores", nothing)
            .with_problem("store or image is empty"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_name_their_image() {
        let seen = |call: &Call<()>| format!("{} {}", call.method(), call.path());
        assert_eq!(seen(&deactivate("1")), "POST images/1/actions/deactivate");
        assert_eq!(seen(&reactivate("a/b")), "POST images/a%2Fb/actions/reactivate");
        assert_eq!(seen(&add_tag("1", "a b?")), "PUT images/1/tags/a%20b%3F");
        assert_eq!(seen(&remove_tag("1", "x")), "DELETE images/1/tags/x");
        assert_eq!(seen(&remove_from_store("1", "fast")), "DELETE stores/fast/1");
        let base = url::Url::parse("http://h/v2").unwrap();
        // Without a tag or a store the path would be that of something larger.
        for call in
            [add_tag("1", ""), remove_tag("1", ".."), remove_tag("1", "a/b"), add_tag("1", "ä")]
        {
            assert!(call.url(&base).is_err(), "{call:?}");
        }
        assert!(remove_from_store("1", "").url(&base).is_err());
        assert!(remove_from_store("", "fast").url(&base).is_err());
    }
}
