//! The messages that every class has: getters and setters of records and fields.

use super::fault::Plan;
use super::pool::State;
use super::schema::{self, coerce};
use super::value::{ApiError, ApiResult, Record, Value, text};

/// Answers a getter or a setter; `None` for anything else.
pub(crate) fn perform(
    state: &mut State,
    class: &'static str,
    name: &str,
    args: &[Value],
) -> Option<ApiResult> {
    if class == "event" {
        return None;
    }
    let arg = |i: usize| args.get(i).and_then(Value::as_str).unwrap_or_default();
    let value = |i: usize| args.get(i).cloned().unwrap_or(Value::Nil);
    Some(match name {
        "get_all" => Ok(refs(state.db.iter(class).map(|(r, _)| r))),
        "get_all_records" => all_records(state, class),
        "get_record" => state.db.record(class, arg(0)).map(Value::Map),
        "get_by_uuid" => match state.db.by_uuid(class, arg(0)) {
            Some(found) => Ok(found.into()),
            None => Err(ApiError::new("UUID_INVALID", [class, arg(0)])),
        },
        "get_by_name_label" => {
            let named = state.db.iter(class).filter(|(_, r)| text(r, "name_label") == arg(0));
            Ok(refs(named.map(|(r, _)| r)))
        }
        _ => {
            let (verb, field) = verb(class, name)?;
            match verb {
                Verb::Get => get(state, class, field, arg(0)),
                Verb::Set => set(state, class, field, arg(0), value(1)),
                Verb::AddTo => add_to(state, class, field, arg(0), arg(1), value(2)),
                Verb::RemoveFrom => edit(state, class, field, arg(0), |map| {
                    map.remove(arg(1));
                    Ok(())
                }),
                Verb::AddItem => edit_set(state, class, field, arg(0), |items| {
                    if !items.contains(&value(1)) {
                        items.push(value(1));
                    }
                }),
                Verb::RemoveItem => {
                    edit_set(state, class, field, arg(0), |items| items.retain(|i| *i != value(1)))
                }
            }
        }
    })
}

enum Verb {
    Get,
    Set,
    AddTo,
    RemoveFrom,
    AddItem,
    RemoveItem,
}

/// Reads `get_name_label` as a verb and a field of the class.
fn verb(class: &str, name: &str) -> Option<(Verb, &'static schema::Field)> {
    let fields = &schema::classes().get(class)?.fields;
    let field = |name: &str| fields.iter().find(|f| f.name == name);
    [
        ("get_", Verb::Get),
        ("set_", Verb::Set),
        ("add_to_", Verb::AddTo),
        ("remove_from_", Verb::RemoveFrom),
        ("add_", Verb::AddItem),
        ("remove_", Verb::RemoveItem),
    ]
    .into_iter()
    .find_map(|(prefix, verb)| Some((verb, field(name.strip_prefix(prefix)?)?)))
}

fn refs<'a>(refs: impl Iterator<Item = &'a str>) -> Value {
    Value::Array(refs.map(Value::from).collect())
}

fn all_records(state: &State, class: &'static str) -> ApiResult {
    let refs: Vec<_> = state.db.iter(class).map(|(r, _)| r.to_owned()).collect();
    let mut all = Record::new();
    for reference in refs {
        let record = state.db.record(class, &reference)?;
        all.insert(reference, Value::Map(record));
    }
    Ok(Value::Map(all))
}

fn get(state: &State, class: &str, field: &schema::Field, reference: &str) -> ApiResult {
    let mut record = state.db.record(class, reference)?;
    record.remove(field.name).ok_or_else(|| ApiError::new("INTERNAL_ERROR", [field.name]))
}

fn set(
    state: &mut State,
    class: &'static str,
    field: &schema::Field,
    reference: &str,
    value: Value,
) -> ApiResult {
    let typed = coerce(field.kind, value);
    let typed = typed.ok_or_else(|| ApiError::new("FIELD_TYPE_ERROR", [field.name]))?;
    state.db.set(class, reference, field.name, typed)?;
    Ok("".into())
}

fn add_to(
    state: &mut State,
    class: &'static str,
    field: &schema::Field,
    reference: &str,
    key: &str,
    value: Value,
) -> ApiResult {
    let uuid = text(state.db.raw(class, reference)?, "uuid").to_owned();
    edit(state, class, field, reference, |map| {
        if map.contains_key(key) {
            let params = [class, field.name, uuid.as_str(), key];
            return Err(ApiError::new("MAP_DUPLICATE_KEY", params));
        }
        map.insert(key.to_owned(), value);
        Ok(())
    })
}

fn edit(
    state: &mut State,
    class: &'static str,
    field: &schema::Field,
    reference: &str,
    change: impl FnOnce(&mut Record) -> Result<(), ApiError>,
) -> ApiResult {
    let Some(Value::Map(mut map)) = state.db.raw(class, reference)?.get(field.name).cloned() else {
        return Err(ApiError::new("FIELD_TYPE_ERROR", [field.name]));
    };
    change(&mut map)?;
    state.db.set(class, reference, field.name, Value::Map(map))?;
    Ok("".into())
}

fn edit_set(
    state: &mut State,
    class: &'static str,
    field: &schema::Field,
    reference: &str,
    change: impl FnOnce(&mut Vec<Value>),
) -> ApiResult {
    let Some(Value::Array(mut items)) = state.db.raw(class, reference)?.get(field.name).cloned()
    else {
        return Err(ApiError::new("FIELD_TYPE_ERROR", [field.name]));
    };
    change(&mut items);
    state.db.set(class, reference, field.name, Value::Array(items))?;
    Ok("".into())
}

/// Makes an answer as strange as the faults ask for.
pub(crate) fn spoil(value: &mut Value, plan: Plan) {
    if !(plan.nan_floats || plan.unknown_enum) {
        return;
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| spoil(item, plan)),
        Value::Map(fields) => {
            if plan.nan_floats {
                spoil_floats(fields);
            }
            if plan.unknown_enum && fields.contains_key("uuid") {
                spoil_enums(fields);
            }
            fields.values_mut().for_each(|field| spoil(field, plan));
        }
        _ => {}
    }
}

fn spoil_floats(fields: &mut Record) {
    if let Some(field) = fields.get_mut("HVM_shadow_multiplier") {
        *field = Value::Float(f64::NAN);
    }
    if let Some(Value::Map(loads)) = fields.get_mut("VCPUs_utilisation") {
        for (load, strange) in loads.values_mut().zip([f64::INFINITY, f64::NEG_INFINITY]) {
            *load = Value::Float(strange);
        }
    }
}

fn spoil_enums(fields: &mut Record) {
    for name in ["actions_after_crash", "on_boot", "locking_mode", "default_locking_mode"] {
        if let Some(field) = fields.get_mut(name) {
            *field = "of_the_future".into();
        }
    }
    if let Some(Value::Array(items)) = fields.get_mut("allowed_operations") {
        items.push("levitate".into());
    }
    fields.insert("field_of_the_future".to_owned(), super::value::map([("a", "b")]));
}
