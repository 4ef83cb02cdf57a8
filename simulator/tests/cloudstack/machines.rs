//! Machines, disks, networks and rules: what a client sees of them, and what is refused.

use serde_json::Value;

use crate::client::{Session, vhd};

async fn first(session: &Session, list: &str, key: &str) -> String {
    session.get(list, &[]).await.json()[key][0]["id"].as_str().unwrap().to_owned()
}

/// A template that is ready.
async fn template(session: &Session, more: &[(&str, &str)]) -> String {
    let ticket = session.ticket(more).await;
    ticket.send("a.vhd", &vhd()).await.unwrap();
    ticket.id
}

async fn deploy(session: &Session, template: &str, more: &[(&str, &str)]) -> Value {
    let (zone, size) =
        (session.zone(0).await, first(session, "listServiceOfferings", "serviceoffering").await);
    let mut params =
        vec![("zoneid", zone.as_str()), ("serviceofferingid", &size), ("templateid", template)];
    params.extend(more);
    let answer = session.post("deployVirtualMachine", &params).await.unwrap();
    assert!(answer.json()["id"].is_string(), "the id comes at once: {}", answer.text());
    session.job(&answer).await
}

#[tokio::test]
async fn a_machine_is_deployed_of_a_template_that_is_ready() {
    let session = Session::open().await;
    let ticket = session.ticket(&[("passwordenabled", "true")]).await;
    let (zone, size) =
        (session.zone(0).await, first(&session, "listServiceOfferings", "serviceoffering").await);
    let params =
        [("zoneid", zone.as_str()), ("serviceofferingid", &size), ("templateid", &ticket.id)];
    let early = session.post("deployVirtualMachine", &params).await.unwrap();
    assert_eq!(early.status, 431, "{}", early.text());
    assert_eq!(session.post("deployVirtualMachine", &params[..2]).await.unwrap().status, 431);
    ticket.send("a.vhd", &vhd()).await.unwrap();

    let job = deploy(&session, &ticket.id, &[("name", "web01")]).await;
    let machine = &job["jobresult"]["virtualmachine"];
    assert_eq!((&machine["state"], &machine["name"]), (&"Running".into(), &"web01".into()));
    assert!(machine["password"].is_string() && machine["nic"][0]["ipaddress"].is_string());
    let listed = session.get("listVirtualMachines", &[]).await.json();
    assert_eq!(listed["count"], 1);
    assert!(listed["virtualmachine"][0].get("password").is_none(), "it is told once");
    let same = [
        ("zoneid", zone.as_str()),
        ("serviceofferingid", &size),
        ("templateid", &ticket.id),
        ("name", "web01"),
    ];
    assert_eq!(
        session.post("deployVirtualMachine", &same).await.unwrap().status,
        431,
        "the name is taken"
    );
    let bad = [
        ("zoneid", zone.as_str()),
        ("serviceofferingid", &size),
        ("templateid", &ticket.id),
        ("userdata", "#!"),
    ];
    assert_eq!(session.post("deployVirtualMachine", &bad).await.unwrap().status, 431, "no Base64");

    session.fault("no-capacity@1");
    let full = deploy(&session, &ticket.id, &[("name", "web02")]).await;
    assert_eq!((&full["jobstatus"], &full["jobresult"]["errorcode"]), (&2.into(), &533.into()));
    let failed = session.get("listVirtualMachines", &[("name", "web02")]).await.json();
    assert_eq!(failed["virtualmachine"][0]["state"], "Error", "its row stays");
}

#[tokio::test]
async fn what_makes_an_object_makes_it_before_the_number_of_the_job_is_looked_at() {
    let session = Session::open().await;
    let template = template(&session, &[]).await;
    let volume = deploy(&session, &template, &[("startvm", "false")]).await;
    let machine = volume["jobresult"]["virtualmachine"]["id"].as_str().unwrap();
    let root = session.get("listVolumes", &[("virtualmachineid", machine)]).await.json();
    let root = root["volume"][0]["id"].as_str().unwrap();
    let (os, number) = (session.os_type().await, "6f1a6d2e-2f6b-4a43-9c1d-0d4b8a1f2c3d");
    let params = [
        ("name", "golden"),
        ("ostypeid", os.as_str()),
        ("volumeid", root),
        ("customjobid", number),
    ];
    let made = session.post("createTemplate", &params).await.unwrap();
    assert_eq!(made.json()["jobid"], number);
    session.job(&made).await;
    let again = session.post("createTemplate", &params).await.unwrap();
    assert_eq!(again.status, 431, "{}", again.text());
    let golden = session
        .get("listTemplates", &[("templatefilter", "self"), ("name", "golden")])
        .await
        .json();
    assert_eq!(golden["count"], 2, "the beginnings of the second one stay");
}

#[tokio::test]
async fn a_late_command_takes_effect_after_its_connection_is_gone() {
    let session = Session::open().await;
    let ticket = session.ticket(&[]).await;
    session.fault("late-effect=200:deleteTemplate@1");
    assert!(session.post("deleteTemplate", &[("id", &ticket.id)]).await.is_none());
    assert_eq!(session.rows(&ticket.id).await.len(), 1);
    session.until(&ticket.id, <[Value]>::is_empty).await;
}

#[tokio::test]
async fn disks_follow_their_machine() {
    let session = Session::open().await;
    let template = template(&session, &[]).await;
    let job = deploy(&session, &template, &[]).await;
    let machine = job["jobresult"]["virtualmachine"]["id"].as_str().unwrap();
    let zone = session.zone(0).await;
    let params = [("name", "data"), ("format", "VHD"), ("zoneid", zone.as_str())];
    let (root, ticket) = session.post("getUploadParamsForVolume", &params).await.unwrap().rooted();
    assert_eq!(root, "postuploadvolumeresponse");
    let id = ticket["getuploadparams"]["id"].as_str().unwrap().to_owned();
    let attach = [("id", id.as_str()), ("virtualmachineid", machine)];
    assert_eq!(session.post("attachVolume", &attach).await.unwrap().status, 431, "without data");
    let waiting = session.get("listVolumes", &[("id", &id)]).await.json();
    assert_eq!(waiting["volume"][0]["state"], "NotUploaded");
    let ticket = crate::client::Ticket {
        id: id.clone(),
        url: ticket["getuploadparams"]["postURL"].as_str().unwrap().to_owned(),
        metadata: ticket["getuploadparams"]["metadata"].as_str().unwrap().to_owned(),
        expires: ticket["getuploadparams"]["expires"].as_str().unwrap().to_owned(),
        signature: ticket["getuploadparams"]["signature"].as_str().unwrap().to_owned(),
    };
    assert_eq!(ticket.send("data.vhd", &vhd()).await.unwrap().status, 200);
    assert_eq!(ticket.send("data.vhd", &vhd()).await.unwrap().status, 400, "one attempt only");
    let uploaded = session.get("listVolumes", &[("id", &id)]).await.json();
    assert_eq!(uploaded["volume"][0]["state"], "Uploaded");
    let attached = session.post("attachVolume", &attach).await.unwrap();
    assert_eq!(session.job(&attached).await["jobresult"]["volume"]["vmstate"], "Running");
    assert_eq!(
        session.post("attachVolume", &attach).await.unwrap().status,
        431,
        "it has a machine"
    );
    assert_eq!(session.post("deleteVolume", &attach[..1]).await.unwrap().status, 431);
    let root = session.get("listVolumes", &[("type", "ROOT")]).await.json();
    let root = root["volume"][0]["id"].as_str().unwrap();
    let os = session.os_type().await;
    let create = [("name", "golden"), ("ostypeid", os.as_str()), ("volumeid", root)];
    let running = session.post("createTemplate", &create).await.unwrap();
    assert_eq!(running.status, 530, "{}", running.text());
    assert!(running.text().contains("please stop the VM first"));
    let neither = session.post("createTemplate", &create[..2]).await.unwrap();
    assert_eq!(neither.status, 431);
}

#[tokio::test]
async fn rules_stand_in_the_way_of_each_other() {
    let session = Session::open().await;
    let address = first(&session, "listPublicIpAddresses", "publicipaddress").await;
    let rule = [
        ("name", "web"),
        ("algorithm", "roundrobin"),
        ("publicport", "80"),
        ("privateport", "8080"),
        ("publicipid", address.as_str()),
    ];
    let made = session.post("createLoadBalancerRule", &rule).await.unwrap();
    let job = session.job(&made).await;
    assert_eq!(job["jobresult"]["loadbalancer"]["publicport"], "80", "a text, under another key");
    let again = session.post("createLoadBalancerRule", &rule).await.unwrap();
    assert_eq!((again.status, &again.json()["cserrorcode"]), (537, &4360.into()));
    let mut odd = rule;
    odd[1].1 = "random";
    assert_eq!(session.post("createLoadBalancerRule", &odd).await.unwrap().status, 431);
    odd = rule;
    odd[2].1 = "99999";
    assert_eq!(session.post("createLoadBalancerRule", &odd).await.unwrap().status, 431);
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let none = session.post("assignToLoadBalancerRule", &[("id", &id)]).await.unwrap();
    assert_eq!(none.status, 431);
    let source = session.post("disassociateIpAddress", &[("id", &address)]).await.unwrap();
    assert_eq!(source.status, 431, "the network's own address");
    let empty = session.get("listLoadBalancerRuleInstances", &[("id", &id)]).await;
    assert_eq!(empty.text(), "{\"listloadbalancerruleinstancesresponse\":{}}");
}

#[tokio::test]
async fn a_role_can_be_without_a_command_and_types_can_be_odd() {
    let session = Session::open().await;
    assert_eq!(session.get("listConfigurations", &[]).await.status, 432, "for administrators");
    session.fault("denied=registerTemplate");
    let apis = session.get("listApis", &[]).await.json();
    let names: Vec<_> = apis["api"].as_array().unwrap().iter().map(|api| &api["name"]).collect();
    assert!(!names.contains(&&Value::from("registerTemplate")) && names.len() > 80);
    let (root, denied) = session.post("registerTemplate", &[]).await.unwrap().rooted();
    assert_eq!((root.as_str(), &denied["errorcode"]), ("errorresponse", &432.into()));
    session.fault("allowed-sites=10.0.0.0/8,192.0.2.7");
    let sites =
        session.get("listConfigurations", &[("name", "secstorage.allowed.internal.sites")]).await;
    assert_eq!(sites.json()["configuration"][0]["value"], "10.0.0.0/8,192.0.2.7");
    session.fault("stringly");
    let odd = session.get("listZones", &[]).await.json();
    assert_eq!(
        (&odd["count"], &odd["zone"][0]["localstorageenabled"]),
        (&"1".into(), &"false".into())
    );
}
