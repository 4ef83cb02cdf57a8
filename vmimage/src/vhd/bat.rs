//! The BAT: for each block of the disk the sector of the file where it is stored.

use super::SECTOR;

/// The BAT entry of a block that is not stored.
pub const BAT_UNUSED: u32 = u32::MAX;

/// The block allocation table, four bytes an entry. Entries are unsigned: a file may reach
/// 2 TiB.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bat(Vec<u32>);

impl std::fmt::Debug for Bat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bat")
            .field("entries", &self.0.len())
            .field("allocated", &self.allocated().count())
            .finish()
    }
}

impl Bat {
    /// The table of big-endian `bytes`; an incomplete last entry is ignored.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut bat = Self(Vec::with_capacity(bytes.len() / 4));
        bat.extend(bytes);
        bat
    }

    /// Appends the entries of big-endian `bytes`, for tables that arrive in pieces.
    pub fn extend(&mut self, bytes: &[u8]) {
        let entries = bytes.as_chunks::<4>().0;
        self.0.extend(entries.iter().map(|&e| u32::from_be_bytes(e)));
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The byte offset in the file where the block begins (its bitmap), if it is stored.
    pub fn block(&self, index: u64) -> Option<u64> {
        let entry = *self.0.get(usize::try_from(index).ok()?)?;
        (entry != BAT_UNUSED).then(|| u64::from(entry) * SECTOR)
    }

    /// The first stored block at or after `index`.
    pub(crate) fn next_stored(&self, index: u64) -> Option<u64> {
        let from = usize::try_from(index).ok()?;
        let rest = self.0.get(from..)?;
        rest.iter().position(|&entry| entry != BAT_UNUSED).map(|n| index + n as u64)
    }

    /// The stored blocks as (index, byte offset), by index.
    pub fn allocated(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0
            .iter()
            .enumerate()
            .filter(|&(_, &entry)| entry != BAT_UNUSED)
            .map(|(i, &entry)| (i as u64, u64::from(entry) * SECTOR))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_unsigned() {
        let bat = Bat::parse(&[0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 3, 9]);
        assert_eq!(bat.len(), 3);
        assert_eq!(bat.block(0), Some(0xffff_fffe * 512));
        assert_eq!(bat.block(1), None);
        assert_eq!(bat.block(2), Some(1536));
        assert_eq!(bat.block(3), None);
        assert_eq!(bat.allocated().collect::<Vec<_>>(), [(0, 0xffff_fffe * 512), (2, 1536)]);
    }
}
