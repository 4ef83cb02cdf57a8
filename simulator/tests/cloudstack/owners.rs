//! Accounts, an administrator, projects: who sees what.

use serde_json::Value;

use crate::client::{Answer, Session};

fn count(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["count"].as_u64().unwrap_or(0)
}

async fn project(session: &Session, name: &str) -> String {
    let all = session.get_as("admin", "listProjects", &[("listall", "true"), ("name", name)]).await;
    all.json()["project"][0]["id"].as_str().unwrap().to_owned()
}

async fn volume(session: &Session, account: &str, more: &[(&str, &str)]) -> Answer {
    let zone = session.zone(0).await;
    let offerings = session.get("listDiskOfferings", &[("name", "Small")]).await.json();
    let offering = offerings["diskoffering"][0]["id"].as_str().unwrap().to_owned();
    let mut params = vec![("name", "data"), ("diskofferingid", &offering), ("zoneid", &zone)];
    params.extend(more);
    session.get_as(account, "createVolume", &params).await
}

fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_list_shows_what_is_ones_own_unless_more_is_asked_for() {
    let session = Session::open().await;
    let (web, night) = (project(&session, "web").await, project(&session, "night").await);
    let own = id(&volume(&session, "clones", &[]).await);
    let foreign = id(&volume(&session, "others", &[]).await);
    let shared = id(&volume(&session, "clones", &[("projectid", &web)]).await);
    let secret = id(&volume(&session, "others", &[("projectid", &night)]).await);
    let ids = async |account: &str, more: &[(&str, &str)]| -> Vec<String> {
        let answer = session.get_as(account, "listVolumes", more).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let rows = answer.json()["volume"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    let all = ("listall", "true");
    let every = ("projectid", "-1");
    // A user gains nothing by asking for all.
    assert_eq!(ids("clones", &[]).await, [&own[..]]);
    assert_eq!(ids("clones", &[all, ("isrecursive", "true")]).await, [&own[..]]);
    assert_eq!(ids("clones", &[("projectid", &web)]).await, [&shared[..]]);
    assert_eq!(ids("others", &[("projectid", &web)]).await, [&shared[..]]);
    assert_eq!(ids("clones", &[every]).await, [&shared[..]]);
    assert_eq!(ids("others", &[every]).await, [&shared[..], &secret]);
    // By its id neither another's nor that of a project.
    assert!(ids("clones", &[("id", &foreign)]).await.is_empty());
    assert!(ids("clones", &[("id", &shared)]).await.is_empty());
    assert_eq!(ids("clones", &[("id", &shared), every]).await, [&shared[..]]);
    // An administrator has an account as well, and sees the others' if it asks for them.
    assert!(ids("admin", &[]).await.is_empty());
    assert_eq!(ids("admin", &[all]).await, [&own[..], &foreign]);
    assert_eq!(ids("admin", &[("id", &foreign)]).await, [&foreign[..]]);
    assert_eq!(ids("admin", &[every, all]).await, [&shared[..], &secret]);
    let domain = session.get("listAccounts", &[]).await.json();
    let domain = domain["account"][0]["domainid"].as_str().unwrap().to_owned();
    let of_others = [("account", "others"), ("domainid", domain.as_str())];
    assert_eq!(ids("admin", &of_others).await, [&foreign[..]]);
    for refused in [&of_others[..], &[("projectid", &night)]] {
        assert_eq!(session.get("listVolumes", refused).await.status, 531, "{refused:?}");
    }
    for wrong in [&[("projectid", "x")][..], &[("account", "others")]] {
        assert_eq!(session.get("listVolumes", wrong).await.status, 431, "{wrong:?}");
    }
    // A row names its owner, or its project in place of that.
    let rows = session.get("listVolumes", &[every]).await.json();
    let row = &rows["volume"][0];
    assert_eq!((&row["project"], &row["account"]), (&Value::from("web"), &Value::Null));
    assert_eq!(count(&session.get("listProjects", &[]).await), 1);
    assert_eq!(count(&session.get_as("others", "listProjects", &[]).await), 2);
    assert_eq!(count(&session.get("listAccounts", &[all]).await), 1);
    assert_eq!(count(&session.get_as("admin", "listAccounts", &[all]).await), 3);
}

#[tokio::test]
async fn what_is_anothers_cannot_be_changed() {
    let session = Session::open().await;
    let made = volume(&session, "others", &[]).await;
    let (foreign, job) = (id(&made), made.json()["jobid"].as_str().unwrap().to_owned());
    assert_eq!(session.get("deleteVolume", &[("id", &foreign)]).await.status, 531);
    assert_eq!(session.get("queryAsyncJobResult", &[("jobid", &job)]).await.status, 531);
    assert_eq!(count(&session.get("listAsyncJobs", &[]).await), 0);
    assert_eq!(count(&session.get_as("others", "listAsyncJobs", &[]).await), 1);
    assert_eq!(
        session.get_as("admin", "queryAsyncJobResult", &[("jobid", &job)]).await.status,
        200
    );
    let ticket = session.ticket(&[]).await;
    let self_ = ("templatefilter", "self");
    let theirs = session.get_as("others", "listTemplates", &[self_]).await;
    assert_eq!(count(&theirs), 0);
    let id = ("id", ticket.id.as_str());
    assert_eq!(session.get_as("others", "deleteTemplate", &[id]).await.status, 531);
    let share = [id, ("op", "add"), ("accounts", "others")];
    assert_eq!(session.get("updateTemplatePermissions", &share).await.status, 200);
    let shared = [("templatefilter", "shared")];
    assert_eq!(count(&session.get_as("others", "listTemplates", &shared).await), 1);
    let every = [("templatefilter", "all")];
    assert_eq!(session.get("listTemplates", &every).await.status, 431, "for administrators");
    assert_eq!(count(&session.get_as("admin", "listTemplates", &every).await), 2);
    let project = project(&session, "web").await;
    let ticket = session.ticket(&[("projectid", &project)]).await;
    assert!(session.rows(&ticket.id).await.is_empty());
    let in_project = [self_, ("projectid", project.as_str())];
    assert_eq!(count(&session.get_as("others", "listTemplates", &in_project).await), 1);
}
