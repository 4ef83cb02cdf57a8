//! Asynchronous jobs: a command that answers at once with a number, and its result later.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::error::{ApiError, ApiResult};
use super::owner::Owner;
use super::params::Params;
use super::state::Shared;
use super::template::cloudstack_time;
use super::{Fault, fixture};

#[derive(Debug)]
pub(super) struct Job {
    id: String,
    command: String,
    account: &'static str,
    instance: Option<(&'static str, String)>,
    created: Timestamp,
    /// When it ended, and how.
    end: Option<(Timestamp, ApiResult<Value>)>,
}

impl Job {
    fn show(&self) -> Value {
        let ended = self.end.as_ref();
        let status = ended.map_or(0, |(_, result)| if result.is_ok() { 1 } else { 2 });
        let mut shown = json!({
            "jobid": self.id,
            "cmd": format!("org.apache.cloudstack.api.command.{}Cmd", self.command),
            "created": cloudstack_time(self.created),
            "accountid": fixture::account_id(self.account),
            "account": self.account,
            "domainid": fixture::domain_id(),
            "domainpath": "ROOT",
            "userid": fixture::stable_uuid("user", self.account),
            "jobstatus": status,
            "jobprocstatus": 0,
            "jobresultcode": 0,
        });
        let mut more = Map::new();
        if let Some((kind, id)) = &self.instance {
            more.insert("jobinstancetype".to_owned(), json!(kind));
            more.insert("jobinstanceid".to_owned(), json!(id));
        }
        if let Some((completed, result)) = ended {
            more.insert("completed".to_owned(), json!(cloudstack_time(*completed)));
            more.insert("jobresulttype".to_owned(), json!("object"));
            let result = match result {
                Ok(value) => value.clone(),
                Err(error) => {
                    more.insert("jobresultcode".to_owned(), json!(error.status));
                    json!({"errorcode": error.status, "errortext": error.text})
                }
            };
            more.insert("jobresult".to_owned(), result);
        }
        if let Some(shown) = shown.as_object_mut() {
            shown.extend(more);
        }
        shown
    }
}

/// Starts a job whose effect comes later; the answer has its number.
pub(super) fn submit(
    state: &Arc<Shared>,
    params: &Params,
    instance: Option<(&'static str, String)>,
    effect: impl FnOnce(&Shared) -> ApiResult<Value> + Send + 'static,
) -> ApiResult<Value> {
    let id = match params.get("customjobid") {
        Some(chosen) => chosen_id(state, chosen)?,
        None => Uuid::new_v4().to_string(),
    };
    let job = Job {
        id: id.clone(),
        command: params.command.clone(),
        account: params.caller.account,
        instance,
        created: Timestamp::now(),
        end: None,
    };
    state.tables().jobs.push(job);
    tokio::spawn(run(Arc::clone(state), id.clone(), params.command.clone(), effect));
    Ok(json!({"jobid": id}))
}

/// As [`submit`], for a command whose first answer has the id of what it makes, which is there by now:
/// before anybody looks at the number of the job.
pub(super) fn submit_made(
    state: &Arc<Shared>,
    params: &Params,
    kind: &'static str,
    id: &str,
    effect: impl FnOnce(&Shared) -> ApiResult<Value> + Send + 'static,
) -> ApiResult<Value> {
    let mut answer = submit(state, params, Some((kind, id.to_owned())), effect)?;
    answer["id"] = json!(id);
    Ok(answer)
}

/// The caller may choose the number, once.
fn chosen_id(state: &Shared, text: &str) -> ApiResult<String> {
    let id = Uuid::try_parse(text).map(|id| id.to_string());
    let id = id.map_err(|_| ApiError::invalid(format!("Invalid UUID {text} for the job")))?;
    if state.tables().jobs.iter().any(|job| job.id == id) {
        return Err(ApiError::invalid(format!("UUID {id} already exists so it cannot be used")));
    }
    Ok(id)
}

async fn run(
    state: Arc<Shared>,
    id: String,
    command: String,
    effect: impl FnOnce(&Shared) -> ApiResult<Value> + Send,
) {
    let delay = state.faults.take(|fault| match fault {
        Fault::SlowJob(delay) => Some(*delay),
        _ => None,
    });
    let mut stopped = state.stopped.clone();
    tokio::select! {
        () = tokio::time::sleep(delay.unwrap_or(Duration::ZERO)) => {}
        _ = stopped.wait_for(|stopped| *stopped) => return,
    }
    let fails = state.faults.strikes(&Fault::JobFails(command));
    let result = if fails {
        Err(ApiError::internal("Failed to execute the job: it has failed on purpose"))
    } else {
        effect(&state)
    };
    if let Some(job) = state.tables().jobs.iter_mut().find(|job| job.id == id) {
        job.end = Some((Timestamp::now(), result));
    }
}

pub(super) fn query(state: &Shared, params: &Params) -> ApiResult<Value> {
    let id = params.required("jobid")?;
    let tables = state.tables();
    let job = tables.jobs.iter().find(|job| job.id.eq_ignore_ascii_case(id));
    let unknown = || ApiError::invalid(format!("Unable to find a job by id {id}"));
    let job = job.ok_or_else(unknown)?;
    params.check_use(Owner::Account(job.account), id).map(|()| job.show())
}

pub(super) fn list(state: &Shared, params: &Params) -> ApiResult<Vec<Value>> {
    let sees = params.sees()?;
    let tables = state.tables();
    Ok(tables.jobs.iter().filter(|job| sees(Owner::Account(job.account))).map(Job::show).collect())
}
