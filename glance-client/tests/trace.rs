//! Everything that is logged at trace level, by this crate and by those below it, while logins, uploads and failures of
//! all kinds go on: no password, secret or token is in it, nor in any error.
//!
//! `cargo test -p glance-client --features tracing --test trace`

#![allow(clippy::unwrap_used)]

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use glance_client::image::{
    ContainerFormat, DiskFormat, ListQuery, NewImage, StoreOptions, get, list,
};
use glance_client::keystone::{Auth, Domain, Principal, Scope, Session};
use glance_client::{Call, CloudConfig, Glance, Upload, WaitOptions};
use serde_json::{Value, json};
use simulator::openstack::{OpenStack, OpenStackConfig};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

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

/// What must not be seen, and what was said of it by errors and `Debug`.
#[derive(Default)]
struct Secrets {
    all: Vec<String>,
    said: String,
}

impl Secrets {
    fn add(&mut self, secret: &str) {
        assert!(secret.len() >= 8, "too short to be searched for");
        self.all.push(secret.to_owned());
    }

    fn token(&mut self, session: &Session) {
        self.add(session.current().secret().expose());
        self.hear(session);
        self.hear(session.current());
    }

    fn hear(&mut self, what: impl Debug) {
        writeln!(self.said, "{what:?} {what:#?}").unwrap();
    }
}

fn image() -> NewImage {
    NewImage::new("web01", DiskFormat::Raw, ContainerFormat::Bare)
        .with_id(uuid::Uuid::new_v4().to_string())
}

/// Logs in by `config`, and does with it whatever can go right and wrong.
async fn work(cloud: &OpenStack, config: &CloudConfig, secrets: &mut Secrets) {
    secrets.hear(config);
    let session = Session::connect(config).await.unwrap();
    secrets.token(&session);
    let glance = Glance::connect(&session).await.unwrap();
    let wait = WaitOptions::default()
        .with_timeout(Duration::from_millis(200))
        .with_pauses(Duration::from_millis(5), Duration::from_millis(20));
    let options = StoreOptions::default().with_pause(Duration::from_millis(5)).with_wait(wait);
    for fault in [
        "",
        "upload-close=1000@1",
        "upload-fails=401:1000@1",
        "upload-fails=503:1000",
        "size-cap=10",
        "image-killed",
        "stuck-saving",
        "hash-mismatch",
        "fail-nth=1:POST /v2/images 500",
        "drop-after-effect=POST /v2/images",
    ] {
        if !fault.is_empty() {
            cloud.faults().set_str(fault).unwrap();
        }
        let data = Upload::from_bytes(vec![7; 300_000]);
        let stored = glance.store(&image(), data, &options).await;
        secrets.hear(&stored);
        cloud.faults().clear();
        secrets.token(&session);
    }
    secrets.hear(glance.call(get("nothing")).await);
    secrets.hear(glance.call(get("..")).await);
    cloud.revoke_tokens();
    secrets.hear(glance.call(list(&ListQuery::new())).await);
    secrets.token(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_logged_or_told() {
    let all = All::default();
    tracing::subscriber::set_global_default(all.clone()).unwrap();
    log::set_boxed_logger(Box::new(all.clone())).unwrap();
    log::set_max_level(log::LevelFilter::Trace);

    let mut secrets = Secrets::default();
    let password = "correct-horse-battery";
    secrets.add(password);
    let cloud = OpenStack::start(OpenStackConfig::new().with_password(password)).await.unwrap();
    let named = |name: &str| Principal::named(name, Domain::default());
    let user = named(cloud.config().username());
    let by_password = CloudConfig::builder(cloud.auth_url())
        .with_password(user.clone(), password)
        .with_scope(Scope::Project(named(cloud.config().project())))
        .build()
        .unwrap();
    work(&cloud, &by_password, &mut secrets).await;

    let session = Session::connect(&by_password).await.unwrap();
    let path = format!("users/{}/application_credentials", session.current().user.id);
    let make = Call::new("make", http::Method::POST, path, |answer| answer.json::<Value>())
        .with_json(&json!({"application_credential": {"name": "ci"}}));
    secrets.hear(&make);
    let made = session.service_at(session.identity_url().clone()).call(make).await.unwrap();
    let text = |field: &str| made["application_credential"][field].as_str().unwrap().to_owned();
    secrets.add(&text("secret"));
    let mut by_credential = by_password.clone();
    by_credential.scope = Scope::Unspecified;
    by_credential.auth =
        Auth::ApplicationCredential { id: text("id"), secret: text("secret").into() };
    work(&cloud, &by_credential, &mut secrets).await;

    let mut by_token = by_password.clone();
    by_token.auth = Auth::Token(session.current().secret().clone());
    secrets.hear(&by_token);
    let session = Session::connect(&by_password).await.unwrap();
    by_token.auth = Auth::Token(session.current().secret().clone());
    secrets.token(&session);
    let exchanged = Session::connect(&by_token).await.unwrap();
    secrets.token(&exchanged);

    let wrong = "wrong-password-that-is-secret";
    secrets.add(wrong);
    let mut refused = by_password.clone();
    refused.auth = Auth::Password { user, password: wrong.into() };
    secrets.hear(Session::connect(&refused).await.unwrap_err());
    cloud.stop().await;
    secrets.hear(Session::connect(&by_password).await.unwrap_err());

    let log = all.0.lock().unwrap().clone();
    for target in ["[glance_client", "[hyper"] {
        assert!(log.contains(target), "nothing is logged by {target}, so nothing was tested");
    }
    let (logged, said, count) = (log.len(), secrets.said.len(), secrets.all.len());
    assert!(logged > 100_000 && said > 10_000 && count > 20, "only {logged} {said} {count}");
    eprintln!("{logged} bytes of log, {said} bytes of errors and Debug, {count} secrets");
    for secret in &secrets.all {
        for (text, place) in [(&log, "the log"), (&secrets.said, "an error or Debug text")] {
            let at = text.find(secret.as_str());
            assert!(
                at.is_none(),
                "{place} shows {:?}",
                &text[at.unwrap().saturating_sub(200)..at.unwrap()]
            );
        }
    }
}
