//! The pool through its API: records, snapshots, tasks and events.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod common;

use std::time::Duration;

use common::{Pool, moment, reference, rpc, text};
use serde_json::{Value, json};
use simulator::xen::XenConfig;

async fn pool() -> Pool {
    Pool::start(XenConfig::new()).await
}

fn code(error: &[String]) -> Vec<&str> {
    error.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn the_fixture_holds_what_the_job_meets() {
    let pool = pool().await;
    let vms = pool.ok("VM.get_all_records", json!([])).await;
    let count = |field: &str| {
        let vms = vms.as_object().unwrap().values();
        vms.filter(|vm| vm[field] == true).count()
    };
    assert_eq!((count("is_control_domain"), count("is_a_template")), (1, 1));
    let vm = pool.vm("web01").await;
    let record = &vms[&vm];
    assert_eq!(
        (&record["power_state"], &record["domain_type"]),
        (&json!("Running"), &json!("hvm"))
    );
    assert_eq!(record["VBDs"].as_array().unwrap().len(), 3);
    assert!(record["memory_static_max"].is_i64() && record["snapshot_time"].is_string());
    let disks = pool.vdis(&vm).await;
    let mut sizes = Vec::new();
    for disk in &disks {
        sizes.push(pool.ok("VDI.get_virtual_size", json!([disk])).await);
    }
    assert_eq!(sizes, [json!(64 << 20), json!(24 << 20)]);
    let networks = pool.ok("network.get_all_records", json!([])).await;
    let himn = |n: &&Value| n["other_config"]["is_host_internal_management_network"] == "true";
    assert_eq!(networks.as_object().unwrap().values().filter(himn).count(), 1);
    let of_pool = pool.ok("pool.get_all", json!([])).await;
    let master = pool.ok("pool.get_master", json!([of_pool[0]])).await;
    assert_eq!(pool.ok("host.get_API_version_major", json!([master])).await, json!(2));
    pool.ok("session.logout", json!([])).await;
    assert_eq!(pool.xen().sessions(), 0);
}

#[tokio::test]
async fn a_snapshot_leaves_the_source_alone_and_can_be_taken_away_whole() {
    let pool = pool().await;
    let before = pool.xen().inventory();
    let vm = pool.vm("web01").await;
    let ticks = pool.xen().ticks("web01").unwrap();
    let snapshot = pool.snapshot(&vm, "of web01").await;

    let record = pool.ok("VM.get_record", json!([snapshot])).await;
    for (field, expected) in [
        ("is_a_snapshot", json!(true)),
        ("is_a_template", json!(true)),
        ("power_state", json!("Halted")),
        ("snapshot_of", json!(vm)),
        ("name_label", json!("of web01")),
        ("resident_on", json!("OpaqueRef:NULL")),
    ] {
        assert_eq!(record[field], expected, "{field}");
    }
    let source = pool.ok("VM.get_record", json!([vm])).await;
    assert_eq!(source["snapshots"], json!([snapshot]));
    assert_eq!(source["power_state"], "Running");
    let disks = pool.vdis(&snapshot).await;
    assert_eq!(disks.len(), 2);
    let disk = pool.ok("VDI.get_record", json!([disks[0]])).await;
    assert_eq!(
        (&disk["is_a_snapshot"], &disk["snapshot_of"]),
        (&json!(true), &json!(pool.vdis(&vm).await[0]))
    );

    // The trap: the snapshot's disks outlive it.
    pool.ok("VM.destroy", json!([snapshot])).await;
    assert_ne!(pool.xen().inventory(), before);
    for disk in disks {
        pool.run("VDI.destroy", json!([disk])).await;
    }
    assert_eq!(pool.xen().inventory(), before);
    assert!(pool.xen().interruptions().is_empty());
    moment().await;
    assert!(pool.xen().ticks("web01").unwrap() > ticks);
}

#[tokio::test]
async fn ignored_disks_stay_out_of_a_snapshot() {
    let pool = pool().await;
    let vm = pool.vm("web01").await;
    let disks = pool.vdis(&vm).await;
    let record = pool.run("VM.snapshot", json!([vm, "half", [disks[1]]])).await;
    let snapshot = reference(&record["result"]);
    assert_eq!(pool.vdis(&snapshot).await.len(), 1);
    let error = pool.call("VM.snapshot", json!([vm, "x", [], "too many"])).await.unwrap_err();
    assert_eq!(code(&error), ["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.snapshot", "3", "4"]);
}

#[tokio::test]
async fn clones_and_copies_are_machines_of_their_own() {
    let pool = pool().await;
    let vm = pool.vm("web01").await;
    let error = pool.call("VM.clone", json!([vm, "no"])).await.unwrap_err();
    assert_eq!(code(&error), ["VM_BAD_POWER_STATE", &vm, "halted", "running"]);
    let snapshot = pool.snapshot(&vm, "s").await;
    let clone = reference(&pool.run("VM.clone", json!([snapshot, "clone"])).await["result"]);
    let record = pool.ok("VM.get_record", json!([clone])).await;
    assert_eq!(record["is_a_snapshot"], false);
    assert_ne!(pool.vdis(&clone).await, pool.vdis(&snapshot).await);
    let mac = async |vm: &str| {
        let vifs = pool.ok("VM.get_VIFs", json!([vm])).await;
        pool.ok("VIF.get_MAC", json!([vifs[0]])).await
    };
    assert_ne!(mac(&clone).await, mac(&vm).await);
    assert_eq!(mac(&snapshot).await, mac(&vm).await);
}

#[tokio::test]
async fn errors_carry_the_parameters_of_the_server() {
    let pool = pool().await;
    let vm = pool.vm("web01").await;
    for (method, params, expected) in [
        ("VM.destroy", json!([vm]), vec!["VM_BAD_POWER_STATE", &vm, "halted", "running"]),
        ("VM.get_record", json!(["x"]), vec!["HANDLE_INVALID", "VM", "x"]),
        ("VM.get_by_uuid", json!(["y"]), vec!["UUID_INVALID", "VM", "y"]),
        ("VM.levitate", json!([]), vec!["MESSAGE_METHOD_UNKNOWN", "VM.levitate"]),
        (
            "VM.get_record",
            json!([]),
            vec!["MESSAGE_PARAMETER_COUNT_MISMATCH", "VM.get_record", "1", "0"],
        ),
        ("VM.set_is_a_template", json!([vm, "true"]), vec!["FIELD_TYPE_ERROR", "value"]),
        ("Async.VM.get_record", json!([vm]), vec!["Fault", "No async mode for this operation"]),
        ("task.destroy", json!(["z"]), vec!["HANDLE_INVALID", "task", "z"]),
    ] {
        let error = pool.call(method, params).await.unwrap_err();
        assert_eq!(code(&error), expected, "{method}");
    }
    let disk = pool.vdis(&vm).await.remove(0);
    let error = pool.call("VDI.destroy", json!([disk])).await.unwrap_err();
    assert_eq!(code(&error), ["VDI_IN_USE", &disk, "destroy"]);
    let answer = rpc(&pool.address(), "VM.get_all", json!(["no session"])).await.unwrap();
    assert_eq!(answer["error"]["message"], "SESSION_INVALID");
    assert_eq!(answer["error"]["data"], json!(["no session"]));
}

#[tokio::test]
async fn maps_refuse_a_key_twice() {
    let pool = pool().await;
    let vm = pool.vm("web01").await;
    let before = pool.xen().inventory();
    pool.ok("VM.add_to_other_config", json!([vm, "run", "1"])).await;
    let error = pool.call("VM.add_to_other_config", json!([vm, "run", "2"])).await.unwrap_err();
    let uuid = text(&pool.ok("VM.get_uuid", json!([vm])).await);
    assert_eq!(code(&error), ["MAP_DUPLICATE_KEY", "VM", "other_config", &uuid, "run"]);
    pool.ok("VM.remove_from_other_config", json!([vm, "run"])).await;
    pool.ok("VM.remove_from_other_config", json!([vm, "run"])).await;
    assert_eq!(pool.xen().inventory(), before);
}

#[tokio::test]
async fn tasks_move_and_can_be_cancelled() {
    let pool = pool().await;
    pool.xen().faults().set_str("slow-task=400").unwrap();
    let vm = pool.vm("web01").await;
    let before = pool.xen().inventory();
    let task = text(&pool.ok("Async.VM.snapshot", json!([vm, "s"])).await);
    let record = pool.ok("task.get_record", json!([task])).await;
    assert_eq!(
        (&record["status"], &record["finished"]),
        (&json!("pending"), &json!("19700101T00:00:00Z"))
    );
    pool.ok("task.cancel", json!([task])).await;
    let record = pool.wait(&task).await;
    assert_eq!(record["status"], "cancelled");
    assert_eq!(record["error_info"], json!(["TASK_CANCELLED", task]));
    let error = pool.call("task.cancel", json!([task])).await.unwrap_err();
    assert_eq!(error[0], "OPERATION_NOT_ALLOWED");
    pool.ok("task.destroy", json!([task])).await;
    assert_eq!(pool.xen().inventory(), before);

    // Destroying a task that is worked on waits for the work.
    let task = text(&pool.ok("Async.VM.snapshot", json!([vm, "s"])).await);
    pool.ok("task.destroy", json!([task])).await;
    assert_eq!(pool.ok("task.get_status", json!([task])).await, "pending");
    while pool.call("task.get_status", json!([task])).await.is_ok() {
        moment().await;
    }
    assert_ne!(pool.xen().inventory(), before, "the call had its effect all the same");
}

#[tokio::test]
async fn events_tell_what_changed_since_a_token() {
    let pool = pool().await;
    let all = pool.ok("event.from", json!([["VM", "vdi"], "", 5.0])).await;
    let events = all["events"].as_array().unwrap();
    assert!(events.iter().all(|e| e["operation"] == "add" && e["timestamp"] == "0.0"));
    assert!(events.iter().any(|e| e["class"] == "vm") && events[0]["id"].is_string());
    assert_eq!(all["valid_ref_counts"]["vm"], 3);

    // Nothing new: the timeout passes, and an answer without events comes.
    let none = pool.ok("event.from", json!([["vm"], all["token"], 0.05])).await;
    assert_eq!(none["events"], json!([]));

    let vm = pool.vm("web01").await;
    let (waited, _) = tokio::join!(
        pool.ok("event.from", json!([[format!("vm/{vm}")], none["token"], 30.0])),
        async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            pool.ok("VM.set_name_description", json!([vm, "changed"])).await
        }
    );
    let event = &waited["events"][0];
    assert_eq!((&event["operation"], &event["ref"]), (&json!("mod"), &json!(vm)));
    assert_eq!(event["snapshot"]["name_description"], "changed");

    let snapshot = pool.snapshot(&vm, "short").await;
    let token = pool.ok("event.inject", json!(["VM", vm])).await;
    pool.ok("VM.destroy", json!([snapshot])).await;
    let gone = pool.ok("event.from", json!([["vm"], token, 5.0])).await;
    let events = gone["events"].as_array().unwrap();
    let deleted = events.iter().find(|e| e["operation"] == "del").unwrap();
    assert_eq!(deleted["ref"], snapshot);
    assert!(deleted.get("snapshot").is_none());

    let error = pool.call("event.from", json!([["vm"], "x", 1.0])).await.unwrap_err();
    assert_eq!(code(&error), ["EVENT_FROM_TOKEN_PARSE_FAILURE", "x"]);
    let error = pool.call("event.from", json!([["a b"], "", 1.0])).await.unwrap_err();
    assert_eq!(code(&error), ["EVENT_SUBSCRIPTION_PARSE_FAILURE", "a b"]);
}

#[tokio::test]
async fn a_session_that_ends_wakes_who_waits_with_it() {
    let pool = pool().await;
    let token = pool.ok("event.from", json!([["vm"], "", 5.0])).await["token"].clone();
    let (waited, ()) = tokio::join!(pool.call("event.from", json!([["vm"], token, 30.0])), async {
        moment().await;
        pool.xen().drop_sessions();
    });
    assert_eq!(waited.unwrap_err()[0], "SESSION_INVALID");
}
