//! Tasks: what the service does in the background.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Fault;
use super::glance::{Caller, find};
use super::http::{Reply, Req, glance_error};
use super::state::Shared;

pub(super) const IMPORT: &str = "api_image_import";
pub(super) const LOCATION: &str = "location_import";

/// How long one is remembered after its end.
const KEPT: Duration = Duration::from_secs(48 * 3600);

#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) id: String,
    kind: &'static str,
    pub(super) image: String,
    owner: String,
    request: String,
    input: Value,
    status: &'static str,
    message: String,
    created: Timestamp,
    updated: Timestamp,
    expires: Option<Timestamp>,
}

impl Task {
    pub(super) fn new(
        kind: &'static str,
        image: &str,
        caller: &Caller,
        req: &Req,
        input: Value,
    ) -> Self {
        let now = Timestamp::now();
        Self {
            id: Uuid::new_v4().to_string(),
            kind,
            image: image.to_owned(),
            owner: caller.project.clone(),
            request: req.id.clone(),
            input,
            status: "pending",
            message: String::new(),
            created: now,
            updated: now,
            expires: None,
        }
    }

    fn show(&self) -> Value {
        // Here the times have fractions and no zone.
        let time = |time: Timestamp| time.strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string();
        json!({
            "id": self.id, "type": self.kind, "status": self.status, "owner": self.owner,
            "image_id": self.image, "request_id": self.request, "input": self.input,
            "result": Value::Null, "message": self.message, "created_at": time(self.created),
            "updated_at": time(self.updated), "expires_at": self.expires.map(time),
            "deleted": false, "deleted_at": Value::Null,
        })
    }

    fn stub(&self) -> Value {
        let mut stub = self.show();
        for key in ["input", "result", "message", "image_id", "request_id", "deleted", "deleted_at"]
        {
            stub.as_object_mut().map(|stub| stub.remove(key));
        }
        stub["self"] = json!(format!("/v2/tasks/{}", self.id));
        stub["schema"] = json!("/v2/schemas/task");
        stub
    }
}

/// Notes where a task is.
pub(super) fn note(state: &Shared, id: &str, status: &'static str, message: &str) {
    let mut tables = state.tables();
    let Some(task) = tables.tasks.iter_mut().find(|task| task.id == id) else { return };
    task.status = status;
    message.clone_into(&mut task.message);
    task.updated = Timestamp::now();
    if matches!(status, "success" | "failure") {
        task.expires = task.updated.checked_add(KEPT).ok();
    }
}

/// `GET /v2/images/{id}/tasks`.
pub(super) fn of_image(state: &Shared, req: &Req, caller: &Caller, id: &str) -> Reply {
    if state.faults.on(&Fault::NoImageTasks) {
        return glance_error(req, 404, "The resource could not be found.", "");
    }
    let mut tables = state.tables();
    if let Err(refusal) = find(&mut tables, req, caller, id) {
        return *refusal;
    }
    let own = tables.tasks.iter().filter(|task| task.image == id);
    Reply::json(200, &json!({"tasks": own.map(Task::show).collect::<Vec<_>>()}))
}

/// `GET /v2/tasks` and `GET /v2/tasks/{id}`, for administrators.
pub(super) fn get(state: &Shared, req: &Req, caller: &Caller, id: Option<&str>) -> Reply {
    if !caller.admin {
        let said = "You are not authorized to complete tasks_api_access action.";
        return glance_error(req, 403, said, "");
    }
    let tables = state.tables();
    let Some(id) = id else {
        let limit = req.query("limit").and_then(|limit| limit.parse().ok()).unwrap_or(25);
        let newest = tables.tasks.iter().rev().take(limit);
        let list: Vec<Value> = newest.map(Task::stub).collect();
        let mut body = json!({"tasks": list, "first": "/v2/tasks", "schema": "/v2/schemas/tasks"});
        if let Some(last) = list.last().filter(|_| list.len() == limit) {
            let marker = last["id"].as_str().unwrap_or_default();
            body["next"] = json!(format!("/v2/tasks?limit={limit}&marker={marker}"));
        }
        return Reply::json(200, &body);
    };
    match tables.tasks.iter().find(|task| task.id == id) {
        Some(task) => {
            let mut shown = task.show();
            shown["self"] = json!(format!("/v2/tasks/{id}"));
            shown["schema"] = json!("/v2/schemas/task");
            Reply::json(200, &shown)
        }
        None => {
            let said = format!("Failed to find task {id}. Reason: No task found with ID {id}");
            glance_error(req, 404, &said, "")
        }
    }
}
