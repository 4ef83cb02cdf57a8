//! Trust, against servers with certificates of their own.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::needless_pass_by_value)]

mod common;

use std::io::Write as _;

use common::{Identity, PASSWORD, Reply, Server, USER, or_login};
use serde_json::json;
use xenapi::{Client, Error, ErrorKind, Pin, Session, Trust};

async fn server(identity: &Identity, xen: bool) -> Server {
    Server::tls(identity.acceptor(xen), |request| async move {
        or_login(&request, |_, _| Reply::result(json!([])))
    })
    .await
}

async fn login(url: &str, trust: Trust) -> Result<Session, Error> {
    Client::builder(url).trust(trust).build()?.login(USER, PASSWORD, "test").await
}

fn ca_file(pem: &str) -> (tempfile::NamedTempFile, Trust) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    let trust = Trust::CaFile(file.path().to_owned());
    (file, trust)
}

#[tokio::test]
async fn a_pin_opens_only_the_server_that_holds_the_key() {
    let (ours, other) = (Identity::new(&["elsewhere"]), Identity::new(&["127.0.0.1"]));
    // As XenServer's TLS proxy: only TLS 1.2, only P-384, a name that does not fit.
    for xen in [true, false] {
        let server = server(&ours, xen).await;
        login(&server.url(), Trust::Pins(vec![other.pin(), ours.pin()])).await.unwrap();
        let e = login(&server.url(), Trust::Pins(vec![other.pin()])).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Tls);
        let text = e.to_string();
        assert!(text.contains(&ours.pin().to_string()), "presented: {text}");
        assert!(text.contains(&other.pin().to_string()), "expected: {text}");
        assert!(text.contains("pin it"), "remedy: {text}");
        assert!(!text.contains('\n'));
    }
}

#[tokio::test]
async fn a_stolen_certificate_without_its_key_is_refused() {
    // The thief shows our certificate but can only sign with a key of its own.
    let (ours, thief) = (Identity::new(&["127.0.0.1"]), Identity::new(&["127.0.0.1"]));
    for xen in [true, false] {
        let server = Server::tls(thief.acceptor_showing(&ours, xen), |_| async {
            panic!("a request went to the thief")
        })
        .await;
        let e = login(&server.url(), Trust::Pins(vec![ours.pin()])).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Tls, "{e:?}");
        let e = login(&server.url(), Trust::DangerAcceptAny).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Tls, "{e:?}");
    }
}

#[tokio::test]
async fn a_ca_file_needs_the_right_name_too() {
    let good = Identity::new(&["127.0.0.1"]);
    let bad = Identity::new(&["xen1.example"]);
    let (_file, trust) = ca_file(&good.pem);
    login(&server(&good, false).await.url(), trust.clone()).await.unwrap();
    login(&server(&good, true).await.url(), trust.clone()).await.unwrap();
    let (_file, trust_bad) = ca_file(&bad.pem);
    let e = login(&server(&bad, false).await.url(), trust_bad).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Tls, "a wrong name: {e}");
    let e = login(&server(&bad, false).await.url(), trust).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Tls, "another authority: {e}");
    assert!(e.to_string().contains(&bad.pin().to_string()), "{e}");
}

#[tokio::test]
async fn the_system_does_not_trust_a_certificate_of_our_own() {
    let identity = Identity::new(&["127.0.0.1"]);
    let server = server(&identity, false).await;
    match login(&server.url(), Trust::SystemRoots).await {
        // A machine without any authorities says so while the client is built.
        Err(e) => assert!(matches!(e.kind(), ErrorKind::Tls | ErrorKind::Config), "{e}"),
        Ok(_) => panic!("trusted"),
    }
    login(&server.url(), Trust::DangerAcceptAny).await.unwrap();
}

#[tokio::test]
async fn unusable_settings_are_found_before_any_connection() {
    let (_file, empty) = ca_file("");
    let (_file2, garbage) = ca_file("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----");
    let missing = Trust::CaFile("/nowhere/ca.pem".into());
    for trust in [empty, garbage, missing] {
        let e = login("https://127.0.0.1:1", trust).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Config, "{e}");
    }
}

#[test]
fn a_pin_is_the_same_from_pem_and_der() {
    let identity = Identity::new(&["x"]);
    assert_eq!(Pin::of_pem(&identity.pem).unwrap(), identity.pin());
}
