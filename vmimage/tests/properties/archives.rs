//! Archives and compression around disks, put together by hand: what XenServer exports, and what
//! its Nova driver stored.

use std::io::Write as _;

use sha1::Digest as _;

use crate::builder::Rng;
use crate::forge::MIB;

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Either of the two.
pub(crate) fn packed(bytes: &[u8], rng: &mut Rng) -> Vec<u8> {
    if rng.one_in(2) { gzip(bytes) } else { zstd(bytes) }
}

/// Adds a member to a tar archive.
fn member(tar: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut header = [0_u8; 512];
    let mut put =
        |at: usize, text: &str| header[at..][..text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644");
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "14000000000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar");
    put(263, "00");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar.extend(header);
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// The layers of a chain (the youngest first) as `0.vhd`, `1.vhd`, … in any order.
pub(crate) fn layers(files: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut order: Vec<usize> = (0..files.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, rng.below(i + 1));
    }
    let mut tar = Vec::new();
    let prefix = rng.pick(&["", "./"]);
    for index in order {
        member(&mut tar, &format!("{prefix}{index}.vhd"), &files[index]);
    }
    // As XAPI ends an archive, or as tar fills it up.
    let end = *rng.pick(&[tar.len() + 1024, (tar.len() + 1024).next_multiple_of(10240)]);
    tar.resize(end, 0);
    tar
}

fn object(class: &str, id: &str, fields: &[(&str, &str)]) -> String {
    let field = |(name, text): &(&str, &str)| {
        format!("<member><name>{name}</name><value>{text}</value></member>")
    };
    let fields: String = fields.iter().map(field).collect();
    format!(
        "<value><struct><member><name>class</name><value>{class}</value></member>\
         <member><name>id</name><value>{id}</value></member><member><name>snapshot</name>\
         <value><struct>{fields}</struct></value></member></struct></value>"
    )
}

/// `ova.xml` of a machine with these disks.
fn ova(disks: &[(&str, &[u8])]) -> String {
    let mut objects = object("VM", "Ref:0", &[("name_label", "web &lt;01&gt;")]);
    for (i, (id, content)) in disks.iter().enumerate() {
        let (vbd, device, size) = (format!("Ref:{}", 100 + i), i.to_string(), content.len());
        let fields = [
            ("VM", "Ref:0"),
            ("VDI", id),
            ("userdevice", &device),
            ("type", "Disk"),
            ("mode", "RW"),
        ];
        objects += &object("VBD", &vbd, &fields);
        objects += &object("VDI", id, &[("virtual_size", &size.to_string()), ("type", "user")]);
    }
    format!(
        "<?xml version='1.0'?>\n<value><struct><member><name>version</name><value><struct>\
         <member><name>product_version</name><value>8.3.0</value></member>\
         <member><name>export_vsn</name><value>2</value></member></struct></value></member>\
         <member><name>objects</name><value><array><data>{objects}</data></array></value>\
         </member></struct></value>"
    )
}

/// The chunks of one disk: the first and the last one, those with data, and some of zeros; now and
/// then one without any bytes, by which a slow export keeps its connection.
fn chunks(tar: &mut Vec<u8>, id: &str, content: &[u8], sha1: bool, rng: &mut Rng) {
    let mut number = 0;
    let mut add = |number: &mut usize, data: &[u8]| {
        let name = format!("{id}/{number:08}");
        member(tar, &name, data);
        let (kind, sum) = if sha1 {
            let sum: String = sha1::Sha1::digest(data).iter().map(|b| format!("{b:02x}")).collect();
            ("checksum", sum)
        } else {
            ("xxhash", format!("{:016X}", twox_hash::XxHash64::oneshot(0, data)))
        };
        member(tar, &format!("{name}.{kind}"), sum.as_bytes());
        *number += 1;
    };
    let last = content.len().div_ceil(MIB) - 1;
    for (index, data) in content.chunks(MIB).enumerate() {
        if index > 0 && rng.one_in(5) {
            add(&mut number, &[]);
        }
        let zero = data.iter().all(|b| *b == 0);
        if zero && index > 0 && index < last && !rng.one_in(4) {
            number += 1;
        } else {
            add(&mut number, data);
        }
    }
}

/// The name of the disk that is meant; the other one's comes first.
pub(crate) const DISK: &str = "Ref:9";
const OTHER: &str = "Ref:10";

/// A machine with this disk, and perhaps with another one.
pub(crate) fn xva(content: &[u8], rng: &mut Rng) -> Vec<u8> {
    let (sha1, two) = (rng.one_in(3), rng.one_in(3));
    let other = vec![0xA5; 700 * 512];
    let mut tar = Vec::new();
    let disks = [(DISK, content), (OTHER, &other)];
    member(&mut tar, "ova.xml", ova(&disks[..if two { 2 } else { 1 }]).as_bytes());
    if two {
        chunks(&mut tar, OTHER, &other, sha1, rng);
    }
    chunks(&mut tar, DISK, content, sha1, rng);
    tar.resize(tar.len() + 1024, 0);
    tar
}
