//! The description of the machine, as typed records.

use std::collections::BTreeMap;

use super::member::is_reference;
use crate::Result;
use crate::archive::shown;
use crate::finding::Findings;

/// The longest `ova.xml` that is read, in bytes.
pub const MAX_OVA: u64 = 16 << 20;

/// What `ova.xml` says: the exported machine (and perhaps its snapshots) with its devices.
///
/// The field names are those of the XenAPI records; only those that matter for a conversion are
/// here. References are the ids inside of the archive, such as `Ref:7`.
///
/// ```
/// use vmimage::xva::Ova;
/// let ova = Ova::minimal("web01", &[("Ref:5", 8 << 30)]);
/// let again = Ova::parse(ova.to_xml().as_bytes(), &mut vmimage::Findings::default())?;
/// assert_eq!(again, ova);
/// assert_eq!(again.disks()[0].virtual_size, 8 << 30);
/// # Ok::<(), vmimage::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ova {
    /// Who exported, and in which version of the format.
    pub version: OvaVersion,
    /// The machines: the exported one, and its snapshots if they were exported with it.
    pub vms: Vec<Vm>,
    /// The connections between machines and disks.
    pub vbds: Vec<Vbd>,
    /// The disks.
    pub vdis: Vec<Vdi>,
    /// The network interfaces.
    pub vifs: Vec<Vif>,
    /// All other objects (networks, storage repositories, hosts, …).
    pub others: Vec<OvaObject>,
    /// The storage repositories that hold CD images, whose disks are not exported.
    pub(super) iso_srs: Vec<String>,
}

/// Who wrote an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OvaVersion {
    /// The host that exported.
    pub hostname: String,
    /// The date of its build.
    pub date: String,
    /// The version of the product, such as `8.3.0`.
    pub product_version: String,
    /// The product, such as `XCP-ng`.
    pub product_brand: String,
    /// Its build.
    pub build_number: String,
    /// The version of XAPI.
    pub xapi_major: i64,
    /// The version of XAPI, second part.
    pub xapi_minor: i64,
    /// The version of the archive's format; 2 since 2012. Archives of version 0 have no checksums.
    pub export_vsn: i64,
}

/// An object of which only the class and the id are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OvaObject {
    /// The XenAPI class, such as `SR`.
    pub class: String,
    /// The id inside of the archive.
    pub id: String,
}

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Vm {
    /// The id inside of the archive.
    pub reference: String,
    /// The UUID.
    pub uuid: String,
    /// The name.
    pub name_label: String,
    /// The description.
    pub name_description: String,
    /// `Halted`, `Suspended`, `Running`, `Paused`.
    pub power_state: String,
    /// `hvm`, `pv`, `pvh`, `pv_in_pvh`; empty in old archives, where the boot policy tells.
    pub domain_type: String,
    /// The memory in bytes.
    pub memory_static_max: u64,
    /// The least memory that can be asked for, in bytes.
    pub memory_static_min: u64,
    /// The upper end of the dynamic range, in bytes.
    pub memory_dynamic_max: u64,
    /// The lower end of the dynamic range, in bytes.
    pub memory_dynamic_min: u64,
    /// The most processors that the machine may have.
    pub vcpus_max: u64,
    /// The processors at the start.
    pub vcpus_at_startup: u64,
    /// `BIOS order` for a machine with full virtualisation, empty for a paravirtual one.
    pub hvm_boot_policy: String,
    /// `firmware` (`bios` or `uefi`), `order`.
    pub hvm_boot_params: BTreeMap<String, String>,
    /// The boot loader of a paravirtual machine.
    pub pv_bootloader: String,
    /// Its arguments.
    pub pv_bootloader_args: String,
    /// The kernel of a paravirtual machine.
    pub pv_kernel: String,
    /// Its initial RAM disk.
    pub pv_ramdisk: String,
    /// Its command line.
    pub pv_args: String,
    /// `device-model`, `secureboot`, `viridian`, `nx`, `timeoffset`, …
    pub platform: BTreeMap<String, String>,
    /// Whether it is a template.
    pub is_a_template: bool,
    /// Whether it is a snapshot.
    pub is_a_snapshot: bool,
    /// Whether it is a control domain.
    pub is_control_domain: bool,
    /// The disk with the memory of a suspended machine.
    pub suspend_vdi: Option<String>,
}

impl Vm {
    /// Whether the machine is started by UEFI rather than by a BIOS or a boot loader outside.
    pub fn is_uefi(&self) -> bool {
        self.hvm_boot_params.get("firmware").is_some_and(|f| f.eq_ignore_ascii_case("uefi"))
    }

    /// Whether the machine is fully virtualised.
    pub fn is_hvm(&self) -> bool {
        match self.domain_type.as_str() {
            "" | "unspecified" => !self.hvm_boot_policy.is_empty(),
            kind => kind == "hvm",
        }
    }
}

/// The connection between a machine and a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Vbd {
    /// The id inside of the archive.
    pub reference: String,
    /// The machine.
    pub vm: String,
    /// The disk; `None` for an empty drive.
    pub vdi: Option<String>,
    /// The place, such as `0`.
    pub userdevice: String,
    /// Whether the machine starts from it.
    pub bootable: bool,
    /// `RW` or `RO`.
    pub mode: String,
    /// `Disk`, `CD`, `Floppy`.
    pub kind: String,
    /// Whether there is no medium.
    pub empty: bool,
}

/// A disk's record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Vdi {
    /// The id inside of the archive: the name of its folder.
    pub reference: String,
    /// The UUID.
    pub uuid: String,
    /// The name.
    pub name_label: String,
    /// The description.
    pub name_description: String,
    /// The guest-visible size in bytes: the authority.
    pub virtual_size: u64,
    /// The storage repository.
    pub sr: String,
    /// `user`, `system`, `suspend`, …
    pub kind: String,
    /// Whether it may only be read.
    pub read_only: bool,
    /// Whether it is a snapshot.
    pub is_a_snapshot: bool,
}

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Vif {
    /// The id inside of the archive.
    pub reference: String,
    /// The machine.
    pub vm: String,
    /// The place, such as `0`.
    pub device: String,
    /// The MAC address.
    pub mac: String,
    /// The network.
    pub network: String,
}

/// A disk whose data are in the archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OvaDisk {
    /// The id inside of the archive.
    pub reference: String,
    /// The name of the disk.
    pub name: String,
    /// The guest-visible size in bytes.
    pub virtual_size: u64,
    /// The place at which a machine has it, such as `0`; `None` for memory of a suspended one.
    pub userdevice: Option<String>,
    /// Whether a machine starts from it.
    pub bootable: bool,
    /// The machine that has it.
    pub vm: Option<String>,
}

impl std::fmt::Display for OvaDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match is_reference(&self.reference) {
            true => f.write_str(&self.reference)?,
            false => f.write_str(&shown(&self.reference))?,
        }
        write!(f, " ({}", shown(&self.name))?;
        if let Some(device) = &self.userdevice {
            write!(f, ", device {}", shown(device))?;
        }
        write!(f, ", {} bytes)", self.virtual_size)
    }
}

impl Ova {
    /// Reads an `ova.xml`.
    ///
    /// # Errors
    /// `Corrupt` for what is not XML-RPC or lacks what every export has, `Unsupported` for a
    /// document that is too long, too deep, or of another product.
    pub fn parse(bytes: &[u8], findings: &mut Findings) -> Result<Self> {
        super::ova_read::parse(bytes, findings)
    }

    /// The disks whose data follow in the archive, in the order of the archive: by the text of
    /// their references (`Ref:10` comes before `Ref:9`). CDs and empty drives have no data.
    pub fn disks(&self) -> Vec<OvaDisk> {
        let exported = |vdi: &&Vdi| {
            let plugged = !self.iso_srs.contains(&vdi.sr) && self.plug(vdi).is_some();
            plugged || vdi.kind == "suspend"
        };
        let mut disks: Vec<OvaDisk> = self
            .vdis
            .iter()
            .filter(exported)
            .map(|vdi| {
                let plug = self.plug(vdi);
                OvaDisk {
                    reference: vdi.reference.clone(),
                    name: vdi.name_label.clone(),
                    virtual_size: vdi.virtual_size,
                    userdevice: plug.map(|p| p.userdevice.clone()),
                    bootable: plug.is_some_and(|p| p.bootable),
                    vm: plug.map(|p| p.vm.clone()),
                }
            })
            .collect();
        disks.sort_by(|a, b| a.reference.cmp(&b.reference));
        disks.dedup_by(|a, b| a.reference == b.reference);
        disks
    }

    /// The record of a disk.
    pub fn vdi(&self, reference: &str) -> Option<&Vdi> {
        self.vdis.iter().find(|vdi| vdi.reference == reference)
    }

    /// The machine that was exported: the first that is no snapshot.
    pub fn vm(&self) -> Option<&Vm> {
        self.vms.iter().find(|vm| !vm.is_a_snapshot).or_else(|| self.vms.first())
    }

    /// How a machine has a disk, but as a CD.
    fn plug(&self, vdi: &Vdi) -> Option<&Vbd> {
        self.vbds.iter().find(|vbd| {
            vbd.vdi.as_deref() == Some(&vdi.reference) && !vbd.empty && vbd.kind != "CD"
        })
    }

    /// The description of a halted, fully virtualised machine with these disks: what a disk image
    /// needs around it so that XAPI imports it. `disks` are ids (`Ref:5`) and sizes in bytes; the
    /// first one is started from. The same arguments give the same description.
    pub fn minimal(name: &str, disks: &[(&str, u64)]) -> Self {
        super::ova_write::minimal(name, disks)
    }

    /// The document. Fields that these records do not have are written with the values that a new
    /// machine has.
    pub fn to_xml(&self) -> String {
        super::ova_write::write(self)
    }
}
