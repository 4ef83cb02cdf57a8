//! Lists and their pages, jobs, tags.

use simulator::cloudstack::{CloudStack, CloudStackConfig};

use crate::client::{Session, vhd};

#[tokio::test]
async fn the_rules_of_pages() {
    let session = Session {
        cloud: CloudStack::start(CloudStackConfig::new().with_page_size(20)).await.unwrap(),
    };
    let plain = session.get("listOsTypes", &[]).await.json();
    let total = plain["count"].as_u64().unwrap();
    assert!(total > 40);
    assert_eq!(plain["ostype"].as_array().unwrap().len(), 20, "cut off, though count tells all");
    for wrong in [
        [("page", "1"), ("x", "")],
        [("pagesize", "5"), ("x", "")],
        [("pagesize", "-1"), ("page", "1")],
        [("pagesize", "-1"), ("x", "")],
        [("pagesize", "21"), ("page", "1")],
        [("pagesize", "five"), ("page", "1")],
    ] {
        assert_eq!(session.get("listOsTypes", &wrong).await.status, 431, "{wrong:?}");
    }
    let error = session.get("listOsTypes", &[("page", "1"), ("pagesize", "21")]).await.json();
    assert!(error["errortext"].as_str().unwrap().ends_with(": 20"), "{error}");
    let mut ids = Vec::new();
    for page in 1.. {
        let page = page.to_string();
        let params = [("page", page.as_str()), ("pagesize", "20")];
        let answer = session.get("listOsTypes", &params).await.json();
        assert_eq!(answer["count"], total);
        let Some(rows) = answer["ostype"].as_array() else { break };
        ids.extend(rows.iter().map(|row| row["id"].to_string()));
    }
    assert_eq!(ids.len() as u64, total);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len() as u64, total);
    session.cloud.faults().set_str("page-size=3").unwrap();
    let three = session.get("listOsTypes", &[]).await.json();
    assert_eq!(three["ostype"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn an_empty_list_is_an_empty_object() {
    let session = Session::open().await;
    let answer = session.get("listTemplates", &[("templatefilter", "self")]).await;
    assert_eq!(answer.text(), "{\"listtemplatesresponse\":{}}");
    let answer = session.get("listZones", &[("name", "nowhere")]).await;
    assert_eq!(answer.text(), "{\"listzonesresponse\":{}}");
}

#[tokio::test]
async fn what_the_cloud_has() {
    let session = Session::open().await;
    let names = session.get("listHypervisors", &[]).await.json();
    assert_eq!(names["hypervisor"][0]["name"], "XenServer");
    assert_eq!(session.get("listHypervisors", &[("zoneid", "x")]).await.status, 431);
    let capability = session.get("listCapabilities", &[]).await.json();
    assert_eq!(capability["capability"]["cloudstackversion"], "4.22.0.0");
    let apis = session.get("listApis", &[("name", "deleteTemplate")]).await.json();
    assert_eq!(apis["api"][0]["isasync"], true);
    let featured = session.get("listTemplates", &[("templatefilter", "featured")]).await.json();
    assert_eq!(featured["count"], 1);
    let builtin = featured["template"][0]["id"].as_str().unwrap();
    assert_eq!(session.get("deleteTemplate", &[("id", builtin)]).await.status, 531);
    let all = session.get("listTemplates", &[("templatefilter", "all")]).await;
    assert_eq!(all.status, 431, "for administrators");
    assert_eq!(session.get("listTemplates", &[]).await.status, 431);
    assert!(session.cloud.templates().is_empty());
    session.fault("two-zones");
    assert_eq!(session.get("listZones", &[]).await.json()["count"], 2);
    let keyword = session.get("listOsTypes", &[("keyword", "debian")]).await.json();
    assert!(keyword["count"].as_u64().unwrap() > 10);
    let categories = session.get("listOsCategories", &[]).await.json();
    assert!(categories["count"].as_u64().unwrap() > 5);
}

#[tokio::test]
async fn a_job_has_a_number_of_the_callers_choice_once() {
    let session = Session::open().await;
    let ticket = session.ticket(&[]).await;
    session.fault("slow-job=3000");
    let chosen = "6f1a6d2e-2f6b-4a43-9c1d-0d4b8a1f2c3d";
    let unknown = session.get("queryAsyncJobResult", &[("jobid", chosen)]).await;
    assert_eq!(unknown.status, 431);
    assert!(unknown.text().contains("Unable to find a job"), "{}", unknown.text());
    let params = [("id", ticket.id.as_str()), ("customjobid", chosen)];
    let answer = session.post("deleteTemplate", &params).await.unwrap();
    assert_eq!(answer.json()["jobid"], chosen);
    let pending = session.get("queryAsyncJobResult", &[("jobid", chosen)]).await.json();
    assert_eq!((&pending["jobstatus"], pending.get("jobresult")), (&0.into(), None));
    let again = session.post("deleteTemplate", &params).await.unwrap();
    assert_eq!(again.status, 431, "{}", again.text());
    let bad = [("id", ticket.id.as_str()), ("customjobid", "mine")];
    assert_eq!(session.post("deleteTemplate", &bad).await.unwrap().status, 431);
    let job = session.job(&answer).await;
    assert_eq!(job["jobstatus"], 1);
    assert_eq!(job["jobresult"], serde_json::json!({"success": true}));
    assert_eq!(job["jobinstanceid"], ticket.id.as_str());
    assert!(session.rows(&ticket.id).await.is_empty());
    let gone = session.post("deleteTemplate", &[("id", &ticket.id)]).await.unwrap();
    assert_eq!(gone.status, 431);
    let never = [("templatefilter", "self"), ("id", chosen)];
    assert_eq!(session.get("listTemplates", &never).await.status, 431, "never there is an error");
}

#[tokio::test]
async fn tags() {
    let session = Session::open().await;
    let (one, other) = (session.ticket(&[]).await, session.ticket(&[]).await);
    let params = |id| {
        [
            ("resourcetype", "Template"),
            ("resourceids", id),
            ("tags[0].key", "run"),
            ("tags[0].value", "7"),
        ]
    };
    let answer = session.post("createTags", &params(one.id.as_str())).await.unwrap();
    assert_eq!(session.job(&answer).await["jobstatus"], 1);
    let twice = session.post("createTags", &params(one.id.as_str())).await.unwrap();
    assert_eq!(session.job(&twice).await["jobstatus"], 2);
    let unknown = session.post("createTags", &params("x")).await.unwrap();
    assert_eq!(session.job(&unknown).await["jobresult"]["errorcode"], 431);
    let wanted = [("templatefilter", "self"), ("tags[0].key", "run"), ("tags[0].value", "7")];
    let found = session.get("listTemplates", &wanted).await.json();
    assert_eq!(found["count"], 1);
    assert_eq!(found["template"][0]["id"], one.id.as_str());
    assert_eq!(found["template"][0]["tags"][0]["value"], "7");
    let listed = session.get("listTags", &[("resourceid", &other.id)]).await.json();
    assert!(listed.get("tag").is_none());
    let answer = session.post("deleteTags", &params(one.id.as_str())[..2]).await.unwrap();
    session.job(&answer).await;
    assert_eq!(session.get("listTags", &[]).await.text(), "{\"listtagsresponse\":{}}");
}

#[tokio::test]
async fn updates_and_permissions() {
    let session = Session::open().await;
    let details = [("details[0].keyboard", "de"), ("details[1].platform", "lost")];
    let ticket = session.ticket(&details).await;
    let row = session.rows(&ticket.id).await.remove(0);
    assert_eq!(row["details"], serde_json::json!({"keyboard": "de"}), "the first index only");
    let change = [("id", ticket.id.as_str()), ("name", "web02"), ("passwordenabled", "true")];
    let answer = session.post("updateTemplate", &change).await.unwrap().json();
    assert_eq!(answer["template"]["name"], "web02");
    let permit = [("id", ticket.id.as_str()), ("isfeatured", "true"), ("ispublic", "true")];
    let answer = session.post("updateTemplatePermissions", &permit).await.unwrap().json();
    assert_eq!(answer["success"], true);
    let row = session.rows(&ticket.id).await.remove(0);
    assert_eq!((&row["passwordenabled"], &row["isfeatured"]), (&true.into(), &true.into()));
    assert_eq!(
        session.get("listTemplatePermissions", &[("id", &ticket.id)]).await.json()["templatepermission"]
            ["ispublic"],
        true
    );
}

#[tokio::test]
async fn accounts_tell_what_is_left() {
    let session = Session::open().await;
    session.fault("template-quota=2");
    session.ticket(&[]).await.send("a.vhd", &vhd()).await.unwrap();
    let accounts = session.get("listAccounts", &[]).await.json();
    assert_eq!(accounts["account"][0]["templatetotal"], 1);
    assert_eq!(accounts["account"][0]["templateavailable"], "1");
    let limits = session.get("listResourceLimits", &[]).await.json();
    assert_eq!(limits["resourcelimit"][0]["max"], 2);
    assert_eq!(limits["resourcelimit"][1]["max"], -1);
}
