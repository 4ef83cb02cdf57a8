//! What the `tracing` feature writes down: never a password, never a session reference.
#![cfg(feature = "tracing")]
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use common::{PASSWORD, Reply, Server, USER, or_login};
use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use xenapi::{Client, vm};

/// Keeps everything, from every crate and at every level.
#[derive(Clone, Default)]
struct All(Arc<Mutex<String>>);

impl Visit for &All {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.lock().unwrap().push_str(&format!("{field}={value:?}\n"));
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
        event.record(&mut &*self);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn no_secret_is_logged() {
    let all = All::default();
    let guard = tracing::subscriber::set_default(all.clone());
    let server = Server::plain(|request| async move {
        or_login(&request, |method, _| match method {
            "VM.get_all" => Reply::error("SESSION_INVALID", &["OpaqueRef:session-1"]),
            _ => Reply::result(json!({})),
        })
    })
    .await;
    let client = Client::builder(server.url()).build().unwrap();
    let session = client.login(USER, PASSWORD, "test").await.unwrap();
    session.call(vm::get_all_records()).await.unwrap();
    session.call(vm::get_all()).await.unwrap_err();
    session.logout().await.unwrap();
    drop(guard);
    let logged = all.0.lock().unwrap().clone();
    assert!(logged.contains("VM.get_all_records"), "the calls are logged: {logged}");
    assert!(!logged.contains(PASSWORD), "{logged}");
    assert!(!logged.contains("session-1"), "{logged}");
}
