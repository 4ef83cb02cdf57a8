//! Messages of the class task.

use super::pool::State;
use super::value::{ApiError, ApiResult, Value, text};

/// Answers a message of tasks that is more than a getter; `None` for anything else.
pub(crate) fn perform(
    state: &mut State,
    class: &str,
    name: &str,
    args: &[Value],
) -> Option<ApiResult> {
    if class != "task" {
        return None;
    }
    let arg = |i: usize| args.get(i).and_then(Value::as_str).unwrap_or_default();
    Some(match name {
        "create" => Ok(state.new_task(arg(0), arg(1)).into()),
        "cancel" => cancel(state, arg(0)),
        "destroy" => destroy(state, arg(0)),
        _ => return None,
    })
}

/// Whoever works on the task sees the wish; a task without a worker is cancelled at once.
fn cancel(state: &mut State, task: &str) -> ApiResult {
    let record = state.db.raw("task", task)?;
    let allowed = record.get("allowed_operations").map(Value::as_array).unwrap_or_default();
    if !allowed.contains(&"cancel".into()) {
        return Err(ApiError::new("OPERATION_NOT_ALLOWED", ["The task cannot be cancelled"]));
    }
    state.db.set("task", task, "status", "cancelling")?;
    if !state.running.contains(task) {
        state.finish_task(task, Err(ApiError::new("TASK_CANCELLED", [task])));
    }
    Ok("".into())
}

/// A task that something works on goes away when the work has ended.
fn destroy(state: &mut State, task: &str) -> ApiResult {
    let pending = matches!(text(state.db.raw("task", task)?, "status"), "pending" | "cancelling");
    if pending && state.running.contains(task) {
        state.doomed.insert(task.to_owned());
    } else {
        state.db.remove("task", task);
    }
    Ok("".into())
}
