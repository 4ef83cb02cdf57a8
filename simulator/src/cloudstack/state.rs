//! What the double remembers.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use uuid::Uuid;

use super::fixture::{self, Zone};
use super::job::Job;
use super::object::Object;
use super::owner::Owner;
use super::template::{Copy, State, Template, What};
use super::{CloudStackConfig, Fault, Faults, network};

/// Everything that connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: CloudStackConfig,
    pub(super) faults: Faults,
    /// The data of templates lie here; removed with the double.
    pub(super) dir: PathBuf,
    /// The upload server's port.
    pub(super) upload_port: u16,
    /// What the management server and the upload server both know, for the tickets.
    pub(super) psk: String,
    pub(super) stopped: watch::Receiver<bool>,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
pub(super) struct Tables {
    /// Oldest first.
    pub(super) templates: Vec<Template>,
    pub(super) jobs: Vec<Job>,
    /// Everything else, oldest first.
    pub(super) objects: Vec<Object>,
    /// Ids of deleted templates: the server still knows them.
    pub(super) removed: HashSet<String>,
}

impl Shared {
    pub(super) fn new(
        config: CloudStackConfig,
        dir: PathBuf,
        upload_port: u16,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let tables =
            Tables { templates: vec![builtin()], objects: network::builtin(), ..Tables::default() };
        Self {
            config,
            faults: Faults::default(),
            dir,
            upload_port,
            psk: Uuid::new_v4().to_string(),
            stopped,
            tables: Mutex::new(tables),
        }
    }

    pub(super) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn zones(&self) -> Vec<Zone> {
        fixture::zones(if self.faults.on(&Fault::TwoZones) { 2 } else { 1 })
    }

    /// The server's clock.
    pub(super) fn now(&self) -> Timestamp {
        let skew = self.faults.peek(|fault| match fault {
            Fault::ClockSkew(seconds) => Some(SignedDuration::from_secs(*seconds)),
            _ => None,
        });
        let now = Timestamp::now();
        skew.and_then(|skew| now.checked_add(skew).ok()).unwrap_or(now)
    }

    pub(super) fn page_size(&self) -> u64 {
        let fault = self.faults.peek(|fault| match fault {
            Fault::PageSize(size) => Some(*size),
            _ => None,
        });
        fault.unwrap_or(self.config.page_size)
    }

    /// The bytes that may still be stored: by all accounts together.
    pub(super) fn room(&self) -> u64 {
        let quota = self.faults.peek(|fault| match fault {
            Fault::Quota(bytes) => Some(*bytes),
            _ => None,
        });
        let Some(quota) = quota else { return u64::MAX };
        let tables = self.tables();
        let own = tables.templates.iter().filter(|template| template.is_own());
        quota.saturating_sub(own.flat_map(|one| &one.copies).map(|copy| copy.physical).sum())
    }

    /// How many templates and ISOs all accounts have.
    pub(super) fn own_templates(&self) -> u64 {
        let tables = self.tables();
        tables.templates.iter().filter(|one| one.is_own() && !one.is_volume()).count() as u64
    }

    /// Whether storage VMs may fetch from this address, as far as `secstorage.allowed.internal.sites` says.
    pub(super) fn may_fetch_from(&self, host: &str) -> bool {
        let sites = self.faults.peek(|fault| match fault {
            Fault::AllowedSites(sites) => Some(sites.clone()),
            _ => None,
        });
        let Some(sites) = sites else { return true };
        let Ok(host) = host.parse::<std::net::Ipv4Addr>() else { return false };
        sites.split(',').any(|site| {
            let (net, bits) = site.trim().split_once('/').unwrap_or_else(|| (site.trim(), "32"));
            let (Ok(net), Ok(bits)) = (net.parse::<std::net::Ipv4Addr>(), bits.parse::<u32>())
            else {
                return false;
            };
            let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
            net.to_bits() & mask == host.to_bits() & mask
        })
    }

    /// How many templates the account may still add.
    pub(super) fn template_room(&self) -> u64 {
        let quota = self.faults.peek(|fault| match fault {
            Fault::TemplateQuota(count) => Some(*count),
            _ => None,
        });
        let own = self.own_templates();
        quota.map_or(u64::MAX, |quota| quota.saturating_sub(own))
    }

    /// Changes a copy, if it still exists.
    pub(super) fn with_copy<T>(
        &self,
        id: &str,
        zone: usize,
        change: impl FnOnce(&mut Copy) -> T,
    ) -> Option<T> {
        let mut tables = self.tables();
        let template = tables.templates.iter_mut().find(|template| template.id == id)?;
        template.copies.iter_mut().find(|copy| copy.zone == zone).map(change)
    }

    /// What becomes of a copy whose data are good. `busy` is its state while it is installed.
    pub(super) fn installed(&self, copy: &mut Copy, busy: State, failed: fn(String) -> State) {
        let error = self.faults.take(|fault| match fault {
            Fault::TemplateError(text) => Some(text.clone()),
            _ => None,
        });
        let slow = self.faults.take(|fault| match fault {
            Fault::SlowTemplate(delay) => Some(*delay),
            _ => None,
        });
        copy.state = busy;
        if let Some(text) = error {
            copy.state = failed(text);
        } else if self.faults.strikes(&Fault::StuckTemplate) {
            copy.ready_at = None;
        } else if let Some(delay) = slow {
            copy.ready_at = Some(Instant::now() + delay);
        } else {
            copy.state = State::Ready;
        }
    }
}

/// Every cloud has a template of its own, which is featured and belongs to nobody's account.
fn builtin() -> Template {
    let mut copies: Vec<_> = (0..2).map(|zone| Copy::new(zone, State::Ready)).collect();
    for copy in &mut copies {
        (copy.size, copy.physical) = (2 << 30, 177_209_344);
    }
    let flags = [("isfeatured", true), ("ispublic", true), ("isextractable", true)];
    Template {
        what: What::Template,
        id: fixture::stable_uuid("template", "builtin"),
        owner: Owner::System,
        name: "CentOS 5.6(64-bit) no GUI (XenServer)".to_owned(),
        displaytext: "CentOS 5.6(64-bit) no GUI (XenServer)".to_owned(),
        format: "VHD".to_owned(),
        hypervisor: "XenServer".to_owned(),
        ostypeid: fixture::stable_uuid("ostype", "CentOS 6.0 (64-bit)"),
        arch: "x86_64".to_owned(),
        bits: 64,
        flags: super::template::FLAGS.into_iter().chain(flags).collect(),
        details: Default::default(),
        tags: Vec::new(),
        shared: Default::default(),
        templatetag: None,
        url: None,
        checksum: None,
        created: Timestamp::UNIX_EPOCH,
        copies,
        ticket: None,
    }
}
