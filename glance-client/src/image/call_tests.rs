use super::*;
use crate::ErrorKind;
use http::{HeaderMap, StatusCode};
use url::Url;

fn body<T>(call: &Call<T>) -> Value {
    serde_json::from_slice(call.body()).unwrap()
}

fn invalid<T>(call: &Call<T>) -> String {
    let error = call.url(&Url::parse("http://h/v2").unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.to_string()
}

#[test]
fn create_sends_what_is_set_and_nothing_else() {
    let plain = create(&NewImage::new("web01", DiskFormat::Qcow2, ContainerFormat::Bare));
    assert_eq!((plain.method().as_str(), plain.path()), ("POST", "images"));
    assert_eq!(
        body(&plain),
        json!({"name": "web01", "disk_format": "qcow2", "container_format": "bare", "visibility": "private"})
    );
    let full = NewImage::new("web01", DiskFormat::Vhd, ContainerFormat::Ovf)
        .with_id("9b4b")
        .with_visibility(Visibility::Shared)
        .with_min_disk(20)
        .with_min_ram(512)
        .with_protected(true)
        .with_hidden(true)
        .with_tag("a")
        .with_tag("b")
        .with_property("vm_mode", "hvm");
    assert_eq!(
        body(&create(&full)),
        json!({"id": "9b4b", "name": "web01", "disk_format": "vhd", "container_format": "ovf", "visibility": "shared",
            "min_disk": 20, "min_ram": 512, "protected": true, "os_hidden": true, "tags": ["a", "b"], "vm_mode": "hvm"})
    );
}

#[test]
fn what_glance_keeps_for_itself_is_refused_before_sending() {
    let image = |name: &str| {
        NewImage::new("x", DiskFormat::Raw, ContainerFormat::Bare).with_property(name, "1")
    };
    assert!(invalid(&create(&image("size"))).contains("\"size\""));
    assert!(invalid(&create(&image("os_glance_import_task"))).contains("os_glance_import_task"));
    let long = NewImage::new("n".repeat(256), DiskFormat::Raw, ContainerFormat::Bare);
    assert!(invalid(&create(&long)).contains("255"));
}

#[test]
fn an_id_cannot_name_another_resource() {
    assert_eq!(get("a/b?c").path(), "images/a%2Fb%3Fc");
    for id in ["", ".", ".."] {
        assert!(invalid(&get(id)).contains("is not an image id"));
        assert!(invalid(&delete(id)).contains("is not an image id"));
    }
}

#[test]
fn patches_escape_their_pointers() {
    let patch = ImagePatch::new().with("visibility", "public").with("a/b~c", "1").without("old");
    let call = update("1", &patch);
    assert_eq!(call.headers()["content-type"], "application/openstack-images-v2.1-json-patch");
    assert_eq!(
        body(&call),
        json!([
            {"op": "replace", "path": "/visibility", "value": "public"},
            {"op": "add", "path": "/a~1b~0c", "value": "1"},
            {"op": "remove", "path": "/old"}
        ])
    );
    assert!(invalid(&update("1", &ImagePatch::new())).contains("nothing to change"));
}

#[test]
fn the_schema_tells_what_the_cloud_takes() {
    let document = json!({"name": "image", "properties": {
        "disk_format": {"enum": [null, "raw", "qcow2"], "type": ["null", "string"]},
        "container_format": {"enum": [null, "bare"]}}});
    let schema =
        schema().parse(StatusCode::OK, &HeaderMap::new(), document.to_string().as_bytes()).unwrap();
    schema.check(&NewImage::new("x", DiskFormat::Raw, ContainerFormat::Bare)).unwrap();
    let error =
        schema.check(&NewImage::new("x", DiskFormat::Vhd, ContainerFormat::Bare)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "image \"x\": this cloud takes no disk format \"vhd\", only raw, qcow2"
    );
    assert!(schema.check(&NewImage::new("x", DiskFormat::Raw, ContainerFormat::Ovf)).is_err());
    ImageSchema::default()
        .check(&NewImage::new("x", DiskFormat::Vhd, ContainerFormat::Ovf))
        .unwrap();
}
