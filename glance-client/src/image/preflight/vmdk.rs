//! The server's rules for VMware's disks: only those that are one file, and whose descriptor names no other.

/// What the server would refuse, as far as the start shows it.
pub(super) fn problem(head: &[u8]) -> Option<String> {
    const DESCRIPTOR: u64 = 512;
    if !head.starts_with(b"KDMV") {
        return Some(
            "it is only the description of a VMDK, whose data lies in other files: convert it into one file".to_owned(),
        );
    }
    let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
    if !matches!(word(4), Some(1..=3)) {
        return Some("it is of no known version of VMDK".to_owned());
    }
    if long(28).and_then(|sector| sector.checked_mul(512)) != Some(DESCRIPTOR) {
        return Some("its description is not in the second sector".to_owned());
    }
    let start = DESCRIPTOR as usize;
    let len = usize::try_from(long(36)?.checked_mul(512)?).ok()?;
    // A description that goes on behind what we see is left to the server.
    let text = head.get(start..start.checked_add(len)?)?;
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    if !text.is_ascii() {
        return Some("its description is not plain text".to_owned());
    }
    described(&String::from_utf8_lossy(text).to_ascii_lowercase())
}

fn described(text: &str) -> Option<String> {
    let kind = text.split_once("createtype=\"").and_then(|(_, rest)| rest.split_once('"'));
    match kind.map(|(kind, _)| kind) {
        Some("monolithicsparse" | "streamoptimized") => {}
        Some(kind) => {
            return Some(format!(
                "it is a VMDK of type {kind:?}, and Glance takes only monolithicSparse and streamOptimized"
            ));
        }
        None => return Some("its description has no createType".to_owned()),
    }
    let mut extents = 0;
    for line in text.split('\n').map(str::trim) {
        let first = line.split(' ').next().unwrap_or_default();
        if line.is_empty() || line.starts_with(['#']) || line.starts_with("ddb") {
            continue;
        }
        if line.split_once('=').is_some_and(|(name, _)| !name.contains(' ')) {
            continue;
        }
        if !matches!(first, "rw" | "rdonly" | "noaccess") {
            return Some("its description has a line that Glance does not know".to_owned());
        }
        if line.contains('/') {
            return Some("its description names a file in another folder".to_owned());
        }
        extents += 1;
    }
    (extents == 0).then(|| "its description names no extent".to_owned())
}
