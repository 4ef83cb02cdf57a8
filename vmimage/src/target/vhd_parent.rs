//! What a differencing VHD says about its parent.

use bytes::Bytes;

use crate::vhd::{DynamicHeader, Locator, PlatformCode, SECTOR};

/// The parent of a differencing VHD that is written: its identity, and the name of its file in
/// the folder of the child.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VhdParent {
    /// The UUID in the parent's footer, as the 16 bytes in the file.
    pub uuid: [u8; 16],
    /// The name of the parent's file, without a folder.
    pub name: String,
    /// When the parent was last written, in seconds since 2000-01-01 UTC; advisory, 0 if unknown.
    pub timestamp: u32,
    /// The size of the parent's disk in bytes, if it is known.
    pub(super) size: Option<u64>,
}

impl VhdParent {
    /// The parent `name` with this UUID; no time is known.
    pub fn new(uuid: [u8; 16], name: impl Into<String>) -> Self {
        Self { uuid, name: name.into(), timestamp: 0, size: None }
    }

    /// The size of the parent's disk in bytes. Needed if it is longer than the child's: the size
    /// of a child is rounded up to 2 MiB, and what that adds must not show the parent's bytes.
    #[must_use]
    pub fn with_size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    /// Fills in the header's fields about the parent; gives the sectors with the texts of the
    /// locators, which begin at `at` of the file. As blktap does: `MacX`, `W2ku`, `W2ru`, a
    /// sector each.
    pub(super) fn write_into(&self, header: &mut DynamicHeader, at: u64) -> Bytes {
        header.parent_uuid = self.uuid;
        header.parent_timestamp = self.timestamp;
        header.parent_name.clone_from(&self.name);
        let windows: Vec<u8> =
            format!(".\\{}", self.name).encode_utf16().flat_map(u16::to_le_bytes).collect();
        let texts = [
            (PlatformCode::MACX, format!("file://./{}", self.name).into_bytes()),
            (PlatformCode::W2KU, windows.clone()),
            (PlatformCode::W2RU, windows),
        ];
        let room = texts.iter().map(|(_, text)| text.len()).max().unwrap_or(0);
        let room = (room as u64).next_multiple_of(SECTOR);
        let mut sectors = vec![0; (room * texts.len() as u64) as usize];
        for ((n, (code, text)), to) in (0..).zip(&texts).zip(sectors.chunks_mut(room as usize)) {
            to[..text.len()].copy_from_slice(text);
            // Names are cut at the length of a file name long before 32 bits.
            let locator = Locator::new(*code, room as u32, text.len() as u32, at + n * room);
            header.locators.push(locator);
        }
        Bytes::from(sectors)
    }
}
