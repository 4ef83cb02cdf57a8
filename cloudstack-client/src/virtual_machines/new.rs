//! What a machine is to be.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::call::Call;
use crate::request::request;

request! {
    /// A machine to be deployed.
    ///
    /// ```
    /// use cloudstack_client::virtual_machines::{self, NewVirtualMachine};
    /// let machine = NewVirtualMachine::new("zone-1", "small", "template-1")
    ///     .with_name("web02")
    ///     .with_networks(&["network-1"])
    ///     .with_key_pair("mine")
    ///     .with_user_data(b"#cloud-config\n");
    /// let call = virtual_machines::deploy(&machine);
    /// assert_eq!(call.parameter("networkids"), Some("network-1"));
    /// assert_eq!(call.parameter("userdata"), Some("I2Nsb3VkLWNvbmZpZwo="));
    /// ```
    NewVirtualMachine {
        /// Its name, which becomes its host name: letters, digits and hyphens.
        with_name(&str) = "name",
        /// Its name for people.
        with_display_name(&str) = "displayname",
        /// The name of an SSH key.
        with_key_pair(&str) = "keypair",
        /// The password of its first user, for templates that take one (4.19 and newer).
        with_password(&str) = "password",
        /// The size of its root disk in GiB, larger than the template's.
        with_root_disk_gib(u64) = "rootdisksize",
        /// The id of a disk offering: of a data disk, or of the root disk if the template is an ISO.
        with_disk_offering(&str) = "diskofferingid",
        /// The hypervisor, which an ISO does not tell.
        with_hypervisor(&str) = "hypervisor",
        /// Whether it is started at once (it is).
        with_start(bool) = "startvm",
        /// The id of the host, by an administrator.
        with_host(&str) = "hostid",
        /// The name of a group of machines.
        with_group(&str) = "group",
        /// The id of the project it is for.
        with_project(&str) = "projectid",
        /// The layout of the keyboard on its console: `de`, `us`…
        with_keyboard(&str) = "keyboard",
    }
}

/// How a machine with UEFI starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootMode {
    /// Whatever the disk has.
    Legacy,
    /// Only what is signed.
    Secure,
}

impl NewVirtualMachine {
    /// A machine of a template or ISO, in a zone, of a service offering: by their ids.
    #[must_use]
    pub fn new(zone: &str, service_offering: &str, template: &str) -> Self {
        let empty = Self::empty().set("zoneid", zone);
        empty.set("serviceofferingid", service_offering).set("templateid", template)
    }

    /// The ids of its networks, the first one first. Without any, the cloud chooses, or makes one.
    #[must_use]
    pub fn with_networks(self, ids: &[&str]) -> Self {
        self.set("networkids", ids.join(","))
    }

    /// A network with an address of choice, in place of [`with_networks`](Self::with_networks); can be repeated.
    #[must_use]
    pub fn with_address(self, network: &str, address: &str) -> Self {
        let next = (0..).find(|n| self.get(&format!("iptonetworklist[{n}].networkid")).is_none());
        let next = next.unwrap_or(0);
        self.set(format!("iptonetworklist[{next}].networkid"), network)
            .set(format!("iptonetworklist[{next}].ip"), address)
    }

    /// Data for the guest, as cloud-init reads them: up to 1 MiB by what servers take, and what
    /// `vm.userdata.max.length` says. Encoded here.
    #[must_use]
    pub fn with_user_data(self, data: impl AsRef<[u8]>) -> Self {
        self.set("userdata", STANDARD.encode(data))
    }

    /// It starts by UEFI (4.14 and newer).
    #[must_use]
    pub fn with_uefi(self, mode: BootMode) -> Self {
        let mode = match mode {
            BootMode::Legacy => "LEGACY",
            BootMode::Secure => "SECURE",
        };
        self.set("boottype", "UEFI").set("bootmode", mode)
    }

    /// One setting: `rootDiskController`, `cpuNumber` and `memory` of an offering that leaves them open…
    #[must_use]
    pub fn with_detail(self, key: &str, value: &str) -> Self {
        self.set(format!("details[0].{key}"), value)
    }

    /// The account and the id of its domain that it is for.
    #[must_use]
    pub fn with_account(self, account: &str, domain: &str) -> Self {
        self.set("account", account).set("domainid", domain)
    }

    pub(super) fn checked<T>(&self, call: Call<T>) -> Call<T> {
        let missing = |name: &&&str| self.get(name).unwrap_or_default().trim().is_empty();
        let needed = ["zoneid", "serviceofferingid", "templateid"];
        let problem = match needed.iter().find(missing) {
            Some(name) => Some(format!("{name} is empty")),
            None if self.get("networkids").is_some()
                && self.get("iptonetworklist[0].networkid").is_some() =>
            {
                Some("networks are given with and without an address: give all with one".to_owned())
            }
            None => None,
        };
        match problem {
            Some(problem) => call.with_problem(problem),
            None => call,
        }
    }
}

request! {
    /// A change of a machine.
    MachineUpdate {
        /// Its name for people.
        with_display_name(&str) = "displayname",
        /// Its host name, after the next start.
        with_name(&str) = "name",
        /// The id of its type of operating system; the machine must be stopped.
        with_os_type(&str) = "ostypeid",
        /// Whether it is started again when its host dies.
        with_ha_enabled(bool) = "haenable",
        /// Whether it can grow while it runs; the machine must be stopped.
        with_dynamically_scalable(bool) = "isdynamicallyscalable",
    }
}

impl MachineUpdate {
    /// No change.
    #[must_use]
    pub fn new() -> Self {
        Self::empty()
    }

    /// One setting. All settings are replaced by those that are given.
    #[must_use]
    pub fn with_detail(self, key: &str, value: &str) -> Self {
        self.set(format!("details[0].{key}"), value)
    }
}

impl Default for MachineUpdate {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtual_machines::deploy;

    #[test]
    fn a_machine_has_every_attribute_and_shows_no_secret() {
        let machine = NewVirtualMachine::new("z", "s", "t")
            .with_name("web01")
            .with_password("hunter2")
            .with_address("n1", "10.0.0.5")
            .with_address("n2", "10.0.1.5")
            .with_uefi(BootMode::Secure)
            .with_detail("cpuNumber", "4")
            .with_start(false)
            .with_root_disk_gib(20);
        let call = deploy(&machine);
        for (name, value) in [
            ("zoneid", "z"),
            ("name", "web01"),
            ("iptonetworklist[1].networkid", "n2"),
            ("iptonetworklist[0].ip", "10.0.0.5"),
            ("boottype", "UEFI"),
            ("bootmode", "SECURE"),
            ("details[0].cpuNumber", "4"),
            ("startvm", "false"),
            ("rootdisksize", "20"),
        ] {
            assert_eq!(call.parameter(name), Some(value), "{name}");
        }
        assert!(!format!("{machine:?} {call:?}").contains("hunter2"));
        let sign = |machine: &NewVirtualMachine| {
            let keys = crate::Credentials::new("k", "s");
            deploy(machine).sign(&keys, std::time::SystemTime::UNIX_EPOCH)
        };
        sign(&machine).unwrap();
        sign(&machine.with_networks(&["n1"])).unwrap_err();
        sign(&NewVirtualMachine::new("z", "", "t")).unwrap_err();
    }
}
