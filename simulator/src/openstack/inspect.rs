//! The check of a bare image's bytes against its declared format, which servers since 2025
//! enforce while they read the upload.

/// How many bytes at the start the check wants to see: an ISO's first descriptor ends there.
pub(super) const HEAD: usize = 34 * 1024;

/// What a check found in data that are let pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// The size of the disk, if the format tells it.
    pub(super) virtual_size: Option<u64>,
}

/// Judges data that begin with `head` (at most [`HEAD`] bytes) and have `total` bytes.
///
/// The error is the sentence that the server's 415 carries.
pub(super) fn judge(head: &[u8], total: u64, declared: Option<&str>) -> Result<Passed, String> {
    let mut found: Vec<&str> = FORMATS.iter().copied().filter(|f| matches(f, head)).collect();
    if found.len() == 2 && found.contains(&"iso") && found.contains(&"gpt") {
        // A bootable ISO may well begin with a partition table.
        found = vec!["iso"];
    }
    let format = match found.as_slice() {
        [] => "raw",
        [one] => one,
        several => return Err(format!("Multiple formats detected: {}", several.join(","))),
    };
    let declared = declared.unwrap_or("None");
    let virtual_size = if format == declared {
        virtual_size(format, head, total)
    } else if format == "raw" && !FORMATS.contains(&declared) {
        0
    } else if declared == "raw" {
        // Whatever it is, the server takes it for a raw disk.
        total
    } else {
        return Err(format!("Image disk_format {declared} does not match stream data {format}"));
    };
    safety(format, head, declared)?;
    Ok(Passed { virtual_size: Some(virtual_size).filter(|size| *size > 0) })
}

/// The formats that are recognised by content.
const FORMATS: [&str; 9] = ["qcow2", "vhd", "vhdx", "vmdk", "vdi", "qed", "iso", "gpt", "luks"];

fn matches(format: &str, head: &[u8]) -> bool {
    let sector = head.len() >= 512;
    match format {
        "qcow2" => sector && head.starts_with(b"QFI\xfb"),
        "vhd" => head.starts_with(b"conectix"),
        "vhdx" => head.starts_with(b"vhdxfile"),
        // A text is a descriptor if it tells a type; one that goes on behind the head is not followed.
        "vmdk" => sector && (head.starts_with(b"KDMV") || text_type(head).is_some()),
        "vdi" => sector && head[0x40..0x44] == [0x7f, 0x10, 0xda, 0xbe],
        "qed" => sector && head.starts_with(b"QED\0"),
        "iso" => {
            let mark = head.get(0x8001..0x8006);
            head.len() >= HEAD && matches!(mark, Some(b"CD001" | b"NSR02" | b"NSR03"))
        }
        // A FAT boot sector looks like a partition table, but is none.
        "gpt" => {
            let fat = |head: &[u8]| head[0x10] == 2 && head[0x15] == 0xf8;
            sector && head[510..512] == [0x55, 0xaa] && !fat(head)
        }
        "luks" => head.len() >= 592 && head.starts_with(b"LUKS\xba\xbe"),
        _ => false,
    }
}

fn be64(head: &[u8], at: usize) -> u64 {
    let bytes = head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_be_bytes)
}

fn le(head: &[u8], at: usize, len: usize) -> u64 {
    let bytes = head.get(at..at + len).unwrap_or_default();
    bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn virtual_size(format: &str, head: &[u8], total: u64) -> u64 {
    match format {
        "qcow2" => be64(head, 24),
        "vhd" if head.len() >= 512 => be64(head, 40),
        "vhd" => 0,
        "vdi" => le(head, 0x170, 8),
        "vmdk" if head.starts_with(b"KDMV") => le(head, 12, 8).saturating_mul(512),
        // The size hides in tables further on, which this double does not follow.
        "vmdk" | "vhdx" => 0,
        "iso" if head[0x8000] == 1 => le(head, 0x8000 + 80, 4) * le(head, 0x8000 + 128, 2),
        "iso" => 0,
        "luks" => {
            let payload = head.get(104..108).and_then(|bytes| bytes.try_into().ok());
            total.saturating_sub(u64::from(payload.map_or(0, u32::from_be_bytes)) * 512)
        }
        _ => total,
    }
}

fn safety(format: &str, head: &[u8], declared: &str) -> Result<(), String> {
    let safe = match format {
        "qcow2" => qcow2_is_safe(head),
        "qed" => false,
        "vmdk" => vmdk_is_safe(head),
        "luks" => head[6..8] == [0, 1],
        "vhd" if head.len() < 512 => {
            return Err("Incomplete file cannot be safety checked".to_owned());
        }
        // Kernels and ramdisks may begin with something like a partition table.
        "gpt" => matches!(declared, "aki" | "ari") || mbr_is_valid(head),
        _ => true,
    };
    if safe { Ok(()) } else { Err("Image failed safety checks".to_owned()) }
}

/// No backing file, no external data file, no unknown incompatible feature.
fn qcow2_is_safe(head: &[u8]) -> bool {
    let version = be64(head, 0) & 0xffff_ffff;
    let features = be64(head, 72);
    let external_data = 1 << 2;
    // Version 2 has no feature bits; that the real server reads bit 2 there too is kept.
    let known = version == 2 || (version == 3 && features & !0xf == 0);
    be64(head, 8) == 0 && features & external_data == 0 && known
}

/// The type that the text of a descriptor without a disk tells.
fn text_type(head: &[u8]) -> Option<String> {
    let plain = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    head[..512].iter().all(plain).then(|| vmdk_type(&lower(head)))?
}

fn lower(text: &[u8]) -> String {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    String::from_utf8_lossy(&text[..end]).to_lowercase()
}

fn vmdk_type(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("createtype=\"")?;
    Some(rest.split_once('"')?.0.to_owned()).filter(|kind| kind.len() < 64)
}

/// One file with a descriptor in its second sector, which names no path and says nothing odd.
fn vmdk_is_safe(head: &[u8]) -> bool {
    let sparse = head.starts_with(b"KDMV");
    let text = if sparse {
        let (version, sector, sectors) = (le(head, 4, 4), le(head, 28, 8), le(head, 36, 8));
        if !(1..=3).contains(&version) || sector != 1 {
            return false;
        }
        let end = usize::try_from(sectors).unwrap_or(usize::MAX).saturating_mul(512);
        lower(&head[512..end.saturating_add(512).min(head.len())])
    } else {
        lower(head)
    };
    let known = matches!(vmdk_type(&text).as_deref(), Some("monolithicsparse" | "streamoptimized"));
    let mut extents = 0;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let setting = line.split_once('=').is_some_and(|(name, _)| !name.contains(' '));
        if line.starts_with('#') || line.starts_with("ddb") || setting {
            continue;
        }
        let access = line.split(' ').next().unwrap_or_default();
        if !["rw", "rdonly", "noaccess"].contains(&access) || line.contains('/') {
            return false;
        }
        extents += 1;
    }
    known && extents > 0
}

/// The partition table rules of the real check: flags, at least one partition, and a protective
/// entry (type 0xEE) that is alone, first, and starts as the standard wants it.
fn mbr_is_valid(head: &[u8]) -> bool {
    let mut used = Vec::new();
    let mut protective = false;
    for (at, entry) in head[446..510].chunks_exact(16).enumerate() {
        if !matches!(entry[0], 0x00 | 0x80) {
            return false;
        }
        if entry[4] != 0 {
            used.push(at);
        }
        if entry[4] == 0xee {
            protective = true;
            if entry[1..4] != [0x00, 0x02, 0x00] || le(entry, 8, 4) != 1 {
                return false;
            }
        }
    }
    if protective { used == [0] } else { !used.is_empty() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mbr(entries: &[[u8; 16]]) -> Vec<u8> {
        let mut head = vec![0; 4096];
        for (at, entry) in entries.iter().enumerate() {
            head[446 + 16 * at..][..16].copy_from_slice(entry);
        }
        head[510] = 0x55;
        head[511] = 0xaa;
        head
    }

    fn entry(kind: u8) -> [u8; 16] {
        let mut entry = [0; 16];
        entry[4] = kind;
        entry[8] = 1;
        entry
    }

    fn qcow2(version: u32, backing: u64, features: u64) -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..4].copy_from_slice(b"QFI\xfb");
        head[4..8].copy_from_slice(&version.to_be_bytes());
        head[8..16].copy_from_slice(&backing.to_be_bytes());
        head[24..32].copy_from_slice(&(1u64 << 30).to_be_bytes());
        head[72..80].copy_from_slice(&features.to_be_bytes());
        head
    }

    fn size(head: &[u8], declared: &str) -> Result<Option<u64>, String> {
        judge(head, head.len() as u64, Some(declared)).map(|passed| passed.virtual_size)
    }

    #[test]
    fn partition_tables_of_raw_disks() {
        assert_eq!(size(&mbr(&[entry(0x83)]), "raw"), Ok(Some(4096)));
        assert_eq!(size(&mbr(&[entry(0x83)]), "gpt"), Ok(Some(4096)));
        let mut protective = entry(0xee);
        protective[2] = 2;
        assert_eq!(size(&mbr(&[protective]), "raw"), Ok(Some(4096)));
        let mut boot = entry(0x83);
        boot[0] = 0x33;
        for bad in [
            mbr(&[]),
            mbr(&[boot]),
            mbr(&[entry(0xee)]),
            mbr(&[protective, entry(0x83)]),
            mbr(&[entry(0x83), protective]),
        ] {
            assert_eq!(size(&bad, "raw"), Err("Image failed safety checks".to_owned()));
        }
        let mut fat = mbr(&[]);
        fat[0x10] = 2;
        fat[0x15] = 0xf8;
        assert_eq!(size(&fat, "raw"), Ok(Some(4096)));
        assert_eq!(size(&[0; 4096], "raw"), Ok(Some(4096)));
    }

    #[test]
    fn qcow2_must_be_self_contained() {
        assert_eq!(size(&qcow2(3, 0, 0), "qcow2"), Ok(Some(1 << 30)));
        assert_eq!(size(&qcow2(2, 0, 0), "qcow2"), Ok(Some(1 << 30)));
        assert_eq!(size(&qcow2(3, 0, 0), "raw"), Ok(Some(512)), "taken for a raw disk");
        for bad in [qcow2(3, 512, 0), qcow2(3, 0, 4), qcow2(3, 0, 16), qcow2(1, 0, 0)] {
            assert!(size(&bad, "qcow2").is_err());
            assert!(size(&bad, "raw").is_err(), "unsafe whatever it is declared as");
        }
        assert!(size(&qcow2(3, 0, 0), "vhd").is_err());
    }

    #[test]
    fn vhd_needs_its_copy_of_the_footer() {
        let mut dynamic = vec![0; 1024];
        dynamic[..8].copy_from_slice(b"conectix");
        dynamic[40..48].copy_from_slice(&(64u64 << 20).to_be_bytes());
        assert_eq!(size(&dynamic, "vhd"), Ok(Some(64 << 20)));
        let mut fixed = vec![0; 1024];
        fixed[512..520].copy_from_slice(b"conectix");
        assert_eq!(
            size(&fixed, "vhd"),
            Err("Image disk_format vhd does not match stream data raw".to_owned())
        );
        assert!(size(b"\x1f\x8b tar", "vhd").is_err());
        assert!(size(b"conectix", "vhd").is_err(), "cut short");
    }

    #[test]
    fn two_formats_at_once_are_refused_except_bootable_isos() {
        let mut both = mbr(&[entry(0x83)]);
        both[..4].copy_from_slice(b"QFI\xfb");
        assert!(size(&both, "qcow2").unwrap_err().starts_with("Multiple"));
        let mut iso = mbr(&[]);
        iso.resize(HEAD, 0);
        iso[0x8000..0x8006].copy_from_slice(b"\x01CD001");
        iso[0x8000 + 80] = 20;
        iso[0x8000 + 129] = 8;
        assert_eq!(size(&iso, "iso"), Ok(Some(20 * 2048)));
    }

    #[test]
    fn formats_that_cannot_be_inspected_pass_when_nothing_is_recognised() {
        assert_eq!(size(b"kernel", "aki"), Ok(None));
        assert!(size(&qcow2(3, 0, 0), "ami").is_err());
    }

    #[test]
    fn a_vmdk_is_one_file_and_luks_of_version_1() {
        let vmdk = |kind: &str, extent: &str| {
            let text =
                format!("createType=\"{kind}\"\nRW 2048 SPARSE \"{extent}\"\nddb.a = \"1\"\n");
            let mut head = vec![0; 4096];
            head[..5].copy_from_slice(b"KDMV\x01");
            (head[12], head[28], head[36]) = (8, 1, 4);
            head[512..512 + text.len()].copy_from_slice(text.as_bytes());
            head
        };
        assert_eq!(size(&vmdk("streamOptimized", "a.vmdk"), "vmdk"), Ok(Some(4096)));
        assert!(size(&vmdk("twoGbMaxExtentSparse", "a.vmdk"), "vmdk").is_err());
        assert!(size(&vmdk("monolithicSparse", "/etc/shadow"), "vmdk").is_err());
        let mut luks = vec![0; 4096];
        luks[..8].copy_from_slice(b"LUKS\xba\xbe\0\x02");
        assert!(size(&luks, "raw").is_err());
        luks[7] = 1;
        assert_eq!(size(&luks, "raw"), Ok(Some(4096)));
    }
}
