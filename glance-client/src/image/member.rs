//! Members: the projects with which a `shared` image is shared.
//!
//! The owner [adds](add) a project; the project [answers](answer), and sees the image in its lists once it has accepted.
//! Before that it sees it by its id.
//!
//! ```
//! use glance_client::image::member::{self, MemberStatus};
//! let share = member::add("9b4b", "2f1c");
//! assert_eq!((share.method().as_str(), share.path()), ("POST", "images/9b4b/members"));
//! // As a user of the other project:
//! let accept = member::answer("9b4b", "2f1c", &MemberStatus::Accepted);
//! assert_eq!((accept.method().as_str(), accept.path()), ("PUT", "images/9b4b/members/2f1c"));
//! ```

use std::time::SystemTime;

use http::Method;
use serde_json::{Map, Value, json};

use super::call::on_image;
use crate::call::{Answer, Call, segment};
use crate::error::{Error, Result};
use crate::take::Take;
use crate::words::words;

words! {
    /// What a project has answered to an image that is shared with it.
    MemberStatus {
        /// The image is in its lists.
        Accepted = "accepted",
        /// Nothing yet: the image is seen by its id, and not in lists.
        Pending = "pending",
        /// The same as nothing, for good.
        Rejected = "rejected",
        /// For a [list](super::ListQuery::with_member_status): whatever was answered.
        All = "all",
    }
}

/// A project with which an image is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// The image's id.
    pub image_id: String,
    /// The project's id.
    pub project: String,
    /// What it has answered.
    pub status: MemberStatus,
    /// When it was added.
    pub created_at: Option<SystemTime>,
    /// When it answered.
    pub updated_at: Option<SystemTime>,
}

impl Member {
    /// Reads a member from Glance's JSON; only the project is a must.
    ///
    /// # Errors
    /// [`ErrorKind::Protocol`](crate::ErrorKind::Protocol).
    pub fn from_json(value: Value) -> Result<Self> {
        let mut map = match value {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let mut take = Take(&mut map);
        let project = take
            .text("member_id")
            .ok_or_else(|| Error::protocol("image member: the answer has no member_id"))?;
        Ok(Self {
            image_id: take.text("image_id").unwrap_or_default(),
            project,
            status: MemberStatus::from(take.text("status").unwrap_or_default().as_str()),
            created_at: take.time("created_at"),
            updated_at: take.time("updated_at"),
        })
    }
}

fn one(answer: &Answer<'_>) -> Result<Member> {
    Member::from_json(answer.json()?)
        .map_err(|error| error.with_answer(answer.status, answer.headers))
}

fn on_member<T>(
    verb: &str,
    id: &str,
    project: &str,
    method: Method,
    parse: fn(&Answer<'_>) -> Result<T>,
) -> Call<T> {
    let verb = format!("{verb} {project}");
    match segment(project) {
        Some(project) => on_image(&verb, id, &format!("/members/{project}"), method, parse),
        None => on_image(&verb, id, "", method, parse)
            .with_problem(format!("{project:?} is not the id of a project")),
    }
}

/// Shares an image with a project, by its id: `POST /v2/images/{id}/members`. Glance does not look whether there is such
/// a project.
///
/// Errors: [`Conflict`](crate::ErrorKind::Conflict) if it is one already, [`Forbidden`](crate::ErrorKind::Forbidden) if
/// the image is not `shared` or not ours, [`TooLarge`](crate::ErrorKind::TooLarge) if it has as many as it may (128).
#[must_use]
pub fn add(id: &str, project: &str) -> Call<Member> {
    on_image(&format!("add member {project}"), id, "/members", Method::POST, one)
        .with_json(&json!({"member": project}))
}

/// Who an image is shared with: `GET /v2/images/{id}/members`. A member sees itself alone. Forbidden if the image is not
/// `shared`.
#[must_use]
pub fn list(id: &str) -> Call<Vec<Member>> {
    on_image("list members", id, "/members", Method::GET, |answer| {
        let document: Value = answer.json()?;
        let list = document["members"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(list.iter().filter_map(|member| Member::from_json(member.clone()).ok()).collect())
    })
}

/// One member: `GET /v2/images/{id}/members/{project}`.
#[must_use]
pub fn get(id: &str, project: &str) -> Call<Member> {
    on_member("get member", id, project, Method::GET, one)
}

/// Answers to an image that is shared with our project: `PUT /v2/images/{id}/members/{project}`. The owner may not.
#[must_use]
pub fn answer(id: &str, project: &str, status: &MemberStatus) -> Call<Member> {
    on_member("answer for member", id, project, Method::PUT, one)
        .with_json(&json!({"status": status.as_str()}))
}

/// Shares an image no longer: `DELETE /v2/images/{id}/members/{project}`, 204. Only the owner may.
#[must_use]
pub fn remove(id: &str, project: &str) -> Call<()> {
    on_member("remove member", id, project, Method::DELETE, |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, StatusCode};

    #[test]
    fn members_are_asked_for_and_read() {
        let call = add("1", "p 2");
        assert_eq!((call.method().as_str(), call.path()), ("POST", "images/1/members"));
        assert_eq!(call.body().as_ref(), br#"{"member":"p 2"}"#);
        assert_eq!(get("1", "p/2").path(), "images/1/members/p%2F2");
        let call = answer("1", "p2", &MemberStatus::Accepted);
        assert_eq!((call.method().as_str(), call.path()), ("PUT", "images/1/members/p2"));
        assert_eq!(call.body().as_ref(), br#"{"status":"accepted"}"#);
        assert_eq!(remove("1", "p2").method(), "DELETE");
        let base = url::Url::parse("http://h/v2").unwrap();
        assert!(remove("1", "").url(&base).is_err(), "that would be the list");

        let body = br#"{"members": [{"member_id": "p2", "image_id": "1", "status": "asked_again",
            "created_at": "2026-11-23T09:00:00Z", "schema": "/v2/schemas/member"}, {"status": "x"}, 7]}"#;
        let members = list("1").parse(StatusCode::OK, &HeaderMap::new(), body).unwrap();
        assert_eq!(members.len(), 1);
        assert_eq!(members[0].status, MemberStatus::Other("asked_again".into()));
        assert!(members[0].created_at.is_some() && members[0].updated_at.is_none());
    }
}
