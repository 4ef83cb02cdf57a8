//! `event.from` and `event.inject`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::db::Change;
use super::pool::{Pool, State};
use super::schema;
use super::value::{ApiError, ApiResult, Record, Value};

/// How long the server collects changes before it answers, unless only tasks are asked for.
const BATCHING: Duration = Duration::from_millis(50);

/// No call waits longer than this, whatever it asks for.
const LONGEST: Duration = Duration::from_secs(3600);

/// Waits for changes since a token. `args` come with the session.
pub(crate) async fn from(pool: &Arc<Pool>, args: &[Value]) -> ApiResult {
    let [session, classes, token, timeout, ..] = args else {
        return Err(ApiError::new("INTERNAL_ERROR", ["event.from"]));
    };
    let session = session.as_str().unwrap_or_default();
    let wanted = subscriptions(classes)?;
    let since = parse_token(token.as_str().unwrap_or_default())?;
    let seconds = timeout.as_float().unwrap_or_default();
    let wait = Duration::try_from_secs_f64(seconds).unwrap_or_default().min(LONGEST);
    let deadline = Instant::now() + wait;
    let only_tasks = wanted.iter().all(|w| w.class == Some("task"));

    let mut changes = pool.watch();
    loop {
        changes.borrow_and_update();
        pool.check_session(session)?;
        if pool.with(|state| has_news(state, &wanted, since)) {
            if !only_tasks {
                sleep(BATCHING).await;
            }
            break;
        }
        if timeout_at(deadline, changes.changed()).await.is_err() {
            break;
        }
    }
    pool.check_session(session)?;
    let mut answer = pool.with(|state| batch(state, &wanted, since));
    if pool.faults.plan().unknown_enum && wanted.iter().any(|w| w.class.is_none()) {
        add_unknown_class(&mut answer);
    }
    Ok(answer)
}

/// Makes an artificial change of an object and tells the token that is as old as it.
pub(crate) fn inject(state: &mut State, args: &[Value]) -> ApiResult {
    let arg = |i: usize| args.get(i).and_then(Value::as_str).unwrap_or_default();
    let class = schema::class_name(arg(0))
        .ok_or_else(|| ApiError::new("EVENT_SUBSCRIPTION_PARSE_FAILURE", [arg(0)]))?;
    state.db.raw(class, arg(1))?;
    state.db.touch(class, arg(1));
    Ok(print_token(state.db.generation()).into())
}

/// One entry of the list of classes: `*`, `vm` or `vm/OpaqueRef:..`.
struct Wanted {
    class: Option<&'static str>,
    reference: Option<String>,
}

impl Wanted {
    fn matches(&self, class: &str, reference: &str) -> bool {
        self.class.is_none_or(|c| c == class)
            && self.reference.as_ref().is_none_or(|r| r == reference)
    }
}

fn subscriptions(classes: &Value) -> Result<Vec<Wanted>, ApiError> {
    classes
        .as_array()
        .iter()
        .map(|entry| {
            let text = entry.as_str().unwrap_or_default();
            if text == "*" {
                return Ok(Wanted { class: None, reference: None });
            }
            let (class, reference) = match text.split_once('/') {
                Some((class, reference)) => (class, Some(reference.to_owned())),
                None => (text, None),
            };
            match schema::class_name(class) {
                Some(class) => Ok(Wanted { class: Some(class), reference }),
                // The server has classes that this double does not; nothing happens to them.
                None if is_word(class) => Ok(Wanted { class: Some(""), reference }),
                None => Err(ApiError::new("EVENT_SUBSCRIPTION_PARSE_FAILURE", [text])),
            }
        })
        .collect()
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn has_news(state: &State, wanted: &[Wanted], since: u64) -> bool {
    let changes = state.db.changes(since);
    changes.iter().any(|(_, _, class, r)| wanted.iter().any(|w| w.matches(class, r)))
}

fn batch(state: &State, wanted: &[Wanted], since: u64) -> Value {
    let mut events = Vec::new();
    for (at, change, class, reference) in state.db.changes(since) {
        if wanted.iter().any(|w| w.matches(class, &reference)) {
            events.push(event(state, at, change, class, &reference));
        }
    }
    let counts = state.db.counts();
    let counts = counts.into_iter().map(|(c, n)| (c, Value::I4(i32::try_from(n).unwrap_or(0))));
    Value::Map(Record::from([
        ("events".to_owned(), Value::Array(events)),
        ("valid_ref_counts".to_owned(), Value::Map(counts.collect())),
        ("token".to_owned(), print_token(state.db.generation()).into()),
    ]))
}

/// An object of a class that came with a later release.
fn add_unknown_class(answer: &mut Value) {
    let fields = [
        ("id", "1".into()),
        ("timestamp", "0.0".into()),
        ("class", "hologram".into()),
        ("operation", "add".into()),
        ("ref", "OpaqueRef:hologram".into()),
        ("snapshot", super::value::map([("uuid", "a uuid"), ("emitter", "OpaqueRef:NULL")])),
    ];
    let event = Value::Map(fields.map(|(k, v): (&str, Value)| (k.to_owned(), v)).into());
    if let Value::Map(answer) = answer
        && let Some(Value::Array(events)) = answer.get_mut("events")
    {
        events.insert(0, event);
    }
}

/// The id is a string and the time stamp is `0.0`, whatever the model says.
fn event(state: &State, at: u64, change: Change, class: &str, reference: &str) -> Value {
    let operation = match change {
        Change::Add => "add",
        Change::Mod => "mod",
        Change::Del => "del",
    };
    let mut event = Record::from([
        ("id".to_owned(), at.to_string().into()),
        ("timestamp".to_owned(), "0.0".into()),
        ("class".to_owned(), class.to_ascii_lowercase().into()),
        ("operation".to_owned(), operation.into()),
        ("ref".to_owned(), reference.into()),
    ]);
    if let Ok(record) = state.db.record(class, reference) {
        event.insert("snapshot".to_owned(), Value::Map(record));
    }
    Value::Map(event)
}

fn print_token(generation: u64) -> String {
    format!("{generation:020},{:020}", 0)
}

fn parse_token(token: &str) -> Result<u64, ApiError> {
    if token.is_empty() {
        return Ok(0);
    }
    token
        .split_once(',')
        .and_then(|(generation, messages)| {
            messages.parse::<u64>().ok()?;
            generation.parse().ok()
        })
        .ok_or_else(|| ApiError::new("EVENT_FROM_TOKEN_PARSE_FAILURE", [token]))
}
