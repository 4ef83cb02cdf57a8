//! The server's rules for partition tables.

/// What the first sector says of partitions.
pub(super) enum Mbr {
    None,
    Valid,
    Odd(&'static str),
}

/// Reads the first sector the way the server does.
pub(super) fn mbr(head: &[u8]) -> Mbr {
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
