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
        check(&DiskFormat::Vhd, &ContainerFormat::Ovf, &vhd_of(3)).unwrap().contains("gzipped tar")
    );
    assert_eq!(check(&DiskFormat::Vhd, &ContainerFormat::Ovf, b"\x1f\x8b\x08"), None);
}

#[test]
fn qcow2_must_be_whole() {
    assert_eq!(bare(&DiskFormat::Qcow2, &qcow2_of(2, 0, !0b100)), None);
    assert_eq!(bare(&DiskFormat::Qcow2, &qcow2_of(3, 0, 0b1011)), None);
    assert!(bare(&DiskFormat::Qcow2, &qcow2_of(2, 0, 0b100)).unwrap().contains("another file"));
    assert_eq!(bare(&DiskFormat::Ami, &[0; 512]), None);
    assert!(bare(&DiskFormat::Ami, &qcow2_of(3, 0, 0)).unwrap().contains("qcow2"));
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
    assert!(bare(&DiskFormat::Vmdk, &[0; 512]).is_some());
}

fn vmdk_of(version: u8, sector: u8, description: &str) -> Vec<u8> {
    let mut head = vec![0; HEAD_LEN];
    head[..4].copy_from_slice(b"KDMV");
    (head[4], head[28], head[36]) = (version, sector, 2);
    head[512..512 + description.len()].copy_from_slice(description.as_bytes());
    head
}

#[test]
fn a_vmdk_is_one_file() {
    let good = "# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicSparse\"\n\nRW 2048 SPARSE \"a.vmdk\"\nddb.x = \"1\"\n";
    assert_eq!(bare(&DiskFormat::Vmdk, &vmdk_of(1, 1, good)), None);
    for (head, word) in [
        (vmdk_of(4, 1, good), "version"),
        (vmdk_of(1, 2, good), "second sector"),
        (vmdk_of(1, 1, &good.replace("Sparse", "Flat")), "monolithicflat"),
        (vmdk_of(1, 1, &good.replace("a.vmdk", "../a")), "another folder"),
        (vmdk_of(1, 1, &good.replace("RW 2048", "#")), "no extent"),
        (vmdk_of(1, 1, &good.replace("\nddb", "\nodd thing")), "does not know"),
        (vmdk_of(1, 1, "nothing"), "no createType"),
        (vmdk_of(1, 1, "\u{e4}"), "plain text"),
        (good.as_bytes().to_vec(), "other files"),
        (b"KDMV".to_vec(), "version"),
    ] {
        assert!(bare(&DiskFormat::Vmdk, &head).is_some_and(|said| said.contains(word)), "{word}");
    }
}

#[test]
fn discs_and_what_looks_like_two_formats() {
    let mut disc = vec![0; HEAD_LEN];
    disc[32769..32774].copy_from_slice(b"CD001");
    assert_eq!(bare(&DiskFormat::Iso, &disc), None);
    assert_eq!(bare(&DiskFormat::Raw, &disc), None);
    assert!(bare(&DiskFormat::Iso, &disc[..HEAD_LEN - 1]).unwrap().contains("volume descriptor"));
    assert!(bare(&DiskFormat::Iso, &[0; 512]).unwrap().contains("volume descriptor"));
    let linux = [0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];
    let table = mbr_of(&[(0, linux)]);
    let mut bootable = disc.clone();
    bootable[..512].copy_from_slice(&table);
    assert_eq!(bare(&DiskFormat::Iso, &bootable), None);
    assert!(bare(&DiskFormat::Gpt, &bootable).unwrap().contains("at once"));
    let mut two = qcow2_of(3, 0, 0);
    two[510..].copy_from_slice(&[0x55, 0xaa]);
    assert!(bare(&DiskFormat::Qcow2, &two).unwrap().contains("at once"));
    assert_eq!(bare(&DiskFormat::Luks, b"LUKS\xba\xbe\0\x01"), None);
    assert!(bare(&DiskFormat::Luks, b"LUKS\xba\xbe\0\x02").unwrap().contains("version 1"));
}
