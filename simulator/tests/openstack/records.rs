//! Glance without data: versions, schema, records, patches, lists.

use serde_json::{Value, json};

use crate::client::{PATCH, Session};

const IMAGES: &str = "/image/v2/images";

#[tokio::test]
async fn versions_are_unordered_and_need_no_token() {
    let session = Session::open().await;
    let answer = session.send("GET", "/image/", &[("x-auth-token", "")], b"").await.unwrap();
    assert_eq!(answer.status, 300);
    let versions = answer.json()["versions"].as_array().unwrap().clone();
    assert_ne!(versions[0]["status"], "CURRENT");
    let current: Vec<_> = versions.iter().filter(|v| v["status"] == "CURRENT").collect();
    assert_eq!(current.len(), 1);
    assert_eq!(current[0]["id"], "v2.17");
}

#[tokio::test]
async fn the_schema_tells_the_formats() {
    let session = Session::open().await;
    let schema = session.get("/image/v2/schemas/image").await.json();
    let formats = schema["properties"]["disk_format"]["enum"].as_array().unwrap();
    assert!(formats.contains(&json!("vhd")) && !formats.contains(&json!("tgz")));
    assert_eq!(schema["additionalProperties"], json!({"type": "string"}));
    assert_eq!(
        session.get("/image/v2/info/import").await.json()["import-methods"]["type"],
        "array"
    );
}

#[tokio::test]
async fn what_a_create_refuses() {
    let session = Session::open().await;
    for (body, status) in [
        (json!({"os_distro": 3}), 400),
        (json!({"os_distro": null}), 400),
        (json!({"disk_format": "tgz"}), 400),
        (json!({"container_format": "tar"}), 400),
        (json!({"id": "abc"}), 400),
        (json!({"name": "n".repeat(256)}), 400),
        (json!({"min_disk": -1}), 400),
        (json!({"status": "active"}), 403),
        (json!({"os_glance_x": "y"}), 403),
        (json!({"visibility": "public"}), 403),
        (json!({"owner": "somebody"}), 403),
        (json!({"tags": (0..129).map(|n| n.to_string()).collect::<Vec<_>>()}), 413),
    ] {
        let answer = session.post(IMAGES, &body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
    }
    assert!(session.cloud.images().is_empty());
}

#[tokio::test]
async fn a_chosen_id_is_taken_once_and_never_free_again() {
    let session = Session::open().await;
    let id = "6f2b3c1e-1111-4222-8333-444455556666";
    let body = json!({"id": id, "name": "a", "hw_disk_bus": "virtio", "tags": ["x", "x"]});
    let made = session.post(IMAGES, &body).await;
    assert_eq!(made.status, 201);
    assert!(made.header("location").unwrap().ends_with(&format!("/image/v2/images/{id}")));
    assert_eq!(made.header("openstack-image-store-ids"), Some("fast,slow,web"));
    let shown = made.json();
    assert_eq!(shown["status"], "queued");
    assert_eq!(shown["hw_disk_bus"], "virtio");
    assert_eq!(shown["tags"], json!(["x"]));
    assert_eq!(shown["self"], json!(format!("/v2/images/{id}")), "without the mount");
    assert_eq!(session.post(IMAGES, &body).await.status, 409);
    let path = format!("{IMAGES}/{id}");
    assert_eq!(session.send("DELETE", &path, &[], b"").await.unwrap().status, 204);
    assert_eq!(session.send("DELETE", &path, &[], b"").await.unwrap().status, 404);
    assert_eq!(session.post(IMAGES, &body).await.status, 409, "the row stays behind");
}

#[tokio::test]
async fn errors_are_html_text_or_json_by_accept() {
    let session = Session::open().await;
    let path = format!("{IMAGES}/6f2b3c1e-0000-4222-8333-444455556666");
    for (accept, kind) in [
        (Some("*/*"), "text/html"),
        (Some("application/json"), "application/json"),
        (Some("text/plain"), "text/plain"),
        (None, "text/plain"),
    ] {
        let headers: Vec<_> = accept.map(|accept| ("accept", accept)).into_iter().collect();
        let answer = session.send("GET", &path, &headers, b"").await.unwrap();
        assert_eq!(answer.status, 404);
        assert!(answer.header("content-type").unwrap().starts_with(kind), "{accept:?}");
        assert!(answer.text().contains("No image found with ID"), "{}", answer.text());
        assert!(answer.header("x-openstack-request-id").is_some());
    }
}

#[tokio::test]
async fn patches() {
    let session = Session::open().await;
    let image = session.image("raw", "bare").await;
    let patch = |body: Value| {
        let (session, image) = (&session, &image);
        async move { session.send("PATCH", image, &[PATCH], body.to_string().as_bytes()).await.unwrap() }
    };
    let add = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
    let done = patch(add("/a~1b~0c", json!("1"))).await;
    assert_eq!((done.status, &done.json()["a/b~c"]), (200, &json!("1")));
    assert_eq!(patch(add("/a~1b~0c", json!("2"))).await.json()["a/b~c"], "2", "overwritten");
    assert_eq!(patch(json!([{"op": "replace", "path": "/name", "value": "b"}])).await.status, 200);
    for (body, status) in [
        (add("/n", json!(1)), 400),
        (json!([{"op": "replace", "path": "/none", "value": "x"}]), 409),
        (json!([{"op": "remove", "path": "/none"}]), 409),
        (json!([{"op": "remove", "path": "/name"}]), 403),
        (add("/status", json!("active")), 403),
        (add("/os_glance_x", json!("y")), 403),
        (add("/a/b", json!("y")), 400),
        (json!([{"op": "move", "path": "/a"}]), 400),
        (json!({"op": "remove"}), 400),
    ] {
        assert_eq!(patch(body.clone()).await.status, status, "{body}");
    }
    let half =
        json!([{"op": "add", "path": "/k", "value": "1"}, {"op": "remove", "path": "/none"}]);
    assert_eq!(patch(half).await.status, 409);
    assert!(session.get(&image).await.json().get("k").is_none(), "all or nothing");
    let wrong = session.send("PATCH", &image, &[("content-type", "application/json")], b"[]").await;
    let wrong = wrong.unwrap();
    assert_eq!(wrong.status, 415);
    assert!(wrong.header("accept-patch").unwrap().contains("v2.1"));
}

#[tokio::test]
async fn protection_and_tags() {
    let session = Session::open().await;
    let image = session.image("raw", "bare").await;
    let set = |value: bool| {
        let body = json!([{"op": "replace", "path": "/protected", "value": value}]).to_string();
        let (session, image) = (&session, &image);
        async move { session.send("PATCH", image, &[PATCH], body.as_bytes()).await.unwrap().status }
    };
    assert_eq!(set(true).await, 200);
    assert_eq!(session.send("DELETE", &image, &[], b"").await.unwrap().status, 403);
    assert_eq!(set(false).await, 200);
    let tag = format!("{image}/tags/t%20w");
    assert_eq!(session.send("PUT", &tag, &[], b"").await.unwrap().status, 204);
    assert_eq!(session.get(&image).await.json()["tags"], json!(["t w"]));
    assert_eq!(session.send("DELETE", &tag, &[], b"").await.unwrap().status, 204);
    assert_eq!(session.send("DELETE", &tag, &[], b"").await.unwrap().status, 404);
    assert_eq!(session.send("DELETE", &image, &[], b"").await.unwrap().status, 204);
}

async fn names(session: &Session, query: &str) -> Vec<String> {
    let answer = session.get(&format!("{IMAGES}?{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let images = answer.json()["images"].as_array().unwrap().clone();
    images.iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn lists_filter_sort_and_page() {
    let session = Session::open().await;
    for at in 0..30 {
        let body = json!({
            "name": format!("n{at:02}"), "run": (at % 2).to_string(), "tags": [format!("t{}", at % 3), "all"],
            "disk_format": if at < 5 { "vhd" } else { "raw" }, "container_format": "ovf",
        });
        assert_eq!(session.post(IMAGES, &body).await.status, 201);
    }
    assert_eq!(names(&session, "").await.len(), 25, "the default page");
    assert_eq!(names(&session, "limit=1000").await.len(), 30);
    assert_eq!(names(&session, "limit=0").await.len(), 0);
    assert_eq!(names(&session, "limit=2&sort=name:asc").await, ["n00", "n01"]);
    assert_eq!(names(&session, "sort_key=name&sort_dir=desc&limit=1").await, ["n29"]);
    assert_eq!(names(&session, "name=n07").await, ["n07"]);
    assert_eq!(names(&session, "name=in:n07,n08&sort=name:asc").await, ["n07", "n08"]);
    assert_eq!(names(&session, "run=1&disk_format=vhd&sort=name:asc").await, ["n01", "n03"]);
    assert_eq!(names(&session, "tag=t1&tag=all&run=0&disk_format=vhd").await, ["n04"]);
    assert_eq!(names(&session, "status=active").await.len(), 0);
    assert_eq!(names(&session, "nothing=1").await.len(), 0);
    for bad in [
        "limit=x",
        "limit=-1",
        "marker=no",
        "sort=what",
        "sort=name:up",
        "visibility=x",
        "size_min=x",
    ] {
        assert_eq!(session.get(&format!("{IMAGES}?{bad}")).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn next_is_a_path_without_the_mount_and_comes_once_too_often() {
    let session = Session::open().await;
    for at in 0..4 {
        let body = json!({"name": format!("n{at}"), "tags": ["a", "b"]});
        assert_eq!(session.post(IMAGES, &body).await.status, 201);
    }
    let (mut seen, mut pages) = (Vec::new(), 0);
    let mut path = format!("{IMAGES}?limit=2&sort=name:asc&tag=a&tag=b");
    loop {
        let page = session.get(&path).await.json();
        pages += 1;
        for image in page["images"].as_array().unwrap() {
            seen.push(image["name"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next"].as_str() else { break };
        assert!(next.starts_with("/v2/images?limit=2&sort=name%3Aasc&tag=b&marker="), "{next}");
        path = format!("/image{next}");
    }
    assert_eq!(seen, ["n0", "n1", "n2", "n3"]);
    assert_eq!(pages, 3, "two full pages and an empty one");
}
