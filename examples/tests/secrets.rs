//! Everything that all crates, and those below them, log at trace level while clones succeed and
//! fail: no password, session, token, key or signature is in it.
//!
//! The secrets that servers give out are read off the wire, by a relay before each server.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use migrate_core::cloudstack::{CloudStackTemplate, Via};
use migrate_core::journal::MemoryJournal;
use migrate_core::openstack::OpenStackXenServer;
use migrate_core::{Context, Pipeline, PostProcessor, RunId, XenServerVm};
use simulator::Simulator;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use vmimage::TargetFormat;

/// How many bytes of log must be without a secret.
const LOG: usize = 10 << 20;

/// Keeps everything, of `tracing` and of `log`.
#[derive(Clone, Default)]
struct All(Arc<Mutex<String>>);

impl Visit for &All {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        writeln!(self.0.lock().unwrap(), "{field}={value:?}").unwrap();
    }
}

impl Subscriber for All {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut &*self);
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut &*self);
    }
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        writeln!(self.0.lock().unwrap(), "[{}]", event.metadata().target()).unwrap();
        event.record(&mut &*self);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl log::Log for All {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        writeln!(self.0.lock().unwrap(), "[{}] {}", record.target(), record.args()).unwrap();
    }
    fn flush(&self) {}
}

/// What went over a server's connections, as far as it is text of a sensible length.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<u8>>>);

/// Relays a new port to `to`, and keeps what it sees; gives the port.
async fn relay(to: u16, wire: &Wire) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let wire = wire.clone();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(pass(near_in, far_out, wire.clone()));
            tokio::spawn(pass(far_in, near_out, wire.clone()));
        }
    });
    port
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    wire: Wire,
) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut piece).await {
        wire.0.lock().unwrap().extend_from_slice(&piece[..len]);
        if to.write_all(&piece[..len]).await.is_err() {
            break;
        }
    }
}

impl Wire {
    /// What follows each of `marks` on the wire, up to a character that no secret has.
    fn after(&self, marks: &[&str]) -> BTreeSet<String> {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        let mut found = BTreeSet::new();
        for mark in marks {
            for (at, _) in text.match_indices(mark) {
                let rest = text[at + mark.len()..].trim_start_matches([' ', '"', ':']);
                let end = rest.find(['"', '\r', '\n', '&', ';', ' ', ',']).unwrap_or(rest.len());
                found.insert(rest[..end].to_owned());
            }
        }
        found.retain(|secret| secret.len() >= 16);
        found
    }
}

fn through(url: &str, port: u16) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    format!("{scheme}://127.0.0.1:{port}{path}")
}

fn port(url: &str) -> u16 {
    let host = url.split_once("://").unwrap().1.split('/').next().unwrap();
    host.rsplit(':').next().unwrap().parse().unwrap()
}

/// Clones into every target, well and badly, again and again; gives the secrets that it knows.
async fn work(plain: bool, all: &All, wire: &Wire) -> BTreeSet<String> {
    let mut secrets = BTreeSet::new();
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.img");
    std::fs::write(&disk, [7; 1 << 20]).unwrap();
    let builder = Simulator::builder().disk("web01", &disk).xen_plain(plain);
    let simulator = builder.start().await.unwrap();
    let ready = simulator.ready();
    let (x, o, c) = (&ready.xen, &ready.openstack, &ready.cloudstack);
    let passwords = [&x.password, &o.password, &c.secret];
    secrets.extend(passwords.into_iter().cloned());
    let xen = relay(port(&x.url), wire).await;
    let os = relay(port(&o.auth_url), wire).await;
    let cs = relay(port(&c.endpoint), wire).await;

    let trust = match &x.pin_sha256 {
        Some(pin) => xenapi::Trust::Pins(xenapi::Pin::parse_list(pin).unwrap()),
        None => xenapi::Trust::SystemRoots,
    };
    let client = xenapi::Client::builder(through(&x.url, xen)).trust(trust).build().unwrap();
    let wrong = "wrong-password-that-is-secret-too";
    secrets.insert(wrong.to_owned());
    client.login(&x.username, wrong, "test").await.unwrap_err();
    let session = client.login(&x.username, x.password.as_str(), "test").await.unwrap();

    let user = glance_client::keystone::Domain::default();
    let named = glance_client::keystone::Principal::named(&o.username, user.clone());
    let project = glance_client::keystone::Principal::named(&o.project, user);
    let cloud = glance_client::CloudConfig::builder(through(&o.auth_url, os))
        .with_password(named, o.password.as_str())
        .with_scope(glance_client::keystone::Scope::Project(project))
        .build()
        .unwrap();
    let keystone = glance_client::keystone::Session::connect(&cloud).await.unwrap();
    let glance = glance_client::Glance::connect(&keystone).await.unwrap();
    let keys = cloudstack_client::Credentials::new(&c.key, &c.secret);
    let cloudstack = cloudstack_client::Client::builder(through(&c.endpoint, cs));
    let cloudstack = cloudstack.credentials(keys).build().unwrap();

    let url = Via::Url { bind: ([127, 0, 0, 1], 0).into(), host: None };
    let vhd = TargetFormat::VhdDynamic;
    for fault in [
        "",
        "xen export-task-fails",
        "xen sr-full",
        "xen session-invalid=9",
        "glance image-killed",
        "glance upload-fails=503:1000@1",
        "glance expire-after=3",
        "cloudstack template-error",
        "cloudstack upload-close=100000",
        "cloudstack upload-unreachable",
        "cloudstack expire-after=12",
    ] {
        let (end, switch) = fault.split_once(' ').unwrap_or_default();
        match end {
            "xen" => simulator.xen().faults().set_str(switch).unwrap(),
            "glance" => simulator.openstack().faults().set_str(switch).unwrap(),
            "cloudstack" => simulator.cloudstack().faults().set_str(switch).unwrap(),
            _ => {}
        }
        let targets: [Box<dyn PostProcessor>; 3] = [
            Box::new(OpenStackXenServer::new(&glance, TargetFormat::Qcow2)),
            Box::new(CloudStackTemplate::new(&cloudstack, vhd)),
            Box::new(CloudStackTemplate::new(&cloudstack, vhd).with_via(url.clone())),
        ];
        for target in targets {
            let vm = XenServerVm::only_running(&session).await.unwrap();
            let pipeline = Pipeline::boxed(Box::new(vm), target);
            let context = Context::new(RunId::random());
            let result = pipeline.run(MemoryJournal::new(), context).await;
            assert!(!fault.is_empty() || result.is_ok(), "{result:?}");
            if let Err(e) = result {
                // What is told of failures counts, too.
                let told = format!("{e} {e:?} {}\n", e.report());
                all.0.lock().unwrap().push_str(&told);
            }
        }
        simulator.xen().faults().clear();
        simulator.openstack().faults().clear();
        simulator.cloudstack().faults().clear();
    }
    session.logout().await.unwrap();
    // Logins and calls, again and again, for a log that is long enough to hide something.
    let enough = if plain { LOG / 2 } else { LOG };
    while all.0.lock().unwrap().len() < enough {
        let session = client.login(&x.username, x.password.as_str(), "test").await.unwrap();
        session.call(xenapi::vm::get_all_records()).await.unwrap();
        session.logout().await.unwrap();
        let keystone = glance_client::keystone::Session::connect(&cloud).await.unwrap();
        let glance = glance_client::Glance::connect(&keystone).await.unwrap();
        glance.call(glance_client::image::list(&Default::default())).await.unwrap();
        cloudstack.call(cloudstack_client::zones::list()).await.unwrap();
    }
    simulator.stop().await;
    secrets
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_logged() {
    let all = All::default();
    tracing::subscriber::set_global_default(all.clone()).unwrap();
    log::set_boxed_logger(Box::new(all.clone())).unwrap();
    log::set_max_level(log::LevelFilter::Trace);

    let wire = Wire::default();
    // Plain for what is on the wire, and encrypted for what TLS logs; both mostly wait.
    let (mut secrets, more) = tokio::join!(work(true, &all, &wire), work(false, &all, &wire));
    secrets.extend(more);
    for (kind, marks) in [
        ("session of the pool", &["session_id="][..]),
        ("token", &["x-subject-token", "x-auth-token", "X-Auth-Token", "X-Subject-Token"][..]),
        ("signature", &["&signature=", "\"signature\":"][..]),
        ("ticket", &["\"metadata\":"][..]),
    ] {
        let found = wire.after(marks);
        assert!(!found.is_empty(), "no {kind} was seen on the wire");
        secrets.extend(found);
    }
    let logged = all.0.lock().unwrap().clone();
    println!("{} bytes of log, {} secrets", logged.len(), secrets.len());
    for part in
        ["[xenapi", "[glance_client", "[cloudstack_client", "[migrate_core", "[reqwest", "[rustls"]
    {
        assert!(logged.contains(part), "{part} has logged nothing");
    }
    assert!(logged.len() >= LOG);
    for secret in &secrets {
        if let Some(at) = logged.find(secret.as_str()) {
            let line = logged[..at].rsplit('\n').next().unwrap_or_default();
            panic!("a secret is logged behind {line:?}");
        }
    }
}
