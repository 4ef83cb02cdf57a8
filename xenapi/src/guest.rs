//! Where a guest can be reached: on the host internal management network, and by what its agent
//! says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::cache::Cache;
use crate::enums::VmPowerState;
use crate::error::{Error, ErrorCode, ErrorKind, Result};
use crate::live::Session;
use crate::network::{self, Network};
use crate::refs::Ref;
use crate::vif::Vif;
use crate::vm::Vm;
use crate::vm_guest_metrics::VmGuestMetrics;

/// An address that the agent in a guest has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct GuestAddress {
    /// The number of the network device, as in [`Vif::device`].
    pub device: u32,
    /// The address.
    pub address: IpAddr,
}

impl GuestAddress {
    /// Reads `VM_guest_metrics.networks`, whose keys are `0/ip`, `0/ipv4/1`, `0/ipv6/0`: the number
    /// of the device, and what the agent numbered. Each address once, in order; what is none (old
    /// agents write empty texts) is left out.
    ///
    /// ```
    /// use std::collections::BTreeMap;
    /// use xenapi::GuestAddress;
    ///
    /// let networks = [("0/ip", "192.0.2.21"), ("0/ipv6/0", "fe80::1"), ("1/ip", "")];
    /// let networks = BTreeMap::from(networks.map(|(k, v)| (k.to_owned(), v.to_owned())));
    /// let addresses = GuestAddress::parse(&networks);
    /// assert_eq!(addresses.len(), 2);
    /// assert_eq!(addresses[0].address.to_string(), "192.0.2.21");
    /// ```
    #[must_use]
    pub fn parse(networks: &BTreeMap<String, String>) -> Vec<Self> {
        let mut all: Vec<Self> = networks
            .iter()
            .filter_map(|(key, text)| {
                let mut parts = key.split('/');
                let device = parts.next()?.parse().ok()?;
                let kind = parts.next()?;
                let numbered = parts.next().is_some_and(|n| n.parse::<u32>().is_ok());
                let known = match kind {
                    "ip" => key.split('/').count() == 2,
                    "ipv4" | "ipv6" => numbered && parts.next().is_none(),
                    _ => false,
                };
                // A prefix length or a zone may follow.
                let bare = text.trim().split(['/', '%']).next()?;
                let address = bare.parse().ok().filter(|_| known)?;
                Some(Self { device, address })
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl Session {
    /// The host internal management network of the pool: on it a guest reaches its host and
    /// nothing else, and is given its address by the host. It is known by its `other_config`; its
    /// name may be any. `None` on a pool that has none.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn host_internal_management_network(&self) -> Result<Option<Ref<Network>>> {
        const KEY: &str = "is_host_internal_management_network";
        let all = self.call(network::get_all_records()).await?;
        let own = |network: &Network| network.other_config.get(KEY).is_some_and(|v| v == "true");
        Ok(all.into_iter().find(|(_, network)| own(network)).map(|(reference, _)| reference))
    }

    /// Waits for the address that the host gives to a device on its
    /// [internal management network](Self::host_internal_management_network): the host decides it
    /// when the device is plugged, before the guest has asked. No agent in the guest is needed. It
    /// is reached from its host only. Read from `network.assigned_ips`, which is there since
    /// XenServer 6.5.
    ///
    /// # Errors
    /// Of kind [`Timeout`](ErrorKind::Timeout) if there was none in time, of kind
    /// [`Api`](ErrorKind::Api) with `HANDLE_INVALID` if the network is gone, and those of
    /// [`EventStream::next`](crate::EventStream::next).
    pub async fn wait_assigned_ip(
        &self,
        network: &Ref<Network>,
        device: &Ref<Vif>,
        limit: Duration,
    ) -> Result<IpAddr> {
        let follow = async {
            let mut cache = self.cache([format!("network/{network}")]).await?;
            cache.wait_for(limit, |cache| assigned(cache, network, device).transpose()).await?
        };
        within(limit, &format!("device {device} was given no address"), follow).await
    }

    /// Waits until the agent in a guest has told addresses that `accept` takes; `accept` is called
    /// with those of all devices whenever they change. A guest without an agent tells none. May be
    /// called before the machine is started: what a halted or suspended machine holds (a copy holds
    /// the addresses of what it is a copy of) is not taken for an answer.
    ///
    /// # Errors
    /// Of kind [`Timeout`](ErrorKind::Timeout) if there were none in time, of kind
    /// [`Api`](ErrorKind::Api) with `HANDLE_INVALID` if the VM is gone, and those of
    /// [`EventStream::next`](crate::EventStream::next).
    pub async fn wait_guest_addresses(
        &self,
        vm: &Ref<Vm>,
        limit: Duration,
        mut accept: impl FnMut(&[GuestAddress]) -> bool,
    ) -> Result<Vec<GuestAddress>> {
        let follow = async {
            // The metrics are made when the agent first speaks, under a reference of their own.
            let classes = [format!("vm/{vm}"), "vm_guest_metrics".to_owned()];
            let mut cache = self.cache(classes).await?;
            cache
                .wait_for(limit, |cache| match told(cache, vm) {
                    Ok(addresses) if addresses.is_empty() || !accept(&addresses) => None,
                    other => Some(other),
                })
                .await?
        };
        within(limit, &format!("the guest of {vm} has told no address"), follow).await
    }
}

/// The time limit also holds for the first answer, and its error says what did not come.
async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let late = || {
        let words = format!("{what} in {} s", limit.as_secs());
        Error::new(ErrorKind::Timeout, words)
    };
    match tokio::time::timeout(limit, work).await {
        Ok(Err(e)) if e.kind() == ErrorKind::Timeout => Err(late()),
        Ok(done) => done,
        Err(_) => Err(late()),
    }
}

fn gone(class: &str, reference: &str) -> Error {
    Error::api(ErrorCode::HANDLE_INVALID, vec![class.to_owned(), reference.to_owned()])
}

fn assigned(cache: &Cache, network: &Ref<Network>, device: &Ref<Vif>) -> Result<Option<IpAddr>> {
    let Some(record) = cache.get(network)? else {
        return Err(gone("network", network.as_str()));
    };
    let Some(text) = record.assigned_ips.get(device) else { return Ok(None) };
    let odd =
        || Error::new(ErrorKind::Decode, format!("{text:?} is assigned, which is no address"));
    text.parse().map(Some).map_err(|_| odd())
}

/// All addresses that are known of a VM's guest.
fn told(cache: &Cache, vm: &Ref<Vm>) -> Result<Vec<GuestAddress>> {
    let Some(record) = cache.get(vm)? else { return Err(gone("VM", vm.as_str())) };
    // A copy has the metrics of what it is a copy of, and a machine that stopped has its own
    // last ones, until it is started: the server removes them then.
    if matches!(record.power_state, VmPowerState::Halted | VmPowerState::Suspended) {
        return Ok(Vec::new());
    }
    let metrics: Option<VmGuestMetrics> = cache.get(&record.guest_metrics)?;
    Ok(metrics.map(|metrics| GuestAddress::parse(&metrics.networks)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_all_agents() {
        let networks = [
            ("0/ip", "10.0.0.5"),
            ("0/ipv4/0", "10.0.0.5"),
            ("0/ipv4/1", "10.0.0.6/24"),
            ("0/ipv6/0", "fe80::5%eth0"),
            ("10/ip", "10.1.0.5"),
            ("2/ip", "10.2.0.5"),
            ("1/ip", ""),
            ("1/ipv4/x", "10.0.0.9"),
            ("1/ipv4/0/0", "10.0.0.9"),
            ("ip", "10.0.0.9"),
            ("x/ip", "10.0.0.9"),
            ("0/mac", "02:00:00:00:00:01"),
        ];
        let networks = networks.map(|(key, text)| (key.to_owned(), text.to_owned()));
        let all: Vec<String> = GuestAddress::parse(&BTreeMap::from(networks))
            .into_iter()
            .map(|a| format!("{} {}", a.device, a.address))
            .collect();
        assert_eq!(all, ["0 10.0.0.5", "0 10.0.0.6", "0 fe80::5", "2 10.2.0.5", "10 10.1.0.5"]);
    }
}
