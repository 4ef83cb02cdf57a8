//! The VHD stream as the server sends it (`caml` dialect), by an encoder of our own: the reader
//! under test must not be checked by its own family.

use std::ops::ControlFlow;

use bytes::Bytes;
use uuid::Uuid;
use vmimage::{BlockMap, Disk, Result};

/// The size of a block.
const BLOCK: u64 = 2 * 1024 * 1024;

/// How much is read and sent at a time.
const PIECE: usize = 256 * 1024;

/// The largest disk that the format carries here.
pub(crate) const MAX_VIRTUAL_SIZE: u64 = 2040 * 1024 * 1024 * 1024;

/// Seconds from 1970 to 2000, where the format's time begins.
const EPOCH: i64 = 946_684_800;

/// Takes a piece of the stream; breaks when nobody reads on.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(Bytes) -> ControlFlow<()>;

/// How many bytes the stream of `disk` has.
pub(crate) fn vhd_len(virtual_size: u64, map: &BlockMap) -> u64 {
    let present = (0..virtual_size.div_ceil(BLOCK)).filter(|b| present(map, *b)).count() as u64;
    data_start(virtual_size) + present * (512 + BLOCK) + 512
}

/// Sends the whole disk as a dynamic VHD: footer, header, allocation table at 2048, blocks in
/// ascending order with bitmaps of ones, footer.
pub(crate) fn send_vhd(
    disk: &dyn Disk,
    virtual_size: u64,
    map: &BlockMap,
    sink: Sink<'_>,
) -> Result<()> {
    let footer = footer(virtual_size);
    let blocks = virtual_size.div_ceil(BLOCK);
    let mut head = Vec::from(footer);
    head.extend_from_slice(&header(blocks));
    head.resize(2048, 0);
    let mut at = data_start(virtual_size) / 512;
    for block in 0..blocks {
        let entry = if present(map, block) {
            let entry = u32::try_from(at).unwrap_or(u32::MAX);
            at += (512 + BLOCK) / 512;
            entry
        } else {
            u32::MAX
        };
        head.extend_from_slice(&entry.to_be_bytes());
    }
    head.resize(data_start(virtual_size) as usize, 0xff);
    let mut head = Bytes::from(head);
    while !head.is_empty() {
        if sink(head.split_to(PIECE.min(head.len()))).is_break() {
            return Ok(());
        }
    }
    let bitmap = Bytes::from_static(&[0xff; 512]);
    for block in (0..blocks).filter(|b| present(map, *b)) {
        if sink(bitmap.clone()).is_break() {
            return Ok(());
        }
        if send_range(disk, map, block * BLOCK, (block + 1) * BLOCK, sink)?.is_break() {
            return Ok(());
        }
    }
    let _ = sink(Bytes::copy_from_slice(&footer));
    Ok(())
}

/// Sends every byte of the disk.
pub(crate) fn send_raw(
    disk: &dyn Disk,
    virtual_size: u64,
    map: &BlockMap,
    sink: Sink<'_>,
) -> Result<()> {
    send_range(disk, map, 0, virtual_size, sink).map(|_| ())
}

/// Sends guest bytes; past the disk's end there are zeros.
fn send_range(
    disk: &dyn Disk,
    map: &BlockMap,
    from: u64,
    to: u64,
    sink: Sink<'_>,
) -> Result<ControlFlow<()>> {
    static ZEROS: [u8; PIECE] = [0; PIECE];
    let mut at = from;
    while at < to {
        let len = (to - at).min(PIECE as u64) as usize;
        let stored = disk.virtual_size().saturating_sub(at).min(len as u64) as usize;
        let piece = if stored > 0 && map.any(at..at + stored as u64) {
            let mut buffer = vec![0; len];
            if let Some(target) = buffer.get_mut(..stored) {
                disk.read_exact_at(target, at)?;
            }
            Bytes::from(buffer)
        } else {
            Bytes::from_static(&ZEROS).slice(..len)
        };
        if sink(piece).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        at += len as u64;
    }
    Ok(ControlFlow::Continue(()))
}

/// A block is sent if any layer has data in it.
fn present(map: &BlockMap, block: u64) -> bool {
    map.any(block * BLOCK..(block + 1) * BLOCK)
}

fn data_start(virtual_size: u64) -> u64 {
    let table = virtual_size.div_ceil(BLOCK) * 4;
    2048 + table.next_multiple_of(512)
}

fn footer(virtual_size: u64) -> [u8; 512] {
    let (cylinders, heads, sectors) = geometry(virtual_size);
    let now = jiff::Timestamp::now().as_second() - EPOCH;
    let mut footer = [0; 512];
    put(&mut footer, 0, b"conectix");
    put(&mut footer, 8, &2u32.to_be_bytes());
    put(&mut footer, 12, &0x0001_0000u32.to_be_bytes());
    put(&mut footer, 16, &512u64.to_be_bytes());
    put(&mut footer, 24, &u32::try_from(now).unwrap_or(0).to_be_bytes());
    put(&mut footer, 28, b"caml");
    put(&mut footer, 32, &1u32.to_be_bytes());
    put(&mut footer, 40, &virtual_size.to_be_bytes());
    put(&mut footer, 48, &virtual_size.to_be_bytes());
    put(&mut footer, 56, &cylinders.to_be_bytes());
    put(&mut footer, 58, &[heads, sectors]);
    put(&mut footer, 60, &3u32.to_be_bytes());
    put(&mut footer, 68, Uuid::new_v4().as_bytes());
    let sum = checksum(&footer);
    put(&mut footer, 64, &sum);
    footer
}

fn header(blocks: u64) -> [u8; 1024] {
    let mut header = [0; 1024];
    put(&mut header, 0, b"cxsparse");
    put(&mut header, 8, &u64::MAX.to_be_bytes());
    put(&mut header, 16, &2048u64.to_be_bytes());
    put(&mut header, 24, &0x0001_0000u32.to_be_bytes());
    put(&mut header, 28, &u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes());
    put(&mut header, 32, &(BLOCK as u32).to_be_bytes());
    let sum = checksum(&header);
    put(&mut header, 36, &sum);
    header
}

fn put(target: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(slot) = target.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

/// The complement of the sum of all bytes; the field itself must still be zero.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    (!bytes.iter().fold(0u32, |sum, b| sum.wrapping_add(u32::from(*b)))).to_be_bytes()
}

/// Cylinders, heads and sectors per track, every division rounded down.
pub(crate) fn geometry(virtual_size: u64) -> (u16, u8, u8) {
    let total = (virtual_size / 512).min(65_535 * 16 * 255);
    let (per_cylinder, heads, sectors) = if total >= 65_535 * 16 * 63 {
        (total / 255, 16, 255)
    } else {
        let mut tracks = total / 17;
        let mut heads = tracks.div_ceil(1024).max(4);
        let mut sectors = 17;
        if tracks >= heads * 1024 || heads > 16 {
            (sectors, heads, tracks) = (31, 16, total / 31);
        }
        if tracks >= heads * 1024 {
            (sectors, heads, tracks) = (63, 16, total / 63);
        }
        (tracks, heads, sectors)
    };
    (
        u16::try_from(per_cylinder / heads).unwrap_or(u16::MAX),
        u8::try_from(heads).unwrap_or(u8::MAX),
        sectors,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_are_those_of_the_format() {
        // As qemu-img computes them for these sizes.
        assert_eq!(geometry(64 * 1024 * 1024), (963, 8, 17));
        assert_eq!(geometry(1 << 30), (2080, 16, 63));
        assert_eq!(geometry(MAX_VIRTUAL_SIZE), (65_535, 16, 255));
    }

    #[test]
    fn checksums_cover_the_whole_structure() {
        let footer = footer(24 << 20);
        let sum: u32 = footer.iter().map(|b| u32::from(*b)).sum();
        let stored = u32::from_be_bytes(footer[64..68].try_into().unwrap());
        let own: u32 = footer[64..68].iter().map(|b| u32::from(*b)).sum();
        assert_eq!(!stored, sum - own);
    }
}
