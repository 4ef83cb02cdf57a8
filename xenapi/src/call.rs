//! Requests as values.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::value::{DecodeError, FromValue};

/// One call of the API as a value: a method name, its parameters, and what the answer is read as.
///
/// The functions of the class modules ([`vm::snapshot`](crate::vm::snapshot) …) make them;
/// [`Session::call`](crate::Session::call) sends them. The session reference that nearly every
/// method takes first is not part of the value: the session adds it, and adds another one when it
/// had to log in again. A method that this crate has no function for is called by name:
///
/// ```
/// use xenapi::Call;
///
/// let call: Call<bool> = Call::new("host.has_extension").arg("OpaqueRef:1").arg("demo");
/// assert_eq!(call.method(), "host.has_extension");
/// assert_eq!(call.params().len(), 2);
/// assert!(call.parse(true.into())?);
/// # Ok::<(), xenapi::DecodeError>(())
/// ```
pub struct Call<T> {
    method: Cow<'static, str>,
    params: Vec<Value>,
    may_repeat: bool,
    result: PhantomData<fn() -> T>,
}

impl<T> Call<T> {
    /// A call of `method` (`Class.message`) without parameters.
    #[must_use]
    pub fn new(method: impl Into<Cow<'static, str>>) -> Self {
        let method = method.into();
        let may_repeat = only_reads(&method);
        Self { method, params: Vec::new(), may_repeat, result: PhantomData }
    }

    /// Says that the call may be sent twice: when a connection breaks before its answer, nobody
    /// knows whether it took effect, and the session sends it again only if that does no harm.
    /// Calls that only read (`get_…`, `event.from`) need not be told.
    ///
    /// ```
    /// use xenapi::{Ref, vm};
    ///
    /// let web01 = Ref::new("OpaqueRef:1");
    /// assert!(vm::get_power_state(&web01).may_repeat());
    /// assert!(!vm::snapshot(&web01, "before").may_repeat());
    /// assert!(vm::set_name_label(&web01, "web02").repeatable().may_repeat());
    /// ```
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.may_repeat = true;
        self
    }

    /// Whether the call may be sent twice.
    #[must_use]
    pub fn may_repeat(&self) -> bool {
        self.may_repeat
    }

    /// Appends a parameter. Give everything after the session reference, in the API's order.
    #[must_use]
    pub fn arg(mut self, value: impl Serialize) -> Self {
        self.params.push(to_value(&value));
        self
    }

    /// The method name, `Class.message`.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The parameters without the session reference.
    #[must_use]
    pub fn params(&self) -> &[Value] {
        &self.params
    }
}

impl<T: FromValue> Call<T> {
    /// Reads the value of a successful answer.
    ///
    /// # Errors
    /// [`DecodeError`] if the value is not of the promised shape.
    pub fn parse(&self, value: Value) -> Result<T, DecodeError> {
        T::from_value(value)
    }
}

impl<T> Clone for Call<T> {
    fn clone(&self) -> Self {
        Self {
            method: self.method.clone(),
            params: self.params.clone(),
            may_repeat: self.may_repeat,
            result: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Call<T> {
    /// The method and the number of parameters: a parameter may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("params", &self.params.len())
            .finish_non_exhaustive()
    }
}

/// A call that the server runs in the background, as a task: the `Async.` form of a method.
///
/// [`Session::start`](crate::Session::start) sends it and gives a
/// [`TaskHandle<T>`](crate::TaskHandle); [`Session::wait`](crate::Session::wait) gives the `T`.
pub struct AsyncCall<T> {
    call: Call<crate::refs::Ref<crate::task::Task>>,
    result: PhantomData<fn() -> T>,
}

impl<T> AsyncCall<T> {
    /// The background form of a call: `Async.` is put in front of its method.
    ///
    /// Only messages that the API flags as asynchronous have one; the others answer with an error.
    #[must_use]
    pub fn of(call: Call<T>) -> Self {
        let method = Cow::Owned(format!("Async.{}", call.method));
        Self {
            call: Call { method, params: call.params, may_repeat: false, result: PhantomData },
            result: PhantomData,
        }
    }

    /// The call as it is sent; its direct answer is the task's reference.
    #[must_use]
    pub fn as_call(&self) -> &Call<crate::refs::Ref<crate::task::Task>> {
        &self.call
    }
}

impl<T> Clone for AsyncCall<T> {
    fn clone(&self) -> Self {
        Self { call: self.call.clone(), result: PhantomData }
    }
}

impl<T> fmt::Debug for AsyncCall<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)
    }
}

/// Whether a method changes nothing, by its name.
fn only_reads(method: &str) -> bool {
    let Some((class, message)) = method.split_once('.') else { return false };
    message.starts_with("get_") || class == "system" || method == "event.from"
}

/// Parameters are text, numbers, lists and maps with text keys, which always serialise; if a
/// caller's own type does not, the server says what it misses.
fn to_value<T: Serialize + ?Sized>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Adds a constructor field, unless it is an unset enumeration or an unset text: both serialise to
/// an empty text, which is the server's own default for text.
pub(crate) fn put_field<T: Serialize>(map: &mut Map<String, Value>, name: &str, value: &T) {
    let value = to_value(value);
    if value.as_str() != Some("") {
        map.insert(name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refs::Ref;
    use crate::vm;

    #[test]
    fn debug_shows_no_parameter() {
        let call: Call<()> = Call::new("session.change_password").arg("old-secret").arg("new");
        assert!(!format!("{call:?}").contains("secret"));
        assert!(format!("{call:?}").contains("session.change_password"));
    }

    #[test]
    fn only_what_reads_is_repeated_unasked() {
        for method in ["VM.get_all_records", "event.from", "system.listMethods", "VDI.get_nbd_info"]
        {
            assert!(only_reads(method), "{method}");
        }
        for method in ["VM.snapshot", "VM.set_tags", "Async.VM.get_record", "event.inject", "get_x"]
        {
            assert!(!only_reads(method), "{method}");
        }
    }

    #[test]
    fn the_background_form_keeps_the_parameters() {
        let source = Ref::new("OpaqueRef:vm");
        let call = vm::async_snapshot(&source, "before");
        assert_eq!(call.as_call().method(), "Async.VM.snapshot");
        assert_eq!(call.as_call().params(), vm::snapshot(&source, "before").params());
    }
}
