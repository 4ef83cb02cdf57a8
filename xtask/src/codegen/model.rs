//! The model file as it is read: facts about classes, without prose.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole model.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Model {
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) classes: BTreeMap<String, Class>,
    pub(crate) enums: BTreeMap<String, Vec<String>>,
    pub(crate) errors: BTreeMap<String, Vec<String>>,
    pub(crate) errors_without_declared_params: Vec<String>,
}

/// One class of objects.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Class {
    #[serde(default = "published", skip_serializing_if = "is_published")]
    pub(crate) state: String,
    pub(crate) lifecycle: Vec<(String, String)>,
    pub(crate) fields: BTreeMap<String, Field>,
    pub(crate) messages: BTreeMap<String, Message>,
}

/// One field of a record.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Field {
    #[serde(rename = "type")]
    pub(crate) ty: String,
    pub(crate) qualifier: String,
    pub(crate) lifecycle: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
}

/// One message of a class.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Message {
    pub(crate) params: Vec<Param>,
    pub(crate) result: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) roles: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<String>,
    #[serde(default, rename = "async", skip_serializing_if = "is_false")]
    pub(crate) asynchronous: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) implicit: bool,
    pub(crate) lifecycle: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
}

/// One parameter of a message.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Param {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) ty: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) default: Option<String>,
}

fn published() -> String {
    "published".to_owned()
}

fn is_published(state: &str) -> bool {
    state == "published"
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// The roles from the least to the greatest.
const ROLES: &[&str] =
    &["read-only", "vm-operator", "vm-admin", "vm-power-admin", "pool-operator", "pool-admin"];

impl Model {
    /// Leaves what the generator uses: when a thing came, the least role that may do it, and the
    /// parameters that a caller gives.
    pub(crate) fn prune(&mut self) {
        for class in self.classes.values_mut() {
            class.lifecycle.truncate(1);
            class.fields.values_mut().for_each(|field| field.lifecycle.truncate(1));
            for message in class.messages.values_mut() {
                message.lifecycle.truncate(1);
                message.params.retain(|param| param.name != "session_id");
                let least = ROLES.iter().find(|role| message.roles.iter().any(|r| r == *role));
                message.roles = least.map(|role| (*role).to_owned()).into_iter().collect();
                // What was in the first release of a message is told by the message.
                for param in message.params.iter_mut().filter(|p| p.default.is_none()) {
                    param.release = None;
                }
            }
        }
    }

    /// The facts that the generator uses, on one line for each class, enumeration and error: what
    /// is committed, so that a change of the API is a change of lines.
    pub(crate) fn compact(&self) -> Result<String, String> {
        let value = serde_json::to_value(self).map_err(|e| e.to_string())?;
        let parts = value.as_object().into_iter().flatten().map(|(name, part)| {
            let lines: Vec<String> = match part {
                serde_json::Value::Object(entries) => {
                    entries.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect()
                }
                other => return format!("\"{name}\":{other}"),
            };
            format!("\"{name}\":{{\n{}\n}}", lines.join(",\n"))
        });
        Ok(format!("{{\n{}\n}}\n", parts.collect::<Vec<_>>().join(",\n")))
    }
}
