//! Sessions against a scripted server.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::needless_pass_by_value)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Identity, PASSWORD, Reply, Server, USER, or_login};
use serde_json::json;
use xenapi::{Client, ErrorCode, ErrorKind, Protocol, Session, Trust, vm};

async fn login(server: &Server) -> Session {
    Client::builder(server.url()).build().unwrap().login(USER, PASSWORD, "test").await.unwrap()
}

#[tokio::test]
async fn a_session_logs_in_calls_and_logs_out() {
    let server = Server::plain(|request| async move {
        or_login(&request, |method, params| {
            assert_eq!(params[0], "OpaqueRef:session-1");
            match method {
                "VM.get_all_records" => Reply::result(json!({
                    "OpaqueRef:1": {"uuid": "u1", "name_label": "web01", "power_state": "Running",
                        "VCPUs_max": "4", "memory_static_max": 1024, "new_field": {"x": [1]},
                        "affinity": "", "power_state_of_the_future": "Floating"},
                    "OpaqueRef:2": {"power_state": "Hibernating", "domain_type": null},
                })),
                other => panic!("unexpected {other}"),
            }
        })
    })
    .await;
    let session = login(&server).await;
    let vms = session.call(vm::get_all_records()).await.unwrap();
    let web = &vms[&xenapi::Ref::new("OpaqueRef:1")];
    assert_eq!((web.name_label.as_str(), web.vcpus_max, web.memory_static_max), ("web01", 4, 1024));
    assert_eq!(web.power_state, xenapi::enums::VmPowerState::Running);
    assert!(web.affinity.is_null());
    // trap 5: what a newer server says is kept, not refused.
    assert_eq!(vms[&xenapi::Ref::new("OpaqueRef:2")].power_state.as_str(), "Hibernating");
    session.logout().await.unwrap();
    session.logout().await.unwrap();
    assert_eq!(session.call(vm::get_all()).await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(
        server.methods(),
        ["session.login_with_password", "VM.get_all_records", "session.logout"]
    );
    let first = &server.seen()[0];
    assert_eq!(first.path(), "/jsonrpc");
    let (_, params) = first.call();
    assert_eq!(params[3], "test", "the originator is sent");
}

#[tokio::test]
async fn trap_6_and_7_requests_are_short_and_have_a_length() {
    let server = Server::plain(|request| async move {
        or_login(&request, |_, _| Reply::result(json!([]))).with_header("Set-Cookie: a=b")
    })
    .await;
    let session = login(&server).await;
    session.call(vm::get_all()).await.unwrap();
    for request in server.seen() {
        assert!(request.head.len() < 1024, "{}", request.head);
        assert!(request.header("content-length").is_some());
        assert!(request.header("transfer-encoding").is_none());
        assert!(request.header("cookie").is_none(), "there is no cookie jar");
        let agent = request.header("user-agent").unwrap();
        assert!(agent.starts_with("xenapi-rs/"), "{agent}");
    }
}

/// A server that knows only the newest session and counts logins.
async fn forgetful(valid: Arc<AtomicUsize>, logins: Arc<AtomicUsize>) -> Server {
    Server::plain(move |request| {
        let (valid, logins) = (Arc::clone(&valid), Arc::clone(&logins));
        async move {
            let (method, params) = request.call();
            if method == "session.login_with_password" {
                // Long enough that every waiting call has met the dead session.
                tokio::time::sleep(Duration::from_millis(50)).await;
                let n = logins.fetch_add(1, Ordering::SeqCst) + 1;
                return Reply::result(json!(format!("OpaqueRef:secret-{n}")));
            }
            let expected = format!("OpaqueRef:secret-{}", valid.load(Ordering::SeqCst));
            if params[0] == expected.as_str() {
                Reply::result(json!("Running"))
            } else {
                Reply::error("SESSION_INVALID", &[params[0].as_str().unwrap()])
            }
        }
    })
    .await
}

#[tokio::test]
async fn fifty_calls_with_a_dead_session_log_in_once() {
    let (valid, logins) = (Arc::new(AtomicUsize::new(1)), Arc::new(AtomicUsize::new(0)));
    let server = forgetful(Arc::clone(&valid), Arc::clone(&logins)).await;
    let session = login(&server).await;
    let vm = xenapi::Ref::new("OpaqueRef:vm");
    session.call(vm::get_power_state(&vm)).await.unwrap();
    valid.store(2, Ordering::SeqCst);
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (session, vm) = (session.clone(), vm.clone());
            tokio::spawn(async move { session.call(vm::get_power_state(&vm)).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(logins.load(Ordering::SeqCst), 2);
    assert_eq!(session.logins(), 2);
}

/// A server that fails the first `failures` calls of each method but the login.
async fn shaky(failures: usize, failure: Reply) -> Server {
    let seen = Arc::new(Mutex::new(std::collections::BTreeMap::<String, usize>::new()));
    Server::plain(move |request| {
        let reply = or_login(&request, |method, _| {
            let mut seen = seen.lock().unwrap();
            let count = seen.entry(method.to_owned()).or_default();
            *count += 1;
            if *count <= failures { failure.clone() } else { Reply::result(json!("Running")) }
        });
        async move { reply }
    })
    .await
}

#[tokio::test]
async fn calls_that_only_read_are_sent_again_through_a_connection_that_breaks() {
    let cut =
        Reply { bytes: b"HTTP/1.1 200 OK\r\nContent-Le".to_vec(), close: true, ..Reply::default() };
    let server = shaky(3, cut).await;
    let session = login(&server).await;
    let vm = xenapi::Ref::new("OpaqueRef:vm");
    session.call(vm::get_power_state(&vm)).await.unwrap();
    assert_eq!(server.methods()[1..], ["VM.get_power_state"; 4]);
    // What changes something may have done so already.
    let e = session.call(vm::set_name_label(&vm, "x")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Transport);
    assert_eq!(server.methods()[5..], ["VM.set_name_label"]);
    // Unless the caller knows better; then it is the second to fourth call.
    session.call(vm::set_name_label(&vm, "x").repeatable()).await.unwrap();
    assert_eq!(server.methods()[5..], ["VM.set_name_label"; 4]);
}

#[tokio::test]
async fn a_server_with_too_many_tasks_is_asked_again_and_not_without_end() {
    let server = shaky(4, Reply::error("TOO_MANY_PENDING_TASKS", &[])).await;
    let session = login(&server).await;
    let vm = xenapi::Ref::new("OpaqueRef:vm");
    let e = session.call(vm::snapshot(&vm, "x")).await.unwrap_err();
    assert!(e.has_code(&ErrorCode::TOO_MANY_PENDING_TASKS), "{e}");
    assert_eq!(server.methods()[1..], ["VM.snapshot"; 4]);
    let none = Client::builder(server.url()).retries(0).build().unwrap();
    let session = none.login(USER, PASSWORD, "test").await.unwrap();
    assert!(session.call(vm::clone(&vm, "x")).await.is_err());
    assert_eq!(server.methods()[6..], ["VM.clone"]);
}

#[tokio::test]
async fn only_what_says_that_our_own_session_is_dead_renews_it() {
    for (named, logins) in [
        (&["OpaqueRef:session-1"][..], 2),
        (&[], 2),
        (&[""], 2),
        (&["the session"], 2),
        // That of the pool that a machine should move to.
        (&["OpaqueRef:of-another-pool"], 1),
    ] {
        let server = Server::plain(move |request| async move {
            or_login(&request, |_, _| Reply::error("SESSION_INVALID", named))
        })
        .await;
        let session = login(&server).await;
        let e = session.call(vm::get_all()).await.unwrap_err();
        assert!(e.is_session_invalid(), "{e}");
        assert_eq!(session.logins(), logins, "{named:?}");
        assert!(!format!("{e:?} {:?}", e.params()).contains("session-1"), "{e:?}");
    }
}

#[tokio::test]
async fn a_session_that_stays_dead_is_an_error_after_one_login_and_shows_no_reference() {
    let (valid, logins) = (Arc::new(AtomicUsize::new(99)), Arc::new(AtomicUsize::new(0)));
    let server = forgetful(valid, Arc::clone(&logins)).await;
    let session = login(&server).await;
    let e = session.call(vm::get_all()).await.unwrap_err();
    assert!(e.is_session_invalid());
    assert_eq!(logins.load(Ordering::SeqCst), 2, "one re-login, not a loop");
    let shown = format!("{e} {e:?} {:?} {session:?}", e.params());
    assert!(!shown.contains("secret"), "{shown}");
    assert!(!shown.contains(PASSWORD), "{shown}");
    session.logout().await.unwrap();
    assert_eq!(logins.load(Ordering::SeqCst), 2, "a logout logs nobody in");
}

#[tokio::test]
async fn a_refused_password_is_asked_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let server = Server::plain(move |request| {
        let count = Arc::clone(&count);
        async move {
            let (method, _) = request.call();
            if method == "session.login_with_password" && count.fetch_add(1, Ordering::SeqCst) > 0 {
                return Reply::error("SESSION_AUTHENTICATION_FAILED", &[USER, PASSWORD]);
            }
            or_login(&request, |_, _| Reply::error("SESSION_INVALID", &[]))
        }
    })
    .await;
    let session = login(&server).await;
    for _ in 0..3 {
        let e = session.call(vm::get_all()).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Authentication);
        assert!(!format!("{e} {e:?}").contains(PASSWORD), "{e}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_emergency_answers_with_a_bare_array() {
    let server = Server::plain(|_| async { Reply::json(&json!(["HOST_STILL_BOOTING"])) }).await;
    let client = Client::builder(server.url()).build().unwrap();
    let e = client.login(USER, PASSWORD, "test").await.unwrap_err();
    assert!(e.has_code(&ErrorCode::HOST_STILL_BOOTING));
    assert!(e.is_retryable());
}

#[tokio::test]
async fn a_member_sends_us_to_its_master() {
    let master = Server::plain(|request| async move {
        or_login(&request, |_, _| Reply::result(json!(["OpaqueRef:1"])))
    })
    .await;
    let member = Server::plain(|_| async { Reply::error("HOST_IS_SLAVE", &["10.9.9.9"]) }).await;
    let session = Client::builder(member.url())
        .host_address("10.9.9.9", master.address.to_string())
        .build()
        .unwrap()
        .login(USER, PASSWORD, "test")
        .await
        .unwrap();
    assert_eq!(session.call(vm::get_all()).await.unwrap().len(), 1);
    assert_eq!(session.url().port(), Some(master.address.port()));
    assert_eq!(member.seen().len(), 1);
    let asked = member.seen()[0].header("x-xenapi-request-host-certificate-thumbprint");
    assert_eq!(asked.as_deref(), Some("sha-256:master"));
}

#[tokio::test]
async fn members_that_name_each_other_are_no_endless_loop() {
    let server = Server::plain(|_| async { Reply::error("HOST_IS_SLAVE", &["127.0.0.1"]) }).await;
    let client = Client::builder(server.url()).build().unwrap();
    let e = client.login(USER, PASSWORD, "test").await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Redirect);
    assert!(server.seen().len() < 5);
    for odd in ["root:pw@evil", "evil/path", "", "http://evil", "[::1"] {
        let server =
            Server::plain(move |_| async move { Reply::error("HOST_IS_SLAVE", &[odd]) }).await;
        let client = Client::builder(server.url()).build().unwrap();
        let e = client.login(USER, PASSWORD, "test").await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Redirect, "{odd}: {e}");
    }
}

#[tokio::test]
async fn a_pool_may_change_its_master_under_a_session() {
    let fresh = Server::plain(|request| async move {
        or_login(&request, |_, _| Reply::result(json!(["OpaqueRef:1"])))
    })
    .await;
    let logins = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&logins);
    let old = Server::plain(move |request| {
        let count = Arc::clone(&count);
        async move {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            match request.call().0.as_str() {
                "session.login_with_password" if first => Reply::result(json!("OpaqueRef:old")),
                _ => Reply::error("HOST_IS_SLAVE", &["10.9.9.9"]),
            }
        }
    })
    .await;
    let client = Client::builder(old.url())
        .host_address("10.9.9.9", fresh.address.to_string())
        .build()
        .unwrap();
    let session = client.login(USER, PASSWORD, "test").await.unwrap();
    assert_eq!(session.call(vm::get_all()).await.unwrap().len(), 1);
    assert_eq!(session.url().port(), Some(fresh.address.port()));
}

#[tokio::test]
async fn a_redirect_of_calls_is_told_with_its_target() {
    // What a host says on port 80 when it is to be reached by https only.
    let server = Server::plain(|_| async {
        Reply::raw("HTTP/1.1 301 Moved\r\nLocation: https://xen1.example/jsonrpc?x=1\r\nContent-Length: 0\r\n\r\n")
    })
    .await;
    let client = Client::builder(server.url()).build().unwrap();
    let error = client.login(USER, PASSWORD, "test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Redirect);
    assert!(error.to_string().contains("to https://xen1.example, and"), "{error}");
}

#[tokio::test]
async fn https_at_a_port_without_it_is_told_as_that() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let client = Client::builder(url).trust(Trust::DangerAcceptAny).build().unwrap();
    let answering = async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = tcp.read(&mut [0; 4096]).await;
    };
    let (result, ()) = tokio::join!(client.login(USER, PASSWORD, "test"), answering);
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    assert!(error.to_string().contains("is https right"), "{error}");
}

#[tokio::test]
async fn a_broken_answer_to_a_login_shows_no_session() {
    for (kind, body) in [
        ("application/json", r#"{"jsonrpc":"2.0","result":"OpaqueRef:5e55-104"#),
        ("application/json", r#"["#),
        ("application/json", r#"{"result":{"x":"OpaqueRef:5e55-104"},"id":1}"#),
        ("text/xml", "<methodResponse><params><param><value>OpaqueRef:5e55-104"),
    ] {
        let server =
            Server::plain(move |_| async move { Reply::typed(kind, body.as_bytes()) }).await;
        let client = Client::builder(server.url()).build().unwrap();
        let error = client.login(USER, PASSWORD, "test").await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("5e55"), "{error:?}");
        assert!(error.to_string().contains("session.login_with_password"), "{error}");
    }
}

#[tokio::test]
async fn a_pinned_member_vouches_for_its_master() {
    let (member_id, master_id) = (Identity::new(&["127.0.0.1"]), Identity::new(&["127.0.0.1"]));
    let master = Server::tls(master_id.acceptor(true), |request| async move {
        or_login(&request, |_, _| Reply::result(json!([])))
    })
    .await;
    // What the member says about the master's certificate: nothing, a lie, the truth.
    let told: Arc<Mutex<Option<String>>> = Arc::default();
    let say = Arc::clone(&told);
    let member = Server::tls(member_id.acceptor(true), move |_| {
        let thumbprint = say.lock().unwrap().clone();
        async move {
            let reply = Reply::error("HOST_IS_SLAVE", &["10.9.9.9"]);
            match thumbprint {
                Some(t) => reply
                    .with_header(&format!("x-xenapi-response-host-certificate-thumbprint: {t}")),
                None => reply,
            }
        }
    })
    .await;
    let client = |pins: Vec<xenapi::Pin>| {
        Client::builder(member.url())
            .trust(Trust::Pins(pins))
            .host_address("10.9.9.9", master.address.to_string())
            .build()
            .unwrap()
    };
    let pinned = client(vec![member_id.pin()]);
    let e = pinned.login(USER, PASSWORD, "test").await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Tls, "{e}");
    assert!(e.to_string().contains(&master_id.pin().to_string()), "it names what it saw: {e}");
    assert!(master.seen().is_empty(), "no password went to an unknown host");
    *told.lock().unwrap() = Some(member_id.pin().to_string());
    assert_eq!(pinned.login(USER, PASSWORD, "t").await.unwrap_err().kind(), ErrorKind::Tls);
    *told.lock().unwrap() = Some(master_id.pin().to_string().to_uppercase());
    pinned.login(USER, PASSWORD, "test").await.unwrap().call(vm::get_all()).await.unwrap();
    *told.lock().unwrap() = None;
    client(vec![member_id.pin(), master_id.pin()]).login(USER, PASSWORD, "test").await.unwrap();
}

#[tokio::test]
async fn a_server_without_json_is_spoken_to_in_xml() {
    let server = Server::plain(|request| async move {
        if request.path() == "/jsonrpc" {
            return Reply::typed("text/xml", b"<methodResponse/>");
        }
        assert_eq!(request.path(), "/RPC2");
        let text = String::from_utf8(request.body.clone()).unwrap();
        let value = if text.contains("session.login_with_password") {
            "OpaqueRef:s".to_owned()
        } else {
            assert!(text.contains("<string>OpaqueRef:s</string>"), "{text}");
            "<struct><member><name>OpaqueRef:1</name><value><struct><member><name>name_label\
             </name><value>old &amp; gray</value></member><member><name>VCPUs_max</name><value>2\
             </value></member></struct></value></member></struct>"
                .to_owned()
        };
        let body = format!(
            "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct><member><name>\
             Status</name><value>Success</value></member><member><name>Value</name><value>{value}\
             </value></member></struct></value></param></params></methodResponse>"
        );
        Reply::typed("text/xml", body.as_bytes())
    })
    .await;
    let session = login(&server).await;
    let vms = session.call(vm::get_all_records()).await.unwrap();
    let vm = vms.values().next().unwrap();
    assert_eq!((vm.name_label.as_str(), vm.vcpus_max), ("old & gray", 2));
    let json = Client::builder(server.url()).protocol(Protocol::JsonRpc).build().unwrap();
    assert_eq!(json.login(USER, PASSWORD, "t").await.unwrap_err().kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn limits_hold() {
    let server = Server::plain(|request| async move {
        or_login(&request, |method, _| match method {
            "VM.get_all" => Reply::result(json!(["x".repeat(5_000)])),
            _ => Reply { hang: true, ..Reply::default() },
        })
    })
    .await;
    let client = Client::builder(server.url())
        .max_response_bytes(4_000)
        .call_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    let session = client.login(USER, PASSWORD, "test").await.unwrap();
    assert_eq!(session.call(vm::get_all()).await.unwrap_err().kind(), ErrorKind::TooLarge);
    let e = session.call(vm::get_all_records()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    assert!(e.to_string().starts_with("VM.get_all_records"), "{e}");
    let long: xenapi::Call<()> = xenapi::Call::new("VM.set_name_label").arg("y".repeat(400_000));
    assert_eq!(session.call(long).await.unwrap_err().kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn connections_are_reused() {
    let server =
        Server::plain(|request| async move { or_login(&request, |_, _| Reply::result(json!([]))) })
            .await;
    let session = login(&server).await;
    for _ in 0..5 {
        session.call(vm::get_all()).await.unwrap();
    }
    assert_eq!(server.seen().len(), 6);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_dead_address_is_one_line() {
    let server = Server::plain(|_| async { Reply::default() }).await;
    let url = server.url();
    drop(server);
    tokio::task::yield_now().await;
    let e = Client::builder(url).build().unwrap().login(USER, PASSWORD, "t").await.unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Connect | ErrorKind::Transport), "{e:?}");
    assert!(!e.to_string().contains('\n'));
}
