//! Tags: words of ours on objects of the cloud, such as the id of the run that made them.

use crate::call::Call;
use crate::job::{Job, success};

/// `createTags` on objects of one type (`Template`, `UserVm`, `Volume`…). A key that an object has already is an error.
#[must_use]
pub fn create<'a>(
    resource_type: &str,
    ids: &[&str],
    tags: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Call<Job<()>> {
    let call =
        Call::start(format!("{resource_type} {}: tag", ids.join(", ")), "createTags", success)
            .with("resourcetype", resource_type)
            .with("resourceids", ids.join(","));
    let call = if ids.iter().any(|id| id.is_empty() || id.contains(',')) || ids.is_empty() {
        call.with_problem("there is no id, or one that is empty or holds a comma")
    } else {
        call
    };
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
