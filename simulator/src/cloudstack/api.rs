//! From the parameters of a request to the answer of a command: who asks, may he, what is asked.

use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{ApiError, ApiResult};
use super::http::{Reply, VERSION};
use super::params::Params;
use super::state::Shared;
use super::{Fault, fixture, job, list, register, sign, tags, ticket, update};
use crate::net::Hangup;

/// A command that exists: its name, whether it is asynchronous, and what it must be given.
struct Command {
    name: &'static str,
    is_async: bool,
    required: &'static [&'static str],
}

const fn sync(name: &'static str, required: &'static [&'static str]) -> Command {
    Command { name, is_async: false, required }
}

const fn later(name: &'static str, required: &'static [&'static str]) -> Command {
    Command { name, is_async: true, required }
}

const COMMANDS: [Command; 20] = [
    later("createTags", &["resourceids", "resourcetype", "tags"]),
    later("deleteTags", &["resourceids", "resourcetype"]),
    later("deleteTemplate", &["id"]),
    sync("getUploadParamsForTemplate", &["format", "hypervisor", "name", "zoneid"]),
    sync("listAccounts", &[]),
    sync("listApis", &[]),
    sync("listAsyncJobs", &[]),
    sync("listCapabilities", &[]),
    sync("listHypervisors", &[]),
    sync("listOsCategories", &[]),
    sync("listOsTypes", &[]),
    sync("listResourceLimits", &[]),
    sync("listTags", &[]),
    sync("listTemplatePermissions", &["id"]),
    sync("listTemplates", &["templatefilter"]),
    sync("listZones", &[]),
    sync("queryAsyncJobResult", &["jobid"]),
    sync("registerTemplate", &["format", "hypervisor", "name", "url"]),
    sync("updateTemplate", &["id"]),
    sync("updateTemplatePermissions", &["id"]),
];

pub(super) async fn handle(
    state: &Arc<Shared>,
    pairs: &[(String, String)],
    post: bool,
) -> Result<Reply, Hangup> {
    let name = value(pairs, "command").unwrap_or_default();
    let json = value(pairs, "response").is_some_and(|form| form.eq_ignore_ascii_case("json"));
    let command = COMMANDS.iter().find(|command| command.name == name);
    let root = root_key(command);
    let struck = state.faults.count(name);
    let outcome = async {
        authorize(state, pairs, struck.key_expired)?;
        let command = command.ok_or_else(|| ApiError::unknown_command(name))?;
        let params = Params::new(name, pairs);
        if let Some(status) = struck.fails {
            return Err(ApiError::on_purpose(status));
        }
        check_method(state, name, post)?;
        params.check()?;
        for required in command.required.iter().filter(|one| **one != "tags") {
            params.required(required)?;
        }
        run(state, &params).await
    };
    let outcome = outcome.await;
    if struck.drops {
        return Err(Hangup);
    }
    Ok(match outcome {
        Ok(value) => Reply::command(json, &root, &value),
        Err(error) => Reply::refusal(json, &root, &error),
    })
}

/// The one key around an answer, which is not always made of the command's name.
fn root_key(command: Option<&Command>) -> String {
    match command.map(|command| command.name) {
        None => "errorresponse".to_owned(),
        Some("getUploadParamsForTemplate") => "postuploadtemplateresponse".to_owned(),
        Some(name) => format!("{}response", name.to_lowercase()),
    }
}

/// `command` and `response` are looked for as they are written here.
fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The check of key, signature and time. Whatever fails, the answer is the same.
fn authorize(state: &Shared, pairs: &[(String, String)], key_expired: bool) -> ApiResult<()> {
    let find = |name: &str| {
        let found = pairs.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).ok_or_else(ApiError::unauthorized)
    };
    let enforced = state.faults.on(&Fault::EnforcePost);
    let (key, signature) = (find("apikey")?, find("signature")?);
    let versioned = find("signatureversion").is_ok_and(|version| version == "3");
    let timely =
        if versioned { sign::in_time(find("expires")?, state.now(), enforced) } else { !enforced };
    let text = sign::string_to_sign(pairs);
    let genuine = sign::verify(&state.config.secret, &text, signature);
    let expired = key_expired || state.faults.strikes(&Fault::ExpiredKey);
    if key == state.config.key && genuine && timely && !expired && find("command").is_ok() {
        Ok(())
    } else {
        Err(ApiError::unauthorized())
    }
}

/// With the setting on, what changes something must come by POST.
fn check_method(state: &Shared, name: &str, post: bool) -> ApiResult<()> {
    let reads = ["get", "list", "query", "find"].iter().any(|verb| name.starts_with(verb));
    if post || reads || !state.faults.on(&Fault::EnforcePost) {
        return Ok(());
    }
    let text = format!("{name} command must be made using POST request");
    Err(ApiError { status: 400, cs: None, text })
}

async fn run(state: &Arc<Shared>, params: &Params) -> ApiResult<Value> {
    let paged = |key: &str, rows: Vec<Value>| list::page(state, params, key, rows);
    match params.command.as_str() {
        "createTags" => tags::create(state, params),
        "deleteTags" => tags::delete(state, params),
        "deleteTemplate" => update::delete(state, params),
        "getUploadParamsForTemplate" => ticket::issue(state, params),
        "listAccounts" => paged("account", vec![account(state)]),
        "listApis" => paged("api", apis(params)?),
        "listAsyncJobs" => paged("asyncjobs", job::list(state)),
        "listCapabilities" => Ok(json!({"capability": {
            "cloudstackversion": VERSION,
            "securitygroupsenabled": false,
            "dynamicrolesenabled": true,
            "userpublictemplateenabled": true,
            "supportELB": "false",
            "kvmsnapshotenabled": true,
            "defaultuipagesize": 20,
        }})),
        "listHypervisors" => {
            list::zone(state, params, "zoneid")?;
            let rows = fixture::HYPERVISORS.iter().map(|name| json!({"name": name}));
            paged("hypervisor", rows.collect())
        }
        "listOsCategories" => paged(
            "oscategory",
            list::filter(params, fixture::show_os_categories(), &["id", "name"]),
        ),
        "listOsTypes" => {
            let names = ["id", "oscategoryid", "description"];
            paged("ostype", list::filter(params, fixture::show_os_types(), &names))
        }
        "listResourceLimits" => paged("resourcelimit", limits(state)),
        "listTags" => paged("tag", tags::list(state, params)),
        "listTemplatePermissions" => update::permissions(state, params),
        "listTemplates" => paged("template", list::templates(state, params)?),
        "listZones" => {
            let rows = state.zones().iter().map(fixture::Zone::show).collect();
            paged("zone", list::filter(params, rows, &["id", "name"]))
        }
        "queryAsyncJobResult" => job::query(state, params),
        "registerTemplate" => register::register(state, params).await,
        "updateTemplate" => update::update(state, params),
        "updateTemplatePermissions" => update::set_permissions(state, params),
        other => Err(ApiError::unknown_command(other)),
    }
}

/// What this user may call.
fn apis(params: &Params) -> ApiResult<Vec<Value>> {
    let wanted = params.get("name");
    let fits = |command: &&Command| wanted.is_none_or(|name| name == command.name);
    let shown = COMMANDS.iter().filter(fits).map(|command| {
        let required = command.required.iter().map(|name| {
            json!({"name": name, "description": "", "type": "string", "length": 255,
                   "required": true})
        });
        json!({
            "name": command.name,
            "description": "",
            "isasync": command.is_async,
            "related": "",
            "params": required.collect::<Vec<_>>(),
            "response": [],
        })
    });
    let shown: Vec<_> = shown.collect();
    if let (Some(name), true) = (wanted, shown.is_empty()) {
        return Err(ApiError::parameter(format!("API command '{name}' does not exist.")));
    }
    Ok(shown)
}

fn limit(value: u64) -> Option<u64> {
    (value != u64::MAX).then_some(value)
}

fn unlimited() -> String {
    "Unlimited".to_owned()
}

fn account(state: &Shared) -> Value {
    let shown = |room: u64| limit(room).map_or_else(unlimited, |room| room.to_string());
    let own = state.tables().templates.iter().filter(|template| template.own).count();
    json!({
        "id": fixture::account_id(),
        "name": fixture::ACCOUNT,
        "accounttype": 0,
        "roletype": "User",
        "rolename": "User",
        "domainid": fixture::domain_id(),
        "domain": "ROOT",
        "domainpath": "ROOT",
        "state": "enabled",
        "templatetotal": own,
        "templateavailable": shown(state.template_room()),
        "secondarystorageavailable": limit(state.room())
            .map_or_else(unlimited, |room| (room >> 30).to_string()),
        "user": [{"id": fixture::stable_uuid("user", fixture::ACCOUNT), "username": fixture::ACCOUNT}],
    })
}

/// Resource types 4 (templates, a number) and 11 (secondary storage, GiB); -1 is no limit.
fn limits(state: &Shared) -> Vec<Value> {
    let own = state.tables().templates.iter().filter(|template| template.own).count() as u64;
    let templates = limit(state.template_room()).map_or(-1, |room| (room + own).cast_signed());
    let quota = state.faults.peek(|fault| match fault {
        Fault::Quota(bytes) => Some((bytes >> 30).cast_signed()),
        _ => None,
    });
    let rows = [("4", "template", templates), ("11", "secondary_storage", quota.unwrap_or(-1))];
    let shown = rows.map(|(kind, name, max)| {
        json!({
            "account": fixture::ACCOUNT,
            "domainid": fixture::domain_id(),
            "domain": "ROOT",
            "resourcetype": kind,
            "resourcetypename": name,
            "max": max,
        })
    });
    shown.to_vec()
}
