//! From a call to its effect: the checks that the server makes before it does anything.

use std::sync::Arc;
use std::time::Duration;

use super::pool::{Pool, State};
use super::role::Role;
use super::schema::{self, Message};
use super::value::{ApiError, ApiResult, Value};
use super::{blob, event, generic, metrics, task, vdi, vm};

/// The answer of the server.
#[derive(Debug)]
pub(crate) enum Reply {
    Value(ApiResult),
    /// The connection ends without an answer.
    Dropped,
}

/// Answers one call that came in at host number `host`.
pub(crate) async fn call(pool: &Arc<Pool>, host: usize, method: &str, params: Vec<Value>) -> Reply {
    pool.with(|state| state.calls.push(method.to_owned()));
    if pool.faults.drops_call(method) {
        return Reply::Dropped;
    }
    let role = params.first().and_then(Value::as_str).map(|session| pool.session_role(session));
    let mut result = answer(pool, host, method, params).await;
    note(pool, role.and_then(Result::ok).unwrap_or_default(), method, &result);
    if pool.faults.drops_answer(method) {
        return Reply::Dropped;
    }
    if let Ok(value) = &mut result {
        generic::spoil(value, pool.faults.plan());
    }
    Reply::Value(result)
}

/// What changes something is in the audit log.
fn note(pool: &Pool, role: Role, method: &str, result: &ApiResult) {
    let found = find(method.trim_start_matches("Async."));
    if found.is_some_and(|(_, _, message)| message.least_role > Role::ReadOnly) {
        pool.with(|state| state.audit.note(role, method, result));
    }
}

async fn answer(pool: &Arc<Pool>, host: usize, method: &str, params: Vec<Value>) -> ApiResult {
    if method == "system.listMethods" {
        return Ok(list_methods());
    }
    let (plain, is_async) = match method.strip_prefix("Async.") {
        Some(plain) => (plain, true),
        None => (method, false),
    };
    let (class, name, message) =
        find(plain).ok_or_else(|| ApiError::new("MESSAGE_METHOD_UNKNOWN", [method]))?;
    if message.needs_session() && pool.faults.master_moves() {
        pool.with(|state| state.move_master(1 - state.master.min(1)));
    }
    let master = pool.with(|state| state.master);
    // Of what a member answers itself this double has one call.
    if host != master && plain != "session.slave_local_login_with_password" {
        // A real server names the address alone, and every host of a pool listens on the same
        // port. Here all hosts share one address, so that the port must tell them apart.
        let port = pool.hosts.get(master).map(|h| h.port).unwrap_or_default();
        return Err(ApiError::new("HOST_IS_SLAVE", [&format!("127.0.0.1:{port}")]));
    }
    if is_async && !message.is_async {
        return Err(ApiError::new("Fault", ["No async mode for this operation"]));
    }
    let args = check(pool, method, message, params)?;
    if pool.faults.fails_now(method) {
        return Err(ApiError::new("INTERNAL_ERROR", ["a fault was asked for"]));
    }
    if class == "session" {
        return session(pool, host, name, &args).await;
    }
    if (class, name) == ("event", "from") {
        return event::from(pool, &args).await;
    }
    if is_async {
        return Ok(start(pool, class, name, args).into());
    }
    if let Some(error) = ignored(pool, class, name, &args, None).await {
        return Err(error);
    }
    let plan = pool.faults.plan();
    pool.with(|state| perform(pool, state, plan, class, name, args.get(1..).unwrap_or_default()))
}

/// A guest that does not react to what it is asked: why the call fails, after its time.
async fn ignored(
    pool: &Pool,
    class: &str,
    name: &str,
    args: &[Value],
    task: Option<&str>,
) -> Option<ApiError> {
    let patience = pool.faults.plan().shutdown_ignored?;
    if class != "VM" || !matches!(name, "clean_shutdown" | "clean_reboot") {
        return None;
    }
    let until = tokio::time::Instant::now() + patience;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if let Some(task) = task.filter(|task| pool.is_cancelled(task)) {
            return Some(ApiError::new("TASK_CANCELLED", [task]));
        }
    }
    let vm = args.get(1).and_then(Value::as_str).unwrap_or_default();
    Some(ApiError::new("VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT", [vm]))
}

fn find(method: &str) -> Option<(&'static str, &'static str, &'static Message)> {
    let (class, name) = method.split_once('.')?;
    let (class, spec) = schema::classes().get_key_value(class)?;
    let (name, message) = spec.messages.get_key_value(name)?;
    Some((class, name, message))
}

/// Counts and types the parameters and finds the session. The count in the error leaves the
/// session out on both sides.
fn check(
    pool: &Pool,
    method: &str,
    message: &Message,
    params: Vec<Value>,
) -> Result<Vec<Value>, ApiError> {
    let session = usize::from(message.needs_session());
    let least = message.params.iter().filter(|p| !p.optional).count();
    // The originator of a login is older than everything here.
    let old = pool.faults.plan().old_arity && session == 1;
    let most = if old { least } else { message.params.len() };
    if params.len() < least || params.len() > most {
        let expected = (if params.len() < least { least } else { most }) - session;
        let received = params.len().saturating_sub(session);
        return Err(ApiError::new(
            "MESSAGE_PARAMETER_COUNT_MISMATCH",
            [method, &expected.to_string(), &received.to_string()],
        ));
    }
    let mut args = Vec::with_capacity(params.len());
    for (param, value) in message.params.iter().zip(params) {
        let typed = schema::coerce(param.kind, value);
        args.push(typed.ok_or_else(|| ApiError::new("FIELD_TYPE_ERROR", [param.name]))?);
    }
    if session == 1 {
        let handle = args.first().and_then(Value::as_str).unwrap_or_default();
        let role = pool.session_role(handle)?;
        if pool.faults.session_dies() {
            pool.with(|state| state.sessions.remove(handle));
            return Err(ApiError::new("SESSION_INVALID", [handle]));
        }
        role.permit(message.least_role, method.trim_start_matches("Async."))?;
    }
    Ok(args)
}

async fn session(pool: &Arc<Pool>, host: usize, name: &str, args: &[Value]) -> ApiResult {
    let arg = |i: usize| args.get(i).and_then(Value::as_str).unwrap_or_default();
    match name {
        "login_with_password" | "slave_local_login_with_password" => {
            if let Some(role) = pool.role_of(arg(0), arg(1)) {
                return Ok(pool.open_session(arg(3), role).into());
            }
            if let Some(delay) = pool.faults.plan().login_delay {
                tokio::time::sleep(delay).await;
            }
            Err(ApiError::new("SESSION_AUTHENTICATION_FAILED", [arg(0), "Authentication failure"]))
        }
        "logout" => {
            pool.with(|state| state.sessions.remove(arg(0)));
            Ok("".into())
        }
        "get_this_host" => {
            let host = pool.with(|state| state.hosts.get(host).cloned());
            Ok(host.unwrap_or_default().into())
        }
        "get_originator" => {
            let originator =
                pool.with(|state| state.sessions.get(arg(1)).map(|s| s.originator.clone()));
            originator.map(Value::Str).ok_or_else(|| ApiError::handle("session", arg(1)))
        }
        _ => Err(not_built("session", name)),
    }
}

/// Starts an asynchronous call: the task exists before its effect does.
fn start(pool: &Arc<Pool>, class: &'static str, name: &'static str, args: Vec<Value>) -> String {
    let method = format!("{class}.{name}");
    let task = pool.with(|state| {
        let task = state.new_task(&format!("Async.{method}"), "");
        state.running.insert(task.clone());
        task
    });
    let (pool, id) = (Arc::clone(pool), task.clone());
    tokio::spawn(async move {
        let plan = pool.faults.plan();
        let delay = plan.slow_task.unwrap_or(Duration::from_millis(20));
        const PARTS: u32 = 10;
        for part in 1..=PARTS {
            tokio::time::sleep(delay / PARTS).await;
            if pool.is_cancelled(&id) {
                return pool.finish_task(&id, Err(ApiError::new("TASK_CANCELLED", [&id])));
            }
            pool.progress(&id, f64::from(part) / f64::from(PARTS + 1));
        }
        if pool.faults.task_is_cancelled(&method) {
            let _ = pool.with(|state| state.db.set("task", &id, "status", "cancelling"));
            return pool.finish_task(&id, Err(ApiError::new("TASK_CANCELLED", [&id])));
        }
        if let Some(error) = ignored(&pool, class, name, &args, Some(&id)).await {
            return pool.finish_task(&id, Err(error));
        }
        if pool.faults.task_fails(&method) {
            let error = ApiError::new("INTERNAL_ERROR", ["a fault was asked for"]);
            return pool.finish_task(&id, Err(error));
        }
        pool.with(|state| {
            let args = args.get(1..).unwrap_or_default();
            let result = perform(&pool, state, plan, class, name, args);
            state.finish_task(&id, result);
        });
    });
    task
}

/// Everything that takes effect at once, under the lock. `args` come without the session.
fn perform(
    pool: &Pool,
    state: &mut State,
    plan: super::fault::Plan,
    class: &'static str,
    name: &'static str,
    args: &[Value],
) -> ApiResult {
    if let Some(result) = vm::perform(state, plan, class, name, args) {
        return result;
    }
    if let Some(result) = vdi::perform(state, plan, class, name, args) {
        return result;
    }
    if let Some(result) = task::perform(state, class, name, args) {
        return result;
    }
    if let Some(result) = blob::perform(state, class, name, args) {
        return result;
    }
    if let Some(result) = metrics::perform(state, class, name, args) {
        return result;
    }
    if (class, name) == ("event", "inject") {
        return event::inject(state, args);
    }
    if let ("host", "get_server_certificate") = (class, name) {
        let host = args.first().and_then(Value::as_str).unwrap_or_default();
        let found = state.hosts.iter().position(|h| h == host);
        let facts = found.and_then(|i| pool.hosts.get(i));
        let facts = facts.ok_or_else(|| ApiError::handle("host", host))?;
        let pem = facts.certificate.as_ref().map(|c| c.pem.as_str()).unwrap_or_default();
        return Ok(pem.into());
    }
    if let ("host", "get_server_localtime" | "get_servertime") = (class, name) {
        return Ok(super::pool::now());
    }
    generic::perform(state, class, name, args).unwrap_or_else(|| Err(not_built(class, name)))
}

/// The server knows the message, this double does not do it.
fn not_built(class: &str, name: &str) -> ApiError {
    ApiError::new("NOT_IMPLEMENTED", [&format!("{class}.{name}")])
}

fn list_methods() -> Value {
    let mut names = vec![Value::from("system.listMethods")];
    for (class, spec) in schema::classes() {
        for (name, message) in &spec.messages {
            names.push(format!("{class}.{name}").into());
            if message.is_async {
                names.push(format!("Async.{class}.{name}").into());
            }
        }
    }
    Value::Array(names)
}
