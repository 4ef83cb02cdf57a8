//! A simulated pool and cloud, and what a run is to leave there.
#![allow(dead_code)] // not every test needs all of it

use std::path::PathBuf;
use std::sync::Arc;

use glance_client::keystone::{self, Domain, Principal, Scope};
use glance_client::{CloudConfig, Glance};
use migrate_core::journal::{Entry, Journal, MemoryJournal};
use migrate_core::openstack::OpenStackXenServer;
use migrate_core::{Context, Event, Pipeline, Report, Result, RunId, XenServerVm};
use serde_json::Value;
use simulator::Simulator;
use tokio::sync::Notify;
use vmimage::TargetFormat;
use xenapi::{Client, Pin, Secret, Session, Trust};

use crate::doubles::{context, disk, killed, run_id};

pub(crate) struct World {
    pub(crate) sim: Simulator,
    pub(crate) before: Value,
    _dir: tempfile::TempDir,
    pub(crate) session: Session,
    pub(crate) glance: Glance,
    pub(crate) files: Vec<PathBuf>,
}

impl World {
    /// A pool with one running VM of two disks, and an empty cloud.
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = vec![disk(dir.path(), "root.img", 6, 1), disk(dir.path(), "data.img", 3, 7)];
        let builder = files.iter().fold(Simulator::builder(), |b, f| b.disk("web01", f));
        let sim = builder.start().await.unwrap();
        let ready = sim.ready();
        let pins = Pin::parse_list(ready.xen.pin_sha256.as_deref().unwrap()).unwrap();
        let client = Client::builder(&ready.xen.url).trust(Trust::Pins(pins)).build().unwrap();
        let password = Secret::new(ready.xen.password.as_str());
        let session = client.login(&ready.xen.username, password, "test").await.unwrap();
        let cloud = CloudConfig::builder(&ready.openstack.auth_url)
            .with_password(
                Principal::named(&ready.openstack.username, Domain::default()),
                ready.openstack.password.as_str(),
            )
            .with_scope(Scope::Project(Principal::named(
                &ready.openstack.project,
                Domain::default(),
            )))
            .build()
            .unwrap();
        let keystone = keystone::Session::connect(&cloud).await.unwrap();
        let glance = Glance::connect(&keystone).await.unwrap();
        let before = sim.xen().inventory();
        Self { sim, before, _dir: dir, session, glance, files }
    }

    pub(crate) async fn pipeline(&self, format: TargetFormat) -> Pipeline {
        let vm = XenServerVm::only_running(&self.session).await.unwrap();
        Pipeline::new(vm, OpenStackXenServer::new(&self.glance, format).with_name("copy"))
    }

    pub(crate) async fn run(
        &self,
        journal: impl Journal + 'static,
        context: Context,
    ) -> Result<Report> {
        self.pipeline(TargetFormat::Qcow2).await.run(journal, context).await
    }

    pub(crate) fn assert_source_unchanged(&self, what: &str) {
        assert_eq!(self.sim.xen().inventory(), self.before, "{what}: the source has changed");
        assert_eq!(self.sim.xen().interruptions(), [""; 0], "{what}: the service was stopped");
    }

    pub(crate) fn assert_no_image(&self, what: &str) {
        assert_eq!(self.sim.openstack().images(), [Value::Null; 0], "{what}: an image is left");
    }

    /// All images are whole, published, and hold the disks.
    pub(crate) fn assert_images(&self, report: &Report, what: &str) {
        let images = self.sim.openstack().images();
        assert_eq!(images.len(), self.files.len(), "{what}");
        for (i, (report, file)) in report.images.iter().zip(&self.files).enumerate() {
            let name = if i == 0 { "copy".to_owned() } else { format!("copy-disk{}", i + 1) };
            assert_eq!(report.name, name, "{what}");
            let image = images.iter().find(|v| v["id"] == report.id.as_str()).unwrap();
            assert_eq!(image["status"], "active", "{what}");
            assert_eq!(image["size"], report.bytes, "{what}");
            assert!(image.get("migrate_run_id").is_none(), "{what}: {image}");
            let path = self.sim.openstack().image_path(&report.id).unwrap();
            let options = vmimage::OpenOptions::new().with_format(vmimage::Format::Qcow2);
            // qcow2 reading may not be there yet; the content root is its own proof.
            if let Ok(opened) = vmimage::open(&path, &options) {
                let raw = vmimage::open(file, &vmimage::OpenOptions::new()).unwrap();
                let same = vmimage::compare(&*opened.disks()[0], &*raw.disks()[0]).unwrap();
                assert_eq!(same, vmimage::Comparison::Same, "{what}");
            }
            let raw = vmimage::open(file, &vmimage::OpenOptions::new()).unwrap();
            let root = vmimage::content_root(&*raw.disks()[0]).unwrap();
            assert_eq!(report.content_root, root, "{what}");
        }
    }
}

impl World {
    /// A process that dies while it sends a disk, and the journal that it leaves.
    pub(crate) async fn dead_in(&self, transfer: &'static str) -> (MemoryJournal, RunId) {
        let journal = MemoryJournal::new();
        let moving = Arc::new(Notify::new());
        let told = Arc::clone(&moving);
        let context = context().with_observer(move |event: &Event<'_>| {
            if let Event::Progress { step, done: 1.., .. } = event
                && *step == transfer
            {
                told.notify_one();
            }
        });
        self.sim.xen().faults().set_str("slow-export=1000000").unwrap();
        tokio::select! {
            biased;
            r = self.run(journal.clone(), context) => panic!("{r:?}"),
            () = moving.notified() => {}
        }
        self.sim.xen().faults().clear();
        let run_id = run_id(&journal);
        (journal, run_id)
    }
}

impl World {
    /// A process that dies right after the entry that `last` picks, and the journal that it leaves.
    pub(crate) async fn dead_after(&self, last: impl Fn(&Entry) -> bool) -> MemoryJournal {
        let whole = MemoryJournal::new();
        let twin = Self::new().await;
        twin.run(whole.clone(), context()).await.unwrap();
        let at = whole.entries().iter().position(last).unwrap();
        let inner = MemoryJournal::new();
        let pipeline = self.pipeline(TargetFormat::Qcow2).await;
        assert!(killed(&pipeline, &inner, at, false).await, "it was to die");
        inner
    }
}
