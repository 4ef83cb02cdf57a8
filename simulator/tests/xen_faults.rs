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

/// A copy of the running VM, halted.
async fn copy(pool: &Pool) -> String {
    let snapshot = pool.snapshot(&pool.vm("web01").await, "s").await;
    let copy = common::text(&pool.ok("VM.clone", json!([snapshot, "copy"])).await);
    pool.ok("VM.set_is_a_template", json!([copy, false])).await;
    copy
}

#[tokio::test]
async fn a_guest_comes_up_after_its_time() {
    let pool = pool(&["slow-boot=600000"]).await;
    let copy = copy(&pool).await;
    let stale = pool.ok("VM.get_guest_metrics", json!([copy])).await;
    // The copy holds what the agent of its source had told.
    let networks = pool.ok("VM_guest_metrics.get_networks", json!([stale])).await;
    assert_eq!(networks["0/ip"], "192.0.2.21");
    pool.ok("VM.start", json!([copy, false, false])).await;
    assert_eq!(pool.ok("VM.get_guest_metrics", json!([copy])).await, "OpaqueRef:NULL");
    assert!(pool.call("VM_guest_metrics.get_record", json!([stale])).await.is_err());
    let console = format!(
        "CONNECT /console?ref={copy} HTTP/1.1\r\nHost: x\r\nCookie: session_id={}\r\n\r\n",
        pool.session
    );
    let response = common::raw(&pool.address(), console.as_bytes()).await;
    assert_eq!(split(&response).1, b"", "no screen yet");
    // The time is over at once.
    pool.xen().faults().set_str("slow-boot=0").unwrap();
    let mut told = json!("OpaqueRef:NULL");
    while told == "OpaqueRef:NULL" {
        common::moment().await;
        told = pool.ok("VM.get_guest_metrics", json!([copy])).await;
    }
    let networks = pool.ok("VM_guest_metrics.get_networks", json!([told])).await;
    assert!(networks["0/ip"].as_str().unwrap().starts_with("192.0.2."), "{networks}");
}

#[tokio::test]
async fn a_guest_may_have_no_agent_or_no_address() {
    for (fault, agent) in [("no-agent", false), ("no-dhcp", true)] {
        let pool = pool(&[fault]).await;
        let copy = copy(&pool).await;
        pool.ok("VM.start", json!([copy, false, false])).await;
        // More than the tick in which a guest comes up.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let told = pool.ok("VM.get_guest_metrics", json!([copy])).await;
        assert_eq!(told != "OpaqueRef:NULL", agent, "{fault}");
        if agent {
            assert_eq!(pool.ok("VM_guest_metrics.get_networks", json!([told])).await, json!({}));
        }
    }
}

#[tokio::test]
async fn a_guest_may_ignore_a_shutdown() {
    let pool = pool(&["shutdown-ignored=100"]).await;
    let copy = copy(&pool).await;
    pool.ok("VM.start", json!([copy, false, false])).await;
    let record = pool.run("VM.clean_shutdown", json!([copy])).await;
    assert_eq!(record["error_info"], json!(["VM_FAILED_SHUTDOWN_ACKNOWLEDGMENT", copy]));
    pool.xen().faults().set_str("shutdown-ignored=60000").unwrap();
    let task = pool.ok("Async.VM.clean_shutdown", json!([copy])).await;
    pool.ok("task.cancel", json!([task])).await;
    assert_eq!(pool.wait(task.as_str().unwrap()).await["status"], "cancelled");
    assert_eq!(pool.ok("VM.get_power_state", json!([copy])).await, "Running");
    pool.ok("VM.hard_shutdown", json!([copy])).await;
    assert_eq!(pool.ok("VM.get_power_state", json!([copy])).await, "Halted");
}

#[tokio::test]
async fn a_task_is_cancelled_by_somebody_else() {
    let pool = pool(&["task-cancelled=VM.snapshot"]).await;
    let vm = pool.vm("web01").await;
    let before = pool.xen().inventory();
    let record = pool.run("VM.snapshot", json!([vm, "s"])).await;
    assert_eq!(
        (&record["status"], &record["error_info"][0]),
        (&json!("cancelled"), &json!("TASK_CANCELLED"))
    );
    assert_eq!(pool.xen().inventory(), before);
}

#[tokio::test]
async fn the_master_moves_between_two_calls() {
    let pool = Pool::start(XenConfig::new().with_second_host(true)).await;
    pool.xen().faults().set_str("master-moves=2").unwrap();
    pool.ok("VM.get_all", json!([])).await;
    let error = pool.call("VM.get_all", json!([])).await.unwrap_err();
    let other = pool.xen().url(1).unwrap();
    assert_eq!(error, ["HOST_IS_SLAVE", other.strip_prefix("http://").unwrap()]);
    assert!(!pool.xen().faults().is_pending());
}
