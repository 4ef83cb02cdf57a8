//! Keystone: tokens, scopes, application credentials.

use std::time::Duration;

use serde_json::{Value, json};
use simulator::openstack::{OpenStack, OpenStackConfig};

use crate::client::{JSON, Session};

const TOKENS: &str = "/identity/v3/auth/tokens";

fn scoped(mut body: Value, scope: &Value) -> Value {
    body["auth"]["scope"] = scope.clone();
    body
}

#[tokio::test]
async fn discovery_needs_no_token() {
    let session = Session::open().await;
    let root = session.send("GET", "/identity/", &[("x-auth-token", "")], b"").await.unwrap();
    assert_eq!(root.status, 300);
    assert_eq!(root.json()["versions"]["values"][0]["id"], "v3.14");
    assert_eq!(session.get("/identity/v3").await.json()["version"]["status"], "stable");
    assert!(root.header("x-openstack-request-id").unwrap().starts_with("req-"));
}

#[tokio::test]
async fn a_token_is_in_the_header_and_the_catalogue_in_the_body() {
    let session = Session::open().await;
    let answer = session.authenticate(&session.password()).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("x-subject-token").unwrap().len(), 183);
    let token = &answer.json()["token"];
    assert_eq!(token["project"]["name"], "demo", "the default project");
    let types: Vec<_> = token["catalog"].as_array().unwrap().iter().map(|s| &s["type"]).collect();
    assert_eq!(types, ["identity", "image", "compute"]);
    let endpoint = &token["catalog"][1]["endpoints"][0];
    assert_eq!(endpoint["url"], json!(session.cloud.image_url()));
    assert_eq!(endpoint["region"], endpoint["region_id"]);
    let bare = session
        .send(
            "POST",
            &format!("{TOKENS}?nocatalog"),
            &[JSON],
            session.password().to_string().as_bytes(),
        )
        .await
        .unwrap();
    assert!(bare.json()["token"].get("catalog").is_none());
}

#[tokio::test]
async fn a_wrong_scope_is_401_and_unscoped_has_nothing() {
    let session = Session::open().await;
    let domain = json!({"id": "default"});
    for scope in [
        json!({"project": {"name": "admin", "domain": domain}}),
        json!({"project": {"name": "no-such", "domain": domain}}),
        json!({"domain": {"id": "default"}}),
        json!({"system": {"all": true}}),
    ] {
        let answer = session.authenticate(&scoped(session.password(), &scope)).await;
        assert_eq!(answer.status, 401, "{scope}");
        assert_eq!(answer.json()["error"]["code"], 401);
        assert!(answer.header("www-authenticate").unwrap().starts_with("Keystone uri="));
    }
    let answer = session.authenticate(&scoped(session.password(), &json!("unscoped"))).await;
    assert_eq!(answer.status, 201);
    let token = &answer.json()["token"];
    assert!(token.get("catalog").is_none() && token.get("roles").is_none(), "{token}");
    let unscoped = answer.header("x-subject-token").unwrap();
    let list = session.send("GET", "/image/v2/images", &[("x-auth-token", unscoped)], b"").await;
    assert_eq!(list.unwrap().status, 401);
}

#[tokio::test]
async fn a_domain_and_the_system_have_scopes_of_their_own() {
    let session = Session::open().await;
    let mut admin = session.password();
    admin["auth"]["identity"]["password"]["user"]["name"] = json!("admin");
    for (scope, kind) in [
        (json!({"domain": {"id": "default"}}), "domain"),
        (json!({"domain": {"name": "Default"}}), "domain"),
        (json!({"system": {"all": true}}), "system"),
        (json!({"project": {"name": "admin", "domain": {"id": "default"}}}), "project"),
    ] {
        let answer = session.authenticate(&scoped(admin.clone(), &scope)).await;
        assert_eq!(answer.status, 201, "{scope}");
        let token = &answer.json()["token"];
        for other in ["domain", "system", "project"] {
            assert_eq!(token.get(other).is_some(), other == kind, "{scope}: {other}");
        }
        let services = token["catalog"].as_array().unwrap();
        let compute = services.iter().find(|service| service["type"] == "compute").unwrap();
        // Its URL holds the id of a project.
        assert_eq!(compute["endpoints"] == json!([]), kind != "project", "{scope}");
        let image = services.iter().find(|service| service["type"] == "image").unwrap();
        assert_eq!(image["endpoints"].as_array().unwrap().len(), 3);
    }
    let unknown = scoped(admin, &json!({"domain": {"id": "other"}}));
    assert_eq!(session.authenticate(&unknown).await.status, 401);
}

#[tokio::test]
async fn malformed_requests_are_400_and_wrong_credentials_401() {
    let session = Session::open().await;
    for body in [json!({}), json!({"auth": {"identity": {"methods": ["password"]}}})] {
        assert_eq!(session.authenticate(&body).await.status, 400, "{body}");
    }
    let broken = session.send("POST", TOKENS, &[JSON], b"{").await.unwrap();
    assert_eq!(broken.status, 400);
    let mut wrong = session.password();
    wrong["auth"]["identity"]["password"]["user"]["password"] = json!("wrong");
    let answer = session.authenticate(&wrong).await;
    assert_eq!(answer.status, 401);
    assert!(!answer.text().contains("wrong"), "the secret must not come back");
}

#[tokio::test]
async fn a_token_exchange_is_no_renewal() {
    let session = Session::open().await;
    let first = session.authenticate(&session.password()).await;
    let id = first.header("x-subject-token").unwrap();
    let body = json!({"auth": {"identity": {"methods": ["token"], "token": {"id": id}}}});
    let second = session.authenticate(&body).await;
    assert_eq!(second.status, 201);
    assert_eq!(first.json()["token"]["expires_at"], second.json()["token"]["expires_at"]);
    assert_eq!(second.json()["token"]["methods"], json!(["token", "password"]));
    assert_ne!(second.header("x-subject-token"), Some(id));
}

#[tokio::test]
async fn validation_and_revocation() {
    let session = Session::open().await;
    let other = session.login().await;
    let subject = ("x-subject-token", other.as_str());
    let shown = session.send("GET", TOKENS, &[subject], b"").await.unwrap();
    assert_eq!((shown.status, shown.header("x-subject-token")), (200, Some(other.as_str())));
    let head = session.send("HEAD", TOKENS, &[subject], b"").await.unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(session.send("DELETE", TOKENS, &[subject], b"").await.unwrap().status, 204);
    assert_eq!(session.send("GET", TOKENS, &[subject], b"").await.unwrap().status, 404);
    let used = session.send("GET", "/image/v2/images", &[("x-auth-token", &other)], b"").await;
    assert_eq!(used.unwrap().status, 401);
    session.cloud.revoke_tokens();
    assert_eq!(session.get("/image/v2/images").await.status, 401);
}

#[tokio::test]
async fn tokens_expire() {
    let config = OpenStackConfig::new().with_token_ttl(Duration::ZERO);
    let session = Session::with(OpenStack::start(config).await.unwrap()).await;
    let answer = session.get("/image/v2/images").await;
    assert_eq!(answer.status, 401);
    assert!(answer.header("www-authenticate").unwrap().contains("/identity/v3"));
    assert!(answer.header("x-openstack-request-id").is_none(), "it comes from in front of the API");
}

#[tokio::test]
async fn application_credentials_by_id_and_by_name() {
    let session = Session::open().await;
    let me = session.authenticate(&session.password()).await.json();
    let user = me["token"]["user"]["id"].as_str().unwrap().to_owned();
    let path = format!("/identity/v3/users/{user}/application_credentials");
    let wanted = json!({"application_credential": {"name": "ci"}});
    let made = session.post(&path, &wanted).await;
    assert_eq!(made.status, 201);
    let made = made.json()["application_credential"].clone();
    assert_eq!(session.post(&path, &wanted).await.status, 409);
    let list = session.get(&path).await.json();
    assert!(list["application_credentials"][0].get("secret").is_none(), "shown once only");

    let by = |part: Value| {
        json!({"auth": {"identity": {
            "methods": ["application_credential"], "application_credential": part,
        }}})
    };
    let (id, secret) = (&made["id"], &made["secret"]);
    let by_id = by(json!({"id": id, "secret": secret}));
    let named = json!({"name": "ci", "secret": secret, "user": {"id": user}});
    for body in [by_id.clone(), by(named)] {
        let answer = session.authenticate(&body).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        let token = &answer.json()["token"];
        assert_eq!(token["application_credential"]["restricted"], true);
        assert_eq!(token["project"]["name"], "demo");
    }
    // A scope is refused, even the credential's own project.
    let scope = json!({"project": {"name": "demo", "domain": {"id": "default"}}});
    let refused = session.authenticate(&scoped(by_id.clone(), &scope)).await;
    assert_eq!(refused.status, 401);
    assert!(refused.text().contains("cannot request a scope"), "{}", refused.text());
    assert_eq!(session.authenticate(&by(json!({"id": id, "secret": "x"}))).await.status, 401);

    let bound = session.authenticate(&by_id).await.header("x-subject-token").unwrap().to_owned();
    let as_bound = [JSON, ("x-auth-token", bound.as_str())];
    let more = session.send("POST", &path, &as_bound, wanted.to_string().as_bytes()).await.unwrap();
    assert_eq!(more.status, 403, "restricted");
    let one = format!("{path}/{}", id.as_str().unwrap());
    assert_eq!(session.send("DELETE", &one, &[], b"").await.unwrap().status, 204);
    assert_eq!(session.authenticate(&by_id).await.status, 404);
    let used = session.send("GET", "/image/v2/images", &as_bound, b"").await.unwrap();
    assert_eq!(used.status, 401, "its tokens end with it");
}

#[tokio::test]
async fn users_see_their_own_credentials_only() {
    let session = Session::open().await;
    let path = "/identity/v3/users/somebody/application_credentials";
    assert_eq!(session.get(path).await.status, 403);
}
