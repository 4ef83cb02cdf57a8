//! Single exchanges: what one call looks like on the wire, and what its answer is taken for.
#![allow(missing_docs, clippy::unwrap_used)]

use mockito::{Matcher, Mock, Server, ServerGuard};
use serde_json::json;
use xenapi::{Client, ErrorKind, Protocol, Ref, Session, enums::VmPowerState, vm, vm::Vm};

const XML: &str = "<?xml version=\"1.0\"?><methodResponse><params><param><value><struct>";

async fn server() -> ServerGuard {
    Server::new_async().await
}

async fn login(server: &ServerGuard, protocol: Protocol) -> Session {
    let client = Client::builder(server.url()).protocol(protocol).retries(0).build().unwrap();
    client.login("root", "word", "exchange").await.unwrap()
}

/// Answers the login, whatever it is written in.
async fn letting_in(server: &mut ServerGuard, path: &str, answer: &str) -> Mock {
    server
        .mock("POST", path)
        .match_body(Matcher::Regex("session.login_with_password".to_owned()))
        .with_header("content-type", if path == "/RPC2" { "text/xml" } else { "application/json" })
        .with_body(answer)
        .create_async()
        .await
}

fn web01() -> Ref<Vm> {
    Ref::new("OpaqueRef:vm")
}

#[tokio::test]
async fn a_call_in_json_rpc_2() {
    let mut server = server().await;
    letting_in(&mut server, "/jsonrpc", r#"{"jsonrpc":"2.0","result":"OpaqueRef:s","id":1}"#).await;
    let call = server
        .mock("POST", "/jsonrpc")
        .match_header("content-type", "application/json")
        .match_header("content-length", Matcher::Regex("^[0-9]+$".to_owned()))
        .match_header("transfer-encoding", Matcher::Missing)
        .match_body(Matcher::Json(json!({"jsonrpc": "2.0", "method": "VM.get_power_state",
            "params": ["OpaqueRef:s", "OpaqueRef:vm"], "id": 1})))
        .with_body(r#"{"jsonrpc":"2.0","result":"Suspended","id":1}"#)
        .create_async()
        .await;
    let session = login(&server, Protocol::Auto).await;
    let state = session.call(vm::get_power_state(&web01())).await.unwrap();
    assert_eq!(state, VmPowerState::Suspended);
    call.assert_async().await;
}

#[tokio::test]
async fn a_call_in_json_rpc_1() {
    let mut server = server().await;
    letting_in(&mut server, "/jsonrpc", r#"{"result":"OpaqueRef:s","error":null,"id":1}"#).await;
    let call = server
        .mock("POST", "/jsonrpc")
        .match_body(Matcher::Json(json!({"method": "VM.get_power_state",
            "params": ["OpaqueRef:s", "OpaqueRef:vm"], "id": 1})))
        .with_body(r#"{"result":null,"error":["HANDLE_INVALID","VM","OpaqueRef:vm"],"id":1}"#)
        .create_async()
        .await;
    let session = login(&server, Protocol::JsonRpc1).await;
    let error = session.call(vm::get_power_state(&web01())).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(error.params(), ["VM", "OpaqueRef:vm"]);
    call.assert_async().await;
}

#[tokio::test]
async fn a_call_in_xml_rpc() {
    let mut server = server().await;
    let said = |value: &str| {
        format!(
            "{XML}<member><name>Status</name><value>Success</value></member><member><name>Value\
             </name><value>{value}</value></member></struct></value></param></params>\
             </methodResponse>"
        )
    };
    letting_in(&mut server, "/RPC2", &said("OpaqueRef:s")).await;
    let call = server
        .mock("POST", "/RPC2")
        .match_header("content-type", "text/xml")
        .match_body(Matcher::AllOf(vec![
            Matcher::Regex("<methodName>VM.get_VCPUs_max</methodName>".to_owned()),
            Matcher::Regex("OpaqueRef:s.*OpaqueRef:vm".to_owned()),
        ]))
        .with_header("content-type", "text/xml")
        .with_body(said("4"))
        .create_async()
        .await;
    let session = login(&server, Protocol::XmlRpc).await;
    let vcpus: i64 =
        session.call(xenapi::Call::new("VM.get_VCPUs_max").arg(web01())).await.unwrap();
    assert_eq!(vcpus, 4, "a number without a type is text in XML-RPC");
    call.assert_async().await;
}

#[tokio::test]
async fn an_answer_of_the_other_version_is_understood() {
    let mut server = server().await;
    letting_in(&mut server, "/jsonrpc", r#"{"result":"OpaqueRef:s","error":null,"id":1}"#).await;
    server
        .mock("POST", "/jsonrpc")
        .match_body(Matcher::Regex("get_power_state".to_owned()))
        .with_body(r#"["HOST_STILL_BOOTING"]"#)
        .create_async()
        .await;
    let session = login(&server, Protocol::Auto).await;
    let error = session.call(vm::get_power_state(&web01())).await.unwrap_err();
    assert_eq!(error.code().unwrap().as_str(), "HOST_STILL_BOOTING");
    assert!(error.is_retryable());
}

#[tokio::test]
async fn what_is_no_answer_of_the_api_is_told_with_its_status() {
    for (status, body) in [(500, "<h1>Internal Server Error</h1>"), (502, ""), (429, "slowly")] {
        let mut server = server().await;
        letting_in(&mut server, "/jsonrpc", r#"{"result":"OpaqueRef:s","id":1}"#).await;
        server
            .mock("POST", "/jsonrpc")
            .match_body(Matcher::Regex("get_power_state".to_owned()))
            .with_status(status)
            .with_body(body)
            .create_async()
            .await;
        let session = login(&server, Protocol::JsonRpc).await;
        let error = session.call(vm::get_power_state(&web01())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol);
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert!(!error.to_string().contains("OpaqueRef:s"), "{error}");
    }
}
