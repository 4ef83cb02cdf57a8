//! The classes, fields and messages that this server knows: the committed table, parsed once.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::role::Role;
use super::value::{Record, Value};

/// The table made by `schema/tables.py`.
const TABLE: &str = include_str!("../../schema/xenapi.tsv");

static SCHEMA: LazyLock<BTreeMap<&'static str, Class>> = LazyLock::new(|| parse(TABLE));

/// A class of XenAPI.
#[derive(Debug, Default)]
pub(crate) struct Class {
    pub(crate) fields: Vec<Field>,
    pub(crate) messages: BTreeMap<&'static str, Message>,
}

/// A field of a class.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) default: Value,
}

/// A message of a class.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) is_async: bool,
    pub(crate) params: Vec<Param>,
    /// Who may send it.
    pub(crate) least_role: Role,
}

/// A parameter of a message.
#[derive(Debug)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) optional: bool,
}

impl Message {
    /// Whether the first parameter is the session.
    pub(crate) fn needs_session(&self) -> bool {
        self.params.first().is_some_and(|p| p.name == "session_id")
    }
}

/// All classes by name.
pub(crate) fn classes() -> &'static BTreeMap<&'static str, Class> {
    &SCHEMA
}

/// The class in the spelling of the model, whatever the case that a client uses.
pub(crate) fn class_name(any_case: &str) -> Option<&'static str> {
    classes().keys().find(|name| name.eq_ignore_ascii_case(any_case)).copied()
}

/// A record of the class with every field at its default.
pub(crate) fn blank(class: &str) -> Record {
    let fields = classes().get(class).map(|c| c.fields.as_slice()).unwrap_or_default();
    fields.iter().map(|f| (f.name.to_owned(), f.default.clone())).collect()
}

/// Gives `value` the type of `kind`: the XML codec has strings for integers and for dates.
/// `None` if it does not fit.
pub(crate) fn coerce(kind: &str, value: Value) -> Option<Value> {
    if kind.ends_with(" set") {
        return matches!(value, Value::Array(_)).then_some(value);
    }
    if kind.ends_with(" map") || kind.ends_with(" record") {
        return matches!(value, Value::Map(_)).then_some(value);
    }
    match kind {
        "int" => value.as_int().map(Value::Int),
        "float" => value.as_float().map(Value::Float),
        "bool" => value.as_bool().map(Value::Bool),
        "datetime" => value.as_str().map(|s| Value::Time(s.to_owned())),
        _ => matches!(value, Value::Str(_)).then_some(value),
    }
}

fn parse(table: &'static str) -> BTreeMap<&'static str, Class> {
    let mut classes: BTreeMap<&'static str, Class> = BTreeMap::new();
    let mut current = "";
    for line in table.lines() {
        let parts: Vec<&'static str> = line.split('\t').collect();
        match parts.as_slice() {
            ["C", name] => {
                current = name;
                classes.insert(name, Class::default());
            }
            ["F", name, kind, default] => {
                let json = serde_json::from_str(default).unwrap_or_default();
                let default = coerce_default(kind, Value::from_json(&json));
                if let Some(class) = classes.get_mut(current) {
                    class.fields.push(Field { name, kind, default });
                }
            }
            ["M", name, _result, flag, params, rest @ ..] => {
                let params =
                    params.split(';').filter(|p| !p.is_empty()).filter_map(param).collect();
                if let Some(class) = classes.get_mut(current) {
                    let is_async = *flag == "async";
                    let least_role = rest.first().and_then(|role| Role::from_name(role));
                    let least_role = least_role.unwrap_or_default();
                    class.messages.insert(name, Message { is_async, params, least_role });
                }
            }
            _ => {}
        }
    }
    classes
}

fn coerce_default(kind: &str, value: Value) -> Value {
    match coerce(kind, value.clone()) {
        Some(value) => value,
        None => value,
    }
}

fn param(text: &'static str) -> Option<Param> {
    let (name, kind) = text.split_once(':')?;
    let optional = name.ends_with('?');
    Some(Param { name: name.trim_end_matches('?'), kind, optional })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_knows_what_the_job_uses() {
        let vm = &classes()["VM"];
        assert!(vm.fields.len() > 80);
        let snapshot = &vm.messages["snapshot"];
        assert!(snapshot.is_async && snapshot.needs_session());
        assert_eq!(snapshot.params.len(), 4);
        assert!(snapshot.params[3].optional);
        assert_eq!(snapshot.least_role, Role::VmPowerAdmin);
        assert_eq!(vm.messages["get_record"].least_role, Role::ReadOnly);
        assert!(!classes()["session"].messages["login_with_password"].needs_session());
        assert_eq!(class_name("vm_guest_metrics"), Some("VM_guest_metrics"));
    }

    #[test]
    fn defaults_have_the_type_of_their_field() {
        for (name, class) in classes().iter().filter(|(name, _)| **name != "event") {
            for field in &class.fields {
                assert!(
                    coerce(field.kind, field.default.clone()).is_some(),
                    "{name}.{} : {} = {:?}",
                    field.name,
                    field.kind,
                    field.default
                );
            }
        }
        assert_eq!(blank("task")["progress"], Value::Float(0.0));
        assert_eq!(blank("VM")["power_state"], "Halted".into());
    }
}
