//! What a guest would see: its digest, and whether two disks hold the same.

use sha2::{Digest, Sha256};

use crate::exec::fill::{ZEROS, is_zero};
use crate::exec::hex;
use crate::{Disk, Result, Watch};

const STEP: u64 = 1 << 20;

/// The plain SHA-256 of all guest-visible bytes, in lower-case hexadecimal: what `sha256sum`
/// says of the raw image.
///
/// Ranges without data are not read, but they are hashed; where only the content matters,
/// [`content_root`](crate::content_root()) is cheaper.
///
/// # Errors
/// Those of reading the disk.
pub fn guest_sha256(disk: &dyn Disk) -> Result<String> {
    guest_sha256_watched(disk, &Watch::new())
}

/// As [`guest_sha256`], watched: progress is in guest bytes.
///
/// # Errors
/// Those of reading the disk, and [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
pub fn guest_sha256_watched(disk: &dyn Disk, watch: &Watch) -> Result<String> {
    let map = disk.block_map()?;
    let size = disk.virtual_size();
    let mut hash = Sha256::new();
    let mut buf = vec![0; STEP as usize];
    let mut at = 0;
    while at < size {
        watch.check()?;
        let len = STEP.min(size - at);
        let piece = &mut buf[..len as usize];
        if map.any(at..at + len) {
            disk.read_exact_at(piece, at)?;
            hash.update(piece);
        } else {
            hash.update(&ZEROS[..len as usize]);
        }
        at += len;
        watch.report(at);
    }
    Ok(hex(&hash.finalize()))
}

/// How two disks compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Comparison {
    /// The same content; one may have a longer tail of zeros.
    Same,
    /// The first guest byte in which they differ.
    DifferAt(u64),
}

/// Compares the content of two disks. A longer tail of zeros makes no difference.
///
/// Only ranges where either block map has data are read.
///
/// ```
/// use std::sync::Arc;
/// use vmimage::{Comparison, RawDisk};
///
/// let a = RawDisk::new(Arc::new(b"same".to_vec()))?;
/// let b = RawDisk::new(Arc::new(b"same\0\0\0".to_vec()))?;
/// let c = RawDisk::new(Arc::new(b"some".to_vec()))?;
/// assert_eq!(vmimage::compare(&a, &b)?, Comparison::Same);
/// assert_eq!(vmimage::compare(&a, &c)?, Comparison::DifferAt(1));
/// # Ok::<(), vmimage::Error>(())
/// ```
///
/// # Errors
/// Those of reading the disks.
pub fn compare(a: &dyn Disk, b: &dyn Disk) -> Result<Comparison> {
    compare_watched(a, b, &Watch::new())
}

/// As [`compare`], watched: progress is in guest bytes of the larger disk.
///
/// # Errors
/// Those of reading the disks, and [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
pub fn compare_watched(a: &dyn Disk, b: &dyn Disk, watch: &Watch) -> Result<Comparison> {
    let (map_a, map_b) = (a.block_map()?, b.block_map()?);
    let size = a.virtual_size().max(b.virtual_size());
    let (mut buf_a, mut buf_b) = (vec![0; STEP as usize], vec![0; STEP as usize]);
    let mut at = 0;
    while at < size {
        watch.check()?;
        watch.report(at);
        let (start, end) = (at, (at + STEP).min(size));
        at = end;
        if !map_a.any(start..end) && !map_b.any(start..end) {
            continue;
        }
        let range = start..end;
        let len = (end - start) as usize;
        let left = read(a, map_a.any(range.clone()), &mut buf_a[..len], start)?;
        let right = read(b, map_b.any(range), &mut buf_b[..len], start)?;
        let difference = match (left, right) {
            (Some(left), Some(right)) if left == right => None,
            (Some(left), Some(right)) => left.iter().zip(right).position(|(x, y)| x != y),
            (Some(one), None) | (None, Some(one)) if is_zero(one) => None,
            (Some(one), None) | (None, Some(one)) => one.iter().position(|x| *x != 0),
            (None, None) => None,
        };
        if let Some(position) = difference {
            return Ok(Comparison::DifferAt(start + position as u64));
        }
    }
    Ok(Comparison::Same)
}

/// The bytes at `offset`, zeros past the end of the disk; `None` if the map has no data there.
fn read<'a>(
    disk: &dyn Disk,
    any: bool,
    buf: &'a mut [u8],
    offset: u64,
) -> Result<Option<&'a [u8]>> {
    if !any {
        return Ok(None);
    }
    let within = disk.virtual_size().saturating_sub(offset).min(buf.len() as u64) as usize;
    let (inside, outside) = buf.split_at_mut(within);
    disk.read_exact_at(inside, offset)?;
    outside.fill(0);
    Ok(Some(buf))
}
