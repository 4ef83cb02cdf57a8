//! Stages, imports, stores and tasks, as a real server shows them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{JSON, OCTETS, Session};

async fn stage(session: &Session, body: &[u8]) -> String {
    let image = session.image("raw", "bare").await;
    let answer = session.send("PUT", &format!("{image}/stage"), &[OCTETS], body).await.unwrap();
    assert_eq!(answer.status, 204, "{}", answer.text());
    image
}

async fn import(session: &Session, image: &str, body: &Value) -> u16 {
    session.post(&format!("{image}/import"), body).await.status
}

async fn tasks(session: &Session, image: &str) -> Vec<Value> {
    let answer = session.get(&format!("{image}/tasks")).await.json();
    answer["tasks"].as_array().unwrap().clone()
}

/// The image once no task holds it any more.
async fn ended(session: &Session, image: &str) -> Value {
    loop {
        let shown = session.get(image).await.json();
        if shown.get("os_glance_import_task").is_none() {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_import_is_locked_until_it_ends() {
    let session = Session::open().await;
    session.fault("slow-import=200");
    let image = stage(&session, &[7; 2 << 20]).await;
    let shown = session.get(&image).await.json();
    assert_eq!((&shown["status"], &shown["size"]), (&"uploading".into(), &(2 << 20).into()));
    assert_eq!(session.put(&image, b"no").await.unwrap().status, 409);
    let body = json!({"method": {"name": "glance-direct"}, "stores": ["fast", "slow"]});
    assert_eq!(import(&session, &image, &body).await, 202);
    let task = tasks(&session, &image).await[0].clone();
    assert_eq!(session.get(&image).await.json()["os_glance_import_task"], task["id"]);
    assert!(!task["created_at"].as_str().unwrap().ends_with('Z'), "no zone, with a fraction");
    assert_eq!(import(&session, &image, &body).await, 409, "one at a time");
    let shown = ended(&session, &image).await;
    assert_eq!((&shown["status"], &shown["stores"]), (&"active".into(), &"fast,slow".into()));
    assert_eq!(shown["os_glance_importing_to_stores"], "");
    assert_eq!(shown["os_glance_failed_import"], "");
    while tasks(&session, &image).await[0]["status"] != "success" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(tasks(&session, &image).await[0]["message"], "Copied 2 MiB");
    assert_eq!(session.get("/image/v2/tasks").await.status, 403);
}

#[tokio::test]
async fn what_a_failed_import_leaves() {
    let session = Session::open().await;
    let image = session.image("raw", "bare").await;
    let far = json!({"method": {"name": "glance-download", "glance_region": "nowhere",
        "glance_image_id": "6f2b3c1e-1111-4222-8333-444455556666"}});
    assert_eq!(import(&session, &image, &far).await, 202);
    let shown = ended(&session, &image).await;
    assert_eq!(shown["status"], "queued");
    assert_eq!(shown["os_glance_importing_to_stores"], "fast", "for ever");
    assert_eq!(shown["os_glance_failed_import"], "");

    let web = json!({"method": {"name": "web-download", "uri": "http://127.0.0.1:1/x"}});
    assert_eq!(import(&session, &image, &web).await, 202);
    let shown = ended(&session, &image).await;
    assert_eq!(shown["status"], "queued");
    assert_eq!(shown["os_glance_importing_to_stores"], "");
    assert_eq!(shown["os_glance_failed_import"], "fast");
    while tasks(&session, &image).await[1]["status"] != "failure" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(tasks(&session, &image).await[1]["message"], "Task failed due to Internal Error");

    session.fault("import-fails");
    let image = stage(&session, b"data").await;
    let body = json!({"method": {"name": "glance-direct"}});
    assert_eq!(import(&session, &image, &body).await, 202);
    assert_eq!(ended(&session, &image).await["status"], "importing", "for ever");

    // As after data of another format.
    let session = Session::open().await;
    let image = session.image("qcow2", "bare").await;
    let stage = format!("{image}/stage");
    assert_eq!(session.send("PUT", &stage, &[OCTETS], b"no qcow2").await.unwrap().status, 204);
    assert_eq!(import(&session, &image, &body).await, 202);
    let shown = ended(&session, &image).await;
    assert_eq!((&shown["status"], &shown["size"]), (&"importing".into(), &8.into()));
    assert_eq!(shown["os_glance_failed_import"], "fast");
}

#[tokio::test]
async fn what_an_import_refuses() {
    let session = Session::open().await;
    let image = session.image("raw", "bare").await;
    let web = |uri: &str| json!({"method": {"name": "web-download", "uri": uri}});
    let far = |id: &str| json!({"method": {"name": "glance-download", "glance_region": "x", "glance_image_id": id}});
    for (body, status) in [
        (json!({}), 400),
        (json!({"method": {"name": "telepathy"}}), 400),
        (json!({"method": {"name": "web-download"}}), 400),
        (web("file:///etc/passwd"), 400),
        (web("http://127.0.0.2/x"), 400),
        (web("http://169.254.169.254/x"), 400),
        (far("not-a-uuid"), 400),
        (json!({"method": {"name": "glance-direct"}}), 409),
        (json!({"method": {"name": "copy-image"}}), 409),
    ] {
        assert_eq!(import(&session, &image, &body).await, status, "{body}");
    }
    assert_eq!(session.status(&image).await, "queued");
    assert_eq!(tasks(&session, &image).await.len(), 0);
}

#[tokio::test]
async fn an_unknown_store_has_three_answers() {
    let session = Session::open().await;
    let image = session.image("raw", "bare").await;
    let store = [OCTETS, ("x-image-meta-store", "web")];
    let sent = session.send("PUT", &format!("{image}/file"), &store, b"x").await.unwrap();
    assert_eq!(sent.status, 400, "it takes locations only");
    let body = json!({"method": {"name": "web-download", "uri": "http://example.org/x"}, "stores": ["none"]});
    assert_eq!(import(&session, &image, &body).await, 409);
    let id = image.rsplit('/').next().unwrap();
    let gone = session.send("DELETE", &format!("/image/v2/stores/none/{id}"), &[], b"").await;
    assert_eq!(gone.unwrap().status, 409);
}

#[tokio::test]
async fn stores_have_flags_that_are_texts() {
    let session = Session::open().await;
    let stores = session.get("/image/v2/info/stores").await.json();
    let [fast, slow, web] = stores["stores"].as_array().unwrap().as_slice() else {
        panic!("{stores}")
    };
    assert_eq!((&fast["id"], &fast["default"]), (&"fast".into(), &"true".into()));
    assert_eq!((slow.get("default"), slow.get("read-only")), (None, None));
    assert_eq!(web["read-only"], "true");
    assert_eq!(fast.get("type"), None);
    assert_eq!(session.get("/image/v2/info/stores/detail").await.status, 403);
    let admin = session.login_as("admin").await;
    let token = [("x-auth-token", admin.as_str())];
    let path = "/image/v2/info/stores/detail";
    let details = session.send("GET", path, &token, b"").await.unwrap().json();
    assert_eq!(details["stores"][0]["type"], "file");
    assert_eq!(details["stores"][2]["type"], "http");
}

#[tokio::test]
async fn copies_count_for_the_quota() {
    let session = Session::open().await;
    let usage = |what: &'static str| {
        let session = &session;
        async move {
            let usage = session.get("/image/v2/info/usage").await.json();
            usage["usage"][what]["usage"].as_u64().unwrap()
        }
    };
    let image = stage(&session, &[7; 3 << 20]).await;
    assert_eq!((usage("image_stage_total").await, usage("image_size_total").await), (3, 0));
    assert_eq!(usage("image_count_uploading").await, 1);
    let body = json!({"method": {"name": "glance-direct"}, "all_stores": true});
    assert_eq!(import(&session, &image, &body).await, 202);
    ended(&session, &image).await;
    assert_eq!((usage("image_stage_total").await, usage("image_size_total").await), (0, 6));

    // One copy goes; the last one stays.
    let admin = session.login_as("admin").await;
    let id = image.rsplit('/').next().unwrap();
    let remove = |store: &'static str| {
        let (session, token) = (&session, [("x-auth-token", admin.as_str())]);
        let path = format!("/image/v2/stores/{store}/{id}");
        async move { session.send("DELETE", &path, &token, b"").await.unwrap().status }
    };
    assert_eq!(remove("slow").await, 204);
    assert_eq!(remove("fast").await, 403);
    assert_eq!(usage("image_size_total").await, 3);
    assert_eq!(session.get(&format!("{image}/file")).await.body.len(), 3 << 20);
}

#[tokio::test]
async fn locations_are_for_the_web_only() {
    let session = Session::open().await;
    let image = session.image("raw", "bare").await;
    let path = format!("{image}/locations");
    let add = |url: &str| json!({"url": url}).to_string();
    for (body, status) in
        [(add("file:///etc/passwd"), 403), (add("http://127.0.0.2/x"), 400), ("{}".to_owned(), 400)]
    {
        let answer = session.send("POST", &path, &[JSON], body.as_bytes()).await.unwrap();
        assert_eq!(answer.status, status, "{body}");
    }
    assert_eq!(session.get(&path).await.status, 403);
}
