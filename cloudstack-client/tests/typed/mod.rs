//! One call of every function that makes one, with everything that it can be given.

use cloudstack_client::accounts::{self, Account, Project, ResourceLimit};
use cloudstack_client::addresses::{self, NewAddress, PublicAddress};
use cloudstack_client::capabilities::{self, Api, Configuration};
use cloudstack_client::firewall::{
    self, FirewallRule, NewFirewallRule, NewPortForwardingRule, PortForwardingRule,
};
use cloudstack_client::hypervisors::{self, Hypervisor};
use cloudstack_client::isos::{self, Iso, NewIso};
use cloudstack_client::job::{self, Job, JobRecord};
use cloudstack_client::load_balancers::{
    self, Algorithm, LoadBalancerRule, Member, NewLoadBalancerRule,
};
use cloudstack_client::networks::{self, Network, NewNetwork};
use cloudstack_client::offerings::{self, DiskOffering, NetworkOffering, ServiceOffering};
use cloudstack_client::os_types::{self, GuestOsMapping, OsCategory, OsType};
use cloudstack_client::snapshots::{self, NewSnapshot, Snapshot, VmSnapshot};
use cloudstack_client::ssh_keys::{self, KeyPair};
use cloudstack_client::tags::{self, Tag};
use cloudstack_client::templates::{
    self, Checksum, DiskSource, Format, NewTemplate, Permissions, Sharing, Template,
    TemplateFilter, TemplateFromDisk, TemplatePermissions, TemplateUpdate, Zones,
};
use cloudstack_client::virtual_machines::{
    self, BootMode, MachineUpdate, NewVirtualMachine, Nic, VirtualMachine,
};
use cloudstack_client::volumes::{self, Extracted, NewUploadedVolume, NewVolume, Volume};
use cloudstack_client::zones::{self, Zone};
use cloudstack_client::{Call, List, Record};

/// What a call says of itself.
pub(crate) struct Sample {
    pub(crate) command: String,
    pub(crate) parameters: Vec<String>,
    pub(crate) reads: bool,
    pub(crate) starts_job: bool,
}

trait Kind {
    const JOB: bool = false;
}

impl<T> Kind for Job<T> {
    const JOB: bool = true;
}

impl<R> Kind for List<R> {}
impl Kind for () {}
impl Kind for templates::UploadTicket {}
impl Kind for capabilities::Capabilities {}
impl Kind for job::JobState {}
impl Kind for Template {}
impl Kind for TemplatePermissions {}
impl Kind for Iso {}
impl Kind for VirtualMachine {}
impl Kind for Network {}
impl Kind for KeyPair {}

fn sample<T: Kind>(call: &Call<T>) -> Sample {
    Sample {
        command: call.command().to_owned(),
        parameters: call.parameters().iter().map(|(name, _)| name.clone()).collect(),
        reads: call.is_read(),
        starts_job: T::JOB,
    }
}

macro_rules! samples {
    ($($call:expr),* $(,)?) => { vec![$(sample(&$call)),*] };
}

fn template() -> NewTemplate {
    NewTemplate::new("n", "XenServer", Format::Vhd, "z")
        .with_hvm(true)
        .with_password_enabled(true)
        .with_ssh_key_enabled(true)
        .with_dynamically_scalable(true)
        .with_public(true)
        .with_featured(true)
        .with_extractable(true)
        .with_display_text("t")
        .with_os_type("o")
        .with_bits(64)
        .with_checksum(Checksum::sha256("ab".repeat(32)))
        .with_detail("a", "b")
        .with_arch("x86_64")
        .with_template_tag("t")
        .with_project("p")
        .with_account("a", "d")
}

fn machine() -> NewVirtualMachine {
    NewVirtualMachine::new("z", "s", "t")
        .with_name("n")
        .with_display_name("n")
        .with_key_pair("k")
        .with_password("p")
        .with_root_disk_gib(1)
        .with_disk_offering("d")
        .with_hypervisor("KVM")
        .with_start(false)
        .with_host("h")
        .with_group("g")
        .with_project("p")
        .with_keyboard("de")
        .with_networks(&["n"])
        .with_address("n", "10.0.0.1")
        .with_user_data("x")
        .with_uefi(BootMode::Secure)
        .with_detail("a", "b")
        .with_account("a", "d")
}

pub(crate) fn calls() -> Vec<Sample> {
    let mut all = of_images();
    all.extend(of_machines());
    all.extend(of_networks());
    all.extend(of_the_cloud());
    all
}

fn of_images() -> Vec<Sample> {
    let permissions =
        Permissions::new().with_public(true).with_featured(true).with_extractable(true);
    let update = TemplateUpdate::new()
        .with_name("n")
        .with_display_text("t")
        .with_os_type("o")
        .with_hvm(true)
        .with_password_enabled(true)
        .with_ssh_key_enabled(true)
        .with_dynamically_scalable(true)
        .with_arch("x86_64")
        .with_sort_key(1)
        .with_details_dropped(true)
        .with_detail("a", "b");
    let from_disk = |source| {
        TemplateFromDisk::new("n", "o", source)
            .with_display_text("t")
            .with_bits(64)
            .with_hvm(true)
            .with_password_enabled(true)
            .with_ssh_key_enabled(true)
            .with_dynamically_scalable(true)
            .with_public(true)
            .with_featured(true)
            .with_arch("x86_64")
            .with_project("p")
            .with_detail("a", "b")
    };
    let iso = NewIso::new("n", "z")
        .with_display_text("t")
        .with_os_type("o")
        .with_bootable(true)
        .with_public(true)
        .with_featured(true)
        .with_extractable(true)
        .with_arch("x86_64")
        .with_project("p")
        .with_checksum(&Checksum::md5("ab".repeat(16)));
    let volume = NewVolume::new("n", "z")
        .with_disk_offering("d")
        .with_size_gib(1)
        .with_snapshot("s")
        .with_machine("m")
        .with_project("p");
    let data = NewUploadedVolume::new("n", Format::Vhd, "z")
        .with_checksum(Checksum::sha1("ab".repeat(20)))
        .with_disk_offering("d")
        .with_image_store("i")
        .with_project("p")
        .with_account("a", "d");
    samples![
        templates::list(TemplateFilter::All),
        templates::named("n"),
        templates::list_tagged([("a", "b")]),
        templates::get("t"),
        templates::register(&template(), "http://h/a.vhd"),
        templates::register(&template().with_zones(Zones::All), "http://h/a.vhd"),
        templates::upload_params(&template()),
        templates::set_permissions("t", &permissions),
        templates::share("t", Sharing::Add, &["a"]),
        templates::permissions("t"),
        templates::update("t", &update),
        templates::copy("t", "z1", &["z2"]),
        templates::extract("t", "z"),
        templates::create(&from_disk(DiskSource::Volume("v"))),
        templates::create(&from_disk(DiskSource::Snapshot("s"))),
        templates::delete("t").with_job_id("j"),
        templates::delete_in("t", "z"),
        isos::list(TemplateFilter::Featured),
        isos::get("i"),
        isos::register(&iso, "http://h/a.iso"),
        isos::upload_params(&iso),
        isos::attach("i", "m"),
        isos::detach("m"),
        isos::copy("i", "z1", &["z2"]),
        isos::extract("i", "z"),
        isos::set_permissions("i", &permissions),
        isos::delete("i"),
        isos::delete_in("i", "z"),
        volumes::list(),
        volumes::get("v"),
        volumes::of_machine("m"),
        volumes::root_of("m"),
        volumes::create(&volume),
        volumes::register(&data, "http://h/a.vhd"),
        volumes::upload_params(&data),
        volumes::attach("v", "m"),
        volumes::attach_at("v", "m", 1),
        volumes::detach("v"),
        volumes::delete("v"),
        volumes::resize("v", 2),
        volumes::migrate("v", "s"),
        volumes::extract("v", "z"),
    ]
}

fn of_machines() -> Vec<Sample> {
    let update = MachineUpdate::new()
        .with_display_name("n")
        .with_name("n")
        .with_os_type("o")
        .with_ha_enabled(true)
        .with_dynamically_scalable(true)
        .with_detail("a", "b");
    let snapshot = NewSnapshot::of("v").with_name("n").with_quiesce(true).with_async_backup(true);
    samples![
        virtual_machines::list(),
        virtual_machines::list_short(),
        virtual_machines::list().of_all_accounts(),
        virtual_machines::list().of_project("-1"),
        virtual_machines::get("m"),
        virtual_machines::named("n"),
        virtual_machines::deploy(&machine()),
        virtual_machines::start("m"),
        virtual_machines::stop("m"),
        virtual_machines::stop_by_force("m"),
        virtual_machines::reboot("m"),
        virtual_machines::destroy("m"),
        virtual_machines::destroy_for_good("m", &["v"]),
        virtual_machines::expunge("m"),
        virtual_machines::recover("m"),
        virtual_machines::update("m", &update),
        virtual_machines::scale("m", "s"),
        virtual_machines::reset_password("m"),
        virtual_machines::reset_ssh_key("m", "k"),
        snapshots::list(),
        snapshots::of_volume("v"),
        snapshots::get("s"),
        snapshots::create(&snapshot),
        snapshots::delete("s"),
        snapshots::revert("s"),
        snapshots::of_machine("m"),
        snapshots::create_of_machine("m", "n"),
        snapshots::delete_of_machine("s"),
        ssh_keys::list(),
        ssh_keys::register("n", "ssh-ed25519 AAAA"),
        ssh_keys::create("n"),
        ssh_keys::delete("n"),
    ]
}

fn of_networks() -> Vec<Sample> {
    let network = NewNetwork::new("n", "o", "z")
        .with_display_text("t")
        .with_gateway("10.1.1.1")
        .with_netmask("255.255.255.0")
        .with_start_address("10.1.1.2")
        .with_end_address("10.1.1.9")
        .with_vlan("7")
        .with_domain_name("x.example")
        .with_vpc("v")
        .with_project("p");
    let rule = NewLoadBalancerRule::new("n", &Algorithm::Source, 80, 8080)
        .with_address("a")
        .with_network("n")
        .with_protocol("tcp")
        .with_cidrs("::/0")
        .with_open_firewall(true)
        .with_description("t");
    let open = NewFirewallRule::new("icmp")
        .with_cidrs("::/0")
        .with_icmp_type(-1)
        .with_icmp_code(-1)
        .with_ports(1, 2);
    let forward = NewPortForwardingRule::new("a", 80, "m", 8080, "tcp")
        .with_cidrs("::/0")
        .with_open_firewall(true)
        .with_machine_address("10.0.0.1")
        .with_network("n")
        .with_end_ports(81, 8081);
    samples![
        networks::list(),
        networks::usable_in("z"),
        networks::get("n"),
        networks::create(&network),
        networks::restart("n", true),
        networks::delete("n"),
        load_balancers::list(),
        load_balancers::get("r"),
        load_balancers::create(&rule),
        load_balancers::set_algorithm("r", &Algorithm::RoundRobin),
        load_balancers::delete("r"),
        load_balancers::assign("r", &["m"]),
        load_balancers::assign_addresses("r", &[("m", "10.0.0.1")]),
        load_balancers::remove("r", &["m"]),
        load_balancers::members("r"),
        addresses::list(),
        addresses::of_network("n"),
        addresses::get("a"),
        addresses::associate(
            &NewAddress::for_network("n").with_address("192.0.2.1").with_project("p")
        ),
        addresses::associate(&NewAddress::for_vpc("v")),
        addresses::associate(&NewAddress::in_zone("z")),
        addresses::release("a"),
        addresses::enable_static_nat("a", "m"),
        addresses::disable_static_nat("a"),
        firewall::list(),
        firewall::of_address("a"),
        firewall::create("a", &open),
        firewall::delete("r"),
        firewall::outward("n"),
        firewall::create_outward("n", &open),
        firewall::delete_outward("r"),
        firewall::forwarded(),
        firewall::forward(&forward),
        firewall::delete_forwarded("r"),
    ]
}

fn of_the_cloud() -> Vec<Sample> {
    samples![
        zones::list(),
        hypervisors::list(),
        hypervisors::in_zone("z"),
        os_types::list(),
        os_types::described("d"),
        os_types::categories(),
        os_types::mappings("XenServer"),
        offerings::services(),
        offerings::disks(),
        offerings::networks(),
        tags::create("Template", &["t"], [("a", "b")]),
        tags::delete("Template", &["t"], &["a"]),
        tags::of("Template", "t"),
        job::list(),
        job::query("j"),
        capabilities::get(),
        capabilities::apis(),
        capabilities::configuration("n"),
        accounts::list(),
        accounts::projects(),
        accounts::limits(),
    ]
}

/// Records, and a command that answers with them.
pub(crate) fn records() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        ("listTemplates", Template::FIELDS),
        ("registerTemplate", Template::FIELDS),
        ("createTemplate", Template::FIELDS),
        ("copyTemplate", Template::FIELDS),
        ("listTemplatePermissions", TemplatePermissions::FIELDS),
        ("extractTemplate", Extracted::FIELDS),
        ("extractVolume", Extracted::FIELDS),
        ("extractIso", Extracted::FIELDS),
        ("listIsos", Iso::FIELDS),
        ("listVolumes", Volume::FIELDS),
        ("attachVolume", Volume::FIELDS),
        ("listVirtualMachines", VirtualMachine::FIELDS),
        ("deployVirtualMachine", VirtualMachine::FIELDS),
        ("listNics", Nic::FIELDS),
        ("listSnapshots", Snapshot::FIELDS),
        ("listVMSnapshot", VmSnapshot::FIELDS),
        ("listSSHKeyPairs", &KeyPair::FIELDS[..3]),
        ("createSSHKeyPair", &KeyPair::FIELDS[3..]),
        ("listNetworks", Network::FIELDS),
        ("createNetwork", Network::FIELDS),
        ("listLoadBalancerRules", LoadBalancerRule::FIELDS),
        ("listLoadBalancerRuleInstances", Member::FIELDS),
        ("listPublicIpAddresses", PublicAddress::FIELDS),
        ("listFirewallRules", FirewallRule::FIELDS),
        ("listPortForwardingRules", PortForwardingRule::FIELDS),
        ("listZones", Zone::FIELDS),
        ("listHypervisors", Hypervisor::FIELDS),
        ("listOsTypes", OsType::FIELDS),
        ("listOsCategories", OsCategory::FIELDS),
        ("listGuestOsMapping", GuestOsMapping::FIELDS),
        ("listServiceOfferings", ServiceOffering::FIELDS),
        ("listDiskOfferings", DiskOffering::FIELDS),
        ("listNetworkOfferings", NetworkOffering::FIELDS),
        ("listTags", Tag::FIELDS),
        ("listAsyncJobs", JobRecord::FIELDS),
        ("queryAsyncJobResult", JobRecord::FIELDS),
        ("listApis", Api::FIELDS),
        ("listConfigurations", Configuration::FIELDS),
        ("listAccounts", Account::FIELDS),
        ("listProjects", Project::FIELDS),
        ("listResourceLimits", ResourceLimit::FIELDS),
    ]
}

/// Lists, and the key that their records are looked for under.
pub(crate) fn lists() -> Vec<(&'static str, &'static str)> {
    vec![
        ("listTemplates", Template::ARRAY),
        ("listIsos", Iso::ARRAY),
        ("listVolumes", Volume::ARRAY),
        ("listVirtualMachines", VirtualMachine::ARRAY),
        ("listSnapshots", Snapshot::ARRAY),
        ("listVMSnapshot", VmSnapshot::ARRAY),
        ("listSSHKeyPairs", KeyPair::ARRAY),
        ("listNetworks", Network::ARRAY),
        ("listLoadBalancerRules", LoadBalancerRule::ARRAY),
        ("listLoadBalancerRuleInstances", Member::ARRAY),
        ("listPublicIpAddresses", PublicAddress::ARRAY),
        ("listFirewallRules", FirewallRule::ARRAY),
        ("listEgressFirewallRules", FirewallRule::ARRAY),
        ("listPortForwardingRules", PortForwardingRule::ARRAY),
        ("listZones", Zone::ARRAY),
        ("listHypervisors", Hypervisor::ARRAY),
        ("listOsTypes", OsType::ARRAY),
        ("listOsCategories", OsCategory::ARRAY),
        ("listGuestOsMapping", GuestOsMapping::ARRAY),
        ("listServiceOfferings", ServiceOffering::ARRAY),
        ("listDiskOfferings", DiskOffering::ARRAY),
        ("listNetworkOfferings", NetworkOffering::ARRAY),
        ("listTags", Tag::ARRAY),
        ("listAsyncJobs", JobRecord::ARRAY),
        ("listApis", Api::ARRAY),
        ("listConfigurations", Configuration::ARRAY),
        ("listAccounts", Account::ARRAY),
        ("listProjects", Project::ARRAY),
        ("listResourceLimits", ResourceLimit::ARRAY),
    ]
}

/// Reads a record, and shows what was read.
pub(crate) type Reader = fn(&serde_json::Value) -> Option<String>;

fn reader<R: Record + std::fmt::Debug>(value: &serde_json::Value) -> Option<String> {
    R::read(value).map(|record| format!("{record:?}"))
}

/// A command, and the reader of the records that it answers with.
pub(crate) fn readers() -> Vec<(&'static str, Reader)> {
    vec![
        ("listTemplates", reader::<Template>),
        ("listTemplatePermissions", reader::<TemplatePermissions>),
        ("extractTemplate", reader::<Extracted>),
        ("listIsos", reader::<Iso>),
        ("listVolumes", reader::<Volume>),
        ("listVirtualMachines", reader::<VirtualMachine>),
        ("listNics", reader::<Nic>),
        ("listSnapshots", reader::<Snapshot>),
        ("listVMSnapshot", reader::<VmSnapshot>),
        ("listSSHKeyPairs", reader::<KeyPair>),
        ("createSSHKeyPair", reader::<KeyPair>),
        ("listNetworks", reader::<Network>),
        ("listLoadBalancerRules", reader::<LoadBalancerRule>),
        ("listLoadBalancerRuleInstances", reader::<Member>),
        ("listPublicIpAddresses", reader::<PublicAddress>),
        ("listFirewallRules", reader::<FirewallRule>),
        ("listPortForwardingRules", reader::<PortForwardingRule>),
        ("listZones", reader::<Zone>),
        ("listHypervisors", reader::<Hypervisor>),
        ("listOsTypes", reader::<OsType>),
        ("listOsCategories", reader::<OsCategory>),
        ("listGuestOsMapping", reader::<GuestOsMapping>),
        ("listServiceOfferings", reader::<ServiceOffering>),
        ("listDiskOfferings", reader::<DiskOffering>),
        ("listNetworkOfferings", reader::<NetworkOffering>),
        ("listTags", reader::<Tag>),
        ("listAsyncJobs", reader::<JobRecord>),
        ("queryAsyncJobResult", reader::<JobRecord>),
        ("listApis", reader::<Api>),
        ("listConfigurations", reader::<Configuration>),
        ("listAccounts", reader::<Account>),
        ("listProjects", reader::<Project>),
        ("listResourceLimits", reader::<ResourceLimit>),
    ]
}
