//! What the journal of a run says, beside the command line: the same, or an error.

use std::path::{Path, PathBuf};

use migrate_core::journal::RunState;
use migrate_core::{Error, ErrorKind, Report, Result};
use serde_json::Value;

use crate::{Cli, Target, usage};

impl Cli {
    /// Takes from a run that is resumed what the command line does not say. What it does say must be
    /// what the run does: a journal is for one run, also when that is over.
    pub(crate) fn recall(&mut self, state: &RunState, report: Option<&Report>) -> Result<()> {
        let Some(spec) = state.spec() else { return Ok(()) };
        if !self.resume && !self.undo && !self.plan {
            let path = self.journal.as_ref().map(|p| p.display().to_string()).unwrap_or_default();
            return Err(usage(format!(
                "journal {path} holds a run already: add --resume or --undo, or name another file"
            )));
        }
        if let Some((option, held)) = self.contradiction(spec, report) {
            let run = state.run_id().map(|id| id.to_string()).unwrap_or_default();
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "the journal holds run {run}, which does something else ({option} is {held} there): resume it with the same arguments, or name another journal"
                ),
            ));
        }
        let text = |part: &str, key: &str| spec[part][key].as_str().map(str::to_owned);
        if self.vm.is_none() && self.from_vhd.is_empty() {
            self.vm = text("source", "vm");
            self.recalled = self.vm.is_some();
            let files = spec["source"]["files"].as_array().into_iter().flatten();
            self.from_vhd = files.filter_map(|f| f.as_str().map(PathBuf::from)).collect();
        }
        if self.format.is_none() {
            self.format = text("target", "format").and_then(|f| f.parse().ok());
        }
        if self.target.is_none() {
            self.target = match (spec["post_processor"].as_str(), text("target", "folder")) {
                (_, Some(folder)) => Some(Target::Dir(folder.into())),
                (Some("cloudstack"), _) => Some(Target::CloudStack),
                _ => None,
            };
        }
        let via = text("target", "via");
        let served = via.as_deref() == Some("url") && self.bind.is_none();
        if served && self.resume && state.outcome().is_none() {
            return Err(usage(
                "the run serves its data (--via url): add the --bind of this time".to_owned(),
            ));
        }
        self.zone = self.zone.take().or_else(|| text("target", "zone"));
        self.via = self.via.take().or(via);
        let flag = |key: &str| spec["target"][key].as_bool() == Some(true);
        self.password_enabled |= flag("password_enabled");
        self.ssh_key_enabled |= flag("ssh_key_enabled");
        self.name = self.name.take().or_else(|| text("target", "name"));
        self.os_type = self.os_type.take().or_else(|| text("target", "os_type"));
        self.hypervisor = self.hypervisor.take().or_else(|| text("target", "hypervisor"));
        Ok(())
    }

    /// The first option that says something else than the run, and what that says.
    fn contradiction(&self, spec: &Value, report: Option<&Report>) -> Option<(&str, String)> {
        let held = |part: &str, key: &str| spec[part][key].as_str().unwrap_or("not set").to_owned();
        let differs = |given: Option<&str>, key: &str| {
            given.is_some_and(|given| spec["target"][key].as_str() != Some(given))
        };
        let source = spec["source"]["vm"].as_str();
        if let Some(vm) = &self.vm {
            // A name is looked up where the run is not over: two may have had it.
            let named = report.map(|r| r.vm.as_str());
            let fits =
                source == Some(vm) || named.map_or_else(|| source.is_some(), |name| name == vm);
            if !fits {
                let name = named.map(str::to_owned);
                return Some(("--vm", name.unwrap_or_else(|| held("source", "vm"))));
            }
        }
        if !self.from_vhd.is_empty() {
            let files: Vec<_> = self.from_vhd.iter().map(|p| absolute(p)).collect();
            if spec["source"]["files"] != Value::from(files) {
                let files = &spec["source"]["files"];
                let files = if files.is_null() { "not set".to_owned() } else { files.to_string() };
                return Some(("--from-vhd", files));
            }
        }
        let kind = spec["post_processor"].as_str().unwrap_or_default();
        let folder = spec["target"]["folder"].as_str();
        let same = match &self.target {
            None => true,
            Some(Target::Glance) => kind == "glance",
            Some(Target::CloudStack) => kind == "cloudstack",
            Some(Target::Dir(there)) => kind == "dir" && folder == absolute(there).as_str(),
        };
        if !same {
            let folder = folder.map(|f| format!(":{f}")).unwrap_or_default();
            return Some(("--target", format!("{kind}{folder}")));
        }
        let kvm = spec["target"]["hypervisor"].as_str().map(|h| h.eq_ignore_ascii_case("kvm"));
        if self.kvm().is_some_and(|wanted| kvm != Some(wanted)) {
            return Some(("--hypervisor", held("target", "hypervisor")));
        }
        let options = [
            ("--format", "format", self.format.map(|f| f.as_str())),
            ("--name", "name", self.name.as_deref()),
            ("--zone", "zone", self.zone.as_deref()),
            ("--os-type", "os_type", self.os_type.as_deref()),
            ("--via", "via", self.via.as_deref()),
        ];
        let other = options.into_iter().find(|(_, key, given)| differs(*given, key));
        other.map(|(option, key, _)| (option, held("target", key)))
    }
}

/// A path as the journal holds it; one that is no text is compared later, by the run itself.
fn absolute(path: &Path) -> Value {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.to_str().into()
}
