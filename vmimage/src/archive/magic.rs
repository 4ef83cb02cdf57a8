//! Compressions by the first bytes of a file or a stream.

/// How many first bytes tell all of them.
pub(crate) const MAGIC_LEN: u64 = 6;

/// What is known and not read.
const UNREAD: &[(&[u8], &str)] = &[
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"\x04\x22\x4d\x18", "lz4"),
    // What `lz4 -l` writes.
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x89LZO\0\r", "lzop"),
    (b"LZIP", "lzip"),
    (b"\x1f\x9d", "compress"),
    (b"Rar!\x1a\x07", "rar"),
];

/// Whether `start` is that of a gzip member.
pub(crate) fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(b"\x1f\x8b")
}

/// Whether `start` is that of a Zstandard frame, or of one to be skipped: parallel compressors
/// (`pzstd`) begin with such, and zstd itself may.
pub(crate) fn is_zstd(start: &[u8]) -> bool {
    start.starts_with(b"\x28\xb5\x2f\xfd") || matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Whether `start` is that of a compression that is read.
pub(crate) fn is_compressed(start: &[u8]) -> bool {
    is_gzip(start) || is_zstd(start)
}

/// The name of a compression that is known and not read.
pub(crate) fn unread_compression(start: &[u8]) -> Option<&'static str> {
    UNREAD.iter().find(|(magic, _)| start.starts_with(magic)).map(|&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_magic_is_longer_than_what_is_read_or_hides_another() {
        for (magic, name) in UNREAD {
            assert!(magic.len() as u64 <= MAGIC_LEN, "{name}");
            assert_eq!(unread_compression(magic), Some(*name));
            assert!(!is_compressed(magic), "{name}");
        }
        assert_eq!(unread_compression(b""), None);
    }
}
