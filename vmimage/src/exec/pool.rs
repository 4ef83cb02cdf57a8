//! Buffers that come back: a transfer allocates a handful of units once.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::plan::unit::UNIT;
use crate::target::XvaChunk;

/// The longest unit.
const MAX: usize = if XvaChunk::MAX > UNIT { XvaChunk::MAX } else { UNIT };

/// How many idle buffers are kept.
const KEEP: usize = 16;

/// Buffers of one unit each. How many are in use is bounded by the queues, not by the pool: a
/// sink may keep what it was given as long as it likes.
#[derive(Debug, Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// A buffer of `len` bytes, at most a unit or a chunk of an XVA, of any content.
    pub(super) fn take(&self, len: usize) -> Buffer {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut bytes = idle.unwrap_or_else(|| vec![0; MAX]);
        bytes.resize(len, 0);
        Buffer { bytes, pool: self.clone() }
    }
}

/// A buffer that returns to its pool when the last `Bytes` of it is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Buffer {
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut idle = self.pool.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < KEEP {
            idle.push(bytes);
        }
    }
}
