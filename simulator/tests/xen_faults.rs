//! Faults in calls: each one is seen by a client, and only where it was asked for.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod common;

use common::{Pool, post, rpc, split};
use serde_json::json;
use simulator::xen::XenConfig;

async fn pool(faults: &[&str]) -> Pool {
    let pool = Pool::start(XenConfig::new()).await;
    for fault in faults {
        pool.xen().faults().set_str(fault).unwrap();
    }
    pool
}

#[tokio::test]
async fn a_session_can_die_between_two_calls() {
    let pool = pool(&["session-invalid=2"]).await;
    pool.ok("VM.get_all", json!([])).await;
    let error = pool.call("VM.get_all", json!([])).await.unwrap_err();
    assert_eq!(error, ["SESSION_INVALID", &pool.session]);
    let session = pool.login().await;
    let answer = rpc(&pool.address(), "VM.get_all", json!([session])).await.unwrap();
    assert!(answer["result"].is_array());
}

#[tokio::test]
async fn the_nth_call_fails_without_effect() {
    let pool = pool(&["fail-nth=2:VM.snapshot"]).await;
    let vm = pool.vm("web01").await;
    pool.snapshot(&vm, "first").await;
    let before = pool.xen().inventory();
    let error = pool.call("VM.snapshot", json!([vm, "second"])).await.unwrap_err();
    assert_eq!(error[0], "INTERNAL_ERROR");
    assert_eq!(pool.xen().inventory(), before);
    pool.snapshot(&vm, "third").await;
}

#[tokio::test]
async fn tasks_fail_after_they_were_accepted() {
    let pool = pool(&["task-fails=VM.snapshot"]).await;
    let vm = pool.vm("web01").await;
    let before = pool.xen().inventory();
    let record = pool.run("VM.snapshot", json!([vm, "s"])).await;
    assert_eq!(record["status"], "failure");
    assert_eq!(record["error_info"][0], "INTERNAL_ERROR");
    assert_eq!(pool.xen().inventory(), before);
}

#[tokio::test]
async fn storage_refuses_snapshots() {
    for (fault, code) in
        [("sr-full", "SR_BACKEND_FAILURE_44"), ("chain-too-long", "SR_BACKEND_FAILURE_109")]
    {
        let pool = pool(&[fault]).await;
        let vm = pool.vm("web01").await;
        let before = pool.xen().inventory();
        let record = pool.run("VM.snapshot", json!([vm, "s"])).await;
        assert_eq!(record["error_info"][0], code);
        assert_eq!(pool.xen().inventory(), before);
    }
}

#[tokio::test]
async fn an_answer_is_lost_after_the_effect() {
    let pool = pool(&["drop-after-effect=VM.snapshot"]).await;
    let vm = pool.vm("web01").await;
    let params = json!([pool.session, vm, "lost"]);
    assert!(rpc(&pool.address(), "VM.snapshot", params).await.is_none());
    let found = pool.ok("VM.get_by_name_label", json!(["lost"])).await;
    assert_eq!(found.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn answers_are_as_strange_as_those_of_some_servers() {
    let pool = pool(&["nan-floats", "duplicate-keys", "unknown-enum"]).await;
    let body = |method: &str| {
        json!({"jsonrpc": "2.0", "method": method, "params": [pool.session], "id": 1}).to_string()
    };
    let response = post(&pool.address(), "/jsonrpc", &body("VM.get_all_records")).await;
    let text = String::from_utf8(response).unwrap();
    assert!(text.contains("\"HVM_shadow_multiplier\":NaN"));
    assert!(text.contains("\"actions_after_crash\":\"of_the_future\""));
    assert!(text.contains("\"field_of_the_future\""));
    let metrics = post(&pool.address(), "/jsonrpc", &body("VM_metrics.get_all_records")).await;
    let text = String::from_utf8(metrics).unwrap();
    assert!(text.contains(":Infinity") && text.contains(":-Infinity"), "{text}");
    let hosts = post(&pool.address(), "/jsonrpc", &body("host.get_all_records")).await;
    let text = String::from_utf8(hosts).unwrap();
    assert_eq!(text.matches("\"restrict_vtpm\"").count(), 2);
}

#[tokio::test]
async fn errors_of_an_emergency_are_bare_arrays() {
    let pool = pool(&["bare-array-error"]).await;
    let body = json!({"jsonrpc": "2.0", "method": "VM.get_record", "params": [pool.session, "x"],
        "id": 9});
    let response = post(&pool.address(), "/jsonrpc", &body.to_string()).await;
    let answer: serde_json::Value = serde_json::from_slice(split(&response).1).unwrap();
    assert_eq!(answer["error"], json!(["HANDLE_INVALID", "VM", "x"]));
    assert_eq!(answer["id"], 0);
}

#[tokio::test]
async fn a_call_is_lost_before_its_effect() {
    let pool = pool(&["drop-before-effect=VM.snapshot"]).await;
    let vm = pool.vm("web01").await;
    let before = pool.xen().inventory();
    let params = json!([pool.session, vm, "lost"]);
    assert!(pool.xen().faults().is_pending());
    assert!(rpc(&pool.address(), "Async.VM.snapshot", params).await.is_none());
    assert!(!pool.xen().faults().is_pending());
    assert_eq!(pool.xen().inventory(), before);
}

#[tokio::test]
async fn old_servers_are_older() {
    let pool = pool(&["old-arity"]).await;
    let vm = pool.vm("web01").await;
    let error = pool.call("VM.snapshot", json!([vm, "s", []])).await.unwrap_err();
    assert_eq!(error, ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.snapshot", "2", "3"]);
    pool.snapshot(&vm, "s").await;

    pool.xen().faults().set_str("no-json").unwrap();
    let call = json!({"jsonrpc": "2.0", "method": "pool.get_all", "params": [], "id": 1});
    let response = post(&pool.address(), "/jsonrpc", &call.to_string()).await;
    let (head, body) = split(&response);
    assert!(head.contains("content-type: text/xml"), "{head}");
    assert!(body.starts_with(b"<?xml"));
    let call = format!(
        "<methodCall><methodName>pool.get_all</methodName><params><param><value>{}</value>\
         </param></params></methodCall>",
        pool.session
    );
    let response = post(&pool.address(), "/", &call).await;
    let text = String::from_utf8(response).unwrap();
    assert!(text.contains("<name>Status</name><value>Success</value>"), "{text}");
}

#[tokio::test]
async fn a_machine_can_forbid_its_snapshot() {
    let pool = pool(&[]).await;
    let vm = pool.vm("web01").await;
    let reasons = json!({"snapshot": "the owner says no"});
    pool.ok("VM.set_blocked_operations", json!([vm, reasons])).await;
    let error = pool.call("VM.snapshot", json!([vm, "s"])).await.unwrap_err();
    assert_eq!(error, ["OPERATION_BLOCKED", &vm, "the owner says no"]);
}
