//! The names of an XVA's members.

use super::digest::DigestKind;

/// The longest name of a disk; `OpaqueRef:` and a UUID are 46 bytes.
const MAX_REFERENCE: usize = 128;

/// What a member is by its name. Names come from strangers and are never used as paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Member<'a> {
    /// `ova.xml`.
    Ova,
    /// `Ref:7/00000042`.
    Chunk { disk: &'a str, number: u64 },
    /// `Ref:7/00000042.xxhash`.
    Digest { disk: &'a str, number: u64, kind: DigestKind },
    /// Anything else.
    Unknown,
}

impl<'a> Member<'a> {
    pub(super) fn of(name: &'a str) -> Self {
        let name = name.strip_prefix("./").unwrap_or(name);
        if name == "ova.xml" {
            return Self::Ova;
        }
        let Some((disk, file)) = name.split_once('/') else { return Self::Unknown };
        if !is_reference(disk) {
            return Self::Unknown;
        }
        let (digits, suffix) = file.split_once('.').unwrap_or((file, ""));
        // Eight digits, more only where eight are too few: each number has one name.
        let canonical = digits.len() == 8 || (digits.len() > 8 && !digits.starts_with('0'));
        if !canonical || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Self::Unknown;
        }
        let Ok(number) = digits.parse() else { return Self::Unknown };
        match (suffix, file.len() == digits.len()) {
            (_, true) => Self::Chunk { disk, number },
            ("xxhash", _) => Self::Digest { disk, number, kind: DigestKind::Xxh64 },
            ("checksum", _) => Self::Digest { disk, number, kind: DigestKind::Sha1 },
            _ => Self::Unknown,
        }
    }
}

/// `Ref:7`, `OpaqueRef:` and a UUID, or `vdi` as in the export of a single one.
pub(super) fn is_reference(name: &str) -> bool {
    let rest = name.strip_prefix("Ref:").or_else(|| name.strip_prefix("OpaqueRef:"));
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    match rest {
        Some(id) => !id.is_empty() && name.len() <= MAX_REFERENCE && id.bytes().all(word),
        None => name == "vdi",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_kind() {
        let opaque = "OpaqueRef:5bb0a3bc-0a6c-4a1e-9e0b-ffffffffffff";
        let long = format!("{opaque}/00000007.checksum");
        for (name, member) in [
            ("ova.xml", Member::Ova),
            ("./ova.xml", Member::Ova),
            ("Ref:7/00000042", Member::Chunk { disk: "Ref:7", number: 42 }),
            ("Ref:7/100000000", Member::Chunk { disk: "Ref:7", number: 100_000_000 }),
            ("vdi/99999999", Member::Chunk { disk: "vdi", number: 99_999_999 }),
            (
                "Ref:7/00000042.xxhash",
                Member::Digest { disk: "Ref:7", number: 42, kind: DigestKind::Xxh64 },
            ),
            (&long, Member::Digest { disk: opaque, number: 7, kind: DigestKind::Sha1 }),
        ] {
            assert_eq!(Member::of(name), member, "{name}");
        }
    }

    #[test]
    fn hostile_names_are_nothing() {
        for name in [
            "",
            "/",
            "/etc/passwd",
            "../../etc/passwd",
            "../00000000",
            "/Ref:1/00000000",
            "Ref:1/../00000000",
            "Ref:/00000000",
            "Ref:../00000000",
            "Ref:1/0000000",
            "Ref:1/000000000",
            "Ref:1/+0000001",
            "Ref:1/00000000.",
            "Ref:1/00000000.xxhash.xxhash",
            "Ref:1/99999999999999999999999999",
            "Ref:1/0000000\u{664}",
            "vdi2/00000000",
            "ova.xml/",
        ] {
            assert_eq!(Member::of(name), Member::Unknown, "{name}");
        }
        assert!(!is_reference(&format!("Ref:{}", "1".repeat(200))));
    }
}
