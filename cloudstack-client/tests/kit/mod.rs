//! What every CloudStack must do with the calls of this crate: functions that need nothing but a client. Each leaves
//! nothing behind.

use std::time::Duration;

use cloudstack_client::addresses::{self, NewAddress};
use cloudstack_client::firewall::{self, NewFirewallRule, NewPortForwardingRule};
use cloudstack_client::isos::{self, NewIso};
use cloudstack_client::load_balancers::{self, Algorithm, NewLoadBalancerRule};
use cloudstack_client::networks::{self, NewNetwork};
use cloudstack_client::snapshots::{self, NewSnapshot, SnapshotState};
use cloudstack_client::templates::{
    self, DiskSource, Format, NewTemplate, Permissions, Sharing, TemplateFromDisk, TemplateUpdate,
};
use cloudstack_client::virtual_machines::{
    self, MachineUpdate, NewVirtualMachine, VirtualMachine, VirtualMachineState,
};
use cloudstack_client::volumes::{self, NewUploadedVolume, NewVolume, VolumeKind, VolumeState};
use cloudstack_client::{
    Client, ErrorKind, Upload, WaitOptions, accounts, capabilities, hypervisors, job, offerings,
    os_types, rows, ssh_keys, start, tags, zones,
};

fn wait() -> WaitOptions {
    WaitOptions::default()
        .with_timeout(Duration::from_secs(600))
        .with_pauses(Duration::from_millis(5), Duration::from_secs(5))
}

fn name(of: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("conformance-{of}-{}", now.as_nanos() % 1_000_000_000_000)
}

fn sum(bytes: &[u8]) -> [u8; 4] {
    (!bytes.iter().map(|b| u32::from(*b)).sum::<u32>()).to_be_bytes()
}

/// An empty dynamic VHD: footer, header, table of no blocks, footer.
fn vhd(size: u64) -> Vec<u8> {
    let mut footer = [0; 512];
    footer[..8].copy_from_slice(b"conectix");
    footer[8..12].copy_from_slice(&2u32.to_be_bytes());
    footer[12..16].copy_from_slice(&0x1_0000u32.to_be_bytes());
    footer[16..24].copy_from_slice(&512u64.to_be_bytes());
    footer[28..32].copy_from_slice(b"test");
    footer[40..48].copy_from_slice(&size.to_be_bytes());
    footer[48..56].copy_from_slice(&size.to_be_bytes());
    footer[56..60].copy_from_slice(&((1024 << 16) | (8 << 8) | 16u32).to_be_bytes());
    footer[60..64].copy_from_slice(&3u32.to_be_bytes());
    footer[68..84].copy_from_slice(&[7; 16]);
    let check = sum(&footer);
    footer[64..68].copy_from_slice(&check);
    let mut header = [0; 1024];
    header[..8].copy_from_slice(b"cxsparse");
    header[8..16].copy_from_slice(&[0xff; 8]);
    header[16..24].copy_from_slice(&1536u64.to_be_bytes());
    header[24..28].copy_from_slice(&0x1_0000u32.to_be_bytes());
    let blocks = u32::try_from(size >> 21).unwrap();
    header[28..32].copy_from_slice(&blocks.to_be_bytes());
    header[32..36].copy_from_slice(&(2u32 << 20).to_be_bytes());
    let check = sum(&header);
    header[36..40].copy_from_slice(&check);
    let table = vec![0xff; (blocks as usize * 4).next_multiple_of(512)];
    [&footer[..], &header, &table, &footer].concat()
}

async fn zone(client: &Client) -> String {
    client.call_all(zones::list()).await.unwrap().remove(0).id
}

async fn os_type(client: &Client) -> String {
    let all = client.call_all(os_types::described("Other Linux (64-bit)")).await.unwrap();
    all.into_iter().next().unwrap().id
}

async fn hypervisor(client: &Client) -> String {
    let all = client.call_all(hypervisors::list()).await.unwrap();
    let xen = all.iter().find(|one| one.name == "XenServer");
    xen.unwrap_or(&all[0]).name.clone()
}

async fn template(client: &Client, password: bool) -> String {
    let (zone, hypervisor) = (zone(client).await, hypervisor(client).await);
    let new = NewTemplate::new(name("template"), hypervisor, Format::Vhd, &zone)
        .with_os_type(os_type(client).await)
        .with_password_enabled(password)
        .with_extractable(true);
    let ticket = client.call(templates::upload_params(&new)).await.unwrap();
    let id = client.upload(ticket, Upload::from_bytes(vhd(64 << 20))).await.unwrap().template_id;
    client.wait_ready(&id, &[&zone], &wait()).await.unwrap();
    id
}

async fn remove_template(client: &Client, id: &str) {
    client.run(templates::delete(id).with_new_job_id().unwrap(), &wait()).await.unwrap();
}

async fn machine(client: &Client, template: &str) -> VirtualMachine {
    let (zone, sizes) = (zone(client).await, client.call_all(offerings::services()).await.unwrap());
    let networks = client.call_all(networks::usable_in(&zone)).await.unwrap();
    let new = NewVirtualMachine::new(&zone, &sizes[0].id, template)
        .with_name(&name("machine"))
        .with_display_name("the copy")
        .with_networks(&[&networks[0].id])
        .with_user_data("#cloud-config\n");
    client.run(virtual_machines::deploy(&new).with_new_job_id().unwrap(), &wait()).await.unwrap()
}

async fn remove_machine(client: &Client, id: &str) {
    client.run(virtual_machines::destroy_for_good(id, &[]), &wait()).await.unwrap();
    let left = client.call_all(virtual_machines::get(id)).await;
    assert!(left.map_or_else(|error| error.is_not_found(), |rows| rows.is_empty()));
}

pub(crate) async fn inventory(client: &Client) {
    let capabilities = client.call(capabilities::get()).await.unwrap();
    assert!(capabilities.is_at_least(4, 5), "{capabilities:?}");
    assert!(!client.call_all(os_types::categories()).await.unwrap().is_empty());
    assert!(client.call_all(os_types::list()).await.unwrap().len() > 10);
    assert!(!client.call_all(offerings::disks()).await.unwrap().is_empty());
    assert!(!client.call_all(offerings::networks()).await.unwrap().is_empty());
    let accounts = client.call_all(accounts::list()).await.unwrap();
    assert!(!accounts[0].users.is_empty() && accounts[0].state.as_deref() == Some("enabled"));
    client.call_all(accounts::projects()).await.unwrap();
    client.call_all(job::list()).await.unwrap();
    assert!(!client.call_all(accounts::limits()).await.unwrap().is_empty());
    let apis = client.call_all(capabilities::apis()).await.unwrap();
    let deploy = apis.iter().find(|api| api.name == "deployVirtualMachine").unwrap();
    assert_eq!(deploy.is_async, Some(true));
    // What is not typed is listed the same way.
    let untyped = client.call_all(rows("listOsTypes")).await.unwrap();
    assert_eq!(untyped.len(), client.call_all(os_types::list()).await.unwrap().len());
    let refused = client.call(cloudstack_client::command("listNothingAtAll")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
}

pub(crate) async fn templates(client: &Client) {
    let id = template(client, false).await;
    let update = TemplateUpdate::new()
        .with_display_text("after the update")
        .with_password_enabled(true)
        .with_detail("keyboard", "de");
    let updated = client.call(templates::update(&id, &update)).await.unwrap();
    assert_eq!(updated.display_text.as_deref(), Some("after the update"));
    assert_eq!(
        (updated.password_enabled, updated.details["keyboard"].as_str()),
        (Some(true), "de")
    );

    let me = client.call_all(accounts::list()).await.unwrap().remove(0).name;
    client.call(templates::share(&id, Sharing::Add, &[&me])).await.unwrap();
    let shared = client.call(templates::permissions(&id)).await.unwrap();
    assert_eq!(shared.is_public, Some(false));
    client.call(templates::share(&id, Sharing::Remove, &[&me])).await.unwrap();
    assert!(client.call(templates::permissions(&id)).await.unwrap().accounts.is_empty());

    let zones = client.call_all(zones::list()).await.unwrap();
    let place = client.run(templates::extract(&id, &zones[0].id), &wait()).await.unwrap();
    assert!(place.url.starts_with("http"));
    if let [from, to, ..] = zones.as_slice() {
        client.run(templates::copy(&id, &from.id, &[&to.id]), &wait()).await.unwrap();
        let both = client.wait_ready(&id, &[&from.id, &to.id], &wait()).await.unwrap();
        assert_eq!(both.zones.len(), 2);
    }
    client.run(tags::create("Template", &[&id], [("run", "7")]), &wait()).await.unwrap();
    assert_eq!(client.call_all(tags::of("Template", &id)).await.unwrap()[0].key, "run");
    client.run(tags::delete("Template", &[&id], &["run"]), &wait()).await.unwrap();
    assert!(client.call_all(tags::of("Template", &id)).await.unwrap().is_empty());
    remove_template(client, &id).await;
}

pub(crate) async fn machines(client: &Client) {
    let template = template(client, true).await;
    let deployed = machine(client, &template).await;
    assert!(deployed.is_running(), "{deployed:?}");
    assert_eq!(deployed.display_name.as_deref(), Some("the copy"));
    assert!(deployed.password.is_some() && deployed.address().is_some());
    assert_eq!(deployed.template.as_deref(), Some(template.as_str()));
    let id = deployed.id.as_str();
    // The password is told once.
    let listed = client.call_all(virtual_machines::get(id)).await.unwrap().remove(0);
    assert_eq!((listed.password, &listed.nics), (None, &deployed.nics));
    assert_eq!(client.call_all(virtual_machines::named(&deployed.name)).await.unwrap().len(), 1);

    // A running machine keeps what only a stopped one can change.
    let refused = client.run(virtual_machines::reset_password(id), &wait()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    client.run(virtual_machines::reboot(id), &wait()).await.unwrap();
    let stopped = client.run(virtual_machines::stop(id), &wait()).await.unwrap();
    assert!(stopped.is_stopped());
    let reset = client.run(virtual_machines::reset_password(id), &wait()).await.unwrap();
    assert!(reset.password.is_some());
    let renamed = MachineUpdate::new().with_display_name("renamed").with_ha_enabled(true);
    let renamed = client.call(virtual_machines::update(id, &renamed)).await.unwrap();
    assert_eq!(renamed.display_name.as_deref(), Some("renamed"));
    let sizes = client.call_all(offerings::services()).await.unwrap();
    client.run(virtual_machines::scale(id, &sizes[1].id), &wait()).await.unwrap();
    let started = client.run(virtual_machines::start(id), &wait()).await.unwrap();
    assert_eq!(started.state, Some(VirtualMachineState::Running));
    assert_eq!(started.service_offering.as_deref(), Some(sizes[1].id.as_str()));
    client.run(virtual_machines::stop_by_force(id), &wait()).await.unwrap();

    client.run(virtual_machines::destroy(id), &wait()).await.unwrap();
    assert!(client.call(virtual_machines::recover(id)).await.unwrap().is_stopped());
    remove_machine(client, id).await;
    // By its own name, without a function for it.
    let gone = client.run(start("startVirtualMachine").with("id", id), &wait()).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
    remove_template(client, &template).await;
}

pub(crate) async fn volumes(client: &Client) {
    let (zone, template) = (zone(client).await, template(client, false).await);
    let machine = machine(client, &template).await.id;
    let new = NewUploadedVolume::new(name("data"), Format::Vhd, &zone);
    let ticket = client.call(volumes::upload_params(&new)).await.unwrap();
    let id = ticket.id().to_owned();
    let waiting = client.call_all(volumes::get(&id)).await.unwrap().remove(0);
    assert_eq!(waiting.state, Some(VolumeState::NotUploaded));
    client.upload(ticket, Upload::from_bytes(vhd(32 << 20))).await.unwrap();
    let uploaded = client.wait_volume(&id, &wait()).await.unwrap();
    assert_eq!((uploaded.state, uploaded.size), (Some(VolumeState::Uploaded), Some(32 << 20)));

    let attached = client.run(volumes::attach(&id, &machine), &wait()).await.unwrap();
    assert_eq!(attached.machine.as_deref(), Some(machine.as_str()));
    let disks = client.call_all(volumes::of_machine(&machine)).await.unwrap();
    assert_eq!(disks.len(), 2);
    assert!(disks.iter().any(|disk| disk.kind == Some(VolumeKind::Root) && disk.device == Some(0)));
    let busy = client.call(volumes::delete(&id)).await.unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Invalid, "{busy}");
    client.run(volumes::detach(&id), &wait()).await.unwrap();
    client.run(volumes::attach_at(&id, &machine, 5), &wait()).await.unwrap();
    client.run(volumes::detach(&id), &wait()).await.unwrap();
    let place = client.run(volumes::extract(&id, &zone), &wait()).await.unwrap();
    assert!(place.url.starts_with("http"));
    client.call(volumes::delete(&id)).await.unwrap();

    let sizes = client.call_all(offerings::disks()).await.unwrap();
    let custom = sizes.iter().find(|size| size.is_customized == Some(true)).unwrap();
    let new = NewVolume::new(&name("empty"), &zone).with_disk_offering(&custom.id).with_size_gib(1);
    let empty = client.run(volumes::create(&new), &wait()).await.unwrap();
    client.run(volumes::attach(&empty.id, &machine), &wait()).await.unwrap();
    let larger = client.run(volumes::resize(&empty.id, 2), &wait()).await.unwrap();
    assert_eq!(larger.size, Some(2 << 30));
    client.run(volumes::detach(&empty.id), &wait()).await.unwrap();
    client.call(volumes::delete(&empty.id)).await.unwrap();
    remove_machine(client, &machine).await;
    remove_template(client, &template).await;
}

pub(crate) async fn templates_of_disks(client: &Client) {
    let (zone, source) = (zone(client).await, template(client, false).await);
    let machine = machine(client, &source).await.id;
    let root = client.call_all(volumes::root_of(&machine)).await.unwrap().remove(0);
    let os = os_type(client).await;
    let of =
        |source| TemplateFromDisk::new(&name("golden"), &os, source).with_password_enabled(true);

    // Of a running machine the disk is not given, a snapshot of it is.
    let running = templates::create(&of(DiskSource::Volume(&root.id)));
    let refused = client.run(running, &wait()).await.unwrap_err();
    assert!(refused.to_string().contains("stop"), "{refused}");
    let snapshot =
        client.run(snapshots::create(&NewSnapshot::of(&root.id)), &wait()).await.unwrap();
    assert_eq!(snapshot.state, Some(SnapshotState::BackedUp));
    assert_eq!(client.call_all(snapshots::of_volume(&root.id)).await.unwrap().len(), 1);
    client.run(virtual_machines::stop(&machine), &wait()).await.unwrap();
    for source in [DiskSource::Volume(&root.id), DiskSource::Snapshot(&snapshot.id)] {
        let create = templates::create(&of(source)).with_new_job_id().unwrap();
        let made = client.run(create, &wait()).await.unwrap();
        let ready = client.wait_ready(&made.id, &[&zone], &wait()).await.unwrap();
        assert_eq!((ready.password_enabled, ready.size), (Some(true), root.size));
        remove_template(client, &made.id).await;
    }
    client.run(snapshots::revert(&snapshot.id), &wait()).await.unwrap();
    client.run(snapshots::delete(&snapshot.id), &wait()).await.unwrap();
    let whole =
        client.run(snapshots::create_of_machine(&machine, "before"), &wait()).await.unwrap();
    assert_eq!(client.call_all(snapshots::of_machine(&machine)).await.unwrap()[0].id, whole.id);
    client.run(snapshots::delete_of_machine(&whole.id), &wait()).await.unwrap();
    remove_machine(client, &machine).await;
    remove_template(client, &source).await;
}

pub(crate) async fn load_balancers(client: &Client) {
    let template = template(client, false).await;
    let (old, new) = (machine(client, &template).await, machine(client, &template).await);
    let network = old.nics[0].network.clone().unwrap();
    let address = NewAddress::for_network(&network);
    let address = client.run(addresses::associate(&address), &wait()).await.unwrap();
    let rule = NewLoadBalancerRule::new(&name("web"), &Algorithm::RoundRobin, 80, 8080)
        .with_address(&address.id)
        .with_protocol("tcp");
    let made = client.run(load_balancers::create(&rule), &wait()).await.unwrap();
    assert_eq!((made.public_port, made.algorithm), (Some(80), Some(Algorithm::RoundRobin)));
    let twice = client.run(load_balancers::create(&rule), &wait()).await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Conflict, "{twice}");

    // The copy comes, the old machine goes, and the rule is never empty.
    client.run(load_balancers::assign(&made.id, &[&old.id]), &wait()).await.unwrap();
    client.run(load_balancers::assign(&made.id, &[&new.id]), &wait()).await.unwrap();
    assert_eq!(client.call_all(load_balancers::members(&made.id)).await.unwrap().len(), 2);
    client.run(load_balancers::remove(&made.id, &[&old.id]), &wait()).await.unwrap();
    let left = client.call_all(load_balancers::members(&made.id)).await.unwrap();
    assert_eq!(left.iter().map(|one| &one.id).collect::<Vec<_>>(), [&new.id]);
    let least = load_balancers::set_algorithm(&made.id, &Algorithm::LeastConnections);
    assert_eq!(
        client.run(least, &wait()).await.unwrap().algorithm,
        Some(Algorithm::LeastConnections)
    );
    assert_eq!(client.call_all(load_balancers::get(&made.id)).await.unwrap()[0].id, made.id);

    client.run(load_balancers::delete(&made.id), &wait()).await.unwrap();
    client.run(addresses::release(&address.id), &wait()).await.unwrap();
    remove_machine(client, &old.id).await;
    remove_machine(client, &new.id).await;
    remove_template(client, &template).await;
}

pub(crate) async fn rules(client: &Client) {
    let template = template(client, false).await;
    let machine = machine(client, &template).await;
    let network = machine.nics[0].network.clone().unwrap();
    let address = NewAddress::for_network(&network);
    let address = client.run(addresses::associate(&address), &wait()).await.unwrap();
    let open = NewFirewallRule::new("tcp").with_ports(22, 22).with_cidrs("198.51.100.0/24");
    let inward = client.run(firewall::create(&address.id, &open), &wait()).await.unwrap();
    assert_eq!((inward.start_port, inward.cidrs.len()), (Some(22), 1));
    assert_eq!(client.call_all(firewall::of_address(&address.id)).await.unwrap().len(), 1);
    let outward = client.run(firewall::create_outward(&network, &open), &wait()).await.unwrap();
    assert!(
        client
            .call_all(firewall::outward(&network))
            .await
            .unwrap()
            .iter()
            .any(|r| r.id == outward.id)
    );
    let forward = NewPortForwardingRule::new(&address.id, 2222, &machine.id, 22, "tcp");
    let forward = client.run(firewall::forward(&forward), &wait()).await.unwrap();
    assert_eq!((forward.public_port, forward.private_port), (Some(2222), Some(22)));
    assert_eq!(client.call_all(firewall::forwarded()).await.unwrap()[0].id, forward.id);
    client.run(firewall::delete_forwarded(&forward.id), &wait()).await.unwrap();
    client.run(firewall::delete_outward(&outward.id), &wait()).await.unwrap();
    client.run(firewall::delete(&inward.id), &wait()).await.unwrap();

    client.call(addresses::enable_static_nat(&address.id, &machine.id)).await.unwrap();
    let led = client.call_all(addresses::get(&address.id)).await.unwrap().remove(0);
    assert_eq!((led.is_static_nat, led.machine), (Some(true), Some(machine.id.clone())));
    client.run(addresses::disable_static_nat(&address.id), &wait()).await.unwrap();
    client.run(addresses::release(&address.id), &wait()).await.unwrap();
    let source = client.call_all(addresses::of_network(&network)).await.unwrap();
    let source = source.iter().find(|one| one.is_source_nat == Some(true)).unwrap();
    client.run(addresses::release(&source.id), &wait()).await.unwrap_err();
    remove_machine(client, &machine.id).await;
    remove_template(client, &template).await;
}

pub(crate) async fn isos(client: &Client) {
    let (zone, template) = (zone(client).await, template(client, false).await);
    let machine = machine(client, &template).await.id;
    // A volume descriptor where file systems of this kind have it.
    let mut data = vec![0; 64 << 10];
    data[0x8000..0x8006].copy_from_slice(b"\x01CD001");
    let new = NewIso::new(&name("iso"), &zone).with_bootable(false).with_extractable(true);
    let ticket = client.call(isos::upload_params(&new)).await.unwrap();
    let id = client.upload(ticket, Upload::from_bytes(data)).await.unwrap().template_id;
    let ready = client.wait_iso(&id, &[&zone], &wait()).await.unwrap();
    assert_eq!((ready.is_bootable, ready.size), (Some(false), Some(64 << 10)));
    let with = client.run(isos::attach(&id, &machine), &wait()).await.unwrap();
    assert_eq!(with.iso.as_deref(), Some(id.as_str()));
    assert_eq!(client.run(isos::detach(&machine), &wait()).await.unwrap().iso, None);
    client.call(isos::set_permissions(&id, &Permissions::new().with_public(false))).await.unwrap();
    assert!(client.run(isos::extract(&id, &zone), &wait()).await.unwrap().url.ends_with(".iso"));
    client.run(isos::delete(&id), &wait()).await.unwrap();
    remove_machine(client, &machine).await;
    remove_template(client, &template).await;
}

pub(crate) async fn networks_and_keys(client: &Client) {
    let (zone, kinds) = (zone(client).await, client.call_all(offerings::networks()).await.unwrap());
    let isolated =
        kinds.iter().find(|kind| kind.guest_kind.as_deref() == Some("Isolated")).unwrap();
    let new = NewNetwork::new(&name("net"), &isolated.id, &zone).with_display_text("for a test");
    let network = client.call(networks::create(&new)).await.unwrap();
    assert_eq!(network.display_text.as_deref(), Some("for a test"));
    assert_eq!(client.call_all(networks::get(&network.id)).await.unwrap()[0].name, network.name);
    client.run(networks::restart(&network.id, false), &wait()).await.unwrap();
    client.run(networks::delete(&network.id), &wait()).await.unwrap();

    let key = name("key");
    let made = client.call(ssh_keys::create(&key)).await.unwrap();
    assert!(made.private_key.unwrap().reveal().contains("PRIVATE KEY"));
    let twice = client.call(ssh_keys::create(&key)).await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Invalid);
    assert!(client.call_all(ssh_keys::list()).await.unwrap().iter().any(|one| one.name == key));
    client.call(ssh_keys::delete(&key)).await.unwrap();
    let other = name("other");
    let public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ0cnVzdG5vYm9keWJ0cnVzdG5vYm9keWJ0cnVz me";
    client.call(ssh_keys::register(&other, public)).await.unwrap();
    client.call(ssh_keys::delete(&other)).await.unwrap();
}
