//! From `ova.xml` to records.

use std::collections::BTreeMap;

use super::ova::{MAX_OVA, Ova, OvaObject, OvaVersion, Vbd, Vdi, Vif, Vm};
use super::xml::{Parsed, Shape, Xml};
use crate::archive::shown;
use crate::finding::Findings;
use crate::{Error, Result};

/// How many objects a document may have: a machine with hundreds of devices and snapshots has
/// some thousands.
const MAX_OBJECTS: usize = 20_000;

/// The maps that are kept.
const MAPS: &[&str] = &["HVM_boot_params", "platform"];

/// The fields that are kept, of all classes.
const FIELDS: &[&str] = &[
    "uuid",
    "name_label",
    "name_description",
    "power_state",
    "domain_type",
    "memory_static_max",
    "memory_static_min",
    "memory_dynamic_max",
    "memory_dynamic_min",
    "VCPUs_max",
    "VCPUs_at_startup",
    "HVM_boot_policy",
    "PV_bootloader",
    "PV_bootloader_args",
    "PV_kernel",
    "PV_ramdisk",
    "PV_args",
    "is_a_template",
    "is_a_snapshot",
    "is_control_domain",
    "suspend_VDI",
    "VM",
    "VDI",
    "userdevice",
    "bootable",
    "mode",
    "type",
    "empty",
    "virtual_size",
    "SR",
    "read_only",
    "device",
    "MAC",
    "network",
    "content_type",
];

pub(super) fn parse(bytes: &[u8], findings: &mut Findings) -> Result<Ova> {
    if bytes.len() as u64 > MAX_OVA {
        return Err(Error::unsupported("ova.xml is longer than the 16 MiB that are read"));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => std::borrow::Cow::Borrowed(text),
        Err(e) => {
            findings.violation("ova-text", format!("ova.xml is not UTF-8: {e}"))?;
            String::from_utf8_lossy(bytes)
        }
    };
    if text.contains("<appliance") {
        return Err(Error::unsupported(
            "ova.xml is that of XenServer 3 (an appliance); import it into a newer XenServer and \
             export it again",
        ));
    }
    let mut xml = Xml::new(&text);
    let raw = document(&mut xml)
        .map_err(|why| Error::corrupt(format!("ova.xml, byte {}: {why}", xml.position())))?;
    let mut ova = Ova::default();
    let mut numbers = Numbers { findings, result: Ok(()) };
    ova.version = version(&raw.version, &mut numbers);
    for object in raw.objects {
        ova.add(object, &mut numbers);
    }
    numbers.result?;
    Ok(ova)
}

#[derive(Default)]
struct Raw {
    version: BTreeMap<String, String>,
    objects: Vec<RawObject>,
}

#[derive(Default)]
struct RawObject {
    class: String,
    id: String,
    fields: BTreeMap<String, String>,
    maps: BTreeMap<String, BTreeMap<String, String>>,
}

fn document(xml: &mut Xml<'_>) -> Parsed<Raw> {
    let (mut raw, mut versions, mut lists) = (Raw::default(), 0, 0);
    xml.expect_open("value")?;
    expect(xml, &Shape::Struct)?;
    while let Some(name) = xml.member()? {
        match name.as_str() {
            "version" => {
                versions += 1;
                raw.version = map(xml)?;
            }
            "objects" => {
                lists += 1;
                expect(xml, &Shape::Array)?;
                while xml.item()? {
                    if raw.objects.len() == MAX_OBJECTS {
                        return Err(format!("it has more than {MAX_OBJECTS} objects"));
                    }
                    raw.objects.push(object(xml)?);
                }
            }
            _ => xml.skip()?,
        }
        xml.close()?;
    }
    xml.expect_end()?;
    match (versions, lists) {
        (1, 1) => Ok(raw),
        _ => Err("it has not one version and one list of objects".to_owned()),
    }
}

fn expect(xml: &mut Xml<'_>, shape: &Shape) -> Parsed<()> {
    match xml.value()? {
        found if found == *shape => Ok(()),
        _ => Err("a value is of another kind than XAPI writes".to_owned()),
    }
}

fn object(xml: &mut Xml<'_>) -> Parsed<RawObject> {
    let mut object = RawObject::default();
    expect(xml, &Shape::Struct)?;
    while let Some(name) = xml.member()? {
        match name.as_str() {
            "class" => object.class = xml.scalar()?,
            "id" => object.id = xml.scalar()?,
            "snapshot" => snapshot(xml, &mut object)?,
            _ => xml.skip()?,
        }
        xml.close()?;
    }
    Ok(object)
}

fn snapshot(xml: &mut Xml<'_>, object: &mut RawObject) -> Parsed<()> {
    expect(xml, &Shape::Struct)?;
    while let Some(name) = xml.member()? {
        if MAPS.contains(&name.as_str()) {
            let map = map(xml)?;
            object.maps.insert(name, map);
        } else if FIELDS.contains(&name.as_str()) {
            // Of other classes a field of this name may be a list.
            let text = xml.scalar_or_skip()?;
            object.fields.insert(name, text);
        } else {
            xml.skip()?;
        }
        xml.close()?;
    }
    Ok(())
}

/// The texts of a structure; what is nested in it is passed over. Some write an empty value for
/// an empty structure.
fn map(xml: &mut Xml<'_>) -> Parsed<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    match xml.value()? {
        Shape::Struct => {}
        Shape::Scalar(text) if text.trim().is_empty() => return Ok(map),
        _ => return Err("a value is of another kind than XAPI writes".to_owned()),
    }
    while let Some(name) = xml.member()? {
        let text = xml.scalar_or_skip()?;
        map.insert(name, text);
        xml.close()?;
    }
    Ok(map)
}

/// Turns texts into numbers, and keeps the first complaint.
struct Numbers<'a> {
    findings: &'a mut Findings,
    result: Result<()>,
}

impl Numbers<'_> {
    fn read<T: std::str::FromStr + Default>(&mut self, name: &str, text: Option<&String>) -> T {
        let text = text.map_or("", |t| t.trim());
        // XAPI writes nothing for what it does not know.
        match text.parse() {
            Ok(number) => number,
            Err(_) if text.is_empty() => T::default(),
            Err(_) => {
                let message = format!("the field {name} of ova.xml is no number: {}", shown(text));
                if self.result.is_ok() {
                    self.result = self.findings.violation("ova-number", message);
                }
                T::default()
            }
        }
    }
}

fn version(map: &BTreeMap<String, String>, numbers: &mut Numbers<'_>) -> OvaVersion {
    let text = |name: &str| map.get(name).cloned().unwrap_or_default();
    OvaVersion {
        hostname: text("hostname"),
        date: text("date"),
        product_version: text("product_version"),
        product_brand: text("product_brand"),
        build_number: text("build_number"),
        xapi_major: numbers.read("xapi_major", map.get("xapi_major")),
        xapi_minor: numbers.read("xapi_minor", map.get("xapi_minor")),
        export_vsn: numbers.read("export_vsn", map.get("export_vsn")),
    }
}

impl RawObject {
    fn text(&self, name: &str) -> String {
        self.fields.get(name).cloned().unwrap_or_default()
    }

    fn yes(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|text| matches!(text.trim(), "1" | "true"))
    }

    /// A reference to another object, if there is one.
    fn link(&self, name: &str) -> Option<String> {
        let text = self.fields.get(name)?;
        (!text.is_empty() && text != "OpaqueRef:NULL").then(|| text.clone())
    }

    fn number(&self, name: &str, numbers: &mut Numbers<'_>) -> u64 {
        numbers.read(name, self.fields.get(name))
    }

    fn map(&self, name: &str) -> BTreeMap<String, String> {
        self.maps.get(name).cloned().unwrap_or_default()
    }

    fn vm(&self, numbers: &mut Numbers<'_>) -> Vm {
        Vm {
            reference: self.id.clone(),
            uuid: self.text("uuid"),
            name_label: self.text("name_label"),
            name_description: self.text("name_description"),
            power_state: self.text("power_state"),
            domain_type: self.text("domain_type"),
            memory_static_max: self.number("memory_static_max", numbers),
            memory_static_min: self.number("memory_static_min", numbers),
            memory_dynamic_max: self.number("memory_dynamic_max", numbers),
            memory_dynamic_min: self.number("memory_dynamic_min", numbers),
            vcpus_max: self.number("VCPUs_max", numbers),
            vcpus_at_startup: self.number("VCPUs_at_startup", numbers),
            hvm_boot_policy: self.text("HVM_boot_policy"),
            hvm_boot_params: self.map("HVM_boot_params"),
            pv_bootloader: self.text("PV_bootloader"),
            pv_bootloader_args: self.text("PV_bootloader_args"),
            pv_kernel: self.text("PV_kernel"),
            pv_ramdisk: self.text("PV_ramdisk"),
            pv_args: self.text("PV_args"),
            platform: self.map("platform"),
            is_a_template: self.yes("is_a_template"),
            is_a_snapshot: self.yes("is_a_snapshot"),
            is_control_domain: self.yes("is_control_domain"),
            suspend_vdi: self.link("suspend_VDI"),
        }
    }

    fn vbd(&self) -> Vbd {
        Vbd {
            reference: self.id.clone(),
            vm: self.text("VM"),
            vdi: self.link("VDI"),
            userdevice: self.text("userdevice"),
            bootable: self.yes("bootable"),
            mode: self.text("mode"),
            kind: self.text("type"),
            empty: self.yes("empty"),
        }
    }

    fn vdi(&self, numbers: &mut Numbers<'_>) -> Vdi {
        Vdi {
            reference: self.id.clone(),
            uuid: self.text("uuid"),
            name_label: self.text("name_label"),
            name_description: self.text("name_description"),
            virtual_size: self.number("virtual_size", numbers),
            sr: self.text("SR"),
            kind: self.text("type"),
            read_only: self.yes("read_only"),
            is_a_snapshot: self.yes("is_a_snapshot"),
        }
    }

    fn vif(&self) -> Vif {
        Vif {
            reference: self.id.clone(),
            vm: self.text("VM"),
            device: self.text("device"),
            mac: self.text("MAC"),
            network: self.text("network"),
        }
    }
}

impl Ova {
    fn add(&mut self, object: RawObject, numbers: &mut Numbers<'_>) {
        match object.class.as_str() {
            "VM" => self.vms.push(object.vm(numbers)),
            "VBD" => self.vbds.push(object.vbd()),
            "VDI" => self.vdis.push(object.vdi(numbers)),
            "VIF" => self.vifs.push(object.vif()),
            class => {
                if class == "SR" && object.text("content_type") == "iso" {
                    self.iso_srs.push(object.id.clone());
                }
                self.others.push(OvaObject { class: object.class, id: object.id });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::finding::Policy;

    fn strict(text: &str) -> Result<Ova> {
        parse(text.as_bytes(), &mut Findings::new(Policy::Strict))
    }

    fn with_objects(objects: &str) -> String {
        format!(
            "<?xml version='1.0'?>\n<value><struct><member><name>version</name><value><struct>\
             <member><name>product_brand</name><value>XCP-ng</value></member>\
             <member><name>export_vsn</name><value><int>2</int></value></member>\
             <member><name>hostname</name><value/></member></struct></value></member>\
             <member><name>objects</name><value><array><data>{objects}</data></array></value>\
             </member></struct></value>\n"
        )
    }

    fn object(class: &str, id: &str, fields: &str) -> String {
        format!(
            "<value><struct><member><name>class</name><value>{class}</value></member>\
             <member><name>id</name><value>{id}</value></member>\
             <member><name>snapshot</name><value><struct>{fields}</struct></value></member>\
             </struct></value>"
        )
    }

    fn field(name: &str, value: &str) -> String {
        format!("<member><name>{name}</name><value>{value}</value></member>")
    }

    #[test]
    fn the_dialect_of_xapi() {
        let nested = "<struct><member><name>a</name><value><array><data><value>1</value></data>\
                      </array></value></member></struct>";
        let vm = [
            field("name_label", "a &lt;b&gt; &#38; &quot;c&apos;"),
            field("memory_static_max", "9007199254740993"),
            field("VCPUs_max", "<int>2</int>"),
            field("is_a_template", "<boolean>0</boolean>"),
            field("is_a_snapshot", "<boolean>1</boolean>"),
            field("PV_args", ""),
            field("other_config", nested),
            field("uuid", nested),
            field(
                "HVM_boot_params",
                "<struct><member><name>firmware</name><value>uefi</value></member></struct>",
            ),
        ]
        .concat();
        let ova = strict(&with_objects(&object("VM", "Ref:1", &vm))).unwrap();
        let vm = ova.vm().unwrap();
        assert_eq!(vm.name_label, "a <b> & \"c'");
        assert_eq!((vm.memory_static_max, vm.vcpus_max), (9_007_199_254_740_993, 2));
        assert!(vm.is_a_snapshot && !vm.is_a_template && vm.is_uefi());
        assert_eq!((ova.version.export_vsn, ova.version.product_brand.as_str()), (2, "XCP-ng"));
    }

    #[test]
    fn disks_come_by_the_text_of_their_reference_and_without_cds() {
        let vbd = |id, vdi, kind| {
            let fields = [field("VDI", vdi), field("type", kind), field("userdevice", "3")];
            object("VBD", id, &fields.concat())
        };
        let vdi = |id, sr, kind| {
            let fields = [field("virtual_size", "5"), field("SR", sr), field("type", kind)];
            object("VDI", id, &fields.concat())
        };
        let text = with_objects(
            &[
                vbd("Ref:1", "Ref:9", "Disk"),
                vbd("Ref:2", "Ref:10", "Disk"),
                vbd("Ref:3", "Ref:11", "CD"),
                vbd("Ref:4", "OpaqueRef:NULL", "CD"),
                vbd("Ref:5", "Ref:12", "Disk"),
                vdi("Ref:9", "Ref:20", "user"),
                vdi("Ref:10", "Ref:20", "system"),
                vdi("Ref:11", "Ref:20", "user"),
                vdi("Ref:12", "Ref:21", "user"),
                vdi("Ref:13", "Ref:20", "suspend"),
                vdi("Ref:14", "Ref:20", "user"),
                object("SR", "Ref:20", &field("content_type", "user")),
                object("SR", "Ref:21", &field("content_type", "iso")),
            ]
            .concat(),
        );
        let ova = strict(&text).unwrap();
        let names: Vec<_> = ova.disks().into_iter().map(|d| d.reference).collect();
        assert_eq!(names, ["Ref:10", "Ref:13", "Ref:9"]);
        assert_eq!(ova.others.len(), 2);
    }

    #[test]
    fn what_is_no_description_is_refused() {
        let good = with_objects("");
        assert!(strict(&good).is_ok());
        let deep = "<struct><member><name>a</name><value>".repeat(50_000);
        for (text, kind) in [
            ("", ErrorKind::Corrupt),
            ("<value/>", ErrorKind::Corrupt),
            ("<value><struct></struct></value>", ErrorKind::Corrupt),
            ("<appliance version=\"0.1\"/>", ErrorKind::Unsupported),
            (&good[..good.len() / 2], ErrorKind::Corrupt),
            (&format!("{good}<value/>"), ErrorKind::Corrupt),
            (&format!("<!DOCTYPE a [<!ENTITY b 'c'>]>{good}"), ErrorKind::Corrupt),
            (&with_objects(&object("VM", "&own;", "")), ErrorKind::Corrupt),
            (&with_objects(&object("VM", "x", &field("a", &deep))), ErrorKind::Corrupt),
            (&with_objects(&object("VDI", "x", &field("virtual_size", "-1"))), ErrorKind::Corrupt),
            (&with_objects(&object("VM", "", "").repeat(MAX_OBJECTS + 1)), ErrorKind::Corrupt),
        ] {
            let error = strict(text).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(!error.to_string().contains('\n'));
        }
        let mut lenient = Findings::new(Policy::Lenient);
        let text = with_objects(&object("VDI", "x", &field("virtual_size", "-1")));
        assert_eq!(parse(text.as_bytes(), &mut lenient).unwrap().vdis[0].virtual_size, 0);
        assert_eq!(lenient.list()[0].code, "ova-number");
    }
}
