//! Every other fault, seen from the wire.

use std::time::Duration;

use tokio::net::TcpStream;

use crate::client::{Session, vhd};
use crate::register::Web;

#[tokio::test]
async fn quota() {
    let session = Session::open().await;
    session.fault("quota=400000");
    let web = Web::serve("200 OK", vec![0; 500_000], None).await;
    let answer =
        session.describe("registerTemplate", &[("url", &web.url("/a.vhd"))]).await.unwrap();
    assert_eq!(answer.status, 535);
    assert!(answer.text().contains("'secondary_storage'"), "{}", answer.text());
    let first = session.ticket(&[]).await;
    assert_eq!(first.send("a.vhd", &vhd()).await.unwrap().status, 200);
    let second = session.ticket(&[]).await;
    let answer = second.send("a.vhd", &vhd()).await.unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.text().starts_with("Maximum file upload size exceeded"), "{}", answer.text());
    assert_eq!(session.download_state(&second.id).await, "UPLOAD_ERROR");
    session.cloud.faults().clear();
    session.fault("quota=1");
    let full = session.describe("getUploadParamsForTemplate", &[]).await.unwrap();
    assert_eq!(full.status, 530, "another status than that of a registration");
}

#[tokio::test]
async fn template_quota() {
    let session = Session::open().await;
    session.fault("template-quota");
    let web = Web::serve("200 OK", vhd(), None).await;
    let answer =
        session.describe("registerTemplate", &[("url", &web.url("/a.vhd"))]).await.unwrap();
    assert_eq!(answer.status, 535);
    let answer = session.describe("getUploadParamsForTemplate", &[]).await.unwrap();
    assert_eq!((answer.status, answer.rooted().0.as_str()), (530, "postuploadtemplateresponse"));
    let said = answer.json()["errortext"].as_str().unwrap().to_owned();
    assert!(said.contains("exception while registering template: Maximum amount"), "{said}");
    assert!(session.cloud.templates().is_empty());
}

#[tokio::test]
async fn size_cap_is_told_before_the_body() {
    let session = Session::open().await;
    session.fault("size-cap=1000");
    let ticket = session.ticket(&[]).await;
    let answer = ticket.send("a.vhd", &vhd()).await.unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("Maximum allowed size: 1000B"), "{}", answer.text());
}

#[tokio::test]
async fn upload_unreachable() {
    let session = Session::open().await;
    session.fault("upload-unreachable@1");
    let ticket = session.ticket(&[]).await;
    assert!(TcpStream::connect(ticket.authority()).await.is_err());
    assert_eq!(session.download_state(&ticket.id).await, "NOT_UPLOADED");
    let ticket = session.ticket(&[]).await;
    assert_eq!(ticket.send("a.vhd", &vhd()).await.unwrap().status, 200);
}

#[tokio::test]
async fn upload_fails_and_upload_close() {
    let session = Session::open().await;
    for (fault, status) in [
        ("upload-fails=503@1", Some(503)),
        ("upload-fails=500:100000@1", Some(500)),
        ("upload-close=0@1", None),
        ("upload-close=100000@1", None),
    ] {
        session.fault(fault);
        let ticket = session.ticket(&[]).await;
        let answer = ticket.send("a.vhd", &vhd()).await;
        assert_eq!(answer.map(|answer| answer.status), status, "{fault}");
        let error = |rows: &[serde_json::Value]| {
            rows[0]["downloaddetails"][0]["downloadState"] == "UPLOAD_ERROR"
        };
        session.until(&ticket.id, error).await;
        assert!(session.cloud.template_path(&ticket.id).is_none());
        assert_eq!(ticket.send("a.vhd", &vhd()).await.unwrap().status, 400, "used up");
    }
}

#[tokio::test]
async fn template_error() {
    let session = Session::open().await;
    session.fault("template-error=The SSVM had a bad day");
    let ticket = session.ticket(&[]).await;
    assert_eq!(ticket.send("a.vhd", &vhd()).await.unwrap().status, 200, "the upload was good");
    let row = session.rows(&ticket.id).await.remove(0);
    assert_eq!(
        (&row["isready"], &row["status"]),
        (&false.into(), &"The SSVM had a bad day".into())
    );
    assert_eq!(row["downloaddetails"][0]["downloadState"], "UPLOAD_ERROR");
    let web = Web::serve("200 OK", vhd(), None).await;
    let answer =
        session.describe("registerTemplate", &[("url", &web.url("/a.vhd"))]).await.unwrap();
    let id = answer.json()["template"][0]["id"].as_str().unwrap().to_owned();
    let failed = |rows: &[serde_json::Value]| rows[0]["status"] == "The SSVM had a bad day";
    let rows = session.until(&id, failed).await;
    assert_eq!(rows[0]["downloaddetails"][0]["downloadState"], "DOWNLOAD_ERROR");
}

#[tokio::test]
async fn slow_template_and_stuck_template() {
    let session = Session::open().await;
    session.fault("slow-template=3000@1");
    let slow = session.ticket(&[]).await;
    assert_eq!(slow.send("a.vhd", &vhd()).await.unwrap().status, 200);
    assert_eq!(session.rows(&slow.id).await[0]["status"], "UploadInProgress");
    assert!(session.cloud.template_path(&slow.id).is_none());
    session.until(&slow.id, |rows| rows[0]["isready"] == true).await;
    session.fault("stuck-template");
    let web = Web::serve("200 OK", vhd(), None).await;
    let answer =
        session.describe("registerTemplate", &[("url", &web.url("/a.vhd"))]).await.unwrap();
    let id = answer.json()["template"][0]["id"].as_str().unwrap().to_owned();
    session.until(&id, |rows| rows[0]["status"] == "Installing Template").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(session.rows(&id).await[0]["isready"], false);
}

#[tokio::test]
async fn job_fails_without_effect() {
    let session = Session::open().await;
    session.fault("job-fails=deleteTemplate@1");
    let ticket = session.ticket(&[]).await;
    let answer = session.post("deleteTemplate", &[("id", &ticket.id)]).await.unwrap();
    let job = session.job(&answer).await;
    assert_eq!((&job["jobstatus"], &job["jobresultcode"]), (&2.into(), &530.into()));
    assert!(job["jobresult"]["errortext"].is_string());
    assert!(job["jobresult"].get("cserrorcode").is_none());
    assert_eq!(session.rows(&ticket.id).await.len(), 1);
    let answer = session.post("deleteTemplate", &[("id", &ticket.id)]).await.unwrap();
    assert_eq!(session.job(&answer).await["jobstatus"], 1);
}

#[tokio::test]
async fn fail_nth() {
    let session = Session::open().await;
    session.fault("fail-nth=2:listZones 503@2");
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(session.get("listZones", &[]).await.status);
    }
    assert_eq!(statuses, [200, 503, 503, 200]);
    session.fault("fail-nth=1:listZones 429");
    let answer = session.get("listZones", &[]).await;
    assert_eq!((answer.status, &answer.json()["cserrorcode"]), (429, &4545.into()));
    session.fault("fail-nth=1:getUploadParamsForTemplate");
    let answer = session.describe("getUploadParamsForTemplate", &[]).await.unwrap();
    assert_eq!(answer.status, 530);
    assert!(session.cloud.templates().is_empty());
    session.fault("fail-nth=1:upload 502");
    assert_eq!(session.ticket(&[]).await.send("a.vhd", &vhd()).await.unwrap().status, 502);
}

#[tokio::test]
async fn drop_after_effect() {
    let session = Session::open().await;
    session.fault("drop-after-effect=getUploadParamsForTemplate");
    assert!(session.describe("getUploadParamsForTemplate", &[]).await.is_none());
    assert_eq!(session.cloud.templates().len(), 1);
    let id = session.cloud.templates()[0]["id"].as_str().unwrap().to_owned();
    session.fault("drop-after-effect=1:deleteTemplate");
    assert!(session.post("deleteTemplate", &[("id", &id)]).await.is_none());
    session.until(&id, <[_]>::is_empty).await;
    session.fault("drop-after-effect=upload");
    let ticket = session.ticket(&[]).await;
    assert!(ticket.send("a.vhd", &vhd()).await.is_none());
    assert_eq!(session.download_state(&ticket.id).await, "DOWNLOADED");
}

#[tokio::test]
async fn stopping_ends_downloads_and_frees_the_ports() {
    let session = Session::open().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/a.vhd", listener.local_addr().unwrap());
    // Nobody ever answers there.
    let pending = session.query("listZones", &[]);
    let params = [("url", url.as_str())];
    let request = session.describe("registerTemplate", &params);
    let authority = session.authority();
    tokio::select! {
        _ = request => {}
        () = tokio::time::sleep(Duration::from_millis(200)) => {}
    }
    assert_eq!(session.get_query(&pending).await.unwrap().status, 200, "others are served");
    session.cloud.stop().await;
    assert!(TcpStream::connect(authority).await.is_err());
}
