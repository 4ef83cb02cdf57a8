//! Imports and downloads at clouds that misbehave, or are older than their clients.

#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::TryStreamExt;
use glance_client::image::{
    ContainerFormat, DiskFormat, DownloadOptions, ImageStatus, Import, ImportOptions, NewImage,
    get, import,
};
use glance_client::keystone::{Domain, Principal, Scope, Session};
use glance_client::{CloudConfig, Error, ErrorKind, Glance, Upload, info};
use simulator::openstack::{OpenStack, OpenStackConfig};

struct Cloud {
    simulated: OpenStack,
    glance: Glance,
}

impl Cloud {
    async fn start(faults: &[&str]) -> Self {
        let simulated = OpenStack::start(OpenStackConfig::new()).await.unwrap();
        for fault in faults {
            simulated.faults().set_str(fault).unwrap();
        }
        let named = |name: &str| Principal::named(name, Domain::Name("Default".to_owned()));
        let user = simulated.config();
        let config = CloudConfig::builder(simulated.auth_url())
            .with_region("RegionOne")
            .with_password(named(user.username()), user.password())
            .with_scope(Scope::Project(named(user.project())))
            .build()
            .unwrap();
        let glance = Glance::connect(&Session::connect(&config).await.unwrap()).await.unwrap();
        Self { simulated, glance }
    }

    fn fault(&self, text: &str) {
        self.simulated.faults().set_str(text).unwrap();
    }

    async fn image(&self) -> String {
        let image = NewImage::new("trouble", DiskFormat::Raw, ContainerFormat::Bare);
        self.glance.create(&image).await.unwrap().id
    }

    async fn staged(&self) -> String {
        let id = self.image().await;
        self.glance.stage(&id, Upload::from_bytes(data())).await.unwrap();
        id
    }

    async fn active(&self) -> String {
        let id = self.image().await;
        self.glance.upload(&id, Upload::from_bytes(data())).await.unwrap();
        id
    }

    async fn status(&self, id: &str) -> ImageStatus {
        self.glance.call(get(id)).await.unwrap().status
    }

    async fn import(&self, id: &str, what: &Import) -> Result<Vec<String>, Error> {
        let options = options();
        self.glance.import(id, what, &options).await.map(|imported| imported.failed)
    }

    async fn read(&self, id: &str, options: &DownloadOptions) -> Result<Vec<u8>, Error> {
        let pieces: Vec<_> = self.glance.download(id, options).await?.stream.try_collect().await?;
        Ok(pieces.concat())
    }
}

fn options() -> ImportOptions {
    let short = Duration::from_millis(10);
    ImportOptions::default()
        .with_pauses(short, short)
        .with_stall_timeout(Duration::from_millis(500))
}

fn data() -> Vec<u8> {
    (0..1_000_000_u64).map(|i| (i * i % 251) as u8 | 1).collect()
}

fn both() -> Import {
    Import::staged().with_store("fast").with_store("slow")
}

#[tokio::test]
async fn an_import_that_does_not_move_is_given_up() {
    let cloud = Cloud::start(&["stuck-import"]).await;
    let id = cloud.staged().await;
    let error = cloud.import(&id, &both()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(error.to_string().contains("has not moved for 0.5 s"), "{error}");
    assert_eq!(cloud.status(&id).await, ImageStatus::Importing);
    // Another one finds the lock of the first.
    let error = cloud.import(&id, &both()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");

    let id = cloud.staged().await;
    let options = options().with_cancel(Arc::new(AtomicBool::new(true)));
    let error = cloud.glance.import(&id, &both(), &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
}

#[tokio::test]
async fn a_slow_import_is_waited_for() {
    for faults in [&["slow-import=300"][..], &["slow-import=300", "no-image-tasks"]] {
        let cloud = Cloud::start(faults).await;
        let id = cloud.staged().await;
        assert_eq!(cloud.import(&id, &both()).await.unwrap(), [""; 0]);
        assert_eq!(cloud.status(&id).await, ImageStatus::Active);
        assert_eq!(cloud.read(&id, &DownloadOptions::new()).await.unwrap(), data());
    }
}

#[tokio::test]
async fn a_store_may_fail_alone_if_that_is_allowed() {
    let cloud = Cloud::start(&["store-fails=slow"]).await;
    let id = cloud.staged().await;
    let partial = both().with_partial_success(true);
    assert_eq!(cloud.import(&id, &partial).await.unwrap(), ["slow"]);
    assert_eq!(cloud.glance.call(get(&id)).await.unwrap().stores, ["fast"]);

    let id = cloud.staged().await;
    let error = cloud.import(&id, &both()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    assert!(error.to_string().contains("into fast, slow failed"), "{error}");
    assert!(error.to_string().contains("Task failed due to Internal Error"), "{error}");
    // It will never be anything else.
    assert_eq!(cloud.status(&id).await, ImageStatus::Importing);
}

#[tokio::test]
async fn an_import_without_data_has_failed() {
    let cloud = Cloud::start(&["import-fails"]).await;
    let id = cloud.staged().await;
    let error = cloud.import(&id, &both()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    assert!(error.to_string().contains("the image is importing"), "{error}");
    let id = cloud.image().await;
    let web = Import::web("http://127.0.0.1:1/nobody-listens");
    let error = cloud.import(&id, &web).await.unwrap_err();
    assert!(error.to_string().contains("into fast failed, the image is queued"), "{error}");
    // A server that shows no tasks still shows the image.
    cloud.fault("no-image-tasks");
    let error = cloud.import(&id, &web).await.unwrap_err();
    assert!(error.to_string().contains("the server does not say why"), "{error}");
}

#[tokio::test]
async fn what_a_small_cloud_has_not_is_told() {
    let cloud = Cloud::start(&["no-import", "one-store"]).await;
    let id = cloud.image().await;
    let glance = &cloud.glance;
    assert_eq!(glance.call(info::import_methods()).await.unwrap(), []);
    assert!(glance.call(info::stores()).await.unwrap_err().is_not_found());
    let error = glance.stage(&id, Upload::from_bytes(data())).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("glance-direct"), "{error}");
    let error = glance.call(import(&id, &Import::web("http://127.0.0.1/x"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");

    let cloud = Cloud::start(&["refuse-loopback"]).await;
    let id = cloud.image().await;
    let secret = Import::web("http://user:hunter2@127.0.0.1/x");
    let error = cloud.import(&id, &secret).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("filtering") && !error.to_string().contains("hunter2"));
}

#[tokio::test]
async fn an_image_comes_from_another_region() {
    let cloud = Cloud::start(&["two-regions"]).await;
    let session = cloud.glance.session();
    let query = glance_client::keystone::EndpointQuery::new("image").with_region("RegionTwo");
    let two = Glance::connect_at(session, session.endpoint(&query).unwrap()).await.unwrap();
    let image = NewImage::new("far", DiskFormat::Raw, ContainerFormat::Bare);
    let far = two.create(&image).await.unwrap();
    two.upload(&far.id, Upload::from_bytes(data())).await.unwrap();
    assert!(cloud.glance.call(get(&far.id)).await.unwrap_err().is_not_found());
    let id = cloud.image().await;
    cloud.import(&id, &Import::from_glance("RegionTwo", &far.id)).await.unwrap();
    assert_eq!(cloud.read(&id, &DownloadOptions::new()).await.unwrap(), data());
}

#[tokio::test]
async fn a_download_that_breaks_goes_on() {
    for faults in [&["download-close=300000@3"][..], &["download-close=300000@2", "no-range"]] {
        let cloud = Cloud::start(faults).await;
        let id = cloud.active().await;
        assert!(cloud.read(&id, &DownloadOptions::new()).await.unwrap() == data(), "{faults:?}");
    }
    // What never gets further ends.
    let cloud = Cloud::start(&["download-close=0"]).await;
    let id = cloud.active().await;
    let error = cloud.read(&id, &DownloadOptions::new().with_resumes(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport, "{error}");
}

#[tokio::test]
async fn a_part_is_cut_out_where_ranges_are_ignored() {
    let cloud = Cloud::start(&["no-range"]).await;
    let id = cloud.active().await;
    let options = DownloadOptions::new().with_range(500_000, Some(300_000));
    let part = cloud.glance.download(&id, &options).await.unwrap();
    assert_eq!((part.len, part.total), (Some(300_000), Some(1_000_000)));
    assert!(cloud.read(&id, &options).await.unwrap() == data()[500_000..800_000]);
}

#[tokio::test]
async fn a_download_is_compared_with_what_the_cloud_has() {
    let cloud = Cloud::start(&["sha256-multihash", "no-checksum"]).await;
    let id = cloud.active().await;
    let whole = cloud.glance.download(&id, &DownloadOptions::new()).await.unwrap();
    assert_eq!(whole.verified_by.as_deref(), Some("sha256"));
    assert_eq!(cloud.read(&id, &DownloadOptions::new()).await.unwrap(), data());

    let cloud = Cloud::start(&["hash-mismatch"]).await;
    let id = cloud.active().await;
    let error = cloud.read(&id, &DownloadOptions::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    let unverified = DownloadOptions::new().with_verify(false);
    assert_eq!(cloud.read(&id, &unverified).await.unwrap(), data());
}
