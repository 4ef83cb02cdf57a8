//! Lists, tags, states and rights of images, and what a cloud tells of itself.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;
use glance_client::image::{
    Compare, ContainerFormat, DiskFormat, DownloadOptions, ImagePatch, ImageStatus, ListQuery,
    NewImage, SortDirection, SortKey, Visibility, add_tag, create, deactivate, delete, get, list,
    reactivate, remove_tag, update,
};
use glance_client::info::{self, ImportMethod, Schema};
use glance_client::{Call, CloudConfig, ErrorKind, Glance, Upload};
use http::Method;
use serde_json::json;

use super::help::{data, glance, glance_as, raw, read, remove, unique};

/// The names of the images of a query, in order.
async fn names(glance: &Glance, query: &ListQuery) -> Vec<String> {
    let images: Vec<_> = glance.images(query).try_collect().await.unwrap();
    images.into_iter().map(|image| image.name.unwrap()).collect()
}

pub(crate) async fn lists_are_filtered_and_sorted(config: &CloudConfig) {
    let glance = glance(config).await;
    let tag = format!("run {}", unique());
    let all = || ListQuery::new().with_tag(&tag);
    let new = |name: &str| raw(name).with_tag(&tag);
    let a = glance.create(&new("a: 1").with_protected(true)).await.unwrap();
    let b = new("b").with_visibility(Visibility::Shared);
    let b = glance.create(&b).await.unwrap();
    let c = NewImage::new("c", DiskFormat::Qcow2, ContainerFormat::Ovf).with_tag(&tag);
    let c = glance.create(&c).await.unwrap();
    let d = glance.create(&new("d").with_hidden(true)).await.unwrap();
    glance.upload(&a.id, Upload::from_bytes(data(2000))).await.unwrap();
    glance.upload(&b.id, Upload::from_bytes(data(1000))).await.unwrap();

    let by_name = |direction| all().with_sort(SortKey::Name, direction);
    assert_eq!(names(&glance, &by_name(SortDirection::Ascending)).await, ["a: 1", "b", "c"]);
    assert_eq!(names(&glance, &by_name(SortDirection::Descending)).await, ["c", "b", "a: 1"]);
    let sorted = all()
        .with_sort(SortKey::DiskFormat, SortDirection::Descending)
        .with_sort(SortKey::Size, SortDirection::Ascending);
    assert_eq!(names(&glance, &sorted).await, ["b", "a: 1", "c"]);

    let owner = a.owner.clone().unwrap();
    let begin = a.created_at.unwrap();
    let later = SystemTime::now() + Duration::from_secs(3600);
    let cases: [(&str, ListQuery, &[&str]); 16] = [
        ("a name with a colon", all().with_name("a: 1"), &["a: 1"]),
        ("ids", all().with_ids(&[&a.id, &c.id, &unique()]), &["a: 1", "c"]),
        ("status", all().with_status(&ImageStatus::Queued), &["c"]),
        (
            "statuses",
            all().with_statuses(&[ImageStatus::Active, ImageStatus::Saving]),
            &["a: 1", "b"],
        ),
        ("visibility", all().with_visibility(&Visibility::Shared), &["b"]),
        ("every visibility", all().with_every_visibility(), &["a: 1", "b", "c"]),
        ("owner", all().with_owner(owner), &["a: 1", "b", "c"]),
        ("another owner", all().with_owner(unique()), &[]),
        ("hidden", all().with_hidden(true), &["d"]),
        ("protected", all().with_protected(true), &["a: 1"]),
        ("disk format", all().with_disk_format(&DiskFormat::Qcow2), &["c"]),
        ("container format", all().with_container_format(&ContainerFormat::Ovf), &["c"]),
        ("at least", all().with_size_at_least(2000), &["a: 1"]),
        ("at most", all().with_size_at_most(1000), &["b"]),
        ("made since", all().with_created(Compare::AtOrAfter, begin), &["a: 1", "b", "c"]),
        ("changed after", all().with_updated(Compare::After, later), &[]),
    ];
    for (what, query, expected) in cases {
        let query = query.with_sort(SortKey::Name, SortDirection::Ascending);
        assert_eq!(names(&glance, &query).await, expected, "{what}");
    }
    // Without the operator the name would be one that Glance does not know.
    let wrong = glance.call(list(&all().with_filter("name", "a: 1"))).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid, "{wrong}");

    glance.call(update(&a.id, &ImagePatch::new().with("protected", false))).await.unwrap();
    remove(&glance, &[&a.id, &b.id, &c.id, &d.id]).await;
}

/// The server's own link to the next page forgets all tags but the last.
pub(crate) async fn pages_keep_every_tag(config: &CloudConfig) {
    let glance = glance(config).await;
    let (one, two) = (unique(), unique());
    let mut made = Vec::new();
    for index in 0..6 {
        let mut image = raw(&format!("page {index}")).with_tag(&two);
        if index % 2 == 0 {
            image = image.with_tag(&one);
        }
        made.push(glance.create(&image).await.unwrap().id);
    }
    let query = ListQuery::new()
        .with_tag(&one)
        .with_tag(&two)
        .with_limit(1)
        .with_sort(SortKey::Name, SortDirection::Ascending);
    assert_eq!(names(&glance, &query).await, ["page 0", "page 2", "page 4"]);
    assert_eq!(names(&glance, &query.clone().with_marker(&made[0])).await, ["page 2", "page 4"]);
    // A stream asks for no page that nobody wants.
    let mut some = glance.images(&query);
    assert_eq!(some.try_next().await.unwrap().unwrap().id, made[0]);
    drop(some);
    let gone = glance.images(&query.with_marker(unique())).try_next().await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Invalid, "{gone}");
    remove(&glance, &made.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

pub(crate) async fn tags_come_and_go(config: &CloudConfig) {
    let glance = glance(config).await;
    let image = glance.create(&raw("tags").with_tag("first")).await.unwrap();
    let id = image.id.as_str();
    for tag in ["a b", "x?&#", "50%", "first"] {
        glance.call(add_tag(id, tag)).await.unwrap();
    }
    let mut tags = glance.call(get(id)).await.unwrap().tags;
    tags.sort();
    assert_eq!(tags, ["50%", "a b", "first", "x?&#"]);
    glance.call(remove_tag(id, "x?&#")).await.unwrap();
    let missing = glance.call(remove_tag(id, "x?&#")).await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    let long = glance.call(add_tag(id, &"x".repeat(256))).await.unwrap_err();
    assert_eq!(long.kind(), ErrorKind::Invalid, "{long}");
    // The path is no place for other letters, as a call of our own shows; the body is.
    let garbled = Call::new("tag", Method::PUT, format!("images/{id}/tags/%C3%A4"), |_| Ok(()));
    glance.call(garbled).await.unwrap();
    assert!(glance.call(get(id)).await.unwrap().tags.contains(&"Ã¤".to_owned()));
    let letters = ImagePatch::new().with("tags", json!(["ä", "a/b"]));
    let mut tags = glance.call(update(id, &letters)).await.unwrap().tags;
    tags.sort();
    assert_eq!(tags, ["a/b", "ä"]);
    let many: Vec<_> = (0..128).map(|index| format!("t{index}")).collect();
    glance.call(update(id, &ImagePatch::new().with("tags", json!(many)))).await.unwrap();
    let over = glance.call(add_tag(id, "one more")).await.unwrap_err();
    assert_eq!(over.kind(), ErrorKind::TooLarge, "{over}");
    remove(&glance, &[id]).await;
}

pub(crate) async fn a_deactivated_image_is_not_read(config: &CloudConfig) {
    let glance = glance(config).await;
    let image = glance.create(&raw("deactivated")).await.unwrap();
    let id = image.id.as_str();
    let early = glance.call(deactivate(id)).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Forbidden, "{early}");
    glance.upload(id, Upload::from_bytes(data(1000))).await.unwrap();
    glance.call(deactivate(id)).await.unwrap();
    glance.call(deactivate(id)).await.unwrap();
    assert_eq!(glance.call(get(id)).await.unwrap().status, ImageStatus::Deactivated);
    let whole = DownloadOptions::new();
    let error = glance.download(id, &whole).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    assert!(error.to_string().contains("deactivated"), "{error}");
    if let Some(admin) = glance_as(config, "admin").await {
        assert_eq!(read(admin.download(id, &whole).await.unwrap()).await.unwrap(), data(1000));
    }
    glance.call(reactivate(id)).await.unwrap();
    assert_eq!(read(glance.download(id, &whole).await.unwrap()).await.unwrap(), data(1000));
    remove(&glance, &[id]).await;
}

/// The test cloud keeps `x_locked…` for administrators.
pub(crate) async fn a_protected_property_is_not_ours_to_change(config: &CloudConfig) {
    let glance = glance(config).await;
    let image = glance.create(&raw("locked")).await.unwrap();
    let id = image.id.as_str();
    let lock = ImagePatch::new().with("x_locked", "1");
    let error = match glance.call(update(id, &lock)).await {
        Ok(_) => {
            eprintln!("skipped: this cloud does not protect x_locked");
            return remove(&glance, &[id]).await;
        }
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    assert!(error.request_id().is_some() && error.to_string().contains("x_locked"), "{error}");
    let born = raw("locked").with_property("x_locked_too", "1");
    let error = glance.call(create(&born)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    // Nothing of a patch is done if one part of it is refused.
    let both = ImagePatch::new().with("free", "1").with("x_locked", "1");
    glance.call(update(id, &both)).await.unwrap_err();
    assert!(!glance.call(get(id)).await.unwrap().properties.contains_key("free"));
    if let Some(admin) = glance_as(config, "admin").await {
        admin.call(update(id, &lock)).await.unwrap();
        assert_eq!(glance.call(get(id)).await.unwrap().properties["x_locked"], "1");
        for patch in
            [ImagePatch::new().with("x_locked", "2"), ImagePatch::new().without("x_locked")]
        {
            let error = glance.call(update(id, &patch)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
        }
    }
    remove(&glance, &[id]).await;
}

pub(crate) async fn others_see_what_is_for_them(config: &CloudConfig) {
    let glance = glance(config).await;
    let Some(other) = glance_as(config, "other").await else { return };
    let public = raw("public").with_visibility(Visibility::Public);
    let error = glance.call(create(&public)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    let private = glance.create(&raw("private")).await.unwrap();
    let community = raw("community").with_visibility(Visibility::Community);
    let community = glance.create(&community).await.unwrap();
    assert!(other.call(get(&private.id)).await.unwrap_err().is_not_found());
    other.call(get(&community.id)).await.unwrap();
    let ids = |query: ListQuery| {
        let other = other.clone();
        async move {
            let images = other.list_all(&query, 10_000).await.unwrap();
            images.into_iter().map(|image| image.id).collect::<Vec<_>>()
        }
    };
    assert!(!ids(ListQuery::new()).await.contains(&community.id));
    let found = ids(ListQuery::new().with_visibility(&Visibility::Community)).await;
    assert!(found.contains(&community.id));
    assert!(ids(ListQuery::new().with_every_visibility()).await.contains(&community.id));
    let patch = ImagePatch::new().with("name", "mine");
    for error in [
        other.call(update(&community.id, &patch)).await.unwrap_err(),
        other.call(delete(&community.id)).await.unwrap_err(),
        other.call(deactivate(&community.id)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    }
    remove(&glance, &[&private.id, &community.id]).await;
}

pub(crate) async fn a_cloud_tells_what_it_offers(config: &CloudConfig) {
    let glance = glance(config).await;
    let methods = glance.call(info::import_methods()).await.unwrap();
    for method in [
        ImportMethod::GlanceDirect,
        ImportMethod::WebDownload,
        ImportMethod::CopyImage,
        ImportMethod::GlanceDownload,
    ] {
        assert!(methods.contains(&method), "{method}: {methods:?}");
    }
    let stores = glance.call(info::stores()).await.unwrap();
    assert_eq!(stores.iter().filter(|store| store.is_default).count(), 1);
    assert!(stores.iter().filter(|store| !store.read_only).count() >= 2, "{stores:?}");
    assert!(stores.iter().all(|store| store.kind.is_none()));
    let error = glance.call(info::store_details()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    if let Some(admin) = glance_as(config, "admin").await {
        let details = admin.call(info::store_details()).await.unwrap();
        assert_eq!(details.len(), stores.len());
        let file = details.iter().find(|store| store.kind.as_deref() == Some("file")).unwrap();
        assert!(file.properties.contains_key("data_dir") && file.weight.is_some(), "{file:?}");
    }
    for kind in [
        Schema::Image,
        Schema::Images,
        Schema::Member,
        Schema::Members,
        Schema::Task,
        Schema::Tasks,
    ] {
        let schema = glance.call(info::schema(&kind)).await.unwrap();
        assert_eq!(schema["name"], kind.as_str());
        assert!(schema["properties"].is_object(), "{schema}");
    }
    assert!(glance.call(info::schema(&"nonsense".into())).await.unwrap_err().is_not_found());
}

pub(crate) async fn quotas_count_what_is_there(config: &CloudConfig) {
    let glance = glance(config).await;
    let before = glance.call(info::usage()).await.unwrap();
    let Some(images) = before.images() else {
        eprintln!("skipped: this cloud keeps no quotas");
        return;
    };
    let image = glance.create(&raw("quota")).await.unwrap();
    let staged = glance.create(&raw("staged")).await.unwrap();
    glance.upload(&image.id, Upload::from_bytes(data(3 << 20))).await.unwrap();
    let after = glance.call(info::usage()).await.unwrap();
    assert_eq!(after.images().unwrap().usage, images.usage + 2);
    let size = after.image_size_mib().unwrap();
    assert_eq!(size.usage, before.image_size_mib().unwrap().usage + 3);
    assert!(size.has_room_for(1) && !size.has_room_for(u64::MAX));
    // What a test that failed has left behind stays.
    assert_eq!(after.uploading().unwrap().usage, before.uploading().unwrap().usage);
    assert_eq!(after.staged_mib().unwrap().usage, before.staged_mib().unwrap().usage);
    glance.stage(&staged.id, Upload::from_bytes(data(2 << 20))).await.unwrap();
    let during = glance.call(info::usage()).await.unwrap();
    assert_eq!(during.staged_mib().unwrap().usage, before.staged_mib().unwrap().usage + 2);
    assert_eq!(during.uploading().unwrap().usage, before.uploading().unwrap().usage + 1);
    remove(&glance, &[&staged.id]).await;
    remove(&glance, &[&image.id]).await;
    assert_eq!(glance.call(info::usage()).await.unwrap().images().unwrap().usage, images.usage);
}
