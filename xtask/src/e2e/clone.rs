//! `clone_vm` as a process: its variables, its arguments, its answer.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::{Context, ensure};
use crate::process::{Finished, Result, Running};

/// Variables that configure a client.
#[derive(Debug, Default, Clone)]
pub(crate) struct Environment(Vec<(String, String)>);

impl Environment {
    /// Sets `name` to the text of `value`; anything else leaves it unset.
    pub(crate) fn set(&mut self, name: &str, value: &Value) {
        if let Some(text) = value.as_str() {
            self.0.push((name.to_owned(), text.to_owned()));
        }
    }

    /// The domains of a default installation.
    pub(crate) fn domains(&mut self) {
        for name in ["OS_USER_DOMAIN_NAME", "OS_PROJECT_DOMAIN_NAME"] {
            self.0.push((name.to_owned(), "Default".to_owned()));
        }
    }

    /// These and the others.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Puts them into a command, which inherits no setting of the same kinds from us.
    pub(crate) fn apply(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["XEN_", "OS_", "CLOUDSTACK_"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.envs(self.0.iter().map(|(name, value)| (name, value)));
    }
}

/// The start of a `clone_vm` command.
pub(crate) fn command(context: &Context<'_>, env: &Environment, args: &[&str]) -> Command {
    let mut command = Command::new(&context.built.clone_vm);
    command.args(args).arg("--json");
    env.apply(&mut command);
    command
}

/// Starts it; its messages go to `folder/clone.log`.
pub(crate) fn start(mut command: Command, folder: &Path) -> Result<Running> {
    Running::start(&mut command, &folder.join("clone.log"))
}

/// Runs it to its end.
pub(crate) fn run(command: Command, folder: &Path) -> Result<Finished> {
    start(command, folder)?.finish(Duration::from_secs(1800))
}

/// What `clone_vm --json` says of one image.
#[derive(Debug, Clone)]
pub(crate) struct Image(Value);

impl Image {
    /// A text field.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    /// How many bytes were sent.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.0["bytes"].as_u64()
    }
}

/// The images of a finished run, with every field of the contract there.
pub(crate) fn images(answer: &Value, count: usize) -> Result<Vec<Image>> {
    for field in ["run_id", "vm", "target"] {
        ensure(answer[field].is_string(), || format!("clone_vm's JSON has no text `{field}`"))?;
    }
    let steps = answer["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let timed = |step: &Value| step["name"].is_string() && step["seconds"].is_number();
    ensure(!steps.is_empty() && steps.iter().all(timed), || {
        "clone_vm's JSON has no steps with seconds".to_owned()
    })?;
    let images = answer["images"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure(images.len() == count, || format!("{} images where {count} were due", images.len()))?;
    let lengths = [("md5", 32), ("sha256", 64), ("sha512", 128), ("content_root", 64), ("id", 36)];
    for image in images {
        for (field, length) in lengths {
            let good = image[field].as_str().is_some_and(|text| text.len() == length);
            ensure(good, || format!("the image's `{field}` is {}", image[field]))?;
        }
        ensure(image["bytes"].is_u64() && image["name"].is_string(), || {
            "the image has no name or no bytes".to_owned()
        })?;
    }
    Ok(images.iter().cloned().map(Image).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::images;

    fn answer() -> Value {
        json!({
            "run_id": "r", "vm": "web01", "target": "glance",
            "images": [{
                "id": "0".repeat(36), "name": "web01", "format": "qcow2", "bytes": 1,
                "md5": "0".repeat(32), "sha256": "0".repeat(64), "sha512": "0".repeat(128),
                "content_root": "0".repeat(64),
            }],
            "steps": [{"name": "snapshot", "seconds": 0.5}],
        })
    }

    #[test]
    fn the_contract_is_accepted() {
        assert_eq!(images(&answer(), 1).unwrap()[0].bytes(), Some(1));
    }

    #[test]
    fn what_breaks_the_contract_is_refused() {
        assert!(images(&answer(), 2).unwrap_err().contains("1 images where 2"));
        for field in ["run_id", "vm", "target", "images", "steps"] {
            let mut answer = answer();
            answer[field] = Value::Null;
            assert!(images(&answer, 1).is_err(), "{field}");
        }
        for field in ["id", "name", "bytes", "md5", "sha256", "sha512", "content_root"] {
            let mut answer = answer();
            answer["images"][0][field] = Value::Null;
            assert!(images(&answer, 1).is_err(), "{field}");
        }
    }
}
