//! The third way to read a disk: as it comes, without a map.

use crate::Result;

/// A disk that arrives in ascending order and whose map is not known ahead.
///
/// A [`Source`](crate::Source) knows before the first byte what holds data, so that the length of
/// an output is known; an archive of chunks that is read as a stream tells only while it passes.
pub trait Scan: Send {
    /// The guest-visible size in bytes; `None` where only the end of the stream tells (the `tar`
    /// export of a VDI). After [`next_piece`](Self::next_piece) has answered `None` it is known.
    fn virtual_size(&self) -> Option<u64>;

    /// The next piece of data: its guest offset, and its bytes in `buf`.
    ///
    /// Pieces come in ascending order and do not overlap; what lies between them is zeros. The
    /// buffer is reused: its length becomes that of the piece, at most 4 MiB and never zero. A
    /// piece whose own checksum the format has is verified before it is given out.
    ///
    /// `None` comes at the end, after everything was proved whole (checksums, the end of the
    /// archive, the end of the stream); what came before must not be trusted until then.
    ///
    /// # Errors
    /// Truncated or corrupt input, I/O failures.
    fn next_piece(&mut self, buf: &mut Vec<u8>) -> Result<Option<u64>>;
}
