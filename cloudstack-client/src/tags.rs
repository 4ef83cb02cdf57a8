//! Tags: words of ours on objects of the cloud, such as the id of the run that made them.

use crate::call::{Call, List};
use crate::job::Job;
use crate::record::record;

record! {
    /// A tag of an object.
    Tag in "tag" by object, key;
    /// The id of the object.
    object: String = "resourceid",
    /// The kind of object: `Template`, `UserVm`, `Volume`…
    kind: Option<String> = "resourcetype",
    /// The word.
    key: String = "key",
    /// What it says.
    value: Option<String> = "value",
}

/// `listTags` of one object.
#[must_use]
pub fn of(resource_type: &str, id: &str) -> Call<List<Tag>> {
    Call::list(&format!("{resource_type} {id}: list its tags"), "listTags")
        .with("resourcetype", resource_type)
        .with_id("resourceid", id)
}

/// `deleteTags`: a job. Those with these keys, or all without any.
#[must_use]
pub fn delete(resource_type: &str, ids: &[&str], keys: &[&str]) -> Call<Job<()>> {
    let call = Call::job(format!("{resource_type} {}: remove tags", ids.join(", ")), "deleteTags")
        .with("resourcetype", resource_type)
        .with_ids("resourceids", ids);
    keys.iter().enumerate().fold(call, |call, (n, key)| call.with(format!("tags[{n}].key"), *key))
}

/// `createTags` on objects of one type (`Template`, `UserVm`, `Volume`…). A key that an object has already is an error.
#[must_use]
pub fn create<'a>(
    resource_type: &str,
    ids: &[&str],
    tags: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Call<Job<()>> {
    let call = Call::job(format!("{resource_type} {}: tag", ids.join(", ")), "createTags")
        .with("resourcetype", resource_type)
        .with_ids("resourceids", ids);
    with_tags(call, tags)
}

/// Adds tags the way lists and `createTags` take them.
pub(crate) fn with_tags<'a, T>(
    mut call: Call<T>,
    tags: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Call<T> {
    for (index, (key, value)) in tags.into_iter().enumerate() {
        call = call
            .with(format!("tags[{index}].key"), key)
            .with(format!("tags[{index}].value"), value);
    }
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_numbered() {
        let call = create("Template", &["a", "b"], [("run", "1"), ("x", "y")]);
        assert_eq!(call.parameter("resourceids"), Some("a,b"));
        assert_eq!(call.parameter("tags[1].value"), Some("y"));
        let keys = crate::Credentials::new("k", "s");
        let at = std::time::SystemTime::UNIX_EPOCH;
        call.sign(&keys, at).unwrap();
        create("Template", &[], []).sign(&keys, at).unwrap_err();
        create("Template", &["a,b"], []).sign(&keys, at).unwrap_err();
    }
}
