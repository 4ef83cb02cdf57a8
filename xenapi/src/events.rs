//! What changes at the server, as it changes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::call::Call;
use crate::enums::EventOperation;
use crate::error::{ErrorCode, ErrorKind, Result};
use crate::live::Session;
use crate::refs::{Class, Ref};
use crate::value::{DecodeError, FromValue};

/// How long the server may hold one question for events.
const WAIT: Duration = Duration::from_secs(30);
/// The same for all that there is: where that is nothing, the server would hold the question.
const AT_ONCE: Duration = Duration::from_millis(100);
/// How often in a row the connection may fail, with pauses that double: 13 s in all.
const MOST_FAILURES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The pause after an answer that came at once and said nothing: a server that does not hold
/// questions for events must not be asked without end.
const NO_NEWS: Duration = Duration::from_millis(200);

/// One change of one object.
#[derive(Clone, PartialEq)]
pub struct Event {
    class: String,
    reference: String,
    operation: EventOperation,
    snapshot: Option<Value>,
}

impl Event {
    /// The class of the object in small letters, as events spell it: `vm`, `vm_guest_metrics`.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.class
    }

    /// What happened: the object was added, modified, or deleted.
    #[must_use]
    pub fn operation(&self) -> &EventOperation {
        &self.operation
    }

    /// The text of the object's reference.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// The object's reference, if the event is of class `T`.
    #[must_use]
    pub fn of<T: Class>(&self) -> Option<Ref<T>> {
        self.class.eq_ignore_ascii_case(T::NAME).then(|| Ref::new(&self.reference))
    }

    /// The object as it was when the server put the batch together, untyped; a deleted one has
    /// none.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Value> {
        self.snapshot.as_ref()
    }

    /// As [`snapshot`](Self::snapshot), as the record of class `T`; `None` for another class.
    ///
    /// # Errors
    /// [`DecodeError`] if the record is not of the promised shape.
    pub fn record<T: Class + FromValue>(&self) -> Result<Option<T>, DecodeError> {
        if !self.class.eq_ignore_ascii_case(T::NAME) {
            return Ok(None);
        }
        self.snapshot.clone().map(T::from_value).transpose()
    }

    pub(crate) fn into_parts(self) -> (String, String, Option<Value>) {
        let gone = self.operation == EventOperation::Del;
        (self.class, self.reference, self.snapshot.filter(|_| !gone))
    }
}

impl fmt::Debug for Event {
    /// Without the snapshot, which is long and may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({} {} {})", self.operation, self.class, self.reference)
    }
}

impl FromValue for Event {
    /// The time stamp is "0.0" whatever happened, and the id a number as text: both are of no use.
    fn from_value(mut value: Value) -> Result<Self, DecodeError> {
        let mut take = |name: &str| value.get_mut(name).map(Value::take).unwrap_or_default();
        let class = String::from_value(take("class")).map_err(|e| e.within("class"))?;
        Ok(Self {
            class: class.to_ascii_lowercase(),
            reference: String::from_value(take("ref")).map_err(|e| e.within("ref"))?,
            operation: EventOperation::from_value(take("operation"))
                .map_err(|e| e.within("operation"))?,
            snapshot: Some(take("snapshot")).filter(Value::is_object),
        })
    }
}

/// The events of one answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EventBatch {
    /// What happened, the oldest first; of several changes of an object the server tells the last.
    pub events: Vec<Event>,
    /// Whether these are all objects that there are, each as an addition: an object that is not
    /// among them is gone. So it is at the beginning, and whenever the thread was lost: after a
    /// new login, and on another master.
    pub complete: bool,
    /// How many objects of each class the server has, by the class in small letters: what shows
    /// that an event was lost.
    pub counts: BTreeMap<String, u64>,
}

impl FromValue for EventBatch {
    fn from_value(value: Value) -> Result<Self, DecodeError> {
        Answer::from_value(value).map(|answer| answer.batch)
    }
}

/// A batch with the token that the next question goes on from.
struct Answer {
    token: String,
    batch: EventBatch,
}

impl FromValue for Answer {
    fn from_value(mut value: Value) -> Result<Self, DecodeError> {
        let mut take = |name: &str| value.get_mut(name).map(Value::take).unwrap_or_default();
        let Value::String(token) = take("token") else {
            return Err(DecodeError::new("a batch of events", &value));
        };
        let events = Vec::<Event>::from_value(take("events")).map_err(|e| e.within("events"))?;
        let counts = match take("valid_ref_counts") {
            Value::Object(counts) => counts
                .into_iter()
                .filter_map(|(class, n)| {
                    let n = i64::from_value(n).ok().and_then(|n| u64::try_from(n).ok())?;
                    Some((class.to_ascii_lowercase(), n))
                })
                .collect(),
            _ => BTreeMap::new(),
        };
        Ok(Self { token, batch: EventBatch { events, complete: false, counts } })
    }
}

/// Changes of objects, followed with `event.from` (since XenServer 6.0): made by
/// [`Session::events`].
///
/// Nothing runs in the background: the server keeps what happens between two calls of
/// [`next`](Self::next). Dropping a `next` that waits loses nothing.
#[derive(Debug)]
pub struct EventStream {
    session: Session,
    classes: Vec<String>,
    token: String,
    /// The login that the token was told to.
    login: u64,
    failures: u32,
    wait: Duration,
}

impl Session {
    /// Follows the objects of some classes: `"vm"`, `"vm/OpaqueRef:…"` for a single object, `"*"`
    /// for all. The first batch has all objects that there are.
    ///
    /// ```no_run
    /// # async fn run(session: xenapi::Session) -> Result<(), Box<dyn std::error::Error>> {
    /// use xenapi::vm::Vm;
    ///
    /// let mut events = session.events(["vm"]);
    /// loop {
    ///     for event in events.next().await?.events {
    ///         if let Some(vm) = event.record::<Vm>()? {
    ///             println!("{} is {}", vm.name_label, vm.power_state);
    ///         }
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn events(&self, classes: impl IntoIterator<Item = impl Into<String>>) -> EventStream {
        EventStream {
            session: self.clone(),
            classes: classes.into_iter().map(Into::into).collect(),
            token: String::new(),
            login: self.logins(),
            failures: 0,
            wait: WAIT,
        }
    }
}

impl EventStream {
    /// How long one question may be held by the server; 30 s unless told otherwise. Whoever waits
    /// sees no difference; proxies may close connections that are quiet for longer.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// The next batch: waits until something happens. A connection that breaks is made again.
    ///
    /// # Errors
    /// Of kind [`Api`](ErrorKind::Api) if the server refuses the question, and what a call can
    /// meet if the server cannot be reached for some 13 s; the stream goes on when it is asked
    /// again.
    pub async fn next(&mut self) -> Result<EventBatch> {
        loop {
            let asked = Instant::now();
            match self.question().await {
                Ok(Some(batch)) if batch.complete || !batch.events.is_empty() => {
                    self.failures = 0;
                    return Ok(batch);
                }
                Ok(_) => {
                    self.failures = 0;
                    if asked.elapsed() < NO_NEWS {
                        tokio::time::sleep(NO_NEWS).await;
                    }
                }
                Err(e) if e.has_code(&ErrorCode::EVENT_FROM_TOKEN_PARSE_FAILURE) => {
                    if self.token.is_empty() {
                        return Err(e);
                    }
                    self.resync();
                }
                Err(e) if is_passing(e.kind()) && self.failures < MOST_FAILURES => {
                    let pause = FIRST_PAUSE * 2_u32.saturating_pow(self.failures);
                    self.failures += 1;
                    tokio::time::sleep(pause).await;
                }
                Err(e) => {
                    self.failures = 0;
                    return Err(e);
                }
            }
        }
    }

    /// Makes the next batch a complete one.
    pub fn resync(&mut self) {
        self.token.clear();
    }

    /// Whether all objects of a class are followed.
    pub(crate) fn follows(&self, class: &str) -> bool {
        self.classes.iter().any(|own| own == "*" || own.eq_ignore_ascii_case(class))
    }

    /// One question; `None` for an answer that was given to a token of another login, whose
    /// numbers may be those of another database.
    async fn question(&mut self) -> Result<Option<EventBatch>> {
        let complete = self.token.is_empty();
        let wait = if complete { AT_ONCE.min(self.wait) } else { self.wait };
        let call: Call<Answer> =
            Call::new("event.from").arg(&self.classes).arg(&self.token).arg(wait.as_secs_f64());
        // The answer may come after the time that the server was given.
        let patience = wait.saturating_add(wait / 10).saturating_add(Duration::from_secs(30));
        let answer = self.session.ask(&call, patience).await;
        let login = self.session.logins();
        if login != self.login {
            self.login = login;
            if !complete {
                self.resync();
                return answer.map(|_| None);
            }
        }
        let answer = answer?;
        self.token = answer.token;
        Ok(Some(EventBatch { complete, ..answer.batch }))
    }
}

/// Whether an error is one of the way to the server, which may pass.
fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Connect | ErrorKind::Transport | ErrorKind::Timeout)
}
