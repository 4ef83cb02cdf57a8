//! Tasks: what Glance does in the background, such as an import.
//!
//! ```
//! use glance_client::task::{self, TaskStatus};
//! let call = task::of_image("9b4b");
//! assert_eq!(call.path(), "images/9b4b/tasks");
//! let body = br#"{"tasks": [{"id": "1", "status": "processing", "message": "Copied 10 MiB"}]}"#;
//! let tasks = call.parse(http::StatusCode::OK, &http::HeaderMap::new(), body).unwrap();
//! assert_eq!(tasks[0].status, TaskStatus::Processing);
//! assert_eq!(tasks[0].message.as_deref(), Some("Copied 10 MiB"));
//! ```

use std::time::{Duration, SystemTime};

use http::Method;
use serde_json::{Value, json};

use crate::call::{Answer, Call, segment};
use crate::error::{Error, ErrorKind, Result};
use crate::image::on_image;
use crate::keystone::ServiceClient;
use crate::poll::{Limit, Pace, Seen, poll};
use crate::take::Take;
use crate::words::words;

words! {
    /// Where a task is.
    TaskStatus {
        /// It ended in vain.
        Failure = "failure",
        /// It has not begun.
        Pending = "pending",
        /// It runs.
        Processing = "processing",
        /// It did what it was for.
        Success = "success",
    }
}

impl TaskStatus {
    /// Whether it has ended.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Failure | Self::Success)
    }
}

/// A task. Glance keeps those that have ended for two days.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Task {
    /// The id.
    pub id: String,
    /// What it does: `api_image_import`, `location_import`…
    pub kind: String,
    /// Where it is.
    pub status: TaskStatus,
    /// How far it is (`Copied 10 MiB`), or why it failed; often no more than *internal error*.
    pub message: Option<String>,
    /// The image that it works on.
    pub image_id: Option<String>,
    /// The project.
    pub owner: Option<String>,
    /// The id of the request that began it.
    pub request_id: Option<String>,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// When it was changed.
    pub updated_at: Option<SystemTime>,
    /// When Glance forgets it.
    pub expires_at: Option<SystemTime>,
    /// What came out of it.
    pub result: Value,
}

impl Task {
    /// Reads a task from Glance's JSON. Its input, which may hold a URL with a password, is left out. Only the id is a
    /// must.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`].
    pub fn from_json(mut value: Value) -> Result<Self> {
        let bad = || Error::protocol("task: the answer has no id");
        let mut take = Take(value.as_object_mut().ok_or_else(bad)?);
        Ok(Self {
            id: take.text("id").ok_or_else(bad)?,
            kind: take.text("type").unwrap_or_default(),
            status: TaskStatus::from(take.text("status").unwrap_or_default().as_str()),
            message: take.text("message").filter(|text| !text.is_empty()),
            image_id: take.text("image_id"),
            owner: take.text("owner"),
            request_id: take.text("request_id"),
            created_at: take.time("created_at"),
            updated_at: take.time("updated_at"),
            expires_at: take.time("expires_at"),
            result: take.0.remove("result").unwrap_or_default(),
        })
    }
}

fn many(answer: &Answer<'_>) -> Result<Vec<Task>> {
    let document: Value = answer.json()?;
    let list = document["tasks"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(list.iter().filter_map(|task| Task::from_json(task.clone()).ok()).collect())
}

/// The tasks that work or worked on an image: `GET /v2/images/{id}/tasks` (API 2.12).
#[must_use]
pub fn of_image(id: &str) -> Call<Vec<Task>> {
    on_image("list tasks", id, "/tasks", Method::GET, many)
}

/// The newest tasks, at most `limit` (25 if 0), without their messages: `GET /v2/tasks`. Administrators only.
#[must_use]
pub fn list(limit: u32) -> Call<Vec<Task>> {
    let path = if limit == 0 { "tasks".to_owned() } else { format!("tasks?limit={limit}") };
    Call::new("tasks: list", Method::GET, path, many)
}

/// One task: `GET /v2/tasks/{id}`. Administrators only.
#[must_use]
pub fn get(id: &str) -> Call<Task> {
    let what = format!("task {id}: get");
    let one = |answer: &Answer<'_>| {
        Task::from_json(answer.json()?)
            .map_err(|error| error.with_answer(answer.status, answer.headers))
    };
    match segment(id) {
        Some(id) => Call::new(what, Method::GET, format!("tasks/{id}"), one),
        None => Call::new(what, Method::GET, "tasks", one)
            .with_problem(format!("{:?} is not the id of a task", json!(id))),
    }
}

/// Waits for the end of a task.
pub(crate) async fn wait(
    client: &ServiceClient,
    id: &str,
    timeout: Duration,
    pace: &Pace,
) -> Result<Task> {
    let look = || async {
        let task = client.call(get(id)).await?;
        match &task.status {
            TaskStatus::Success => Ok(Seen::Done(task)),
            TaskStatus::Failure => {
                let why = task.message.as_deref().unwrap_or("the server does not say why");
                Err(Error::new(ErrorKind::Failed, format!("task {id}: it failed: {why}")))
            }
            status => Ok(Seen::Pending(status.to_string())),
        }
    };
    let late = |last: &str| {
        format!("task {id}: not over after {} s (last: {last})", timeout.as_secs_f32())
    };
    poll(pace, Limit::InAll(timeout), &format!("task {id}"), look, late).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, StatusCode};

    #[test]
    fn tasks_are_read_leniently_and_without_their_input() {
        assert_eq!(of_image("1").path(), "images/1/tasks");
        assert_eq!(list(3).path(), "tasks?limit=3");
        let body = br#"{"tasks": [{"id": "t", "type": "api_image_import", "status": "failure",
            "message": "no", "image_id": "1", "expires_at": "2026-11-23T09:00:00Z", "result": {"a": 1},
            "input": {"import_req": {"method": {"uri": "http://u:hunter2@h/"}}}}, {"status": "x"}]}"#;
        let tasks = of_image("1").parse(StatusCode::OK, &HeaderMap::new(), body).unwrap();
        assert_eq!(tasks.len(), 1);
        assert!(tasks[0].status.is_final());
        assert_eq!(tasks[0].message.as_deref(), Some("no"));
        assert!(!format!("{tasks:?}").contains("hunter2"));
        assert!(get("").url(&url::Url::parse("http://h/v2").unwrap()).is_err());
    }
}
