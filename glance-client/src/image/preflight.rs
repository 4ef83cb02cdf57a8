//! The server's format check, done here before the first byte is sent.
//!
//! Since 2025 Glance inspects what is uploaded into a `bare` container and refuses (415) what does not match the
//! declared format, often only after the whole body. The rules here are those of its inspectors, as far as the start of
//! the data can tell.

use super::record::{ContainerFormat, DiskFormat};
use crate::error::{Error, ErrorKind, Result};

/// How many bytes of the start are looked at. Fewer are enough for data that is shorter.
pub const HEAD_LEN: usize = 512;

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
        (
            ContainerFormat::Bare,
            DiskFormat::Vhdx | DiskFormat::Vmdk | DiskFormat::Vdi | DiskFormat::Luks,
        ) => {
            let wanted = disk.as_str();
            (found.is_none_or(|found| found != wanted))
                .then(|| format!("the data is {}", described(found)))
        }
        (ContainerFormat::Ovf, DiskFormat::Vhd) if found != Some("gzip") => Some(format!(
            "the data is {}, but disk format \"vhd\" in \"ovf\" means a gzipped tar with 0.vhd in it",
            described(found)
        )),
        _ => None,
    };
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
    match word(4) {
        Some(2) => None,
        Some(3) => {
            const DATA_FILE: u64 = 1 << 2;
            const KNOWN: u64 = 0b1111;
            let features = long(72)?;
            if features & DATA_FILE != 0 {
                Some("its data is in another file: convert it into one file".to_owned())
            } else if features & !KNOWN != 0 {
                Some("it uses features that Glance refuses (extended L2 entries or newer): convert it".to_owned())
            } else {
                None
            }
        }
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
        Mbr::Odd(why) => Some(format!(
            "the boot sector fails Glance's safety check ({why}): send the disk as qcow2, whose inner disk is not \
             inspected"
        )),
    }
}

enum Mbr {
    None,
    Valid,
    Odd(&'static str),
}

fn mbr(head: &[u8]) -> Mbr {
    let Some(sector) = head.get(..512) else { return Mbr::None };
    let fat = sector[0x10] == 2 && sector[0x15] == 0xf8;
    if sector[510..] != [0x55, 0xaa] || fat {
        return Mbr::None;
    }
    const PROTECTIVE: u8 = 0xee;
    let entries = sector[446..510].as_chunks::<16>().0;
    if entries.iter().any(|entry| entry[0] & 0x7f != 0) {
        return Mbr::Odd("a partition's boot flag is neither 0 nor 0x80");
    }
    let used: Vec<_> = entries.iter().enumerate().filter(|(_, entry)| entry[4] != 0).collect();
    if used.is_empty() {
        return Mbr::Odd("no partition is defined");
    }
    let Some((_, protective)) = used.iter().find(|(_, entry)| entry[4] == PROTECTIVE) else {
        return Mbr::Valid;
    };
    if used.len() != 1 || used[0].0 != 0 {
        return Mbr::Odd("a protective GPT entry is not alone");
    }
    if protective[1..4] != [0, 2, 0] || protective[8..12] != [1, 0, 0, 0] {
        return Mbr::Odd("a protective GPT entry does not start at sector 1");
    }
    Mbr::Valid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(disk: &DiskFormat, container: &ContainerFormat, head: &[u8]) -> Option<String> {
        preflight(disk, container, head).err().map(|error| {
            assert_eq!(error.kind(), ErrorKind::UnsupportedFormat);
            error.to_string()
        })
    }

    fn bare(disk: &DiskFormat, head: &[u8]) -> Option<String> {
        check(disk, &ContainerFormat::Bare, head)
    }

    fn vhd_of(kind: u32) -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..8].copy_from_slice(b"conectix");
        head[60..64].copy_from_slice(&kind.to_be_bytes());
        head
    }

    fn qcow2_of(version: u32, backing: u64, features: u64) -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..4].copy_from_slice(b"QFI\xfb");
        head[4..8].copy_from_slice(&version.to_be_bytes());
        head[8..16].copy_from_slice(&backing.to_be_bytes());
        head[72..80].copy_from_slice(&features.to_be_bytes());
        head
    }

    fn mbr_of(entries: &[(usize, [u8; 16])]) -> Vec<u8> {
        let mut sector = vec![0; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        for (index, entry) in entries {
            sector[446 + 16 * index..][..16].copy_from_slice(entry);
        }
        sector
    }

    #[test]
    fn vhd_in_bare_must_be_dynamic() {
        assert_eq!(bare(&DiskFormat::Vhd, &vhd_of(3)), None);
        assert!(bare(&DiskFormat::Vhd, &vhd_of(4)).unwrap().contains("differencing"));
        assert!(bare(&DiskFormat::Vhd, &[0; 512]).unwrap().contains("fixed VHD"));
        assert!(bare(&DiskFormat::Vhd, &mbr_of(&[])).unwrap().contains("fixed VHD"));
        assert!(bare(&DiskFormat::Vhd, b"\x1f\x8b\x08").unwrap().contains("\"ovf\""));
        assert!(bare(&DiskFormat::Vhd, &qcow2_of(3, 0, 0)).unwrap().contains("a QCOW2"));
        assert!(bare(&DiskFormat::Vhd, b"").is_some());
        assert!(
            check(&DiskFormat::Vhd, &ContainerFormat::Ovf, &vhd_of(3))
                .unwrap()
                .contains("gzipped tar")
        );
        assert_eq!(check(&DiskFormat::Vhd, &ContainerFormat::Ovf, b"\x1f\x8b\x08"), None);
    }

    #[test]
    fn qcow2_must_be_whole() {
        assert_eq!(bare(&DiskFormat::Qcow2, &qcow2_of(2, 0, u64::MAX)), None);
        assert_eq!(bare(&DiskFormat::Qcow2, &qcow2_of(3, 0, 0b1011)), None);
        assert!(bare(&DiskFormat::Qcow2, &qcow2_of(3, 512, 0)).unwrap().contains("backing file"));
        assert!(bare(&DiskFormat::Qcow2, &qcow2_of(3, 0, 0b100)).unwrap().contains("another file"));
        assert!(bare(&DiskFormat::Qcow2, &qcow2_of(3, 0, 1 << 40)).unwrap().contains("features"));
        assert!(bare(&DiskFormat::Qcow2, &qcow2_of(1, 0, 0)).unwrap().contains("version 2 nor 3"));
        assert!(bare(&DiskFormat::Qcow2, &[0; 512]).unwrap().contains("no image format"));
        assert!(bare(&DiskFormat::Qcow2, b"QFI\xfb").is_some());
    }

    #[test]
    fn raw_must_not_be_an_image_and_its_partition_table_must_be_sane() {
        let linux = [0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];
        let gpt = [0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        let mut late = gpt;
        late[8] = 2;
        let mut flag = linux;
        flag[0] = 0x81;
        for good in [
            vec![0; 512],
            vec![7; 3],
            mbr_of(&[(0, linux)]),
            mbr_of(&[(3, linux)]),
            mbr_of(&[(0, gpt)]),
        ] {
            assert_eq!(bare(&DiskFormat::Raw, &good), None);
        }
        for (bad, word) in [
            (mbr_of(&[]), "no partition"),
            (mbr_of(&[(1, flag)]), "boot flag"),
            (mbr_of(&[(1, gpt)]), "not alone"),
            (mbr_of(&[(0, gpt), (1, linux)]), "not alone"),
            (mbr_of(&[(0, late)]), "sector 1"),
            (qcow2_of(3, 0, 0), "declare it as qcow2"),
            (vhd_of(3), "declare it as vhd"),
        ] {
            assert!(bare(&DiskFormat::Raw, &bad).unwrap().contains(word), "{word}");
        }
        let mut fat = mbr_of(&[]);
        fat[0x10] = 2;
        fat[0x15] = 0xf8;
        assert_eq!(bare(&DiskFormat::Raw, &fat), None);
        assert!(bare(&DiskFormat::Gpt, &[0; 512]).unwrap().contains("no partition table"));
        assert_eq!(bare(&DiskFormat::Iso, &[0; 512]), None);
        assert!(bare(&DiskFormat::Vmdk, &[0; 512]).is_some());
        assert_eq!(bare(&DiskFormat::Vmdk, b"KDMV"), None);
    }
}
