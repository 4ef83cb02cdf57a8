//! Image properties for the hypervisor that is to boot a cloned guest.
//!
//! [`Guest`] holds what is known of the guest in neutral words; [`xen`] and [`kvm`] turn it into the properties
//! that Nova reads. What cannot be expressed is told in [`Profile::warnings`] and not guessed.
//!
//! ```
//! use glance_client::image::profile::{self, Firmware, Guest, OsType, VirtMode};
//! let guest = Guest::new(VirtMode::Hvm)
//!     .with_firmware(Firmware::Uefi)
//!     .with_os_type(OsType::Linux)
//!     .with_architecture("x86_64")
//!     .with_disk_bytes(20 << 30);
//! let profile = profile::kvm(&guest);
//! assert_eq!(profile.properties["hw_firmware_type"], "uefi");
//! assert_eq!(profile.properties["hw_disk_bus"], "virtio");
//! assert_eq!(profile.min_disk, Some(20));
//! ```

use std::collections::BTreeMap;

/// How the guest is virtualised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VirtMode {
    /// Paravirtualised: the kernel knows that it runs on Xen.
    Pv,
    /// As on a real machine.
    Hvm,
}

/// What starts the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Firmware {
    /// BIOS.
    #[default]
    Bios,
    /// UEFI.
    Uefi,
}

/// The kind of operating system, as far as Nova distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OsType {
    /// Linux.
    Linux,
    /// Windows.
    Windows,
}

impl OsType {
    fn as_str(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Windows => "windows",
        }
    }
}

/// How a guest under KVM sees its disk (`hw_disk_bus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiskBus {
    /// virtio-blk.
    Virtio,
    /// SCSI, with the controller that Nova chooses unless `hw_scsi_model` says otherwise.
    Scsi,
    /// SATA.
    Sata,
    /// IDE; not on q35 machines, and so not with UEFI here.
    Ide,
}

impl DiskBus {
    fn as_str(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::Scsi => "scsi",
            Self::Sata => "sata",
            Self::Ide => "ide",
        }
    }
}

/// The network card of a guest under KVM (`hw_vif_model`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VifModel {
    /// virtio-net.
    Virtio,
    /// Intel's 82540EM, for which nearly every system has a driver.
    E1000,
    /// Intel's 82574L.
    E1000e,
    /// Realtek's 8139, for very old systems.
    Rtl8139,
}

impl VifModel {
    fn as_str(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::E1000 => "e1000",
            Self::E1000e => "e1000e",
            Self::Rtl8139 => "rtl8139",
        }
    }
}

/// The name by which Nova knows an architecture that goes by several.
fn architecture_of(name: &str) -> String {
    match name.to_ascii_lowercase().as_str() {
        "amd64" | "x86-64" | "x64" => "x86_64".to_owned(),
        "x86" | "i386" | "i486" | "i586" => "i686".to_owned(),
        "arm64" => "aarch64".to_owned(),
        other => other.to_owned(),
    }
}

/// What is known of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Guest {
    /// How it is virtualised.
    pub mode: VirtMode,
    /// What starts it.
    pub firmware: Firmware,
    /// Whether the firmware only starts signed code.
    pub secure_boot: bool,
    /// The operating system.
    pub os_type: Option<OsType>,
    /// `x86_64`, `i686`, `aarch64`…
    pub architecture: Option<String>,
    /// The size of the disk in bytes.
    pub disk_bytes: Option<u64>,
    /// The least memory in MiB.
    pub min_ram: Option<u64>,
    /// Whether virtio drivers are in the guest; `None`: as usual for its operating system.
    pub virtio: Option<bool>,
    /// The distribution, by its short id in libosinfo: `debian`, `rhel`, `windows`…
    pub os_distro: Option<String>,
    /// The id of the project that is to own the image. Glance lets only administrators name another than their own.
    pub owner: Option<String>,
    /// Whether the guest needs a configuration drive, because it asks no metadata service.
    pub config_drive: bool,
    /// How the disk is seen under KVM; `None`: as `virtio` says.
    pub disk_bus: Option<DiskBus>,
    /// The network card under KVM; `None`: as `virtio` says.
    pub vif_model: Option<VifModel>,
}

impl Guest {
    /// A guest with a BIOS of which nothing else is known.
    #[must_use]
    pub fn new(mode: VirtMode) -> Self {
        Self {
            mode,
            firmware: Firmware::default(),
            secure_boot: false,
            os_type: None,
            architecture: None,
            disk_bytes: None,
            min_ram: None,
            virtio: None,
            os_distro: None,
            owner: None,
            config_drive: false,
            disk_bus: None,
            vif_model: None,
        }
    }

    /// What starts it.
    #[must_use]
    pub fn with_firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = firmware;
        self
    }

    /// Whether the firmware only starts signed code.
    #[must_use]
    pub fn with_secure_boot(mut self, secure_boot: bool) -> Self {
        self.secure_boot = secure_boot;
        self
    }

    /// The operating system.
    #[must_use]
    pub fn with_os_type(mut self, os_type: OsType) -> Self {
        self.os_type = Some(os_type);
        self
    }

    /// The architecture.
    #[must_use]
    pub fn with_architecture(mut self, architecture: impl Into<String>) -> Self {
        self.architecture = Some(architecture.into());
        self
    }

    /// The size of the disk in bytes, from which the least disk in GiB follows.
    #[must_use]
    pub fn with_disk_bytes(mut self, bytes: u64) -> Self {
        self.disk_bytes = Some(bytes);
        self
    }

    /// The least memory in MiB.
    #[must_use]
    pub fn with_min_ram(mut self, mib: u64) -> Self {
        self.min_ram = Some(mib);
        self
    }

    /// Whether virtio drivers are in the guest.
    #[must_use]
    pub fn with_virtio(mut self, virtio: bool) -> Self {
        self.virtio = Some(virtio);
        self
    }

    /// The distribution, by its short id in libosinfo.
    #[must_use]
    pub fn with_os_distro(mut self, id: impl Into<String>) -> Self {
        self.os_distro = Some(id.into());
        self
    }

    /// The id of the project that is to own the image.
    #[must_use]
    pub fn with_owner(mut self, project: impl Into<String>) -> Self {
        self.owner = Some(project.into());
        self
    }

    /// Whether the guest needs a configuration drive.
    #[must_use]
    pub fn with_config_drive(mut self, needed: bool) -> Self {
        self.config_drive = needed;
        self
    }

    /// How the disk is seen under KVM.
    #[must_use]
    pub fn with_disk_bus(mut self, bus: DiskBus) -> Self {
        self.disk_bus = Some(bus);
        self
    }

    /// The network card under KVM.
    #[must_use]
    pub fn with_vif_model(mut self, model: VifModel) -> Self {
        self.vif_model = Some(model);
        self
    }

    /// What is the same for every hypervisor.
    fn profile(&self) -> Profile {
        let mut profile = Profile {
            owner: self.owner.clone(),
            min_disk: self.disk_bytes.map(|bytes| bytes.div_ceil(1 << 30)),
            min_ram: self.min_ram,
            ..Profile::default()
        };
        if let Some(os) = self.os_type {
            profile.set("os_type", os.as_str());
        }
        if let Some(distro) = &self.os_distro {
            profile.set("os_distro", distro);
        }
        if self.config_drive {
            profile.set("img_config_drive", "mandatory");
        }
        profile
    }
}

/// What an image needs for one kind of hypervisor: see [`NewImage::with_profile`](super::NewImage::with_profile).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// The properties.
    pub properties: BTreeMap<String, String>,
    /// The project that is to own the image.
    pub owner: Option<String>,
    /// The least disk in GiB, rounded up.
    pub min_disk: Option<u64>,
    /// The least memory in MiB.
    pub min_ram: Option<u64>,
    /// What will not work, or may not; for people.
    pub warnings: Vec<String>,
}

impl Profile {
    fn set(&mut self, name: &str, value: &str) {
        self.properties.insert(name.to_owned(), value.to_owned());
    }

    fn warn(&mut self, text: &str) {
        self.warnings.push(text.to_owned());
    }
}

/// For Nova's XenServer driver (up to Nova 21): disk format `vhd` in container `ovf`.
///
/// `vm_mode` is always set: without it the driver starts every Linux as PV.
#[must_use]
pub fn xen(guest: &Guest) -> Profile {
    let mut profile = guest.profile();
    profile.set("hypervisor_type", "xen");
    profile.set(
        "vm_mode",
        match guest.mode {
            VirtMode::Pv => "xen",
            VirtMode::Hvm => "hvm",
        },
    );
    // The partitions of a clone are as they are; the driver resizes only a single one anyway.
    profile.set("auto_disk_config", "False");
    if let Some(architecture) = &guest.architecture {
        profile.set("architecture", &architecture_of(architecture));
    }
    if guest.firmware == Firmware::Uefi {
        profile.warn("Nova's XenServer driver starts guests with a BIOS: this one boots by UEFI");
    }
    profile
}

/// For KVM: disk format `qcow2` (or `raw`, `vhd`) in container `bare`, by the names that Nova reads today. Nothing
/// in it ties the image to Xen, which would make it unschedulable.
#[must_use]
pub fn kvm(guest: &Guest) -> Profile {
    let mut profile = guest.profile();
    profile.set("hw_vm_mode", "hvm");
    match guest.firmware {
        Firmware::Bios => profile.set("hw_firmware_type", "bios"),
        Firmware::Uefi => {
            profile.set("hw_firmware_type", "uefi");
            profile.set("hw_machine_type", "q35");
        }
    }
    match (guest.secure_boot, guest.firmware) {
        (true, Firmware::Uefi) => profile.set("os_secure_boot", "required"),
        (true, Firmware::Bios) => {
            profile.warn("secure boot needs UEFI, but the guest has a BIOS: it is left out")
        }
        (false, _) => {}
    }
    if let Some(architecture) = &guest.architecture {
        profile.set("hw_architecture", &architecture_of(architecture));
    }
    // Linux kernels bring virtio; Windows without its drivers does not find its disk.
    let virtio = guest.virtio.or_else(|| guest.os_type.map(|os| os == OsType::Linux));
    let (bus, card) = match virtio {
        Some(true) => (Some(DiskBus::Virtio), Some(VifModel::Virtio)),
        Some(false) => (Some(DiskBus::Sata), Some(VifModel::E1000)),
        None => (None, None),
    };
    let bus = guest.disk_bus.or(bus);
    if let Some(bus) = bus {
        profile.set("hw_disk_bus", bus.as_str());
    }
    if let Some(card) = guest.vif_model.or(card) {
        profile.set("hw_vif_model", card.as_str());
    }
    if bus == Some(DiskBus::Ide) && guest.firmware == Firmware::Uefi {
        profile.warn("a q35 machine, on which UEFI runs, has no IDE: use SATA");
    }
    if guest.mode == VirtMode::Pv {
        profile.warn("a paravirtualised guest may have neither a boot loader nor drivers for a machine that is not Xen");
    }
    profile
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xen_always_names_the_mode() {
        let pv = xen(&Guest::new(VirtMode::Pv)
            .with_os_type(OsType::Linux)
            .with_disk_bytes((8 << 30) + 1));
        assert_eq!((pv.properties["vm_mode"].as_str(), pv.min_disk), ("xen", Some(9)));
        let hvm =
            xen(&Guest::new(VirtMode::Hvm).with_os_type(OsType::Linux).with_architecture("x86_64"));
        let expected = [
            ("architecture", "x86_64"),
            ("auto_disk_config", "False"),
            ("hypervisor_type", "xen"),
            ("os_type", "linux"),
            ("vm_mode", "hvm"),
        ];
        assert!(hvm.properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(expected));
        assert!(hvm.warnings.is_empty());
        assert_eq!(xen(&Guest::new(VirtMode::Hvm).with_firmware(Firmware::Uefi)).warnings.len(), 1);
    }

    #[test]
    fn what_is_the_same_for_both() {
        let guest = Guest::new(VirtMode::Hvm)
            .with_os_type(OsType::Linux)
            .with_os_distro("debian")
            .with_owner("0123abcd")
            .with_architecture("AMD64")
            .with_config_drive(true)
            .with_disk_bytes(1)
            .with_min_ram(512);
        for (profile, architecture) in
            [(xen(&guest), "architecture"), (kvm(&guest), "hw_architecture")]
        {
            for (name, value) in [
                ("os_type", "linux"),
                ("os_distro", "debian"),
                ("img_config_drive", "mandatory"),
                (architecture, "x86_64"),
            ] {
                assert_eq!(profile.properties[name], value);
            }
            assert_eq!((profile.min_disk, profile.min_ram), (Some(1), Some(512)));
            assert_eq!(profile.owner.as_deref(), Some("0123abcd"));
            // The owner is a field of the image's own and no property.
            assert!(!profile.properties.contains_key("owner"));
        }
        let whole = kvm(&Guest::new(VirtMode::Hvm).with_disk_bytes(5 << 30));
        assert_eq!(whole.min_disk, Some(5));
        assert!(!whole.properties.contains_key("img_config_drive"));
    }

    #[test]
    fn devices_are_chosen_by_name_or_by_drivers() {
        let linux = Guest::new(VirtMode::Hvm).with_os_type(OsType::Linux);
        let chosen =
            kvm(&linux.clone().with_disk_bus(DiskBus::Scsi).with_vif_model(VifModel::E1000e));
        assert_eq!(chosen.properties["hw_disk_bus"], "scsi");
        assert_eq!(chosen.properties["hw_vif_model"], "e1000e");
        let ide = linux.with_disk_bus(DiskBus::Ide);
        assert!(kvm(&ide).warnings.is_empty());
        assert!(kvm(&ide.with_firmware(Firmware::Uefi)).warnings[0].contains("no IDE"));
    }

    #[test]
    fn kvm_says_nothing_of_xen() {
        let guest = Guest::new(VirtMode::Hvm)
            .with_firmware(Firmware::Uefi)
            .with_secure_boot(true)
            .with_os_type(OsType::Windows)
            .with_min_ram(2048);
        let profile = kvm(&guest);
        let expected = [
            ("hw_disk_bus", "sata"),
            ("hw_firmware_type", "uefi"),
            ("hw_machine_type", "q35"),
            ("hw_vif_model", "e1000"),
            ("hw_vm_mode", "hvm"),
            ("os_secure_boot", "required"),
            ("os_type", "windows"),
        ];
        assert!(profile.properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(expected));
        assert_eq!(profile.min_ram, Some(2048));
        let pv = kvm(&Guest::new(VirtMode::Pv).with_secure_boot(true));
        assert_eq!(pv.warnings.len(), 2);
        assert!(
            !pv.properties.contains_key("hypervisor_type")
                && !pv.properties.contains_key("hw_disk_bus")
        );
        assert_eq!(kvm(&guest.with_virtio(true)).properties["hw_disk_bus"], "virtio");
    }
}
