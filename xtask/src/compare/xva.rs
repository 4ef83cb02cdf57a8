//! Writes XVAs as XAPI exports them: a tar archive of 1 MiB chunks, each with its checksum.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use sha1::{Digest, Sha1};

use super::content::{BLOCK, Content};

const CHUNK: usize = 1 << 20;
/// How the one disk of the archive is called.
pub(crate) const DISK: &str = "Ref:1";

/// Which checksum follows a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checksum {
    /// `.xxhash`, since XenServer 8.1.
    Xxhash,
    /// `.checksum`, before.
    Sha1,
}

/// Writes an archive of one VM with one disk: the chunks that hold data, and the first and the
/// last in any case.
pub(crate) fn write(content: &dyn Content, checksum: Checksum, path: &Path) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(CHUNK, File::create(path)?);
    member(&mut out, "ova.xml", ova_xml(content.size()).as_bytes())?;
    let chunks = content.size() / CHUNK as u64;
    let mut blocks = content.blocks();
    let ends = [0, ((chunks - 1) * CHUNK as u64 / BLOCK as u64) as u32];
    blocks.extend(ends);
    blocks.sort_unstable();
    blocks.dedup();
    let mut buf = vec![0; BLOCK];
    for block in blocks {
        let owned = content.fill(block, &mut buf)?;
        let owned = owned.chunks(owned.len() * CHUNK / BLOCK);
        for (i, (chunk, owned)) in buf.chunks(CHUNK).zip(owned).enumerate() {
            let number = u64::from(block) * (BLOCK / CHUNK) as u64 + i as u64;
            let end = number == 0 || number + 1 == chunks;
            if end || owned.iter().any(|word| *word != 0) {
                let name = format!("{DISK}/{number:08}");
                member(&mut out, &name, chunk)?;
                let (suffix, sum) = match checksum {
                    Checksum::Xxhash => ("xxhash", format!("{:016X}", xxh64(chunk))),
                    Checksum::Sha1 => ("checksum", sha1(chunk)),
                };
                member(&mut out, &format!("{name}.{suffix}"), sum.as_bytes())?;
            }
        }
    }
    out.write_all(&[0; 1024])?;
    out.flush()
}

fn member(out: &mut impl Write, name: &str, data: &[u8]) -> io::Result<()> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\x000000000\x000000000\x00");
    put(124, format!("{:011o}\0{:011o}\0        ", data.len(), 1_704_067_200).as_bytes());
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&header)?;
    out.write_all(data)?;
    out.write_all(&vec![0; data.len().next_multiple_of(512) - data.len()])
}

fn sha1(data: &[u8]) -> String {
    Sha1::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The metadata that a reader needs: one VM, one disk and its size.
fn ova_xml(size: u64) -> String {
    let version = structure(&[
        ("hostname", "host"),
        ("date", "2024-01-01"),
        ("product_version", "8.4.0"),
        ("product_brand", "XenServer"),
        ("build_number", "stable"),
    ])
    .replace(
        "</struct>",
        "<member><name>xapi_major</name><value><int>1</int></value></member>\
         <member><name>xapi_minor</name><value><int>20</int></value></member>\
         <member><name>export_vsn</name><value><int>2</int></value></member></struct>",
    );
    let size = size.to_string();
    let objects = [
        (
            "VM",
            "Ref:2",
            structure(&[
                ("uuid", "6ba7b810-9dad-41d1-80b4-00c04fd430c8"),
                ("name_label", "web01"),
                ("memory_static_max", "1073741824"),
                ("VCPUs_max", "1"),
                ("VCPUs_at_startup", "1"),
                ("power_state", "Halted"),
                ("HVM_boot_policy", "BIOS order"),
                ("domain_type", "hvm"),
            ])
            .replace("</struct>", &format!("{}</struct>", list("VBDs", "Ref:3"))),
        ),
        (
            "VBD",
            "Ref:3",
            structure(&[
                ("VM", "Ref:2"),
                ("VDI", DISK),
                ("device", "xvda"),
                ("userdevice", "0"),
                ("mode", "RW"),
                ("type", "Disk"),
            ])
            .replace("</struct>", &format!("{}{}</struct>", flag("bootable", 1), flag("empty", 0))),
        ),
        (
            "VDI",
            DISK,
            structure(&[
                ("uuid", "6ba7b811-9dad-41d1-80b4-00c04fd430c8"),
                ("name_label", "disk"),
                ("SR", "Ref:4"),
                ("virtual_size", &size),
                ("type", "user"),
            ])
            .replace("</struct>", &format!("{}</struct>", list("VBDs", "Ref:3"))),
        ),
        (
            "SR",
            "Ref:4",
            structure(&[
                ("uuid", "6ba7b812-9dad-41d1-80b4-00c04fd430c8"),
                ("name_label", "Local storage"),
                ("type", "ext"),
            ])
            .replace("</struct>", &format!("{}</struct>", list("VDIs", DISK))),
        ),
    ];
    let objects: String = objects
        .iter()
        .map(|(class, id, snapshot)| {
            format!(
                "<value><struct><member><name>class</name><value>{class}</value></member>\
                 <member><name>id</name><value>{id}</value></member><member><name>snapshot</name>\
                 <value>{snapshot}</value></member></struct></value>"
            )
        })
        .collect();
    format!(
        "<value><struct><member><name>version</name><value>{version}</value></member><member>\
         <name>objects</name><value><array><data>{objects}</data></array></value></member>\
         </struct></value>"
    )
}

fn structure(fields: &[(&str, &str)]) -> String {
    let members: String = fields
        .iter()
        .map(|(name, value)| format!("<member><name>{name}</name><value>{value}</value></member>"))
        .collect();
    format!("<struct>{members}</struct>")
}

fn list(name: &str, value: &str) -> String {
    format!(
        "<member><name>{name}</name><value><array><data><value>{value}</value></data></array>\
         </value></member>"
    )
}

fn flag(name: &str, value: u8) -> String {
    format!("<member><name>{name}</name><value><boolean>{value}</boolean></value></member>")
}

const P1: u64 = 0x9e37_79b1_85eb_ca87;
const P2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const P3: u64 = 0x1656_67b1_9e37_79f9;
const P4: u64 = 0x85eb_ca77_c2b2_ae63;
const P5: u64 = 0x27d4_eb2f_1656_67c5;

/// XXH64 with seed 0, from its specification (xxhash.com).
fn xxh64(data: &[u8]) -> u64 {
    let stripes = data.chunks_exact(32);
    let rest = stripes.remainder();
    let mut hash = if data.len() < 32 {
        P5
    } else {
        let mut lanes = [P1.wrapping_add(P2), P2, 0, 0u64.wrapping_sub(P1)];
        for stripe in stripes {
            for (lane, bytes) in lanes.iter_mut().zip(stripe.chunks_exact(8)) {
                *lane = round(*lane, word(bytes));
            }
        }
        let turns = [1, 7, 12, 18];
        let start = lanes
            .iter()
            .zip(turns)
            .fold(0u64, |sum, (lane, turn)| sum.wrapping_add(lane.rotate_left(turn)));
        lanes
            .iter()
            .fold(start, |hash, lane| (hash ^ round(0, *lane)).wrapping_mul(P1).wrapping_add(P4))
    };
    hash = hash.wrapping_add(data.len() as u64);
    let words = rest.chunks_exact(8);
    let mut tail = words.remainder();
    for bytes in words {
        hash = (hash ^ round(0, word(bytes))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
    }
    if tail.len() >= 4 {
        hash = (hash ^ word(&tail[..4]).wrapping_mul(P1)).rotate_left(23);
        hash = hash.wrapping_mul(P2).wrapping_add(P3);
        tail = &tail[4..];
    }
    for byte in tail {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    hash = (hash ^ hash >> 33).wrapping_mul(P2);
    hash = (hash ^ hash >> 29).wrapping_mul(P3);
    hash ^ hash >> 32
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
}

/// Up to eight bytes, the lowest first.
fn word(bytes: &[u8]) -> u64 {
    let mut all = [0; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xxh64_of_known_texts() {
        // What `xxhsum -H64` prints.
        assert_eq!(xxh64(b""), 0xef46_db37_51d8_e999);
        assert_eq!(xxh64(b"a"), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(xxh64(b"abc"), 0x44bc_2cf5_ad77_0999);
        assert_eq!(xxh64(b"Nobody inspects the spammish repetition"), 0xfbce_a83c_8a37_8bf1);
    }
}
