//! The server's format check, done here before the first byte is sent.
//!
//! Since 2025 Glance inspects what is uploaded into a `bare` container and refuses (415) what does not match the
//! declared format, often only after the whole body. The rules here are those of its inspectors (oslo.utils,
//! `imageutils.format_inspector`), as far as the two ends of the data can tell.

mod ends;
mod mbr;
mod vmdk;

use mbr::{Mbr, mbr};

pub use ends::{TAIL_LEN, preflight_ends};

use super::record::{ContainerFormat, DiskFormat};
use crate::error::{Error, ErrorKind, Result};

/// How many bytes of the start are looked at: up to the first volume descriptor of an optical disc. Fewer are enough
/// for data that is shorter.
pub const HEAD_LEN: usize = 34 << 10;

/// Compares the first [`HEAD_LEN`] bytes (or all, if there are fewer) with the declared formats.
///
/// Besides what Glance refuses, it refuses what Glance takes silently and wrongly: a QCOW2, VHD, VMDK… declared as
/// `raw` (it would be served as a raw disk with that header in front), a differencing VHD, whose parent is not there.
///
/// # Errors
/// [`ErrorKind::UnsupportedFormat`] with what was found and what to do.
///
/// ```
/// use glance_client::image::{ContainerFormat, DiskFormat, preflight};
/// let gzip = [0x1f, 0x8b, 8, 0];
/// let error = preflight(&DiskFormat::Vhd, &ContainerFormat::Bare, &gzip).unwrap_err();
/// assert!(error.to_string().contains("container format \"ovf\""));
/// preflight(&DiskFormat::Vhd, &ContainerFormat::Ovf, &gzip)?;
/// # Ok::<(), glance_client::Error>(())
/// ```
pub fn preflight(disk: &DiskFormat, container: &ContainerFormat, head: &[u8]) -> Result<()> {
    let found = detect(head);
    let problem = match (container, disk) {
        (ContainerFormat::Bare, DiskFormat::Vhd) => vhd(head, found),
        (ContainerFormat::Bare, DiskFormat::Qcow2) => qcow2(head, found),
        (ContainerFormat::Bare, DiskFormat::Raw | DiskFormat::Gpt) => raw(disk, head, found),
        (ContainerFormat::Bare, DiskFormat::Iso) => (!is_iso(head)).then(|| {
            format!("the data is {}, and there is no volume descriptor of a disc", described(found))
        }),
        (
            ContainerFormat::Bare,
            DiskFormat::Vhdx | DiskFormat::Vmdk | DiskFormat::Vdi | DiskFormat::Luks,
        ) => {
            let wanted = disk.as_str();
            match found {
                Some(found) if found != wanted => {
                    Some(format!("the data is {}", described(Some(found))))
                }
                None => Some(format!("the data is {}", described(None))),
                Some("vmdk") => vmdk::problem(head),
                Some("luks") => luks(head),
                Some(_) => None,
            }
        }
        (ContainerFormat::Ovf, DiskFormat::Vhd) if found != Some("gzip") => Some(format!(
            "the data is {}, but disk format \"vhd\" in \"ovf\" means a gzipped tar with 0.vhd in it",
            described(found)
        )),
        _ => None,
    };
    let problem = problem.or_else(|| match container {
        ContainerFormat::Bare => ambiguous(disk, head, found),
        _ => None,
    });
    refused(disk, container, problem)
}

fn refused(disk: &DiskFormat, container: &ContainerFormat, problem: Option<String>) -> Result<()> {
    match problem {
        None => Ok(()),
        Some(problem) => Err(Error::new(
            ErrorKind::UnsupportedFormat,
            format!("data declared as {disk} in {container}: {problem}"),
        )),
    }
}

/// The format by its magic, in the words of Glance.
fn detect(head: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&str, usize, &[u8]); 9] = [
        ("qcow2", 0, b"QFI\xfb"),
        ("vhd", 0, b"conectix"),
        ("vhdx", 0, b"vhdxfile"),
        ("vmdk", 0, b"KDMV"),
        ("vmdk", 0, b"# Disk DescriptorFile"),
        ("vdi", 0x40, b"\x7f\x10\xda\xbe"),
        ("qed", 0, b"QED\0"),
        ("luks", 0, b"LUKS\xba\xbe"),
        ("gzip", 0, b"\x1f\x8b"),
    ];
    let here = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    MAGIC.into_iter().find(|(_, at, magic)| here(*at, magic)).map(|(name, ..)| name)
}

/// The first volume descriptor of ISO 9660, or of UDF.
fn is_iso(head: &[u8]) -> bool {
    const AT: usize = 32 << 10;
    // The server wants the whole descriptor before it looks at it.
    head.len() >= AT + 2048 && [&b"CD001"[..], b"NSR02", b"NSR03"].contains(&&head[AT + 1..AT + 6])
}

fn luks(head: &[u8]) -> Option<String> {
    (head.get(6..8) != Some(&[0, 1]))
        .then(|| "it is LUKS of version 2, and Glance takes only version 1".to_owned())
}

/// The server refuses what looks like two formats at once, but for a disc with a partition table.
fn ambiguous(disk: &DiskFormat, head: &[u8], found: Option<&'static str>) -> Option<String> {
    let mut all: Vec<_> = found.filter(|found| *found != "gzip").into_iter().collect();
    if is_iso(head) {
        all.push("iso");
    }
    if !matches!(mbr(head), Mbr::None) {
        all.push("a disk with a partition table");
    }
    let inspected = ["gpt", "iso", "luks", "qcow2", "raw", "vdi", "vhd", "vhdx", "vmdk"];
    if !inspected.contains(&disk.as_str()) {
        // A kernel, a container: whatever it is, it must not be one of those that the server knows.
        return (!all.is_empty()).then(|| format!("the data is {}", all.join(" and ")));
    }
    let disc = all.first() == Some(&"iso") && *disk != DiskFormat::Gpt;
    (all.len() > 1 && !disc).then(|| format!("the data looks like {} at once", all.join(" and ")))
}

fn described(found: Option<&'static str>) -> &'static str {
    match found {
        Some("gzip") => "gzip-compressed",
        Some("vhd") => "a VHD",
        Some("qcow2") => "a QCOW2",
        Some(other) => other,
        None => "in no image format that is known",
    }
}

fn vhd(head: &[u8], found: Option<&'static str>) -> Option<String> {
    const DIFFERENCING: u32 = 4;
    match found {
        Some("vhd") => {
            let kind = head.get(60..64).and_then(|kind| kind.try_into().ok()).map(u32::from_be_bytes);
            (kind == Some(DIFFERENCING))
                .then(|| "it is a differencing VHD, which is nothing without its parent: collapse the chain".to_owned())
        }
        Some("gzip") => Some(
            "the data is gzip-compressed: a gzipped tar with 0.vhd in it belongs into container format \"ovf\"".to_owned(),
        ),
        None => Some(
            "there is no VHD footer at the start. A fixed VHD has its only one at the end, and Glance refuses it: send a \
             dynamic VHD"
                .to_owned(),
        ),
        other => Some(format!("the data is {}", described(other))),
    }
}

fn qcow2(head: &[u8], found: Option<&'static str>) -> Option<String> {
    if found != Some("qcow2") {
        return Some(format!("the data is {}", described(found)));
    }
    let word =
        |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let long =
        |at: usize| head.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    if long(8) != Some(0) {
        return Some(
            "it has a backing file (or no whole header): convert it into one file".to_owned(),
        );
    }
    const DATA_FILE: u64 = 1 << 2;
    const KNOWN: u64 = 0b1111;
    let features = long(72).unwrap_or(0);
    // Version 2 has no features there, but Glance looks for this one all the same.
    if features & DATA_FILE != 0 {
        return Some("its data is in another file: convert it into one file".to_owned());
    }
    match word(4) {
        Some(2) => None,
        Some(3) if features & !KNOWN == 0 => None,
        Some(3) => Some(
            "it uses features that Glance refuses (extended L2 entries or newer): convert it"
                .to_owned(),
        ),
        _ => Some("it is neither of version 2 nor 3".to_owned()),
    }
}

fn raw(disk: &DiskFormat, head: &[u8], found: Option<&'static str>) -> Option<String> {
    if let Some(found) = found.filter(|found| *found != "gzip") {
        return Some(format!(
            "the data is {}, which would be taken for the disk's own content: declare it as {found}",
            described(Some(found))
        ));
    }
    match mbr(head) {
        Mbr::None if *disk == DiskFormat::Gpt => Some("there is no partition table".to_owned()),
        Mbr::None | Mbr::Valid => None,
        // A disc is not asked for its partitions.
        Mbr::Odd(_) if is_iso(head) => None,
        Mbr::Odd(why) => Some(format!(
            "the boot sector fails Glance's safety check ({why}): send the disk as qcow2, whose inner disk is not \
             inspected"
        )),
    }
}

#[cfg(test)]
mod tests;
