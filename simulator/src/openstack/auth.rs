//! `POST /v3/auth/tokens`: who is it, and for what is the token?

use jiff::Timestamp;
use serde_json::{Value, json};

use super::catalog::catalog;
use super::http::{Outcome, Reply, Req, keystone_error};
use super::state::{Credential, Scope, Shared, Token, keystone_time, new_audit_id, new_token_id};

/// What Keystone says to every wrong credential, lest it tells which part was wrong.
pub(super) const UNAUTHORIZED: &str = "The request you have made requires authentication.";

/// An answer that refuses; boxed to keep the `Result`s small.
type Refusal = Box<Reply>;

fn refuse(status: u16, message: &str) -> Refusal {
    Box::new(keystone_error(status, message))
}

/// A 401 as Keystone gives it, with the hint where to authenticate.
pub(super) fn unauthorized(base: &str, message: &str) -> Reply {
    let uri = format!("Keystone uri=\"{base}{}/v3\"", super::server::IDENTITY);
    keystone_error(401, message).with_header("www-authenticate", uri)
}

/// A 401 of an authentication plugin, which has one more member.
fn plugin_error(base: &str, message: &str, identity: &Value) -> Reply {
    let body = json!({"error": {
        "code": 401, "message": message, "title": "Unauthorized", "identity": identity,
    }});
    unauthorized(base, message).with_json(&body)
}

/// Issues a token.
pub(super) async fn issue(state: &Shared, req: &mut Req) -> Outcome {
    let Some(body) = req.json().await? else {
        let message = "Expecting to find valid JSON in request body. The server could not comply \
                       with the request since it is either malformed or otherwise incorrect.";
        return Ok(keystone_error(400, message));
    };
    let (id, token) = match authenticate(state, &body, &req.base) {
        Ok(token) => (new_token_id(), token),
        Err(refusal) => return Ok(*refusal),
    };
    let with_catalog = req.query("nocatalog").is_none();
    let shown = show(state, &token, &req.base, with_catalog);
    state.tables().tokens.insert(id.clone(), token);
    Ok(Reply::json(201, &shown).with_header("x-subject-token", id))
}

/// The identity that the methods agreed on.
struct Identity {
    user: usize,
    methods: Vec<String>,
    audit: Vec<String>,
    /// Set by the `token` method: the new token lives no longer than the old one.
    expires: Option<Timestamp>,
    credential: Option<Credential>,
}

fn authenticate(state: &Shared, body: &Value, base: &str) -> Result<Token, Refusal> {
    let identity = &body["auth"]["identity"];
    let methods: Option<Vec<&str>> = identity["methods"]
        .as_array()
        .map(|methods| methods.iter().filter_map(Value::as_str).collect());
    let Some(methods) = methods else {
        return Err(refuse(400, "'identity' with its 'methods' is a required property"));
    };
    let denied = || Box::new(unauthorized(base, UNAUTHORIZED));
    let mut who: Option<Identity> = None;
    for method in methods {
        let part = &identity[method];
        let found = match method {
            "password" => by_password(state, part)?,
            "token" => by_token(state, part)?,
            "application_credential" => by_credential(state, part)?,
            _ => {
                let message = "Attempted to authenticate with an unsupported method.";
                let methods = json!({"methods": ["password", "token", "application_credential"]});
                return Err(Box::new(plugin_error(base, message, &methods)));
            }
        };
        let found = found.ok_or_else(denied)?;
        // Several methods must name the same user.
        match &mut who {
            None => who = Some(found),
            Some(first) if first.user == found.user => first.methods.extend(found.methods),
            Some(_) => return Err(denied()),
        }
    }
    let who = who.ok_or_else(denied)?;
    let scope = scope_of(state, &who, &body["auth"]["scope"], base)?;
    let now = Timestamp::now();
    let mut audit = vec![new_audit_id()];
    audit.extend(who.audit);
    let expires =
        who.expires.unwrap_or_else(|| now.saturating_add(state.token_ttl()).unwrap_or(now));
    let credential = who.credential.map(|credential| credential.id);
    Ok(Token {
        user: who.user,
        scope,
        methods: who.methods,
        issued: now,
        expires,
        audit,
        credential,
        uses: 0,
    })
}

fn by_password(state: &Shared, part: &Value) -> Result<Option<Identity>, Refusal> {
    let user = &part["user"];
    let Some(password) = user["password"].as_str() else {
        return Err(refuse(400, "Expecting to find password in user."));
    };
    let found = find_user(state, user)?;
    Ok(found.filter(|_| password == state.config.password).map(|user| Identity {
        user,
        methods: vec!["password".to_owned()],
        audit: Vec::new(),
        expires: None,
        credential: None,
    }))
}

/// The user by id, or by name and domain; a name without a domain is a malformed request.
fn find_user(state: &Shared, user: &Value) -> Result<Option<usize>, Refusal> {
    if let Some(id) = user["id"].as_str() {
        return Ok(state.users.iter().position(|user| user.id == id));
    }
    let Some(name) = user["name"].as_str() else {
        return Err(refuse(400, "Expecting to find id or name in user."));
    };
    if user["domain"].is_null() {
        return Err(refuse(400, "Expecting to find domain in user."));
    }
    let known = is_domain(state, &user["domain"]);
    Ok(state.users.iter().position(|user| known && user.name == name))
}

fn is_domain(state: &Shared, domain: &Value) -> bool {
    domain["id"] == "default" || domain["name"] == state.config.domain.as_str()
}

fn by_token(state: &Shared, part: &Value) -> Result<Option<Identity>, Refusal> {
    let Some(id) = part["id"].as_str() else {
        return Err(refuse(400, "Expecting to find id in token."));
    };
    let Some(token) = state.live_token(id) else {
        return Err(refuse(404, "Failed to validate token"));
    };
    if token.credential.is_some() {
        let message = "You are not authorized to perform the requested action: a token of an \
                       application credential cannot be exchanged.";
        return Err(refuse(403, message));
    }
    let mut methods = vec!["token".to_owned()];
    methods.extend(token.methods.iter().filter(|method| *method != "token").cloned());
    Ok(Some(Identity {
        user: token.user,
        methods,
        // The parent's first id ties the chain together for revocation.
        audit: token.audit.last().cloned().into_iter().collect(),
        expires: Some(token.expires),
        credential: None,
    }))
}

fn by_credential(state: &Shared, part: &Value) -> Result<Option<Identity>, Refusal> {
    let Some(secret) = part["secret"].as_str() else {
        // Not 400: the server looks for the secret only when it compares it.
        return Ok(None);
    };
    let found = if let Some(id) = part["id"].as_str() {
        let known = state.tables().credentials.iter().find(|one| one.id == id).cloned();
        let missing = || refuse(404, &format!("Could not find Application Credential: {id}."));
        Some(known.ok_or_else(missing)?)
    } else {
        let Some(name) = part["name"].as_str() else {
            return Err(refuse(400, "Expecting to find id or name in application_credential."));
        };
        let Some(user) = find_user(state, &part["user"])? else { return Ok(None) };
        let tables = state.tables();
        tables.credentials.iter().find(|one| one.name == name && one.user == user).cloned()
    };
    let fresh = |one: &Credential| one.expires.is_none_or(|expires| expires > Timestamp::now());
    Ok(found.filter(|one| one.secret == secret && fresh(one)).map(|one| Identity {
        user: one.user,
        methods: vec!["application_credential".to_owned()],
        audit: Vec::new(),
        expires: one.expires.filter(|expires| {
            Timestamp::now().saturating_add(state.token_ttl()).is_ok_and(|ends| *expires < ends)
        }),
        credential: Some(one),
    }))
}

fn scope_of(state: &Shared, who: &Identity, scope: &Value, base: &str) -> Result<Scope, Refusal> {
    if who.credential.is_some() {
        if scope.is_null() {
            return Ok(Scope::Project);
        }
        let message = "Error authenticating with application credential: Application credentials \
                       cannot request a scope.";
        return Err(Box::new(plugin_error(base, message, &json!({}))));
    }
    let user = &state.users[who.user];
    if scope.is_null() {
        // The user's default project.
        return Ok(Scope::Project);
    }
    if scope == "unscoped" || scope.get("unscoped").is_some() {
        return Ok(Scope::Unscoped);
    }
    if let Some(project) = scope.get("project") {
        let own = &state.projects[user.project];
        let named = || is_domain(state, &project["domain"]) && project["name"] == own.name.as_str();
        if project["id"].is_null() && project["domain"].is_null() {
            return Err(refuse(400, "Expecting to find domain in project."));
        }
        if project["id"] == own.id.as_str() || (project["id"].is_null() && named()) {
            return Ok(Scope::Project);
        }
    }
    // As if the operator had given the administrator a role on the domain, too.
    if scope.get("domain").is_some_and(|domain| is_domain(state, domain)) && user.is_admin() {
        return Ok(Scope::Domain);
    }
    if scope["system"]["all"] == true && user.is_admin() {
        return Ok(Scope::System);
    }
    // Also a project or domain without a role for the user: 401, not 403 nor 404.
    Err(Box::new(unauthorized(base, UNAUTHORIZED)))
}

/// The `token` object, as issue and validation show it.
pub(super) fn show(state: &Shared, token: &Token, base: &str, with_catalog: bool) -> Value {
    let user = &state.users[token.user];
    let domain = json!({"id": "default", "name": state.config.domain});
    let mut shown = json!({
        "methods": token.methods,
        "user": {"domain": domain, "id": user.id, "name": user.name, "password_expires_at": null},
        "audit_ids": token.audit,
        "expires_at": keystone_time(token.expires),
        "issued_at": keystone_time(token.issued),
    });
    let project = &state.projects[user.project];
    match token.scope {
        Scope::Unscoped => return json!({"token": shown}),
        Scope::Project => {
            shown["project"] = json!({"domain": domain, "id": project.id, "name": project.name});
            shown["is_domain"] = json!(false);
        }
        Scope::Domain => shown["domain"] = domain,
        Scope::System => shown["system"] = json!({"all": true}),
    }
    shown["roles"] = user
        .roles
        .iter()
        .map(|role| json!({"id": super::state::stable_id("role", role), "name": role}))
        .collect();
    if with_catalog {
        let project = (token.scope == Scope::Project).then_some(project.id.as_str());
        shown["catalog"] = catalog(state, base, project);
    }
    if let Some(id) = &token.credential {
        let tables = state.tables();
        if let Some(one) = tables.credentials.iter().find(|one| one.id == *id) {
            shown["application_credential"] =
                json!({"id": one.id, "name": one.name, "restricted": !one.unrestricted});
        }
    }
    json!({"token": shown})
}
