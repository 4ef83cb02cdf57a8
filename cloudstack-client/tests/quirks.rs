//! What real clouds and what stands before them do beyond the rules, as users of other clients have met it.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloudstack_client::templates::{self, Format, NewTemplate};
use cloudstack_client::virtual_machines::{self, NewVirtualMachine};
use cloudstack_client::{
    Client, Credentials, ErrorKind, Job, WaitOptions, os_types, tags, volumes, zones,
};
use serde_json::json;
use support::{Cloud, Reply, error, ok, raw, soon};

fn json_page(status: &'static str, body: &serde_json::Value) -> Reply {
    Reply::Send(raw(status, &[("Content-Type", "application/json")], &body.to_string()))
}

#[tokio::test]
async fn a_gateway_that_speaks_json_is_no_cloudstack() {
    for body in [
        json!({"message": "no route matched"}),
        json!({"error": {"code": 404, "message": "no route matched"}}),
        json!({"errors": ["no route matched"]}),
        json!({"status": 404, "title": "no route matched"}),
    ] {
        let copy = body.clone();
        let cloud = Cloud::start(move |_, _| json_page("404 Not Found", &copy)).await;
        let client = cloud.client();
        for wrong in [
            client.call(zones::list()).await.unwrap_err(),
            client.wait_ready("t1", &[], &soon()).await.unwrap_err(),
            client.wait_volume("v1", &soon()).await.unwrap_err(),
        ] {
            assert_eq!(wrong.kind(), ErrorKind::Protocol, "{body}: {wrong}");
            assert!(wrong.to_string().contains("no route matched"), "{wrong}");
        }
    }
}

#[tokio::test]
async fn a_job_that_ended_well_is_no_error_whatever_its_result() {
    for result in [
        json!({"jobstatus": 1}),
        json!({"jobstatus": 1, "jobresult": null}),
        json!({"jobstatus": 1, "jobresult": {}}),
        json!({"jobstatus": 1, "jobresult": ""}),
        json!({"jobstatus": 1, "jobresult": "true"}),
        json!({"jobstatus": 1, "jobresult": true}),
        json!({"jobstatus": "1", "jobresulttype": "text", "jobresult": "the template was deleted"}),
    ] {
        let copy = result.clone();
        let cloud = Cloud::start(move |seen, _| match seen.command() {
            "deleteTemplate" => ok(&json!({"jobid": "j1"})),
            _ => ok(&copy),
        })
        .await;
        let done = cloud.client().run(templates::delete("t1"), &soon()).await;
        assert!(done.is_ok(), "{result}: {done:?}");
    }
    // Where an object is wanted, it is said that only the object is missing.
    let cloud = Cloud::start(|seen, _| match seen.command() {
        "startVirtualMachine" => ok(&json!({"jobid": "j1"})),
        _ => ok(&json!({"jobstatus": 1, "jobresult": {}})),
    })
    .await;
    let start = virtual_machines::start("m1");
    let odd = cloud.client().run(start, &soon()).await.unwrap_err();
    assert!(odd.to_string().contains("has ended well"), "{odd}");
    for (result, words) in [
        (json!({"jobstatus": 1, "jobresult": false}), "did not succeed"),
        (json!({"jobstatus": 1, "jobresult": "false"}), "did not succeed"),
        (json!({"jobstatus": 2, "jobresultcode": 530, "jobresult": 7}), "job failed: 7"),
        (json!({"jobstatus": 2, "jobresult": {}}), "does not say why"),
        (
            json!({"jobstatus": 2, "jobresult": {"success": false, "displaytext": "the host is away"}}),
            "the host is away",
        ),
        (
            json!({"jobstatus": 2, "jobresult": {"deletetemplateresponse": {"errorcode": 530, "errortext": "nested"}}}),
            "nested",
        ),
    ] {
        let copy = result.clone();
        let cloud = Cloud::start(move |seen, _| match seen.command() {
            "deleteTemplate" => ok(&json!({"jobid": "j1"})),
            _ => ok(&copy),
        })
        .await;
        let failed = cloud.client().run(templates::delete("t1"), &soon()).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Failed, "{result}: {failed}");
        assert!(failed.to_string().contains(words), "{result}: {failed}");
    }
}

#[tokio::test]
async fn a_job_that_the_server_forgot_is_not_an_object_that_is_gone() {
    let cloud = Cloud::start(|seen, _| match seen.command() {
        "deleteTemplate" => ok(&json!({"jobid": "j1"})),
        _ => error(431, "Unable to find a job by id j1"),
    })
    .await;
    let lost = cloud.client().run(templates::delete("t1"), &soon()).await.unwrap_err();
    assert!(!lost.is_not_found(), "the template may well be there: {lost}");
    let text = lost.to_string();
    assert!(text.starts_with("template t1: delete (job j1): "), "{text}");
    // Behind a load balancer one server may know a job a little later than another.
    let cloud = Cloud::start(|seen, number| match (seen.command(), number) {
        ("deleteTemplate", _) => ok(&json!({"jobid": "j1"})),
        (_, 1) => error(431, "Unable to find a job by id j1"),
        _ => ok(&json!({"jobstatus": 1, "jobresult": {"success": true}})),
    })
    .await;
    cloud.client().run(templates::delete("t1"), &soon()).await.unwrap();
}

#[tokio::test]
async fn what_a_proxy_timed_out_may_have_arrived() {
    let cloud = Cloud::start(|seen, _| match seen.command() {
        "deleteTemplate" => Reply::Send(raw("408 Request Timeout", &[], "<html>")),
        _ => ok(&json!({"jobstatus": 1, "jobresult": {"success": true}})),
    })
    .await;
    let delete = templates::delete("t1").with_job_id("our-id");
    cloud.client().run(delete, &soon()).await.unwrap();
    let sent = cloud.commands().iter().filter(|one| *one == "deleteTemplate").count();
    assert_eq!(sent, 1, "its job was looked for instead");
    let cloud = Cloud::start(|_, _| Reply::Send(raw("403 Forbidden", &[], "<html>"))).await;
    let refused = cloud.client().call(zones::list()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Forbidden, "{refused}");
}

#[tokio::test]
async fn what_a_call_was_given_in_confidence_is_in_no_error() {
    let data = "#cloud-config\npassword: correct-horse\n";
    let new = NewVirtualMachine::new("z", "s", "t").with_user_data(data);
    let cloud = Cloud::start(|seen, _| {
        error(
            431,
            &format!(
                "Unable to execute due to invalid value {} for userdata",
                seen.get("userdata")
            ),
        )
    })
    .await;
    let told = cloud.client().call(virtual_machines::deploy(&new)).await.unwrap_err();
    assert!(!format!("{told} {told:?}").contains("Y29ycmVjdC1ob3"), "{told}");
    assert!(!format!("{told} {told:?}").contains("I2Nsb3VkLWNvbm"), "{told}");

    // An address that opens the file: signed, or with a password.
    for url in [
        "https://store.example/b/web01.vhd?X-Amz-Signature=0a1b2c3d4e5f&X-Amz-Expires=600",
        "http://reader:correct-horse@10.0.0.5/web01.vhd",
    ] {
        let cloud = Cloud::start(|seen, _| {
            error(431, &format!("Unsupported scheme for url: {}", seen.get("url")))
        })
        .await;
        let new = NewTemplate::new("web01", "XenServer", Format::Vhd, "z1");
        let told = cloud.client().call(templates::register(&new, url)).await.unwrap_err();
        let text = format!("{told} {told:?}");
        assert!(!text.contains("0a1b2c3d4e5f") && !text.contains("correct-horse"), "{text}");
        // And if the storage VM repeats it as the reason for a failure.
        let status = format!("Failed to fetch {url}: 403 Forbidden");
        let row = json!({"id": "t1", "zoneid": "z1", "status": status, "isready": false});
        let volume = json!({"id": "v1", "state": "UploadError", "status": status});
        let cloud = Cloud::start(move |seen, _| match seen.command() {
            "listTemplates" => ok(&json!({"count": 1, "template": [row]})),
            _ => ok(&json!({"count": 1, "volume": [volume]})),
        })
        .await;
        for failed in [
            cloud.client().wait_ready("t1", &[], &soon()).await.unwrap_err(),
            cloud.client().wait_volume("v1", &soon()).await.unwrap_err(),
        ] {
            let text = format!("{failed} {failed:?}");
            assert!(!text.contains("0a1b2c3d4e5f") && !text.contains("correct-horse"), "{text}");
            assert!(text.contains("403 Forbidden"), "{text}");
        }
        let all = cloud.client().call_all(volumes::list()).await.unwrap();
        assert!(!format!("{all:?}").contains("correct-horse"), "{all:?}");
    }
}

/// A list of which one element is deleted between the first page and the second.
#[tokio::test]
async fn an_element_that_slips_to_a_page_before_is_not_missed() {
    // With 201 elements the second page is empty then, and has no count.
    for total in [450, 201] {
        let cloud = Cloud::start(move |seen, number| {
            let number_of = |name: &str| seen.get(name).parse::<usize>().unwrap();
            let (page, size) = (number_of("page"), number_of("pagesize"));
            let all: Vec<u32> = (0..total).filter(|n| number == 0 || *n != 7).collect();
            let rows = all.iter().skip((page - 1) * size).take(size);
            let rows: Vec<_> = rows.map(|n| json!({"id": n, "description": "os"})).collect();
            if rows.is_empty() {
                return ok(&json!({}));
            }
            ok(&json!({"count": all.len(), "ostype": rows}))
        })
        .await;
        let all = cloud.client().call_all(os_types::list()).await.unwrap();
        let ids: BTreeSet<u32> = all.iter().map(|os| os.id.parse().unwrap()).collect();
        assert_eq!(ids.len(), all.len(), "each comes once");
        assert_eq!((8..total).find(|n| !ids.contains(n)), None);
        assert!(cloud.commands().len() < 8, "it ends: {}", cloud.commands().len());
    }
}

#[tokio::test]
async fn endpoints_are_taken_as_people_write_them() {
    let cloud = Cloud::start(|_, _| ok(&json!({}))).await;
    for (end, path) in [
        ("/client/api", "/client/api"),
        ("/client/api/", "/client/api/"),
        ("/client/api?", "/client/api"),
        ("/client/api#", "/client/api"),
        (" ", "/"),
        ("/a%20b/api", "/a%20b/api"),
    ] {
        let client = Client::builder(format!("{}{end}", cloud.url))
            .credentials(Credentials::new("key", "secret"))
            .build();
        let client = client.unwrap_or_else(|e| panic!("{end}: {e}"));
        client.call(zones::list()).await.unwrap();
        let head = cloud.seen.lock().unwrap().last().unwrap().head.clone();
        assert!(head.starts_with(&format!("POST {path} HTTP")), "{head}");
    }
}

#[tokio::test]
async fn a_wait_without_pauses_does_not_storm_the_server() {
    let cloud = Cloud::start(|_, _| ok(&json!({"jobstatus": 0}))).await;
    let job = Job::<()>::restored(&r#"{"job":"j1","what":"x"}"#.parse().unwrap());
    let options = WaitOptions::default()
        .with_pauses(Duration::ZERO, Duration::ZERO)
        .with_timeout(Duration::from_millis(300));
    let late = cloud.client().job(&job, &options).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    assert!(cloud.commands().len() < 40, "{}", cloud.commands().len());
}

#[tokio::test]
async fn a_long_pause_that_the_server_asks_for_ends_with_the_wait() {
    let cloud = Cloud::start(|_, _| {
        let body = r#"{"x":{"errorcode":429,"cserrorcode":4545,"errortext":"slow down"}}"#;
        Reply::Send(raw("429 Too Many", &[("Retry-After", "20")], body))
    })
    .await;
    // It would be over before the pause: the refusal is told at once.
    let options = soon().with_timeout(Duration::from_secs(2));
    let tag = tags::create("Template", &["t1"], [("run", "7")]);
    let busy = cloud.client().run(tag, &options).await.unwrap_err();
    assert_eq!((busy.kind(), cloud.commands().len()), (ErrorKind::Busy, 1), "{busy}");
    // It is cancelled in the middle of the pause.
    let stop = Arc::new(AtomicBool::new(false));
    let options = soon().with_timeout(Duration::from_secs(600)).with_cancel(Arc::clone(&stop));
    let client = cloud.client();
    let run = tokio::spawn(async move {
        client.run(templates::delete("t1"), &options).await.unwrap_err().kind()
    });
    while cloud.commands().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    assert_eq!(run.await.unwrap(), ErrorKind::Cancelled);
    assert_eq!(cloud.commands().len(), 2, "it was not sent again after the pause");
}

/// A volume of a project is in no list of the account's own.
#[tokio::test]
async fn what_belongs_to_a_project_is_waited_for_as_well() {
    let cloud = Cloud::start(|seen, _| {
        let row = json!({"id": seen.get("id"), "zoneid": "z1", "isready": true, "state": "Ready"});
        match (seen.get("projectid"), seen.command()) {
            ("", _) => ok(&json!({})),
            (_, "listVolumes") => ok(&json!({"count": 1, "volume": [row]})),
            (_, "listIsos") => ok(&json!({"count": 1, "iso": [row]})),
            _ => ok(&json!({"count": 1, "template": [row]})),
        }
    })
    .await;
    cloud.client().wait_volume("v1", &soon()).await.unwrap();
    cloud.client().wait_ready("t1", &[], &soon()).await.unwrap();
    cloud.client().wait_iso("i1", &[], &soon()).await.unwrap();
}
