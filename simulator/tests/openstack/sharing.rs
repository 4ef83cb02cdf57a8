//! Members, rights, and names and tags that are not what they seem.

use serde_json::{Value, json};

use crate::client::{Answer, JSON, PATCH, Session};

impl Session {
    /// A token of another user with the same password.
    pub(crate) async fn login_as(&self, name: &str) -> String {
        let mut body = self.password();
        body["auth"]["identity"]["password"]["user"]["name"] = json!(name);
        let answer = self.authenticate(&body).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.header("x-subject-token").unwrap().to_owned()
    }

    async fn by(&self, token: &str, method: &str, path: &str, body: &Value) -> Answer {
        let headers = [JSON, ("x-auth-token", token)];
        self.send(method, path, &headers, body.to_string().as_bytes()).await.unwrap()
    }
}

fn ids(list: &Value) -> Vec<&str> {
    list["images"].as_array().unwrap().iter().map(|image| image["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn members_see_by_id_first_and_in_lists_later() {
    let session = Session::open().await;
    let other = session.login_as("other").await;
    let image = session.image("raw", "bare").await;
    let id = image.rsplit('/').next().unwrap();
    let get = async |path: &str| session.by(&other, "GET", path, &Value::Null).await;
    assert_eq!(get(&image).await.status, 404);
    let members = format!("{image}/members");
    // The project's id is in the token of its user.
    let subject = [("x-subject-token", other.as_str()), ("x-auth-token", other.as_str())];
    let token = session.send("GET", "/identity/v3/auth/tokens", &subject, b"").await.unwrap();
    let token = token.json();
    let project = token["token"]["project"]["id"].as_str().unwrap().to_owned();
    let made = session.post(&members, &json!({"member": project})).await;
    assert_eq!((made.status, &made.json()["status"]), (200, &"pending".into()));
    assert_eq!(session.post(&members, &json!({"member": project})).await.status, 409);
    assert_eq!(get(&image).await.status, 200);
    assert!(ids(&get("/image/v2/images").await.json()).is_empty());
    let pending = "/image/v2/images?visibility=shared&member_status=pending";
    assert_eq!(ids(&get(pending).await.json()), [id]);

    let mine = format!("{members}/{project}");
    let accept = json!({"status": "accepted"});
    let owner = session.send("PUT", &mine, &[JSON], accept.to_string().as_bytes()).await.unwrap();
    assert_eq!(owner.status, 403);
    assert_eq!(session.by(&other, "PUT", &mine, &json!({"status": "maybe"})).await.status, 400);
    assert_eq!(session.by(&other, "PUT", &mine, &accept).await.status, 200);
    assert_eq!(ids(&get("/image/v2/images").await.json()), [id]);
    assert_eq!(session.by(&other, "DELETE", &mine, &Value::Null).await.status, 403);
    assert_eq!(session.by(&other, "DELETE", &image, &Value::Null).await.status, 403);
    assert_eq!(session.send("DELETE", &mine, &[], b"").await.unwrap().status, 204);
    assert_eq!(get(&image).await.status, 404);
}

#[tokio::test]
async fn protected_properties() {
    let session = Session::open().await;
    let born = json!({"name": "x", "x_locked": "1"});
    assert_eq!(session.post("/image/v2/images", &born).await.status, 403);
    let image = session.image("raw", "bare").await;
    let admin = session.login_as("admin").await;
    let change = |op: &str| json!([{"op": op, "path": "/x_locked", "value": "1"}]).to_string();
    let patch = async |token: &str, op: &str| {
        let headers = [PATCH, ("x-auth-token", token)];
        session.send("PATCH", &image, &headers, change(op).as_bytes()).await.unwrap()
    };
    let refused = patch(&session.token, "add").await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("x_locked"), "{}", refused.text());
    assert_eq!(patch(&admin, "add").await.status, 200);
    assert_eq!(session.get(&image).await.json()["x_locked"], "1");
    for op in ["replace", "remove"] {
        assert_eq!(patch(&session.token, op).await.status, 403);
    }
}

#[tokio::test]
async fn a_name_with_a_colon_is_an_operator() {
    let session = Session::open().await;
    session.post("/image/v2/images", &json!({"name": "a: 1"})).await;
    let list = async |name: &str| session.get(&format!("/image/v2/images?name={name}")).await;
    assert_eq!(list("a:%201").await.status, 400);
    assert_eq!(ids(&list("eq:a:%201").await.json()).len(), 1);
    assert_eq!(ids(&list("in:b,a").await.json()).len(), 0);
    assert_eq!(ids(&list("2026-11-26T10:00:00Z").await.json()).len(), 0);
}

#[tokio::test]
async fn a_tag_in_a_path_is_taken_byte_by_byte() {
    let session = Session::open().await;
    let image = session.image("raw", "bare").await;
    let path = format!("{image}/tags/%C3%A4");
    assert_eq!(session.send("PUT", &path, &[], b"").await.unwrap().status, 204);
    assert_eq!(session.get(&image).await.json()["tags"], json!(["Ã¤"]));
}
