//! Image API v2: routes, and everything that needs no body stream.

use std::sync::Arc;

use hyper::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::http::{Outcome, Reply, Req, glance_error};
use super::image::{Image, Status};
use super::server::{IDENTITY, IMAGE};
use super::state::{Scope, Shared, Tables, Token};
use super::{Fault, create, download, import, list, member, patch, schema, store, task, upload};

/// Who asks, as far as the image service cares.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) project: String,
    pub(super) admin: bool,
}

/// Answers one request to an image service.
pub(super) async fn handle(state: &Arc<Shared>, req: &mut Req) -> Outcome {
    // Neither the versions nor a 401 carry a request id: they come from in front of the API.
    if req.segments.is_empty() || req.segments[0] == "versions" {
        let status = if req.segments.is_empty() { 300 } else { 200 };
        return Ok(Reply::json(status, &versions(req)));
    }
    let token = req.header("x-auth-token").and_then(|token| state.spend_token(token));
    let Some(token) = token.filter(|token| token.scope != Scope::Unscoped) else {
        let uri = format!("Keystone uri=\"{}{IDENTITY}/v3\"", req.base);
        let said = "This server could not verify that you are authorized to access the document \
                    you requested.";
        return Ok(glance_error(req, 401, said, "").with_header("www-authenticate", uri));
    };
    let caller = caller(state, &token);
    let reply = route(state, req, &caller).await?;
    if reply.is_crash() {
        return Ok(reply);
    }
    Ok(reply.with_header("x-openstack-request-id", req.id.clone()))
}

fn caller(state: &Shared, token: &Token) -> Caller {
    let user = &state.users[token.user];
    Caller { project: state.projects[user.project].id.clone(), admin: user.is_admin() }
}

async fn route(state: &Arc<Shared>, req: &mut Req, caller: &Caller) -> Outcome {
    let segments = req.segments.clone();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let method = req.method.clone();
    let reply = match (&method, segments.as_slice()) {
        _ if req.slash => glance_error(req, 404, "The resource could not be found.", ""),
        (&Method::GET, ["v2", "schemas", "image"]) => Reply::json(200, &schema::image()),
        (&Method::GET, ["v2", "schemas", "images"]) => Reply::json(200, &schema::images()),
        (&Method::GET, ["v2", "schemas", name]) => match store::schema(name) {
            Some(schema) => Reply::json(200, &schema),
            None => glance_error(req, 404, "The resource could not be found.", ""),
        },
        (&Method::GET, ["v2", "info", topic @ ..]) => store::info(state, req, caller, topic),
        (&Method::DELETE, ["v2", "stores", store, id]) => {
            store::remove(state, req, caller, store, id)
        }
        (&Method::GET, ["v2", "tasks"]) => task::get(state, req, caller, None),
        (&Method::GET, ["v2", "tasks", id]) => task::get(state, req, caller, Some(id)),
        (&Method::GET, ["v2", "images"]) => list::list(state, req, caller),
        (&Method::POST, ["v2", "images"]) => create::create(state, req, caller).await?,
        (&Method::GET, ["v2", "images", id]) => get(state, req, caller, id),
        (&Method::PATCH, ["v2", "images", id]) => patch::patch(state, req, caller, id).await?,
        (&Method::DELETE, ["v2", "images", id]) => delete(state, req, caller, id),
        (&Method::GET, ["v2", "images", id, "file"]) => download::download(state, req, caller, id),
        (&Method::PUT, ["v2", "images", id, "file"]) => {
            upload::upload(state, req, caller, id).await?
        }
        (&Method::PUT, ["v2", "images", id, "stage"]) => {
            upload::stage(state, req, caller, id).await?
        }
        (&Method::POST, ["v2", "images", id, "import"]) => {
            import::import(state, req, caller, id).await?
        }
        (&Method::POST, ["v2", "images", id, "locations"]) => {
            import::locate(state, req, caller, id).await?
        }
        (&Method::GET, ["v2", "images", _, "locations"]) => {
            let said = "You are not authorized to complete fetch_image_location action.";
            glance_error(req, 403, said, "")
        }
        (&Method::GET, ["v2", "images", id, "tasks"]) => task::of_image(state, req, caller, id),
        (_, ["v2", "images", id, "members"]) => {
            member::handle(state, req, caller, id, None).await?
        }
        (_, ["v2", "images", id, "members", project]) => {
            member::handle(state, req, caller, id, Some(project)).await?
        }
        (&Method::PUT | &Method::DELETE, ["v2", "images", id, "tags", tag]) => {
            tag_image(state, req, caller, id, tag)
        }
        (&Method::POST, ["v2", "images", id, "actions", action]) => {
            act(state, req, caller, id, action)
        }
        (_, path) => match allowed(path) {
            "" => glance_error(req, 404, "The resource could not be found.", ""),
            allow => {
                let said = format!("The method {method} is not allowed for this resource.");
                glance_error(req, 405, &said, "").with_header("allow", allow)
            }
        },
    };
    Ok(reply)
}

fn allowed(path: &[&str]) -> &'static str {
    match path {
        ["v2", "images"] => "GET, POST",
        ["v2", "images", _] => "GET, PATCH, DELETE",
        ["v2", "images", _, "file"] => "GET, PUT",
        ["v2", "images", _, "stage"] => "PUT",
        ["v2", "images", _, "import"] => "POST",
        ["v2", "images", _, "locations"] => "GET, POST",
        ["v2", "images", _, "tasks"] => "GET",
        ["v2", "stores", _, _] => "DELETE",
        ["v2", "images", _, "tags", _] => "PUT, DELETE",
        ["v2", "images", _, "actions", "deactivate" | "reactivate"] => "POST",
        ["v2", "schemas", _] | ["v2", "info", "import" | "usage" | "stores"] => "GET",
        _ => "",
    }
}

/// Unordered on the real server: a client must not take the first for the newest.
fn versions(req: &Req) -> Value {
    let link = format!("{}{}/v2/", req.base, IMAGE[req.region]);
    let minors = [15, 13, 12, 11, 10, 9, 8, 17, 7, 6, 5, 4, 3, 2, 1, 0];
    let version = |minor: &u32| {
        let status = if *minor == 17 { "CURRENT" } else { "SUPPORTED" };
        json!({
            "id": format!("v2.{minor}"),
            "status": status,
            "links": [{"rel": "self", "href": link}],
        })
    };
    json!({"versions": minors.iter().map(version).collect::<Vec<_>>()})
}

/// The bytes that a project's images may hold together: 1 TiB unless a fault says less.
pub(super) fn quota(state: &Shared) -> u64 {
    let fault = |fault: &Fault| match fault {
        Fault::Quota(bytes) => Some(*bytes),
        _ => None,
    };
    state.faults.peek(fault).unwrap_or(1 << 40)
}

/// The image that the caller may see, by id.
pub(super) fn find<'a>(
    tables: &'a mut Tables,
    req: &Req,
    caller: &Caller,
    id: &str,
) -> Result<&'a mut Image, Box<Reply>> {
    let found = tables.images.iter_mut().find(|image| image.id == id && sees(req, caller, image));
    let Some(image) = found else {
        let said = format!("No image found with ID {id}");
        return Err(Box::new(glance_error(req, 404, &said, "")));
    };
    image.settle();
    Ok(image)
}

pub(super) fn sees(req: &Req, caller: &Caller, image: &Image) -> bool {
    let open = matches!(image.visibility.as_str(), "public" | "community");
    let shared = image.visibility == "shared"
        && image.members.iter().any(|member| member.project == caller.project);
    image.region == req.region && (caller.admin || open || shared || image.owner == caller.project)
}

/// Whether a list shows an image that the caller may see: of what others own only what is public, what was asked for, and
/// what the caller's project has taken.
pub(super) fn lists(req: &Req, caller: &Caller, image: &Image) -> bool {
    if image.owner == caller.project {
        return true;
    }
    let asked = req.query("visibility");
    match image.visibility.as_str() {
        "public" => true,
        "community" => matches!(asked, Some("community" | "all")),
        "shared" => {
            let wanted = req.query("member_status").unwrap_or("accepted");
            let fits = |status: &str| wanted == "all" || wanted == status;
            let own = image.members.iter().find(|member| member.project == caller.project);
            own.map_or(caller.admin, |member| fits(&member.status))
        }
        _ => caller.admin,
    }
}

fn get(state: &Shared, req: &Req, caller: &Caller, id: &str) -> Reply {
    match find(&mut state.tables(), req, caller, id) {
        Ok(image) => Reply::json(200, &image.show()),
        Err(refusal) => *refusal,
    }
}

fn delete(state: &Shared, req: &Req, caller: &Caller, id: &str) -> Reply {
    let mut tables = state.tables();
    let image = match find(&mut tables, req, caller, id) {
        Ok(image) => image.clone(),
        Err(refusal) => return *refusal,
    };
    if image.protected {
        let said = format!("Image {id} is protected and cannot be deleted.");
        return glance_error(req, 403, &said, "");
    }
    if !caller.admin && image.owner != caller.project {
        return glance_error(
            req,
            403,
            "You are not authorized to complete delete_image action.",
            "",
        );
    }
    tables.images.retain(|other| other.id != id);
    tables.deleted.insert(id.to_owned());
    drop(tables);
    for file in [image.file, image.staged].into_iter().flatten() {
        // A download in progress keeps its handle.
        let _ = std::fs::remove_file(file);
    }
    Reply::empty(204)
}

fn tag_image(state: &Shared, req: &Req, caller: &Caller, id: &str, tag: &str) -> Reply {
    if tag.contains('/') {
        // The routes end at a slash, also at an escaped one.
        return glance_error(req, 404, "The resource could not be found.", "");
    }
    let mut tables = state.tables();
    let image = match find(&mut tables, req, caller, id) {
        Ok(image) => image,
        Err(refusal) => return *refusal,
    };
    if !caller.admin && image.owner != caller.project {
        let said = "You are not authorized to complete modify_image action.";
        return glance_error(req, 403, said, "");
    }
    // The gateway takes each byte of the path for a letter.
    let tag: &str = &tag.bytes().map(char::from).collect::<String>();
    let known = image.tags.iter().position(|known| known == tag);
    match (req.method == Method::PUT, known) {
        (true, _) if tag.chars().count() > 255 => {
            return glance_error(req, 400, "Tags may have at most 255 characters.", "");
        }
        (true, None) if image.tags.len() >= create::MOST => {
            let said = "The limit has been exceeded on the number of allowed image tags.";
            return glance_error(req, 413, said, "");
        }
        (true, None) => image.tags.push(tag.to_owned()),
        (true, Some(_)) => {}
        (false, Some(at)) => drop(image.tags.remove(at)),
        (false, None) => return glance_error(req, 404, "Tag was not found.", ""),
    }
    image.updated = Timestamp::now();
    Reply::empty(204)
}

fn act(state: &Shared, req: &Req, caller: &Caller, id: &str, action: &str) -> Reply {
    let mut tables = state.tables();
    let image = match find(&mut tables, req, caller, id) {
        Ok(image) => image,
        Err(refusal) => return *refusal,
    };
    let (target, from) = match action {
        "deactivate" => (Status::Deactivated, Status::Active),
        "reactivate" => (Status::Active, Status::Deactivated),
        _ => return glance_error(req, 404, "The resource could not be found.", ""),
    };
    if !caller.admin && image.owner != caller.project {
        let said = format!("You are not authorized to complete {action} action.");
        return glance_error(req, 403, &said, "");
    }
    if image.status != from && image.status != target {
        let status = image.status.as_str();
        let said = format!("Not allowed to {action} image in status '{status}'");
        return glance_error(req, 403, &said, "");
    }
    image.status = target;
    image.updated = Timestamp::now();
    Reply::empty(204)
}
