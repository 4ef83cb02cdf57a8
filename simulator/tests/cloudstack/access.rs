//! Keys, signatures, times, methods, and the shape of answers.

use jiff::{SignedDuration, Timestamp};

use crate::client::{Session, signed};

fn time(minutes: i64) -> String {
    let time = Timestamp::now() + SignedDuration::from_mins(minutes);
    time.strftime("%Y-%m-%dT%H:%M:%S+0000").to_string()
}

#[tokio::test]
async fn get_and_post_are_equal_and_the_query_wins() {
    let session = Session::open().await;
    let query = session.query("listZones", &[]);
    assert_eq!(session.get_query(&query).await.unwrap().status, 200);
    assert_eq!(session.post_form("", &query).await.unwrap().status, 200);
    let mixed = session.post_form(&query, "command=listUsers&zzz=1").await.unwrap();
    assert_eq!(mixed.status, 401, "what stands in the form alone is signed as well");
    let mixed = session.post_form(&query, "command=listUsers").await.unwrap();
    assert_eq!(mixed.rooted().0, "listzonesresponse");
}

#[tokio::test]
async fn every_refusal_of_a_signature_is_the_same() {
    let session = Session::open().await;
    let key = session.cloud.config().key();
    let common = [("command", "listZones"), ("apikey", key), ("response", "json")];
    let good = signed(session.secret(), &common);
    let with = |more: &[(&'static str, &str)], secret: &str| {
        signed(secret, &common.iter().chain(more).copied().collect::<Vec<_>>())
    };
    let (past, soon) = (time(-1), time(5));
    let version = ("signatureversion", "3");
    let mut refused = vec![
        with(&[], "another secret"),
        good.replace(key, "another-key"),
        good.replace("listZones", "listOsTypes"),
        "command=listZones&response=json".to_owned(),
        with(&[version], session.secret()),
        with(&[version, ("expires", &past)], session.secret()),
        with(&[version, ("expires", "soon")], session.secret()),
    ];
    refused.push(signed(session.secret(), &[("apikey", key), ("response", "json")]));
    let mut texts = Vec::new();
    for query in refused {
        let answer = session.get_query(&query).await.unwrap();
        assert_eq!(answer.status, 401, "{query}");
        let error = answer.json();
        assert_eq!(error["errorcode"], 401);
        assert!(error.get("cserrorcode").is_none());
        assert_eq!(answer.header("x-description"), error["errortext"].as_str());
        texts.push(error["errortext"].to_string());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1);
    let query = with(&[version, ("expires", &soon)], session.secret());
    assert_eq!(session.get_query(&query).await.unwrap().status, 200);
    let query = with(&[("expires", &past)], session.secret());
    assert_eq!(session.get_query(&query).await.unwrap().status, 200, "no version: no expiry");
}

#[tokio::test]
async fn letter_case_is_not_signed() {
    let session = Session::open().await;
    let query = session.query("listOsTypes", &[("keyword", "debian")]);
    let answer = session.get_query(&query.replace("debian", "DEBIAN")).await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn the_time_of_the_server_counts_and_is_told() {
    let session = Session::open().await;
    session.fault("clock-skew=3600");
    let (here, there) = (time(10), time(70));
    let version = ("signatureversion", "3");
    let answer = session.get("listZones", &[version, ("expires", &here)]).await;
    assert_eq!(answer.status, 401);
    let date = answer.header("date").unwrap().to_owned();
    let date = jiff::fmt::rfc2822::parse(&date.replace("GMT", "+0000")).unwrap().timestamp();
    assert!(date > Timestamp::now() + SignedDuration::from_mins(50), "{date}");
    let answer = session.get("listZones", &[version, ("expires", &there)]).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn enforce_post() {
    let session = Session::open().await;
    session.fault("enforce-post");
    let (near, far) = (time(10), time(20));
    let version = ("signatureversion", "3");
    assert_eq!(session.get("listZones", &[]).await.status, 401);
    assert_eq!(session.get("listZones", &[version, ("expires", &far)]).await.status, 401);
    assert_eq!(session.get("listZones", &[version, ("expires", &near)]).await.status, 200);
    let params = [version, ("expires", near.as_str()), ("id", "x")];
    assert_eq!(session.get("deleteTemplate", &params).await.status, 400);
    assert_eq!(session.post("deleteTemplate", &params).await.unwrap().status, 431);
}

#[tokio::test]
async fn expired_key_and_expire_after() {
    let session = Session::open().await;
    session.fault("expire-after=2");
    let statuses = [
        session.get("listZones", &[]).await.status,
        session.get("listZones", &[]).await.status,
        session.get("listZones", &[]).await.status,
    ];
    assert_eq!(statuses, [200, 200, 401]);
    session.cloud.faults().clear();
    session.fault("expired-key@1");
    assert_eq!(session.get("listZones", &[]).await.status, 401);
    assert_eq!(session.get("listZones", &[]).await.status, 200);
}

#[tokio::test]
async fn errors_have_a_root_a_number_and_a_class() {
    let session = Session::open().await;
    let answer = session.get("listNothing", &[]).await;
    assert_eq!((answer.status, answer.rooted().0.as_str()), (432, "errorresponse"));
    let answer = session.get("registerTemplate", &[("name", "x")]).await;
    let (root, error) = answer.rooted();
    assert_eq!((answer.status, root.as_str()), (431, "registertemplateresponse"));
    assert_eq!(error["cserrorcode"], 9999);
    assert_eq!(error["uuidList"], serde_json::json!([]));
    assert!(error["errortext"].as_str().unwrap().contains("missing parameter format"));
    let answer = session.get("listZones", &[("name", "a\tb")]).await;
    assert_eq!(answer.status, 431, "a control character");
    let answer =
        session.get("listTemplates", &[("templatefilter", "self"), ("tags[0]", "b")]).await;
    assert_eq!(answer.status, 430);
    // Refused before the command is looked at.
    let raw = format!(
        "PUT /client/api HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        session.authority()
    );
    assert_eq!(crate::client::raw(&session.authority(), raw.as_bytes()).await.unwrap().status, 405);
}

#[tokio::test]
async fn xml_without_a_word() {
    let session = Session::open().await;
    let key = session.cloud.config().key();
    let query = signed(session.secret(), &[("command", "listZones"), ("apikey", key)]);
    let answer = session.get_query(&query).await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("<count>1</count><zone><allocationstate>"), "{}", answer.text());
}
