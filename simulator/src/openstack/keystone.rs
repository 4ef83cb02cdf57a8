//! Identity API v3: discovery, tokens, application credentials.

use hyper::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::auth::{self, UNAUTHORIZED, unauthorized};
use super::catalog::catalog;
use super::http::{Outcome, Reply, Req, keystone_error};
use super::server::IDENTITY;
use super::state::{
    Credential, Scope, Shared, Token, keystone_time, new_hex_id, new_token_id, stable_id,
};

/// Answers one request to the identity service.
pub(super) async fn handle(state: &Shared, req: &mut Req) -> Outcome {
    let reply = route(state, req).await?;
    Ok(reply
        .with_header("vary", "X-Auth-Token")
        .with_header("x-openstack-request-id", req.id.clone()))
}

async fn route(state: &Shared, req: &mut Req) -> Outcome {
    let segments: Vec<String> = req.segments.clone();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = req.method.clone();
    match (&method, segments.as_slice()) {
        (&Method::GET | &Method::HEAD, []) => {
            let version = version(&req.base);
            let location = version["links"][0]["href"].as_str().unwrap_or_default().to_owned();
            let body = json!({"versions": {"values": [version]}});
            Ok(Reply::json(300, &body).with_header("location", location))
        }
        (&Method::GET | &Method::HEAD, ["v3"]) => {
            Ok(Reply::json(200, &json!({"version": version(&req.base)})))
        }
        (&Method::POST, ["v3", "auth", "tokens"]) => auth::issue(state, req).await,
        (_, ["v3", rest @ ..]) => match caller(state, req) {
            Some(caller) => authenticated(state, req, &caller, rest).await,
            None if req.header("x-auth-token").is_some_and(|id| state.is_orphan(id)) => {
                Ok(keystone_error(404, "Could not find Application Credential."))
            }
            None => Ok(unauthorized(&req.base, UNAUTHORIZED)),
        },
        _ => Ok(not_found()),
    }
}

fn version(base: &str) -> Value {
    json!({
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": format!("{base}{IDENTITY}/v3/")}],
        "media-types": [{
            "base": "application/json",
            "type": "application/vnd.openstack.identity-v3+json",
        }],
    })
}

/// A path that the web framework below Keystone does not know: its own page, not JSON.
fn not_found() -> Reply {
    let page = "<!doctype html>\n<html lang=en>\n<title>404 Not Found</title>\n<h1>Not Found</h1>\n\
                <p>There is nothing at this address.</p>\n";
    Reply::text(404, "text/html; charset=utf-8", page.to_owned())
}

fn caller(state: &Shared, req: &Req) -> Option<Token> {
    state.live_token(req.header("x-auth-token")?)
}

async fn authenticated(state: &Shared, req: &mut Req, caller: &Token, path: &[&str]) -> Outcome {
    let method = req.method.clone();
    match (&method, path) {
        (&Method::GET | &Method::HEAD | &Method::DELETE, ["auth", "tokens"]) => {
            Ok(subject(state, req, caller))
        }
        (&Method::GET, ["auth", "catalog"]) if caller.scope == Scope::Unscoped => {
            Ok(keystone_error(403, "The token has no scope and so no catalogue."))
        }
        (&Method::GET, ["auth", "catalog"]) => {
            let project = &state.projects[state.users[caller.user].project].id;
            let links = json!({"self": format!("{}{IDENTITY}/v3/auth/catalog", req.base)});
            let project = (caller.scope == Scope::Project).then_some(project.as_str());
            let catalog = catalog(state, &req.base, project);
            Ok(Reply::json(200, &json!({"catalog": catalog, "links": links})))
        }
        (&Method::GET, ["auth", "projects"]) => Ok(projects(state, req, caller)),
        (_, ["users", user, "application_credentials", rest @ ..]) => {
            if state.users[caller.user].id != *user {
                let message = "You are not authorized to perform the requested action.";
                return Ok(keystone_error(403, message));
            }
            credentials(state, req, caller, rest).await
        }
        _ => Ok(not_found()),
    }
}

fn projects(state: &Shared, req: &Req, caller: &Token) -> Reply {
    let own = &state.projects[state.users[caller.user].project];
    let link = |path: String| json!({"self": format!("{}{IDENTITY}/v3/{path}", req.base)});
    let project = json!({
        "id": own.id, "name": own.name, "domain_id": "default", "description": "",
        "enabled": true, "parent_id": "default", "is_domain": false, "tags": [], "options": {},
        "links": link(format!("projects/{}", own.id)),
    });
    let mut links = link("auth/projects".to_owned());
    links["next"] = Value::Null;
    links["previous"] = Value::Null;
    Reply::json(200, &json!({"projects": [project], "links": links}))
}

/// Validation and revocation of the token in `X-Subject-Token`.
fn subject(state: &Shared, req: &Req, caller: &Token) -> Reply {
    let Some(id) = req.header("x-subject-token") else {
        return keystone_error(403, "You are not authorized to perform the requested action.");
    };
    let Some(token) = state.live_token(id) else {
        return keystone_error(404, "Failed to validate token");
    };
    if token.user != caller.user && !state.users[caller.user].is_admin() {
        return keystone_error(403, "You are not authorized to perform the requested action.");
    }
    if req.method == Method::DELETE {
        state.tables().tokens.remove(id);
        return Reply::empty(204);
    }
    let with_catalog = req.query("nocatalog").is_none();
    Reply::json(200, &auth::show(state, &token, &req.base, with_catalog))
        .with_header("x-subject-token", id)
}

async fn credentials(state: &Shared, req: &mut Req, caller: &Token, rest: &[&str]) -> Outcome {
    let method = req.method.clone();
    match (&method, rest) {
        (&Method::POST, []) => create_credential(state, req, caller).await,
        (&Method::GET, []) => {
            let tables = state.tables();
            let own = tables.credentials.iter().filter(|one| one.user == caller.user);
            let list: Vec<Value> = own.map(|one| show(state, req, one, false)).collect();
            let links =
                json!({"self": link(state, req, caller.user, ""), "next": null, "previous": null});
            Ok(Reply::json(200, &json!({"application_credentials": list, "links": links})))
        }
        (&Method::GET | &Method::DELETE, [id]) => {
            let mut tables = state.tables();
            let own = |one: &Credential| one.id == *id && one.user == caller.user;
            let Some(at) = tables.credentials.iter().position(own) else {
                let message = format!("Could not find Application Credential: {id}.");
                return Ok(keystone_error(404, &message));
            };
            if method == Method::DELETE {
                // Its tokens are orphans from now on.
                tables.credentials.remove(at);
                return Ok(Reply::empty(204));
            }
            let shown = show(state, req, &tables.credentials[at], false);
            Ok(Reply::json(200, &json!({"application_credential": shown})))
        }
        _ => Ok(keystone_error(405, "The method is not allowed for the requested URL.")),
    }
}

async fn create_credential(state: &Shared, req: &mut Req, caller: &Token) -> Outcome {
    let body = req.json().await?.unwrap_or_default();
    let wanted = &body["application_credential"];
    let Some(name) = wanted["name"].as_str() else {
        return Ok(keystone_error(400, "'name' is a required property"));
    };
    if caller.scope != Scope::Project {
        return Ok(keystone_error(400, "Only a project-scoped token can make a credential."));
    }
    let restricted = caller.credential.as_ref().is_some_and(|id| {
        let tables = state.tables();
        tables.credentials.iter().any(|one| one.id == *id && !one.unrestricted)
    });
    if restricted {
        let message = "Using method 'application_credential' is not allowed for managing additional \
                       application credentials.";
        return Ok(keystone_error(403, message));
    }
    let expires = match wanted["expires_at"].as_str().map(parse_time) {
        Some(None) => return Ok(keystone_error(400, "'expires_at' is not a date-time")),
        Some(Some(expires)) => Some(expires),
        None => None,
    };
    let made = Credential {
        id: new_hex_id(),
        name: name.to_owned(),
        secret: wanted["secret"]
            .as_str()
            .map_or_else(|| new_token_id()[7..].to_owned(), str::to_owned),
        description: wanted["description"].as_str().map(str::to_owned),
        user: caller.user,
        expires,
        unrestricted: wanted["unrestricted"] == true,
    };
    let mut tables = state.tables();
    if tables.credentials.iter().any(|one| one.name == made.name && one.user == made.user) {
        let message =
            "Conflict occurred attempting to store application_credential - Duplicate entry found.";
        return Ok(keystone_error(409, message));
    }
    let shown = show(state, req, &made, true);
    tables.credentials.push(made);
    Ok(Reply::json(201, &json!({"application_credential": shown})))
}

/// With or without a zone; Keystone takes a time without one as UTC.
fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse().or_else(|_| format!("{text}Z").parse()).ok()
}

fn link(state: &Shared, req: &Req, user: usize, rest: &str) -> String {
    let user = &state.users[user].id;
    format!("{}{IDENTITY}/v3/users/{user}/application_credentials{rest}", req.base)
}

/// The secret is shown once, by the answer to the creation.
fn show(state: &Shared, req: &Req, one: &Credential, with_secret: bool) -> Value {
    let user = &state.users[one.user];
    let roles: Vec<Value> = user
        .roles
        .iter()
        .map(|role| {
            json!({
                "id": stable_id("role", role), "name": role, "domain_id": null,
                "description": null, "options": {"immutable": true},
            })
        })
        .collect();
    let mut shown = json!({
        "id": one.id,
        "name": one.name,
        "description": one.description,
        "project_id": state.projects[user.project].id,
        "user_id": user.id,
        "system": null,
        "expires_at": one.expires.map(keystone_time),
        "unrestricted": one.unrestricted,
        "roles": roles,
        "links": {"self": link(state, req, one.user, &format!("/{}", one.id))},
    });
    if with_secret {
        shown["secret"] = json!(one.secret);
        // What was not asked for is not filled in yet.
        if !one.unrestricted {
            shown["unrestricted"] = Value::Null;
        }
    }
    shown
}
