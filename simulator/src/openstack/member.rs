//! `/v2/images/{id}/members`: sharing.

use hyper::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::glance::{Caller, find};
use super::http::{Reply, Req, glance_error};
use super::image::Image;
use super::state::{Shared, glance_time};
use crate::net::Hangup;

pub(super) const STATUSES: [&str; 3] = ["pending", "accepted", "rejected"];

/// The most members that an image may have.
const MOST: usize = 128;

/// A project that an image is shared with.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) project: String,
    pub(super) status: String,
    created: Timestamp,
    updated: Timestamp,
}

impl Member {
    fn show(&self, image: &str) -> Value {
        json!({
            "member_id": self.project,
            "image_id": image,
            "status": self.status,
            "created_at": glance_time(self.created),
            "updated_at": glance_time(self.updated),
            "schema": "/v2/schemas/member",
        })
    }
}

pub(super) async fn handle(
    state: &Shared,
    req: &mut Req,
    caller: &Caller,
    id: &str,
    member: Option<&str>,
) -> Result<Reply, Hangup> {
    let body = match req.method {
        Method::POST | Method::PUT => req.json().await?,
        _ => None,
    };
    let mut tables = state.tables();
    let image = match find(&mut tables, req, caller, id) {
        Ok(image) => image,
        Err(refusal) => return Ok(*refusal),
    };
    Ok(answer(req, caller, image, member, body.as_ref()))
}

fn answer(
    req: &Req,
    caller: &Caller,
    image: &mut Image,
    member: Option<&str>,
    body: Option<&Value>,
) -> Reply {
    let id = image.id.clone();
    let owns = caller.admin || image.owner == caller.project;
    let forbidden = |verb: &str| {
        glance_error(req, 403, &format!("Not allowed to {verb} members for image {id}."), "")
    };
    let shared = image.visibility == "shared";
    let word = |key: &str| body.and_then(|body| body[key].as_str()).map(str::to_owned);
    match (&req.method, member) {
        (&Method::GET, None) if !shared => {
            let said = format!(
                "Not allowed to list members for image {id}: Only shared images have members."
            );
            glance_error(req, 403, &said, "")
        }
        (&Method::GET, None) => {
            let seen = image.members.iter().filter(|one| owns || one.project == caller.project);
            let members: Vec<Value> = seen.map(|one| one.show(&id)).collect();
            Reply::json(200, &json!({"members": members, "schema": "/v2/schemas/members"}))
        }
        (&Method::POST, None) => match word("member").filter(|project| !project.is_empty()) {
            None => glance_error(req, 400, "Member to be added not specified", ""),
            Some(_) if !shared || !owns => forbidden("create"),
            Some(project) => add(req, image, project),
        },
        (&Method::POST, Some(_)) | (_, None) => glance_error(req, 405, "Not allowed.", ""),
        // Only the member itself answers, and an administrator for it.
        (&Method::PUT, Some(_)) if !shared || (image.owner == caller.project && !caller.admin) => {
            forbidden("update")
        }
        (&Method::DELETE, Some(_)) if !shared || !owns => forbidden("delete"),
        (_, Some(project)) => {
            let seen = shared && (owns || project == caller.project);
            let found = image.members.iter().position(|one| seen && one.project == project);
            let Some(at) = found else {
                let said = format!("{project} not found in the member list of the image {id}.");
                return glance_error(req, 404, &said, "");
            };
            on_one(req, image, at, word("status"))
        }
    }
}

fn add(req: &Req, image: &mut Image, project: String) -> Reply {
    let id = image.id.clone();
    if image.members.iter().any(|one| one.project == project) {
        let said = format!("Member {project} is duplicated for image {id}");
        return glance_error(req, 409, &said, "");
    }
    if image.members.len() >= MOST {
        let said = format!("Image member limit exceeded for image {id}");
        return glance_error(req, 413, &said, "");
    }
    let now = Timestamp::now();
    let member = Member { project, status: "pending".to_owned(), created: now, updated: now };
    let shown = member.show(&id);
    image.members.push(member);
    Reply::json(200, &shown)
}

fn on_one(req: &Req, image: &mut Image, at: usize, status: Option<String>) -> Reply {
    match req.method {
        Method::PUT => match status {
            None => glance_error(req, 400, "Status not specified", ""),
            Some(status) if !STATUSES.contains(&status.as_str()) => {
                let said = format!(
                    "Incorrect request: Status must be \"pending\", \"accepted\" or \"rejected\". \
                     {status} is none of them."
                );
                glance_error(req, 400, &said, "")
            }
            Some(status) => {
                let member = &mut image.members[at];
                (member.status, member.updated) = (status, Timestamp::now());
                Reply::json(200, &member.show(&image.id))
            }
        },
        Method::DELETE => {
            image.members.remove(at);
            Reply::empty(204)
        }
        _ => Reply::json(200, &image.members[at].show(&image.id)),
    }
}
