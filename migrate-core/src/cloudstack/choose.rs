//! What of the cloud's own objects a template refers to: the zone and the type of operating
//! system. Pure functions over lists; a refusal is the evidence of a finding.

use cloudstack_client::os_types::OsType;
use cloudstack_client::zones::Zone;

use super::Hypervisor;
use crate::{Machine, Virtualization};

/// How many names a refusal lists.
const NAMED: usize = 8;

/// The zone of this name or id; without one, the only zone.
pub(super) fn zone<'a>(zones: &'a [Zone], wanted: Option<&str>) -> Result<&'a Zone, String> {
    let found = match wanted {
        Some(wanted) => zones
            .iter()
            .find(|z| z.id == wanted)
            .or_else(|| zones.iter().find(|z| z.name.eq_ignore_ascii_case(wanted)))
            .ok_or_else(|| format!("there is no zone {wanted:?}; there are: {}", names(zones)))?,
        None => match zones {
            [only] => only,
            [] => return Err("this account sees no zone".to_owned()),
            _ => return Err(format!("there are several zones: {}", names(zones))),
        },
    };
    if found.is_enabled() { Ok(found) } else { Err(format!("zone {} is disabled", found.name)) }
}

fn names(zones: &[Zone]) -> String {
    listed(zones.iter().map(|z| z.name.as_str()))
}

fn listed<'a>(all: impl Iterator<Item = &'a str>) -> String {
    let all: Vec<&str> = all.collect();
    let shown = all[..all.len().min(NAMED)].join(", ");
    match all.len() - all.len().min(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The type of operating system: the one that is `wanted`, by id, description or words of it;
/// otherwise what fits the guest best.
pub(super) fn os_type<'a>(
    types: &'a [OsType],
    wanted: Option<&str>,
    machine: &Machine,
    hypervisor: Hypervisor,
) -> Result<&'a OsType, String> {
    let kind = |kind: &str| matches!(kind.to_lowercase().as_str(), "linux" | "windows");
    match wanted {
        Some(wanted) if !kind(wanted) => named(types, wanted),
        // The kind alone, as other targets take it.
        _ => guessed(types, wanted.or(machine.os_type.as_deref()), machine, hypervisor),
    }
}

fn named<'a>(types: &'a [OsType], wanted: &str) -> Result<&'a OsType, String> {
    let exact = types
        .iter()
        .find(|t| t.id == wanted)
        .or_else(|| types.iter().find(|t| t.description.eq_ignore_ascii_case(wanted)));
    if let Some(found) = exact {
        return Ok(found);
    }
    let found = best(with_words(types, wanted));
    match found.as_slice() {
        [only] => Ok(only),
        [] => {
            let first = wanted.split_whitespace().next().unwrap_or_default();
            let mut near = with_words(types, first);
            if near.is_empty() {
                near = types.iter().collect();
            }
            let near = listed(near.iter().map(|t| t.description.as_str()));
            Err(format!("there is no OS type {wanted:?}; there are: {near}"))
        }
        several => {
            let several = listed(several.iter().map(|t| t.description.as_str()));
            Err(format!("several OS types fit {wanted:?}: {several}"))
        }
    }
}

/// Those whose descriptions have all the words.
fn with_words<'a>(types: &'a [OsType], words: &str) -> Vec<&'a OsType> {
    let words: Vec<String> = words.split_whitespace().map(str::to_lowercase).collect();
    let fits = |t: &&OsType| {
        let description = t.description.to_lowercase();
        let has = |word: &String| description.split_whitespace().any(|w| w == word);
        !words.is_empty() && words.iter().all(has)
    };
    types.iter().filter(fits).collect()
}

/// Of several, those of 64 bit; of these, the one that says nothing more than was asked.
fn best(mut found: Vec<&OsType>) -> Vec<&OsType> {
    if found.len() > 1 {
        let narrow = |t: &&OsType| t.description.contains("32-bit");
        let wide: Vec<_> = found.iter().copied().filter(|t| !narrow(t)).collect();
        if !wide.is_empty() {
            found = wide;
        }
    }
    found
}

/// What CloudStack calls the distributions that guests name themselves.
fn family(distro: &str) -> &str {
    match distro {
        "rhel" | "redhat" => "red hat enterprise linux",
        "sles" | "suse" => "suse linux enterprise server",
        "ol" | "oracle" => "oracle linux",
        "almalinux" | "alma" => "alma linux",
        "rocky" => "rocky linux",
        other => other,
    }
}

fn guessed<'a>(
    types: &'a [OsType],
    kind: Option<&str>,
    machine: &Machine,
    hypervisor: Hypervisor,
) -> Result<&'a OsType, String> {
    if let (Some(distro), Some(version)) = (&machine.os_distro, &machine.os_version) {
        let major = version.split('.').next().unwrap_or(version);
        for version in [version.as_str(), major] {
            let found = best(with_words(types, &format!("{} {version}", family(distro))));
            if let Some(found) = found.first() {
                return Ok(found);
            }
        }
    }
    let paravirtual =
        machine.virtualization == Virtualization::Pv && hypervisor == Hypervisor::XenServer;
    let linux = kind.is_some_and(|k| k.eq_ignore_ascii_case("linux"));
    let general = match (paravirtual, linux) {
        (true, _) => "Other PV (64-bit)",
        (_, true) => "Other Linux (64-bit)",
        _ => "Other (64-bit)",
    };
    [general, "Other (64-bit)"]
        .iter()
        .find_map(|name| types.iter().find(|t| t.description.eq_ignore_ascii_case(name)))
        .ok_or_else(|| {
            let some = listed(types.iter().map(|t| t.description.as_str()));
            format!("no OS type is known to fit {}; there are: {some}", machine.name)
        })
}

#[cfg(test)]
mod tests {
    use cloudstack_client::{os_types, zones};
    use serde_json::json;

    use super::*;

    fn zones(names: &[&str]) -> Vec<Zone> {
        let rows: Vec<_> = names
            .iter()
            .map(|n| json!({"id": format!("id-{n}"), "name": n, "allocationstate": if *n == "off" {"Disabled"} else {"Enabled"}}))
            .collect();
        let body = json!({"r": {"count": rows.len(), "zone": rows}}).to_string();
        zones::list().parse(http::StatusCode::OK, body.as_bytes()).unwrap().items
    }

    fn types() -> Vec<OsType> {
        let names = [
            "CentOS 7.9 (64-bit)",
            "Debian GNU/Linux 1 (64-bit)",
            "Debian GNU/Linux 12 (32-bit)",
            "Debian GNU/Linux 12 (64-bit)",
            "Red Hat Enterprise Linux 9.4",
            "Ubuntu 22.04 LTS",
            "Windows Server 2019 (64-bit)",
            "Windows Server 2022 (64-bit)",
            "Other (64-bit)",
            "Other PV (64-bit)",
            "Other Linux (64-bit)",
        ];
        let rows: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(i, n)| json!({"id": i.to_string(), "description": n}))
            .collect();
        let body = json!({"r": {"count": rows.len(), "ostype": rows}}).to_string();
        os_types::list().parse(http::StatusCode::OK, body.as_bytes()).unwrap().items
    }

    #[test]
    fn a_zone_is_found_or_the_others_are_named() {
        let several = zones(&["one", "two", "off"]);
        assert_eq!(zone(&several, Some("TWO")).unwrap().name, "two");
        assert_eq!(zone(&several, Some("id-one")).unwrap().name, "one");
        assert!(zone(&several, Some("three")).unwrap_err().contains("one, two, off"));
        assert!(zone(&several, None).unwrap_err().contains("one, two, off"));
        assert!(zone(&several, Some("off")).unwrap_err().contains("disabled"));
        assert_eq!(zone(&zones(&["one"]), None).unwrap().name, "one");
        assert!(zone(&[], None).is_err());
    }

    #[test]
    fn an_os_type_is_named_or_follows_from_the_guest() {
        let types = types();
        let plain = Machine::new("web01");
        let of = |wanted: Option<&str>, machine: &Machine| {
            os_type(&types, wanted, machine, Hypervisor::XenServer).map(|t| t.description.clone())
        };
        for (wanted, expected) in [
            ("3", "Debian GNU/Linux 12 (64-bit)"),
            ("ubuntu 22.04 lts", "Ubuntu 22.04 LTS"),
            ("debian 12", "Debian GNU/Linux 12 (64-bit)"),
            ("windows 2022", "Windows Server 2022 (64-bit)"),
            ("linux", "Other Linux (64-bit)"),
            ("windows", "Other (64-bit)"),
        ] {
            assert_eq!(of(Some(wanted), &plain).unwrap(), expected, "{wanted}");
        }
        let e = of(Some("windows server"), &plain).unwrap_err();
        assert!(e.contains("2019") && e.contains("2022"), "{e}");
        let e = of(Some("debian 99"), &plain).unwrap_err();
        assert!(e.contains("Debian GNU/Linux 12") && !e.contains("Ubuntu"), "{e}");
        assert!(of(Some("plan9"), &plain).unwrap_err().contains("and 3 more"));

        for (distro, version, expected) in [
            ("debian", "12.5", "Debian GNU/Linux 12 (64-bit)"),
            ("rhel", "9.4", "Red Hat Enterprise Linux 9.4"),
            ("ubuntu", "22.04", "Ubuntu 22.04 LTS"),
            ("arch", "1", "Other Linux (64-bit)"),
        ] {
            let mut machine = plain.clone();
            machine.os_type = Some("linux".to_owned());
            machine.os_distro = Some(distro.to_owned());
            machine.os_version = Some(version.to_owned());
            assert_eq!(of(None, &machine).unwrap(), expected);
        }
        let mut paravirtual = plain.clone();
        paravirtual.virtualization = Virtualization::Pv;
        assert_eq!(of(None, &paravirtual).unwrap(), "Other PV (64-bit)");
        assert!(os_type(&[], None, &plain, Hypervisor::Kvm).is_err());
    }
}
