//! The model file as it is read: facts about classes, without prose.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The whole model.
#[derive(Debug, Deserialize)]
pub(crate) struct Model {
    pub(crate) meta: BTreeMap<String, String>,
    pub(crate) classes: BTreeMap<String, Class>,
    pub(crate) enums: BTreeMap<String, Vec<String>>,
    pub(crate) errors: BTreeMap<String, Vec<String>>,
    pub(crate) errors_without_declared_params: Vec<String>,
}

/// One class of objects.
#[derive(Debug, Deserialize)]
pub(crate) struct Class {
    pub(crate) lifecycle: Vec<(String, String)>,
    pub(crate) fields: BTreeMap<String, Field>,
    pub(crate) messages: BTreeMap<String, Message>,
}

/// One field of a record.
#[derive(Debug, Deserialize)]
pub(crate) struct Field {
    #[serde(rename = "type")]
    pub(crate) ty: String,
    pub(crate) qualifier: String,
    pub(crate) lifecycle: Vec<(String, String)>,
    pub(crate) state: Option<String>,
}

/// One message of a class.
#[derive(Debug, Deserialize)]
pub(crate) struct Message {
    pub(crate) params: Vec<Param>,
    pub(crate) result: String,
    #[serde(default)]
    pub(crate) roles: Vec<String>,
    #[serde(default)]
    pub(crate) errors: Vec<String>,
    #[serde(default, rename = "async")]
    pub(crate) asynchronous: bool,
    #[serde(default)]
    pub(crate) implicit: bool,
    pub(crate) lifecycle: Vec<(String, String)>,
    pub(crate) state: Option<String>,
}

/// One parameter of a message.
#[derive(Debug, Deserialize)]
pub(crate) struct Param {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) ty: String,
    pub(crate) release: Option<String>,
    pub(crate) default: Option<String>,
}
