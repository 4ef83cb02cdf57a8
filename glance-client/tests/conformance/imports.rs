//! Every way to import, into one store and several, and how imports fail.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use glance_client::image::{
    ContainerFormat, DiskFormat, DownloadOptions, ImageStatus, Import, ImportOptions, NewImage,
    NewLocation, Preflight, add_location, get, import, locations, remove_from_store, verify,
};
use glance_client::info::{self, Store};
use glance_client::task::{self, TaskStatus};
use glance_client::{CloudConfig, ErrorKind, Glance, Upload, WaitOptions};

use super::help::{Web, data, digests, glance, glance_as, raw, read, remove, unique};

/// The default store and another one that takes data.
async fn stores(glance: &Glance) -> (String, String) {
    let stores = glance.call(info::stores()).await.unwrap();
    let usable = |wanted: bool| {
        let fits = |store: &&Store| store.is_default == wanted && !store.read_only;
        stores.iter().find(fits).unwrap().id.clone()
    };
    (usable(true), usable(false))
}

fn sorted(stores: &[String]) -> Vec<&str> {
    let mut stores: Vec<_> = stores.iter().map(String::as_str).collect();
    stores.sort_unstable();
    stores
}

pub(crate) async fn staged_data_are_imported_into_two_stores(config: &CloudConfig) {
    let glance = glance(config).await;
    let (first, second) = stores(&glance).await;
    let image = glance.create(&raw("staged")).await.unwrap();
    let id = image.id.as_str();
    let all = data(3 << 20);
    let sent = glance.stage(id, Upload::from_bytes(all.clone())).await.unwrap();
    assert_eq!(sent.bytes, 3 << 20);
    let staged = glance.call(get(id)).await.unwrap();
    assert_eq!((staged.status, staged.size), (ImageStatus::Uploading, Some(3 << 20)));
    // It cannot be staged again, nor sent.
    for error in [
        glance.stage(id, Upload::from_bytes("again")).await.unwrap_err(),
        glance.upload(id, Upload::from_bytes("again")).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
    let what = Import::staged().with_store(&first).with_store(&second);
    let done = glance.import(id, &what, &ImportOptions::default()).await.unwrap();
    assert_eq!(sorted(&done.image.stores), sorted(&[first, second]));
    assert_eq!(done.failed, [""; 0]);
    assert_eq!(verify(&done.image, &digests(&all), 3 << 20).unwrap(), "sha512");
    let task = done.task.unwrap();
    assert_eq!((task.kind.as_str(), &task.status), ("api_image_import", &TaskStatus::Success));
    assert_eq!(task.image_id.as_deref(), Some(id));
    let whole = glance.download(id, &DownloadOptions::new()).await.unwrap();
    assert!(read(whole).await.unwrap() == all);

    // Tasks by themselves are for administrators.
    if let Some(admin) = glance_as(config, "admin").await {
        assert_eq!(admin.call(task::get(&task.id)).await.unwrap().id, task.id);
        assert!(!admin.call(task::list(5)).await.unwrap().is_empty());
    }
    let error = glance.call(task::get(&task.id)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    remove(&glance, &[id]).await;
}

pub(crate) async fn a_url_is_imported(config: &CloudConfig) {
    let glance = glance(config).await;
    let all = data(2_500_000);
    let web = Web::start(all.clone()).await;
    let image = glance.create(&raw("web")).await.unwrap();
    let id = image.id.as_str();
    let done = glance.import(id, &Import::web(&web.url), &ImportOptions::default()).await.unwrap();
    verify(&done.image, &digests(&all), 2_500_000).unwrap();
    assert_eq!(done.image.stores, [stores(&glance).await.0]);
    let again = glance.call(import(id, &Import::web(&web.url))).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict, "{again}");

    let image = glance.create(&raw("web everywhere")).await.unwrap();
    let what = Import::web(&web.url).with_all_stores();
    let done = glance.import(&image.id, &what, &ImportOptions::default()).await;
    match done {
        Ok(done) => assert!(done.image.stores.len() >= 2, "{:?}", done.image.stores),
        // A cloud whose stores include one that takes no data fails here.
        Err(error) => assert_eq!(error.kind(), ErrorKind::Failed, "{error}"),
    }
    remove(&glance, &[id, &image.id]).await;
}

pub(crate) async fn an_image_is_copied_to_another_store(config: &CloudConfig) {
    let glance = glance(config).await;
    let (first, second) = stores(&glance).await;
    let image = glance.create(&raw("copied")).await.unwrap();
    let id = image.id.as_str();
    let copy = Import::copy().with_store(&second);
    let early = glance.call(import(id, &copy)).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::Conflict, "{early}");
    let all = data(500_000);
    glance.upload(id, Upload::from_bytes(all.clone())).await.unwrap();
    let error = glance.call(import(id, &copy)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    let Some(admin) = glance_as(config, "admin").await else {
        return remove(&glance, &[id]).await;
    };
    let done = admin.import(id, &copy, &ImportOptions::default()).await.unwrap();
    assert_eq!(sorted(&done.image.stores), sorted(&[first.clone(), second.clone()]));
    verify(&done.image, &digests(&all), 500_000).unwrap();
    let again = admin.call(import(id, &copy)).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Invalid, "{again}");

    let error = glance.call(remove_from_store(id, &first)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    admin.call(remove_from_store(id, &first)).await.unwrap();
    assert_eq!(glance.call(get(id)).await.unwrap().stores, [second.as_str()]);
    let whole = glance.download(id, &DownloadOptions::new()).await.unwrap();
    assert!(read(whole).await.unwrap() == all);
    remove(&glance, &[id]).await;
}

pub(crate) async fn an_image_of_a_glance_is_imported(config: &CloudConfig) {
    let glance = glance(config).await;
    let image = glance.create(&raw("source")).await.unwrap();
    let all = data(400_000);
    glance.upload(&image.id, Upload::from_bytes(all.clone())).await.unwrap();
    let token = glance.session().current();
    let endpoints =
        token.catalog.services.iter().find(|service| service.service_type == "image").unwrap();
    let region = endpoints.endpoints[0].region.clone().unwrap();
    let copy = glance.create(&raw("copy")).await.unwrap();
    let what = Import::from_glance(&region, &image.id);
    let done = glance.import(&copy.id, &what, &ImportOptions::default()).await.unwrap();
    verify(&done.image, &digests(&all), 400_000).unwrap();
    let other = glance.create(&raw("nowhere")).await.unwrap();
    let bad = Import::from_glance(&region, "not-a-uuid");
    let error = glance.call(import(&other.id, &bad)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    for what in
        [Import::from_glance("no-such-region", &image.id), Import::from_glance(&region, unique())]
    {
        let error = glance.import(&other.id, &what, &ImportOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    }
    remove(&glance, &[&image.id, &copy.id, &other.id]).await;
}

pub(crate) async fn imports_that_cannot_be_are_refused(config: &CloudConfig) {
    let glance = glance(config).await;
    let image = glance.create(&raw("refused")).await.unwrap();
    let id = image.id.as_str();
    let web = "http://example.org/disk.raw";
    let cases = [
        ("nothing is staged", Import::staged(), ErrorKind::Conflict),
        ("a scheme", Import::web("ftp://example.org/disk.raw"), ErrorKind::Invalid),
        ("a host", Import::web("http://127.0.0.2:80/disk.raw"), ErrorKind::Invalid),
        ("a store", Import::web(web).with_store("no-such-store"), ErrorKind::Conflict),
    ];
    for (what, case, kind) in cases {
        let error = glance.import(id, &case, &ImportOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(error.status().is_some(), "{what}: {error}");
    }
    assert_eq!(glance.call(get(id)).await.unwrap().status, ImageStatus::Queued);
    let missing = glance.call(import(&unique(), &Import::staged())).await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    remove(&glance, &[id]).await;
}

pub(crate) async fn an_import_that_fails_says_so(config: &CloudConfig) {
    let glance = glance(config).await;
    let web = Web::start(data(1000)).await;
    let image = glance.create(&raw("failed")).await.unwrap();
    let id = image.id.as_str();
    let gone = Import::web(web.url.replace("disk.raw", "no-such-file"));
    let error = glance.import(id, &gone, &ImportOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    eprintln!("a missing file: {error}");
    let tasks = glance.call(task::of_image(id)).await.unwrap();
    assert_eq!(tasks.iter().map(|task| &task.status).collect::<Vec<_>>(), [&TaskStatus::Failure]);
    assert_eq!(glance.call(get(id)).await.unwrap().status, ImageStatus::Queued);
    // The same image takes what is there.
    let done = glance.import(id, &Import::web(&web.url), &ImportOptions::default()).await.unwrap();
    verify(&done.image, &digests(&data(1000)), 1000).unwrap();
    remove(&glance, &[id]).await;
}

/// A real server leaves such an image `importing` for ever.
pub(crate) async fn staged_data_of_another_format_are_refused(config: &CloudConfig) {
    let glance = glance(config).await;
    let image = NewImage::new("format", DiskFormat::Qcow2, ContainerFormat::Bare);
    let id = glance.create(&image).await.unwrap().id;
    let early = glance.stage(&id, Upload::from_bytes(data(1000))).await.unwrap_err();
    assert_eq!((early.kind(), early.status()), (ErrorKind::UnsupportedFormat, None));
    let blind = Upload::from_bytes(data(1000)).with_preflight(Preflight::Off);
    glance.stage(&id, blind).await.unwrap();
    let error = glance.import(&id, &Import::staged(), &ImportOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    assert!(error.to_string().contains("delete the image"), "{error}");
    remove(&glance, &[&id]).await;
}

pub(crate) async fn data_stay_where_they_are(config: &CloudConfig) {
    let glance = glance(config).await;
    let all = data(300_000);
    let web = Web::start(all.clone()).await;
    let image = glance.create(&raw("location")).await.unwrap();
    let id = image.id.as_str();
    let location = NewLocation::new(&web.url);
    match glance.call(add_location(id, &location)).await {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::Forbidden => {
            eprintln!("skipped: this cloud registers no locations: {error}");
            return remove(&glance, &[id]).await;
        }
        Err(error) => panic!("{error}"),
    }
    let waits = WaitOptions::default().with_queued_pending(true);
    let stored = glance.wait(id, &waits).await.unwrap();
    assert_eq!(stored.size, Some(300_000));
    let mut hashed = stored;
    for _ in 0..100 {
        if hashed.os_hash_value.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        hashed = glance.call(get(id)).await.unwrap();
    }
    verify(&hashed, &digests(&all), 300_000).unwrap();
    let whole = glance.download(id, &DownloadOptions::new()).await.unwrap();
    assert!(read(whole).await.unwrap() == all);
    let again = glance.call(add_location(id, &location)).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict, "{again}");
    let error = glance.call(locations(id)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    if hashed.locations.is_empty() {
        eprintln!("this cloud shows no locations");
    } else {
        assert_eq!(hashed.locations[0].url.expose(), web.url);
    }
    remove(&glance, &[id]).await;
}
