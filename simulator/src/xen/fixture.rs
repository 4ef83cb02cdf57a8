//! What the pool holds when it starts.

use std::io;
use std::path::Path;

use super::chain::Chain;
use super::console;
use super::disk::{self, Opened};
use super::pool::{HostFacts, State};
use super::value::{NULL, Record, Value, map, set, text};
use super::vm;

const MIB: u64 = 1024 * 1024;
const GIB: i64 = 1024 * 1024 * 1024;

/// A VM to make: its name and its disks.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) disks: Vec<Opened>,
}

/// The VM of the fixture pool, with two disks; writes their files into `folder`.
pub(crate) fn web01(folder: &Path) -> io::Result<Guest> {
    let mut disks = Vec::new();
    for (name, seed, size) in [("root", 1, 64 * MIB), ("data", 2, 24 * MIB)] {
        let tip = Chain::fixture(seed, size).write(folder, name)?;
        disks.push(disk::open(&tip)?);
    }
    Ok(Guest { name: "web01".to_owned(), disks })
}

fn record<const N: usize>(fields: [(&str, Value); N]) -> Record {
    fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

/// The references that guests need.
struct Place {
    host: String,
    sr: String,
    network: String,
}

/// Fills an empty pool. With `pv` its guests have no hardware emulation.
pub(crate) fn fill(state: &mut State, hosts: &[HostFacts], guests: Vec<Guest>, pv: bool) {
    for facts in hosts {
        let host = add_host(state, facts);
        state.hosts.push(host);
        let scheme = if facts.certificate.is_some() { "https" } else { "http" };
        state.urls.push(format!("{scheme}://127.0.0.1:{}", facts.port));
    }
    let master = state.hosts.first().cloned().unwrap_or_default();
    let sr = add_storage(state);
    let network = add_networks(state);
    add_pool(state, &master, &sr);
    let place = Place { host: master, sr, network };
    add_control_domains(state);
    add_template(state);
    for (number, guest) in guests.into_iter().enumerate() {
        add_guest(state, &place, number, guest, pv);
    }
    let used: i64 = state
        .db
        .iter("VDI")
        .filter_map(|(_, r)| r.get("virtual_size").and_then(Value::as_int))
        .sum();
    for field in ["virtual_allocation", "physical_utilisation"] {
        let _ = state.db.set("SR", &place.sr, field, Value::Int(used));
    }
}

fn add_host(state: &mut State, facts: &HostFacts) -> String {
    let metrics = state.db.insert(
        "host_metrics",
        record([
            ("live", true.into()),
            ("memory_total", Value::Int(64 * GIB)),
            ("memory_free", Value::Int(48 * GIB)),
        ]),
    );
    let software = map([
        ("product_brand", "XenServer"),
        ("product_version", "8.4.0"),
        ("product_version_text", "8"),
        ("platform_name", "XCP"),
        ("platform_version", "3.4.0"),
        ("xapi", "25.27"),
        ("xapi_build", "25.27.0"),
        ("xen", "4.17.5-6"),
        ("linux", "4.19.0+1"),
        ("hostname", "localhost"),
        ("dbv", "0.0.1"),
    ]);
    let cpus = map([
        ("cpu_count", "8"),
        ("socket_count", "1"),
        ("vendor", "AuthenticAMD"),
        ("modelname", "A processor of the simulator"),
    ]);
    let licence = map([
        ("sku_type", "premium-per-socket"),
        ("restrict_vtpm", "false"),
        ("restrict_snapshot", "false"),
    ]);
    state.db.insert(
        "host",
        record([
            ("name_label", facts.name.as_str().into()),
            ("hostname", facts.name.as_str().into()),
            ("address", "127.0.0.1".into()),
            ("enabled", true.into()),
            ("edition", "premium-per-socket".into()),
            ("API_version_major", Value::Int(2)),
            ("API_version_minor", Value::Int(21)),
            ("API_version_vendor", "XenSource".into()),
            ("capabilities", set(["xen-3.0-x86_64", "hvm-3.0-x86_64"])),
            ("allowed_operations", set(["provision", "evacuate", "vm_start", "vm_migrate"])),
            ("software_version", software),
            ("cpu_info", cpus),
            ("license_params", licence),
            ("metrics", metrics.into()),
            ("sched_policy", "credit".into()),
            ("ssl_legacy", false.into()),
            ("tls_verification_enabled", facts.certificate.is_some().into()),
        ]),
    )
}

fn add_pool(state: &mut State, master: &str, sr: &str) {
    state.db.insert(
        "pool",
        record([
            ("name_label", "simulated pool".into()),
            ("master", master.into()),
            ("default_SR", sr.into()),
            ("suspend_image_SR", sr.into()),
            ("crash_dump_SR", sr.into()),
        ]),
    );
}

/// One repository of VHD files that every host has plugged.
fn add_storage(state: &mut State) -> String {
    state.db.insert(
        "SM",
        record([
            ("name_label", "NFS VHD".into()),
            ("type", "nfs".into()),
            ("capabilities", set(["SR_PROBE", "VDI_CREATE", "VDI_SNAPSHOT", "VDI_CLONE"])),
        ]),
    );
    let hosts = state.hosts.clone();
    let sr = state.db.insert(
        "SR",
        record([
            ("name_label", "NFS virtual disk storage".into()),
            ("type", "nfs".into()),
            ("content_type", "user".into()),
            ("shared", true.into()),
            ("physical_size", Value::Int(4096 * GIB)),
            ("allowed_operations", set(["vdi_create", "vdi_snapshot", "vdi_clone", "scan"])),
        ]),
    );
    for host in hosts {
        let config = map([("server", "192.0.2.10"), ("serverpath", "/vdis")]);
        state.db.insert(
            "PBD",
            record([
                ("SR", sr.as_str().into()),
                ("host", host.into()),
                ("currently_attached", true.into()),
                ("device_config", config),
            ]),
        );
    }
    sr
}

/// Takes the storage from the first host.
pub(crate) fn unplug_storage(state: &mut State) {
    let master = state.hosts.first().cloned().unwrap_or_default();
    for pbd in state.db.referrers("PBD", "host", &master) {
        let _ = state.db.set("PBD", &pbd, "currently_attached", false);
    }
}

/// The network that guests use, and the host internal management network.
fn add_networks(state: &mut State) -> String {
    let himn = map([
        ("is_guest_installer_network", "true"),
        ("is_host_internal_management_network", "true"),
        ("ip_begin", "169.254.0.1"),
        ("ip_end", "169.254.255.254"),
        ("netmask", "255.255.0.0"),
    ]);
    state.db.insert(
        "network",
        record([
            ("name_label", "Host internal management network".into()),
            ("name_description", "Guests on it can reach the host".into()),
            ("bridge", "xenapi".into()),
            ("other_config", himn),
        ]),
    );
    let network = state.db.insert(
        "network",
        record([
            ("name_label", "Pool-wide network associated with eth0".into()),
            ("bridge", "xenbr0".into()),
        ]),
    );
    for (number, host) in state.hosts.clone().into_iter().enumerate() {
        state.db.insert(
            "PIF",
            record([
                ("device", "eth0".into()),
                ("MAC", format!("52:54:00:00:00:{:02x}", number + 1).into()),
                ("MTU", Value::Int(1500)),
                ("VLAN", Value::Int(-1)),
                ("network", network.as_str().into()),
                ("host", host.into()),
                ("IP", "127.0.0.1".into()),
                ("netmask", "255.0.0.0".into()),
                ("ip_configuration_mode", "Static".into()),
                ("management", true.into()),
                ("physical", true.into()),
                ("currently_attached", true.into()),
            ]),
        );
    }
    network
}

fn add_control_domains(state: &mut State) {
    for host in state.hosts.clone() {
        let name = state.db.raw("host", &host).map(|r| text(r, "name_label").to_owned());
        let name = format!("Control domain on host: {}", name.unwrap_or_default());
        let dom0 = state.db.insert(
            "VM",
            record([
                ("name_label", name.into()),
                ("is_control_domain", true.into()),
                ("power_state", "Running".into()),
                ("domid", Value::Int(0)),
                ("domain_type", "pv".into()),
                ("resident_on", host.as_str().into()),
                ("affinity", host.as_str().into()),
                ("allowed_operations", set(["changing_VCPUs_live"])),
                ("memory_static_max", Value::Int(4 * GIB)),
                ("memory_target", Value::Int(4 * GIB)),
            ]),
        );
        let _ = state.db.set("host", &host, "control_domain", dom0);
    }
}

fn add_template(state: &mut State) {
    state.db.insert(
        "VM",
        record([
            ("name_label", "Debian Bookworm 12".into()),
            ("is_a_template", true.into()),
            ("is_default_template", true.into()),
            ("HVM_boot_policy", "BIOS order".into()),
            ("HVM_boot_params", map([("firmware", "bios"), ("order", "dc")])),
            ("domain_type", "hvm".into()),
            ("allowed_operations", set(["clone", "copy", "destroy", "export", "provision"])),
            ("memory_static_max", Value::Int(2 * GIB)),
            ("memory_dynamic_max", Value::Int(2 * GIB)),
            ("memory_dynamic_min", Value::Int(2 * GIB)),
            ("VCPUs_max", Value::Int(1)),
            ("VCPUs_at_startup", Value::Int(1)),
            ("other_config", map([("default_template", "true"), ("linux_template", "true")])),
        ]),
    );
}

/// A running guest with disks, an empty CD drive, a network interface and guest tools.
fn add_guest(state: &mut State, place: &Place, number: usize, guest: Guest, pv: bool) {
    let vm = add_vm(state, place, &guest.name);
    if pv {
        let _ = state.db.set("VM", &vm, "domain_type", "pv");
        let _ = state.db.set("VM", &vm, "HVM_boot_policy", "");
    }
    for (position, disk) in guest.disks.into_iter().enumerate() {
        let vdi = add_vdi(state, place, &guest.name, position, disk);
        // The CD drive sits at 3, as the templates have it.
        let user = if position < 3 { position } else { position + 1 };
        add_vbd(state, &vm, user, &vdi, position == 0);
    }
    add_cd(state, &vm);
    state.db.insert(
        "VIF",
        record([
            ("device", "0".into()),
            ("VM", vm.as_str().into()),
            ("network", place.network.as_str().into()),
            ("MAC", format!("02:16:3e:00:00:{:02x}", number + 1).into()),
            ("MTU", Value::Int(1500)),
            ("currently_attached", true.into()),
            ("allowed_operations", set(["unplug"])),
        ]),
    );
    console::create(state, &vm);
    let login = format!("Debian GNU/Linux 12 {0} tty1\n\n{0} login: ", guest.name);
    login.chars().for_each(|c| state.desk(&vm).screen.put(c));
    state.ticks.insert(vm, 0);
}

fn add_vm(state: &mut State, place: &Place, name: &str) -> String {
    let started = Value::Time("20260105T08:30:00Z".to_owned());
    let metrics = state.db.insert(
        "VM_metrics",
        record([
            ("memory_actual", Value::Int(2 * GIB)),
            ("VCPUs_number", Value::Int(2)),
            (
                "VCPUs_utilisation",
                Value::Map(record([("0", Value::Float(0.25)), ("1", Value::Float(0.5))])),
            ),
            ("current_domain_type", "hvm".into()),
            ("hvm", true.into()),
            ("start_time", started.clone()),
            ("last_updated", started.clone()),
        ]),
    );
    let os = map([
        ("name", "Debian GNU/Linux 12 (bookworm)"),
        ("distro", "debian"),
        ("major", "12"),
        ("minor", "0"),
        ("uname", "6.1.0-18-amd64"),
    ]);
    let guest_metrics = state.db.insert(
        "VM_guest_metrics",
        record([
            ("os_version", os),
            ("networks", map([("0/ip", "192.0.2.21"), ("0/ipv4/0", "192.0.2.21")])),
            ("PV_drivers_version", map([("major", "7"), ("minor", "30"), ("micro", "0")])),
            ("PV_drivers_detected", true.into()),
            ("live", true.into()),
            ("last_updated", started),
        ]),
    );
    let platform = map([
        ("acpi", "1"),
        ("apic", "true"),
        ("pae", "true"),
        ("nx", "true"),
        ("viridian", "false"),
        ("device-model", "qemu-upstream-compat"),
        ("secureboot", "false"),
    ]);
    let mut fields = record([
        ("name_label", name.into()),
        ("name_description", "A running service of the simulator".into()),
        ("power_state", "Running".into()),
        ("domid", Value::Int(7)),
        ("domain_type", "hvm".into()),
        ("HVM_boot_policy", "BIOS order".into()),
        ("HVM_boot_params", map([("firmware", "bios"), ("order", "cdn")])),
        ("platform", platform),
        ("resident_on", place.host.as_str().into()),
        ("affinity", NULL.into()),
        ("allowed_operations", vm::allowed("Running")),
        ("metrics", metrics.into()),
        ("guest_metrics", guest_metrics.into()),
        ("VCPUs_max", Value::Int(2)),
        ("VCPUs_at_startup", Value::Int(2)),
        ("hardware_platform_version", Value::Int(2)),
        ("actions_after_crash", "restart".into()),
        ("actions_after_reboot", "restart".into()),
        ("actions_after_shutdown", "destroy".into()),
        ("tags", set(["simulated"])),
        ("other_config", map([("base_template_name", "Debian Bookworm 12"), ("mac_seed", "1")])),
    ]);
    for field in ["memory_static_max", "memory_dynamic_max", "memory_dynamic_min", "memory_target"]
    {
        fields.insert(field.to_owned(), Value::Int(2 * GIB));
    }
    state.db.insert("VM", fields)
}

fn add_vdi(state: &mut State, place: &Place, vm: &str, position: usize, disk: Opened) -> String {
    let vdi = state.db.insert(
        "VDI",
        record([
            ("name_label", format!("{vm} disk {position}").into()),
            ("name_description", "Created by the simulator".into()),
            ("SR", place.sr.as_str().into()),
            ("virtual_size", Value::Int(disk.virtual_size as i64)),
            ("physical_utilisation", Value::Int(disk.physical as i64)),
            ("type", if position == 0 { "system" } else { "user" }.into()),
            ("managed", true.into()),
            ("allowed_operations", set(["snapshot", "clone"])),
            ("sm_config", map([("vdi_type", "vhd")])),
        ]),
    );
    let uuid = state.db.raw("VDI", &vdi).map(|r| text(r, "uuid").to_owned()).unwrap_or_default();
    let _ = state.db.set("VDI", &vdi, "location", uuid);
    debug_assert!(disk.disk.virtual_size() <= disk.virtual_size);
    state.disks.insert(vdi.clone(), disk.disk);
    vdi
}

fn add_vbd(state: &mut State, vm: &str, user: usize, vdi: &str, bootable: bool) {
    let letter = char::from(b'a' + u8::try_from(user % 26).unwrap_or(0));
    state.db.insert(
        "VBD",
        record([
            ("VM", vm.into()),
            ("VDI", vdi.into()),
            ("device", format!("xvd{letter}").into()),
            ("userdevice", user.to_string().into()),
            ("bootable", bootable.into()),
            ("mode", "RW".into()),
            ("type", "Disk".into()),
            ("unpluggable", true.into()),
            ("currently_attached", true.into()),
            ("empty", false.into()),
            ("allowed_operations", set(["unplug", "unplug_force", "pause"])),
        ]),
    );
}

fn add_cd(state: &mut State, vm: &str) {
    state.db.insert(
        "VBD",
        record([
            ("VM", vm.into()),
            ("device", "xvdd".into()),
            ("userdevice", "3".into()),
            ("mode", "RO".into()),
            ("type", "CD".into()),
            ("empty", true.into()),
            ("currently_attached", true.into()),
            ("allowed_operations", set(["attach", "insert"])),
        ]),
    );
}
