//! Virtual machines as the server describes them.

use std::collections::BTreeMap;

use crate::record::{Password, record, words};

words! {
    /// What a machine does.
    VirtualMachineState {
        /// It is being started.
        Starting = "Starting",
        /// It runs.
        Running = "Running",
        /// It is being stopped.
        Stopping = "Stopping",
        /// It is stopped.
        Stopped = "Stopped",
        /// It moves to another host.
        Migrating = "Migrating",
        /// It could not be deployed.
        Error = "Error",
        /// It was destroyed, and can be recovered.
        Destroyed = "Destroyed",
        /// It is being removed for good.
        Expunging = "Expunging",
        /// Its host says that it was shut down.
        Shutdown = "Shutdown",
    }
}

record! {
    /// A network interface of a machine.
    Nic in "nic" by id;
    /// Its id.
    id: String = "id",
    /// The id of its network.
    network: Option<String> = "networkid",
    /// The name of its network.
    network_name: Option<String> = "networkname",
    /// Its IPv4 address.
    address: Option<String> = "ipaddress",
    /// Its IPv6 address.
    address6: Option<String> = "ip6address",
    /// Its hardware address.
    mac: Option<String> = "macaddress",
    /// The network's gateway.
    gateway: Option<String> = "gateway",
    /// The network's mask.
    netmask: Option<String> = "netmask",
    /// Whether it is the machine's first one.
    is_default: Option<bool> = "isdefault",
}

record! {
    /// A virtual machine.
    VirtualMachine in "virtualmachine" by id;
    /// Its id.
    id: String = "id",
    /// Its name, which is its host name.
    name: String = "name",
    /// Its name for people.
    display_name: Option<String> = "displayname",
    /// Its name at the hypervisor; for administrators.
    instance_name: Option<String> = "instancename",
    /// What it does.
    state: Option<VirtualMachineState> = "state",
    /// The id of its zone.
    zone: Option<String> = "zoneid",
    /// The name of its zone.
    zone_name: Option<String> = "zonename",
    /// The name of its host; for administrators.
    host: Option<String> = "hostname",
    /// The hypervisor.
    hypervisor: Option<String> = "hypervisor",
    /// The id of the template that it was made of.
    template: Option<String> = "templateid",
    /// The name of that template.
    template_name: Option<String> = "templatename",
    /// The id of the ISO that is in its drive.
    iso: Option<String> = "isoid",
    /// The id of its service offering.
    service_offering: Option<String> = "serviceofferingid",
    /// The name of its service offering.
    service_offering_name: Option<String> = "serviceofferingname",
    /// How many processors it has.
    cpus: Option<u64> = "cpunumber",
    /// Their speed in MHz.
    cpu_mhz: Option<u64> = "cpuspeed",
    /// Its memory in MiB.
    memory_mib: Option<u64> = "memory",
    /// The id of its type of operating system.
    os_type: Option<String> = "ostypeid",
    /// Its network interfaces.
    nics: Vec<Nic> = "nic",
    /// The public address that leads to it alone.
    public_address: Option<String> = "publicip",
    /// The names of its SSH keys.
    key_pairs: Vec<String> = "keypairs",
    /// Whether it takes passwords from the cloud.
    password_enabled: Option<bool> = "passwordenabled",
    /// The password of its first user, in the answer that made it only.
    password: Option<Password> = "password",
    /// Whether it is started again when its host dies.
    ha_enabled: Option<bool> = "haenable",
    /// When it was made.
    created: Option<String> = "created",
    /// Whose it is.
    account: Option<String> = "account",
    /// The project it belongs to.
    project: Option<String> = "projectid",
    /// Settings.
    details: BTreeMap<String, String> = "details",
    /// Its tags.
    tags: BTreeMap<String, String> = "tags",
}

impl VirtualMachine {
    /// The IPv4 address of its first interface.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        let first = self.nics.iter().find(|nic| nic.is_default == Some(true));
        first.or_else(|| self.nics.first())?.address.as_deref()
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == Some(VirtualMachineState::Running)
    }

    /// Whether it is stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, Some(VirtualMachineState::Stopped | VirtualMachineState::Shutdown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Record;
    use serde_json::json;

    #[test]
    fn a_machine_of_an_old_and_of_a_new_server() {
        let machine = VirtualMachine::read(&json!({
            "id": "m1", "name": "web01", "state": "Running", "memory": "2048", "cpunumber": 2, "keypairs": "a,b",
            "password": "saved!",
            "nic": [{"id": "n1", "ipaddress": "10.1.1.2", "isdefault": "false"},
                    {"id": "n2", "ipaddress": "10.1.1.3", "isdefault": true}, {"macaddress": "x"}]}))
        .unwrap();
        assert_eq!(machine.address(), Some("10.1.1.3"));
        assert_eq!((machine.memory_mib, machine.cpus), (Some(2048), Some(2)));
        assert_eq!(machine.key_pairs, ["a", "b"]);
        assert!(machine.is_running() && !machine.is_stopped());
        assert_eq!(machine.password.as_ref().unwrap().reveal(), "saved!");
        assert!(!format!("{machine:?}").contains("saved!"));
        assert_eq!(VirtualMachine::read(&json!({"id": 3})).unwrap().address(), None);
    }
}
