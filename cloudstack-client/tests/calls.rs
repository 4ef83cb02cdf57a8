//! Calls, pages and jobs against a server that does what servers do.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, SystemTime};

use cloudstack_client::{
    Client, Credentials, CsErrorCode, ErrorKind, WaitOptions, capabilities, command, hypervisors,
    os_types, signature, tags, templates, zones,
};
use futures_util::StreamExt;
use serde_json::json;
use support::{Cloud, Reply, SECRET, error, hang_up, ok, raw, soon};

#[tokio::test]
async fn a_call_is_posted_and_its_signature_is_good() {
    let cloud =
        Cloud::start(|_, _| ok(&json!({"count": 1, "zone": [{"id": "z1", "name": "é ~"}]}))).await;
    let before = SystemTime::now();
    let zones = cloud.client().call(zones::list()).await.unwrap();
    assert_eq!(zones.items[0].name, "é ~");
    let seen = cloud.seen.lock().unwrap()[0].clone();
    assert!(
        seen.head.starts_with("POST /client/api HTTP/1.1\r\n"),
        "nothing in the URL: {}",
        seen.head
    );
    assert!(!seen.head.contains("apikey"));
    assert_eq!(
        (seen.command(), seen.get("signatureVersion"), seen.get("apikey")),
        ("listZones", "3", "key")
    );
    assert_eq!(
        signature(&Credentials::new("key", SECRET), &seen.form).unwrap(),
        seen.get("signature")
    );
    // The time of expiry is ten minutes from now, which is less than what strict servers allow.
    let day = jiff_seconds(seen.get("expires"));
    let now = before.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert!((now + 590..now + 660).contains(&day), "{now} {day}");
}

/// Seconds of `2026-11-23T10:34:35+0000`, by a way of its own.
fn jiff_seconds(text: &str) -> u64 {
    let numbers: Vec<u64> =
        text[..19].split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap()).collect();
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let months = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut days: u64 = (1970..numbers[0]).map(|year| 365 + u64::from(leap(year))).sum();
    for month in 1..numbers[1] {
        days += months[usize::try_from(month - 1).unwrap()];
        days += u64::from(month == 2 && leap(numbers[0]));
    }
    ((days + numbers[2] - 1) * 24 + numbers[3]) * 3600 + numbers[4] * 60 + numbers[5]
}

/// A list of `total` elements in pages of at most `most`, by the server's rules.
async fn paged(
    total: u64,
    most: u64,
    count: impl Fn(u64) -> Option<u64> + Send + Sync + 'static,
) -> Cloud {
    Cloud::start(move |seen, _| {
        let (Ok(page), Ok(size)) =
            (seen.get("page").parse::<u64>(), seen.get("pagesize").parse::<u64>())
        else {
            return error(431, "page and pagesize must be given together");
        };
        if size > most {
            return error(431, &format!("Page size can not exceed max allowed value: {most}"));
        }
        let from = (page - 1) * size;
        let items: Vec<_> = (from..total.min(from + size))
            .map(|n| json!({"id": n, "description": format!("os {n}")}))
            .collect();
        // An empty page has neither count nor array.
        if items.is_empty() {
            return ok(&json!({}));
        }
        let mut answer = json!({"ostype": items});
        if let Some(count) = count(total) {
            answer["count"] = json!(count);
        }
        ok(&answer)
    })
    .await
}

#[tokio::test]
async fn lists_are_whole_whatever_the_pages_and_the_count() {
    for total in [0u64, 1, 199, 200, 201, 400, 1050] {
        for most in [500, 50] {
            type Count = fn(u64) -> Option<u64>;
            let counts: [(&str, Count); 4] = [
                ("right", Some),
                ("missing", |_| None),
                ("too small", |n| Some(n / 3)),
                ("too large", |n| Some(n + 7)),
            ];
            for (name, count) in counts {
                let cloud = paged(total, most, count).await;
                let all = cloud.client().call_all(os_types::list()).await.unwrap();
                let ids: Vec<u64> = all.iter().map(|os| os.id.parse().unwrap()).collect();
                assert_eq!(ids, (0..total).collect::<Vec<_>>(), "{total} in {most}, count {name}");
            }
        }
    }
}

#[tokio::test]
async fn pages_that_shift_or_repeat_give_each_element_once() {
    // The third element is on both pages; the server knows no end.
    let cloud = Cloud::start(|seen, _| {
        let ids = if seen.get("page") == "1" { [1, 2, 3] } else { [3, 4, 5] };
        let rows: Vec<_> = ids.map(|id| json!({"id": id, "zoneid": "z"})).into();
        ok(&json!({"count": 900, "template": rows}))
    })
    .await;
    let all =
        cloud.client().call_all(templates::list(templates::TemplateFilter::All)).await.unwrap();
    let ids: Vec<_> = all.iter().map(|template| template.id.as_str()).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "5"]);
    assert_eq!(cloud.commands().len(), 3, "a page without anything new is the last");
}

#[tokio::test]
async fn a_list_without_pages_is_not_asked_for_any() {
    let cloud = Cloud::start(|_, _| {
        ok(&json!({"count": 2, "hypervisor": [{"name": "XenServer"}, {"name": "KVM"}]}))
    })
    .await;
    let all = cloud.client().call_all(hypervisors::in_zone("z1")).await.unwrap();
    assert_eq!(all[0].name, "XenServer");
    let seen = cloud.seen.lock().unwrap()[0].clone();
    assert_eq!((seen.get("page"), seen.get("pagesize"), seen.get("zoneid")), ("", "", "z1"));
}

#[tokio::test]
async fn a_list_without_an_end_is_refused() {
    let cloud =
        Cloud::start(|seen, _| ok(&json!({"zone": [{"id": seen.get("page")}], "count": u64::MAX})))
            .await;
    let endless = cloud.client().call_all(zones::list()).await.unwrap_err();
    assert_eq!(endless.kind(), ErrorKind::Protocol);
    assert!(endless.to_string().contains("no end"), "{endless}");
}

#[tokio::test]
async fn a_refused_page_size_does_not_loop() {
    let cloud = Cloud::start(|_, _| error(431, "pagesize: no")).await;
    let refused = cloud.client().call_all(zones::list()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(cloud.commands().len() < 8);
}

#[tokio::test]
async fn a_401_tells_what_may_be_wrong() {
    let at = |seconds: u64| move || SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    // 1 893 553 445 is 2030-01-02 03:04:05 UTC.
    for (here, words) in [
        (1_893_553_445, "check the API key and its secret"),
        (1_893_553_445 - 1200, "clock is 20 min behind the server's"),
        (1_893_553_445 + 1200, "clock is 20 min ahead of the server's"),
    ] {
        let cloud = Cloud::start(|_, _| {
            let body = json!({"listcapabilitiesresponse": {"errorcode": 401, "cserrorcode": 9999,
                "errortext": format!("unable to verify user credentials and/or request signature {SECRET}")}});
            Reply::Send(raw("401 Unauthorized", &[("Date", "Wed, 02 Jan 2030 03:04:05 GMT")], &body.to_string()))
        })
        .await;
        let client = Client::builder(&cloud.url)
            .credentials(Credentials::new("key", SECRET))
            .clock(at(here))
            .build()
            .unwrap();
        let refused = client.call(capabilities::get()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unauthorized);
        let text = format!("{refused} {refused:?}");
        assert!(text.contains(words), "{text}");
        assert!(!text.contains(SECRET) && !refused.to_string().contains('\n'), "{text}");
        assert_eq!(cloud.commands().len(), 1, "a refusal is not asked for twice");
    }
}

#[tokio::test]
async fn only_what_is_harmless_is_tried_again() {
    // Refused before anything was done: everything is tried again.
    let busy = |_: &support::Seen, number| {
        if number < 2 { error(429, "too many") } else { ok(&json!({"success": true})) }
    };
    let cloud = Cloud::start(busy).await;
    cloud
        .client()
        .call(templates::set_permissions("t1", &templates::Permissions::new()))
        .await
        .unwrap();
    assert_eq!(cloud.commands().len(), 3);

    // A server that goes away: looking is harmless, changing is not.
    let lost = |_: &support::Seen, number| {
        if number == 0 { hang_up() } else { ok(&json!({"count": 0})) }
    };
    let cloud = Cloud::start(lost).await;
    cloud.client().call(zones::list()).await.unwrap();
    let cloud = Cloud::start(lost).await;
    let gone = cloud.client().call(command("createTags")).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Transport);
    assert!(gone.is_retryable() && gone.to_string().starts_with("createTags: "), "{gone}");
    assert_eq!(cloud.commands().len(), 1);

    let cloud = Cloud::start(|_, _| error(503, "preparing for shutdown")).await;
    let client = Client::builder(&cloud.url)
        .credentials(Credentials::new("k", "s"))
        .retries(1)
        .build()
        .unwrap();
    assert_eq!(client.call(zones::list()).await.unwrap_err().kind(), ErrorKind::Busy);
    // In the server's own words it is a refusal, so that nothing was done.
    assert_eq!(client.call(command("deleteTemplate")).await.unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(cloud.commands().len(), 4);

    // A proxy may have passed on what it did not get an answer to.
    let cloud =
        Cloud::start(|_, _| Reply::Send(raw("503 Service Unavailable", &[], "<html>"))).await;
    let gone = cloud.client().call(command("deleteTemplate")).await.unwrap_err();
    assert_eq!((gone.kind(), cloud.commands().len()), (ErrorKind::Busy, 1));
}

#[tokio::test]
async fn the_pause_that_a_server_asks_for_is_kept() {
    let cloud = Cloud::start(|_, number| {
        let body =
            r#"{"errorresponse":{"errorcode":429,"cserrorcode":4545,"errortext":"slow down"}}"#;
        match number {
            0 => Reply::Send(raw("429 Too Many", &[("Retry-After", "1")], body)),
            _ => ok(&json!({"count": 0})),
        }
    })
    .await;
    let before = std::time::Instant::now();
    cloud.client().call(zones::list()).await.unwrap();
    assert!(before.elapsed() >= Duration::from_secs(1), "{:?}", before.elapsed());

    let cloud = Cloud::start(|_, _| {
        let body =
            r#"{"errorresponse":{"errorcode":429,"cserrorcode":4545,"errortext":"slow down"}}"#;
        Reply::Send(raw("429 Too Many", &[("Retry-After", "7")], body))
    })
    .await;
    let client = Client::builder(&cloud.url)
        .credentials(Credentials::new("k", "s"))
        .retries(0)
        .build()
        .unwrap();
    let refused = client.call(zones::list()).await.unwrap_err();
    assert_eq!(refused.exception(), Some(CsErrorCode::RequestLimit));
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn a_stream_asks_for_pages_as_they_are_wanted_and_learns_their_size() {
    let cloud = paged(120, 50, Some).await;
    let client = cloud.client();
    let mut types = std::pin::pin!(client.stream(os_types::list()));
    for n in 0..50 {
        assert_eq!(types.next().await.unwrap().unwrap().id, n.to_string());
    }
    // One was refused for its size, one was taken.
    assert_eq!(cloud.commands().len(), 2);
    assert_eq!(types.count().await, 70);
    assert_eq!(cloud.commands().len(), 4);
    // The next list begins with the size that was learnt.
    client.call_all(os_types::list()).await.unwrap();
    let seen = cloud.seen.lock().unwrap()[4].clone();
    assert_eq!((seen.get("page"), seen.get("pagesize")), ("1", "50"));

    let failing = Cloud::start(|seen, _| match seen.get("page") {
        "1" => ok(&json!({"count": 900, "zone": [{"id": "z1"}]})),
        _ => error(531, "no"),
    })
    .await;
    let client = failing.client();
    let all: Vec<_> = client.stream(zones::list()).collect().await;
    assert!(all[0].is_ok() && all[1].as_ref().unwrap_err().kind() == ErrorKind::Forbidden);
    assert_eq!(all.len(), 2, "nothing comes after an error");
}

#[tokio::test]
async fn hostile_answers_end_and_tell() {
    let huge = "x".repeat(33 << 20);
    let answers: Vec<(Vec<u8>, ErrorKind)> = vec![
        (raw("200 OK", &[], &huge), ErrorKind::Protocol),
        (raw("200 OK", &[], "<html><title>It works!</title>"), ErrorKind::Protocol),
        (raw("302 Found", &[("Location", "http://127.0.0.1:1/")], ""), ErrorKind::Protocol),
        (raw("404 Not Found", &[], "<html><title>Not here</title>"), ErrorKind::Protocol),
        (raw("200 OK", &[], &"[".repeat(100_000)), ErrorKind::Protocol),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec(), ErrorKind::Transport),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), ErrorKind::Transport),
    ];
    for (bytes, kind) in answers {
        let start: String = String::from_utf8_lossy(&bytes).chars().take(60).collect();
        let cloud = Cloud::start(move |_, _| {
            let bytes = bytes.clone();
            support::take(move |mut tcp, _| async move {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut tcp, &bytes).await;
            })
        })
        .await;
        let wrong = cloud.client().call(zones::list()).await.unwrap_err();
        assert_eq!(wrong.kind(), kind, "{start}: {wrong}");
        assert!(
            wrong.to_string().starts_with("zones: list: ") && wrong.to_string().len() < 1000,
            "{wrong}"
        );
    }
    let slow = Cloud::start(|_, _| {
        support::take(|tcp, _| async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(tcp);
        })
    })
    .await;
    let client = Client::builder(&slow.url)
        .credentials(Credentials::new("k", "s"))
        .call_timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    assert_eq!(client.call(zones::list()).await.unwrap_err().kind(), ErrorKind::Timeout);
    let nobody = Client::builder("http://127.0.0.1:9/client/api")
        .credentials(Credentials::new("k", "s"))
        .build();
    let refused = nobody.unwrap().call(zones::list()).await.unwrap_err();
    assert!(refused.to_string().contains("cannot connect to http://127.0.0.1:9"), "{refused}");
}

#[tokio::test]
async fn jobs_are_awaited_to_their_end() {
    let cloud = Cloud::start(|seen, number| match (seen.command(), number) {
        ("deleteTemplate", _) => ok(&json!({"jobid": "j1"})),
        (_, 1) => ok(&json!({"jobid": "j1", "jobstatus": 0})),
        // A server that is restarted in between.
        (_, 2) => hang_up(),
        (_, 3) => hang_up(),
        _ => ok(&json!({"jobid": "j1", "jobstatus": 1, "jobresult": {"success": true}})),
    })
    .await;
    let client = cloud.client();
    let job = client.call(templates::delete("t1")).await.unwrap();
    client.job(&job, &soon()).await.unwrap();
    assert_eq!(cloud.seen.lock().unwrap().last().unwrap().get("jobid"), "j1");
}

#[tokio::test]
async fn failing_jobs_have_the_kind_of_their_failure() {
    for (result, kind, words) in [
        (
            json!({"jobstatus": 2, "jobresult": {"errorcode": 535, "errortext": "Maximum number reached"}}),
            ErrorKind::Quota,
            "Maximum",
        ),
        (
            json!({"jobstatus": 2, "jobresult": {"errorcode": 530, "errortext": "Failed to delete"}}),
            ErrorKind::Failed,
            "Failed to delete",
        ),
        (json!({"jobstatus": 3}), ErrorKind::Failed, "does not say why"),
        (
            json!({"jobstatus": 1, "jobresult": {"success": false}}),
            ErrorKind::Failed,
            "did not succeed",
        ),
        (json!({}), ErrorKind::Protocol, "no job status"),
    ] {
        let cloud = Cloud::start(move |seen, _| {
            if seen.command() == "createTags" { ok(&json!({"jobid": "j1"})) } else { ok(&result) }
        })
        .await;
        let tag = tags::create("Template", &["t1"], [("run", "7")]);
        let failed = cloud.client().run(tag, &soon()).await.unwrap_err();
        assert_eq!(failed.kind(), kind, "{failed}");
        assert!(failed.to_string().contains(words), "{failed}");
    }
    let cloud = Cloud::start(|seen, _| {
        if seen.command() == "deleteTemplate" {
            ok(&json!({"jobid": "j1"}))
        } else {
            ok(&json!({"jobstatus": 0}))
        }
    })
    .await;
    let short = WaitOptions::default().with_timeout(Duration::ZERO);
    let late = cloud.client().run(templates::delete("t1"), &short).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout);
    let cancel = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let ended =
        cloud.client().run(templates::delete("t1"), &soon().with_cancel(cancel)).await.unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_lost_answer_is_survived_with_a_job_id_of_ours() {
    for known in [true, false] {
        let cloud = Cloud::start(move |seen, number| match seen.command() {
            "deleteTemplate" if number == 0 => hang_up(),
            "deleteTemplate" => ok(&json!({"jobid": seen.get("customjobid")})),
            _ if !known && number == 1 => error(431, "Unable to find a job with id our-id"),
            _ => ok(&json!({"jobstatus": 1, "jobresult": {"success": true}})),
        })
        .await;
        let delete = templates::delete("t1").with_job_id("our-id");
        cloud.client().run(delete, &soon()).await.unwrap();
        let sent = cloud.commands().iter().filter(|command| *command == "deleteTemplate").count();
        assert_eq!(sent, if known { 1 } else { 2 }, "{:?}", cloud.commands());
    }
    // The call arrives only after it was looked for: the server then refuses the id, and its job is found.
    let cloud = Cloud::start(move |seen, number| match (seen.command(), number) {
        ("deleteTemplate", 0) => hang_up(),
        ("deleteTemplate", _) => error(431, "UUID our-id already exists so it cannot be used"),
        (_, 1) => error(431, "Unable to find a job with id our-id"),
        _ => ok(&json!({"jobstatus": 1, "jobresult": {"success": true}})),
    })
    .await;
    cloud.client().run(templates::delete("t1").with_job_id("our-id"), &soon()).await.unwrap();

    // Of what makes an object the job is looked for a while before anything is sent again.
    let cloud = Cloud::start(move |seen, number| match (seen.command(), number) {
        ("createTemplate", 0) => hang_up(),
        ("createTemplate", _) => error(530, "a second template"),
        (_, 1..5) => error(431, "Unable to find a job with id our-id"),
        _ => ok(&json!({"jobstatus": 1, "jobresult": {"template": {"id": "t1"}}})),
    })
    .await;
    let source = templates::DiskSource::Snapshot("s1");
    let template = templates::TemplateFromDisk::new("golden", "os", source);
    let create = templates::create(&template).with_job_id("our-id");
    let create_again = create.clone();
    let made = cloud.client().run(create.clone(), &soon()).await.unwrap();
    assert_eq!(made.id, "t1");
    let sent = cloud.commands().iter().filter(|command| *command == "createTemplate").count();
    assert_eq!(sent, 1);
    // What another process has sent is found before it is sent again.
    assert_eq!(cloud.client().resume(create, &soon()).await.unwrap().id, "t1");
    let refused = cloud.client().resume(templates::create(&template), &soon()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);

    // What the server refuses in its own words is not lost: nothing is looked for, and nothing sent again.
    let cloud = Cloud::start(|_, _| error(530, "please stop the VM first")).await;
    let refused = cloud.client().run(create_again, &soon()).await.unwrap_err();
    assert_eq!((refused.kind(), cloud.commands().len()), (ErrorKind::Server, 1));
    // A proxy may have passed on what it got no answer to.
    let cloud = Cloud::start(move |seen, number| match (seen.command(), number) {
        ("deleteTemplate", _) => Reply::Send(raw("502 Bad Gateway", &[], "<html>")),
        _ => ok(&json!({"jobstatus": 1, "jobresult": {"success": true}})),
    })
    .await;
    cloud.client().run(templates::delete("t1").with_job_id("our-id"), &soon()).await.unwrap();
    assert_eq!(cloud.commands()[..2], ["deleteTemplate", "queryAsyncJobResult"]);

    // Without such an id nobody can know.
    let cloud = Cloud::start(|_, _| hang_up()).await;
    let lost = cloud.client().run(templates::delete("t1"), &soon()).await.unwrap_err();
    assert_eq!((lost.kind(), cloud.commands().len()), (ErrorKind::Transport, 1));
}

#[tokio::test]
async fn a_template_is_awaited_in_its_zones() {
    let row = |zone: &str, status: &str, ready: bool| json!({"id": "t1", "zoneid": zone, "zonename": zone.to_uppercase(), "status": status, "isready": ready});
    let cloud = Cloud::start(move |seen, number| {
        assert_eq!((seen.get("id"), seen.get("templatefilter")), ("t1", "self"));
        match number {
            0 => ok(&json!({})),
            1 => ok(&json!({"count": 1, "template": [row("a", "NotUploaded", false)]})),
            2 => ok(&json!({"count": 2, "template": [row("a", "50% Downloaded", false), row("b", "", true)]})),
            3 => error(530, "the database is away"),
            _ => ok(&json!({"count": 2, "template": [row("a", "Download Complete", true), row("b", "", true)]})),
        }
    })
    .await;
    let template = cloud.client().wait_ready("t1", &["a", "b"], &soon()).await.unwrap();
    assert!(template.is_ready() && template.zones.len() == 2);

    for (rows, kind, words) in [
        (
            json!({"template": [row("a", "Connection timed out", false)]}),
            ErrorKind::Failed,
            "in A: Connection timed out",
        ),
        (json!({"template": [row("a", "UploadError", false)]}), ErrorKind::Failed, "UploadError"),
        (json!({}), ErrorKind::NotFound, "not there"),
    ] {
        let cloud = Cloud::start(move |_, _| ok(&rows)).await;
        let failed = cloud.client().wait_ready("t1", &[], &soon()).await.unwrap_err();
        assert_eq!(failed.kind(), kind, "{failed}");
        assert!(failed.to_string().contains(words), "{failed}");
    }
    let cloud =
        Cloud::start(move |_, _| ok(&json!({"template": [row("a", "NotUploaded", false)]}))).await;
    let late = cloud
        .client()
        .wait_ready("t1", &["a"], &WaitOptions::default().with_timeout(Duration::ZERO))
        .await;
    assert!(late.unwrap_err().to_string().contains("last: A: NotUploaded"));
}
