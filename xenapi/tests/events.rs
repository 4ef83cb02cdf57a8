//! Events and the cache: against the simulated pool, and against a server that breaks the thread.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{PASSWORD, Reply, Server, USER, or_login};
use serde_json::{Value, json};
use simulator::Simulator;
use xenapi::enums::{EventOperation, VmPowerState};
use xenapi::vdi::Vdi;
use xenapi::vif::{self, Vif};
use xenapi::vm::Vm;
use xenapi::{
    Cache, Client, ErrorKind, GuestAddress, Pin, Ref, Session, Trust, vm, vm_guest_metrics,
};

const SOON: Duration = Duration::from_secs(20);

async fn pool(fault: Option<&str>) -> (Simulator, Session) {
    let simulator = Simulator::builder().second_host(true).start().await.unwrap();
    if let Some(fault) = fault {
        simulator.xen().faults().set_str(fault).unwrap();
    }
    let xen = simulator.ready().xen.clone();
    let pins = Pin::parse_list(xen.pin_sha256.as_deref().unwrap()).unwrap();
    let client = Client::builder(&xen.url).trust(Trust::Pins(pins)).build().unwrap();
    let session = client.login(&xen.username, xen.password.as_str(), "events-test").await.unwrap();
    (simulator, session)
}

/// That the cache holds what the server has.
async fn assert_like_the_server(cache: &Cache, session: &Session) {
    let records: BTreeMap<Ref<Vm>, Vm> = session.call(vm::get_all_records()).await.unwrap();
    let cached: BTreeMap<Ref<Vm>, Vm> = cache.all().map(|(r, vm)| (r, vm.unwrap())).collect();
    assert_eq!(cached.keys().collect::<Vec<_>>(), records.keys().collect::<Vec<_>>());
    for (reference, record) in &records {
        let (ours, theirs) = (json!(cached[reference]), json!(record));
        assert_eq!(ours, theirs);
    }
}

#[tokio::test]
async fn a_cache_follows_the_pool() {
    for fault in [None, Some("no-json")] {
        let (simulator, session) = pool(fault).await;
        let mut cache = session.cache(["vm", "VDI"]).await.unwrap();
        assert_like_the_server(&cache, &session).await;
        let machines = cache.count::<Vm>();
        let (web, _) = cache
            .all::<Vm>()
            .map(|(r, vm)| (r, vm.unwrap()))
            .find(|(_, vm)| vm.power_state == VmPowerState::Running && !vm.is_control_domain)
            .unwrap();

        session.call(vm::set_name_label(&web, "renamed")).await.unwrap();
        let change = cache.update().await.unwrap().remove(0);
        assert_eq!((change.of::<Vm>(), change.of::<Vdi>()), (Some(web.clone()), None));
        assert!(change.fields().contains("name_label"), "{:?}", change.fields());
        assert_eq!(cache.get(&web).unwrap().unwrap().name_label, "renamed");

        let snapshot = session.call(vm::snapshot(&web, "copy")).await.unwrap();
        let probe = |cache: &Cache| cache.get(&snapshot).unwrap();
        let record = cache.wait_for(SOON, probe).await.unwrap();
        assert!(record.is_a_snapshot);
        assert_eq!(cache.count::<Vm>(), machines + 1);

        // A new login is a new beginning, which finds what happened in between.
        simulator.xen().drop_sessions();
        session.call(vm::destroy(&snapshot)).await.unwrap();
        let gone = |cache: &Cache| cache.get(&snapshot).unwrap().is_none().then_some(());
        cache.wait_for(SOON, gone).await.unwrap();
        assert_eq!(session.logins(), 2);
        assert_like_the_server(&cache, &session).await;
        let never = |_: &Cache| None::<()>;
        let error = cache.wait_for(Duration::from_millis(300), never).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        simulator.stop().await;
    }
}

#[tokio::test]
async fn single_objects_are_followed_alone() {
    let (simulator, session) = pool(None).await;
    let all = session.call(vm::get_all_records()).await.unwrap();
    let mut references = all.keys();
    let (one, other) = (references.next().unwrap(), references.next().unwrap());
    let mut events = session.events([format!("vm/{one}")]);
    let batch = events.next().await.unwrap();
    assert!(batch.complete);
    let [event] = batch.events.as_slice() else { panic!("{batch:?}") };
    assert_eq!((event.class(), event.operation()), ("vm", &EventOperation::Add));
    session.call(vm::set_name_label(other, "unheard")).await.unwrap();
    session.call(vm::set_name_label(one, "heard")).await.unwrap();
    let batch = events.next().await.unwrap();
    let [event] = batch.events.as_slice() else { panic!("{batch:?}") };
    assert!(!batch.complete);
    assert_eq!(event.record::<Vm>().unwrap().unwrap().name_label, "heard");
    assert!(event.record::<Vdi>().unwrap().is_none());
    assert_eq!(event.of::<Vm>().as_ref(), Some(one));
    simulator.stop().await;
}

#[tokio::test]
async fn a_guest_on_the_internal_network_has_an_address_before_it_asks() {
    let (simulator, session) = pool(None).await;
    let himn = session.host_internal_management_network().await.unwrap().unwrap();
    let all = session.call(vm::get_all_records()).await.unwrap();
    let (web, _) = all.iter().find(|(_, vm)| vm.name_label == "web01").unwrap();
    let copy = session.call(vm::clone(web, "copy")).await;
    // Only a halted machine is cloned: a snapshot is one.
    assert!(copy.unwrap_err().code().is_some());
    let snapshot = session.call(vm::snapshot(web, "before")).await.unwrap();
    let copy = session.call(vm::clone(&snapshot, "copy")).await.unwrap();
    session.call(vm::set_is_a_template(&copy, false)).await.unwrap();
    let mut device = Vif::default();
    (device.vm, device.network) = (copy.clone(), himn.clone());
    (device.device, device.mtu) = ("7".to_owned(), 1500);
    let device = session.call(vif::create(&device)).await.unwrap();
    let wait = session.wait_assigned_ip(&himn, &device, SOON);
    let start = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        session.call(vm::start(&copy, false, false)).await.unwrap();
    };
    let (address, ()) = tokio::join!(wait, start);
    assert_eq!(address.unwrap().to_string(), "169.254.0.2");
    // The address is there already; another device has none.
    let again = session.wait_assigned_ip(&himn, &device, SOON).await.unwrap();
    assert_eq!(again.to_string(), "169.254.0.2");
    let other = Ref::new("OpaqueRef:other");
    let error = session.wait_assigned_ip(&himn, &other, Duration::from_millis(200)).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Timeout);
    let gone = session.wait_assigned_ip(&Ref::new("OpaqueRef:none"), &device, SOON).await;
    assert!(gone.unwrap_err().is_not_found());
    simulator.stop().await;
}

#[tokio::test]
async fn a_guest_is_waited_for_until_its_agent_tells_the_right_address() {
    let vm = |metrics: &str| {
        json!({"id": "1", "class": "vm", "operation": "mod", "ref": "OpaqueRef:vm",
            "snapshot": {"uuid": "v", "guest_metrics": metrics}})
    };
    let metrics = |networks: Value| {
        json!({"id": "1", "class": "vm_guest_metrics", "operation": "mod", "ref": "OpaqueRef:m",
            "snapshot": {"uuid": "m", "networks": networks}})
    };
    let counts = json!({"vm": 9, "vm_guest_metrics": 1});
    let (_server, session, _) = scripted(vec![
        reply("1", &[vm("OpaqueRef:NULL"), metrics(json!({"0/ip": "192.0.2.1"}))], &counts),
        reply("2", &[vm("OpaqueRef:m"), metrics(json!({"0/ip": ""}))], &counts),
        reply("3", &[metrics(json!({"0/ipv6/0": "fe80::1"}))], &counts),
        reply("4", &[metrics(json!({"0/ipv6/0": "fe80::1", "1/ip": "192.0.2.7"}))], &counts),
    ])
    .await;
    let mut tries = 0;
    let ipv4 = |all: &[GuestAddress]| {
        tries += 1;
        all.iter().any(|a| a.address.is_ipv4())
    };
    let machine = Ref::new("OpaqueRef:vm");
    let told = session.wait_guest_addresses(&machine, SOON, ipv4).await.unwrap();
    assert_eq!((told.len(), told[1].device, tries), (2, 1, 2));
    let gone = [json!({"id": "1", "class": "vm", "operation": "del", "ref": "OpaqueRef:vm"})];
    let (_server, session, _) =
        scripted(vec![reply("1", &[vm("OpaqueRef:NULL")], &counts), reply("2", &gone, &counts)])
            .await;
    let error = session.wait_guest_addresses(&machine, SOON, |_| true).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
}

#[tokio::test]
async fn a_copy_does_not_tell_the_addresses_of_its_source() {
    let (simulator, session) = pool(None).await;
    let faults = simulator.xen().faults();
    faults.set_str("slow-boot=300").unwrap();
    let all = session.call(vm::get_all_records()).await.unwrap();
    let (web, source) = all.iter().find(|(_, vm)| vm.name_label == "web01").unwrap();
    let metrics = session.call(vm_guest_metrics::get_record(&source.guest_metrics)).await.unwrap();
    let old = GuestAddress::parse(&metrics.networks);
    let snapshot = session.call(vm::snapshot(web, "before")).await.unwrap();
    let copy = session.call(vm::clone(&snapshot, "copy")).await.unwrap();
    session.call(vm::set_is_a_template(&copy, false)).await.unwrap();
    let wait = session.wait_guest_addresses(&copy, SOON, |_| true);
    let start = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        session.call(vm::start(&copy, false, false)).await.unwrap();
    };
    let (told, ()) = tokio::join!(wait, start);
    assert_ne!(told.unwrap(), old);
    // After its end, its own last ones are none either.
    session.call(vm::hard_shutdown(&copy)).await.unwrap();
    let short = Duration::from_millis(200);
    let error = session.wait_guest_addresses(&copy, short, |_| true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    // Without an agent nobody tells.
    faults.set_str("no-agent").unwrap();
    session.call(vm::start(&copy, false, false)).await.unwrap();
    let error = session.wait_guest_addresses(&copy, short, |_| true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    simulator.stop().await;
}

/// A server whose `event.from` gives one reply after the other, then hangs. It keeps the tokens.
async fn scripted(replies: Vec<Reply>) -> (Server, Session, Arc<Mutex<Vec<String>>>) {
    let replies = Arc::new(Mutex::new(replies.into_iter()));
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&tokens);
    let server = Server::plain(move |request| {
        let (replies, seen) = (Arc::clone(&replies), Arc::clone(&seen));
        async move {
            or_login(&request, |method, params| {
                assert_eq!(method, "event.from");
                seen.lock().unwrap().push(params[2].as_str().unwrap().to_owned());
                let hang = Reply { hang: true, ..Reply::default() };
                replies.lock().unwrap().next().unwrap_or(hang)
            })
        }
    })
    .await;
    let client = Client::builder(server.url()).build().unwrap();
    let session = client.login(USER, PASSWORD, "test").await.unwrap();
    (server, session, tokens)
}

fn reply(token: &str, events: &[Value], counts: &Value) -> Reply {
    Reply::result(json!({"token": token, "events": events, "valid_ref_counts": counts}))
}

fn event(operation: &str, n: usize, name: &str) -> Value {
    let mut event = json!({"id": n.to_string(), "timestamp": "0.0", "class": "vm",
        "operation": operation, "ref": format!("OpaqueRef:{n}")});
    if operation != "del" {
        event["snapshot"] = json!({"uuid": n.to_string(), "name_label": name,
            "power_state": "Running", "VBDs": [], "other_config": {"key": name}});
    }
    event
}

#[tokio::test]
async fn ten_thousand_events_at_once_are_taken() {
    const MANY: usize = 10_000;
    let all = |name: &str| (0..MANY).map(|n| event("add", n, name)).collect::<Vec<_>>();
    let storm: Vec<Value> = (0..MANY)
        .map(|n| if n % 2 == 0 { event("del", n, "") } else { event("mod", n, "after") })
        .collect();
    let (_server, session, _) = scripted(vec![
        reply("1", &all("before"), &json!({"VM": MANY})),
        reply("2", &storm, &json!({"VM": MANY / 2})),
    ])
    .await;
    let mut cache = session.cache(["vm"]).await.unwrap();
    assert_eq!(cache.count::<Vm>(), MANY);
    assert_eq!(cache.update().await.unwrap().len(), MANY);
    assert_eq!(cache.count::<Vm>(), MANY / 2);
    assert!(cache.all::<Vm>().all(|(_, vm)| vm.unwrap().name_label == "after"));
}

#[tokio::test]
async fn a_lost_thread_is_taken_up_by_a_new_beginning() {
    let one = [event("add", 1, "one")];
    let both = [event("add", 1, "one"), event("add", 2, "two")];
    let (_server, session, tokens) = scripted(vec![
        reply("1", &one, &json!({"vm": 1})),
        // The connection breaks, twice.
        Reply { reset: true, ..Reply::default() },
        Reply { reset: true, ..Reply::default() },
        // The token is of no use any more.
        Reply::error("EVENT_FROM_TOKEN_PARSE_FAILURE", &["1"]),
        reply("7", &both, &json!({"vm": 2})),
        // An event got lost: the server has one more than we know of, and goes on having it.
        reply("8", &[event("mod", 1, "uno")], &json!({"vm": 3})),
        reply("9", &[event("mod", 1, "eins")], &json!({"vm": 3})),
        reply("10", &[event("add", 3, "three")], &json!({"vm": 1})),
    ])
    .await;
    let mut cache = session.cache(["vm"]).await.unwrap();
    assert_eq!(cache.update().await.unwrap().len(), 1);
    assert_eq!(cache.count::<Vm>(), 2);
    cache.update().await.unwrap();
    cache.update().await.unwrap();
    let changes = cache.update().await.unwrap();
    assert_eq!(changes.len(), 3, "two are gone and one is there: {changes:?}");
    let names: Vec<_> = cache.all::<Vm>().map(|(_, vm)| vm.unwrap().name_label).collect();
    assert_eq!(names, ["three"]);
    assert_eq!(*tokens.lock().unwrap(), ["", "1", "1", "1", "", "7", "8", ""]);
}

#[tokio::test]
async fn a_server_that_holds_no_question_is_not_asked_without_end() {
    let mut replies = vec![reply("1", &[], &json!({}))];
    replies.extend(vec![reply("1", &[], &json!({})); 1000]);
    let (_server, session, tokens) = scripted(replies).await;
    let mut events = session.events(["vm"]);
    assert!(events.next().await.unwrap().complete, "no objects are all there are");
    let waited = tokio::time::timeout(Duration::from_secs(1), events.next()).await;
    assert!(waited.is_err());
    let asked = tokens.lock().unwrap().len();
    assert!((2..=8).contains(&asked), "{asked} questions in a second");
}

#[tokio::test]
async fn what_is_no_batch_is_an_error() {
    let odd = [
        json!({"events": []}),
        json!({"token": 7, "events": []}),
        json!({"token": "1", "events": [{"class": "vm"}]}),
        json!({"token": "1", "events": "all"}),
        json!([]),
    ];
    for value in odd {
        let (_server, session, _) = scripted(vec![Reply::result(value.clone())]).await;
        let error = session.events(["vm"]).next().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode, "{value}");
    }
    // Unknown operations, classes and counts are no error.
    let newer = json!({"token": "1", "valid_ref_counts": {"vm": -1, "new": null},
        "events": [{"class": "New_class", "ref": "x", "operation": "merge", "snapshot": 5}]});
    let (_server, session, _) = scripted(vec![Reply::result(newer)]).await;
    let batch = session.events(["*"]).next().await.unwrap();
    assert_eq!(batch.events[0].operation().as_str(), "merge");
    assert_eq!(batch.events[0].snapshot(), None);
}
