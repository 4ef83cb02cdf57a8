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

/// What a VHD stream holds: known before its first byte.
#[derive(Debug)]
pub(crate) struct Layout {
    virtual_size: u64,
    /// Which blocks are in the stream.
    present: Vec<bool>,
    /// The uuid of the disk that the stream is the difference to.
    base: Option<Uuid>,
}

impl Layout {
    /// The whole disk: a block is sent if any layer has data in it.
    pub(crate) fn whole(virtual_size: u64, map: &BlockMap) -> Self {
        let blocks = 0..virtual_size.div_ceil(BLOCK);
        let present = blocks.map(|b| map.any(b * BLOCK..(b + 1) * BLOCK)).collect();
        Self { virtual_size, present, base: None }
    }

    /// The blocks in which the disk differs from its base.
    pub(crate) fn difference(
        virtual_size: u64,
        disk: (&dyn Disk, &BlockMap),
        base: (&dyn Disk, &BlockMap),
        uuid: Uuid,
    ) -> Result<Self> {
        let mut present = Vec::new();
        for block in 0..virtual_size.div_ceil(BLOCK) {
            present.push(differs(disk, base, block * BLOCK)?);
        }
        Ok(Self { virtual_size, present, base: Some(uuid) })
    }

    /// How many bytes the stream has.
    pub(crate) fn len(&self) -> u64 {
        let present = self.present.iter().filter(|p| **p).count() as u64;
        self.data_start() + present * (512 + BLOCK) + 512
    }

    fn data_start(&self) -> u64 {
        let table = self.present.len() as u64 * 4;
        2048 + table.next_multiple_of(512)
    }

    /// Footer, header, allocation table.
    fn head(&self, footer: &[u8; 512]) -> Vec<u8> {
        let mut head = footer.to_vec();
        head.extend_from_slice(&header(self.present.len() as u64, self.base));
        head.resize(2048, 0);
        if let Some(base) = self.base {
            put(&mut head, 1536, locator(base).as_bytes());
        }
        let mut at = self.data_start() / 512;
        for present in &self.present {
            let mut entry = u32::MAX;
            if *present {
                entry = u32::try_from(at).unwrap_or(u32::MAX);
                at += (512 + BLOCK) / 512;
            }
            head.extend_from_slice(&entry.to_be_bytes());
        }
        head.resize(self.data_start() as usize, 0xff);
        head
    }
}

/// Sends the disk as a dynamic VHD, or as a differencing one if the layout has a base: footer,
/// header, allocation table at 2048, blocks in ascending order with bitmaps of ones, footer.
pub(crate) fn send_vhd(
    disk: &dyn Disk,
    map: &BlockMap,
    layout: &Layout,
    sink: Sink<'_>,
) -> Result<()> {
    let footer = footer(layout.virtual_size, layout.base.is_some());
    let mut head = Bytes::from(layout.head(&footer));
    while !head.is_empty() {
        if sink(head.split_to(PIECE.min(head.len()))).is_break() {
            return Ok(());
        }
    }
    for (block, _) in (0u64..).zip(&layout.present).filter(|(_, present)| **present) {
        if sink(Bytes::from_static(&[0xff; 512])).is_break()
            || send_range(disk, map, block * BLOCK, (block + 1) * BLOCK, sink)?.is_break()
        {
            return Ok(());
        }
    }
    let _ = sink(Bytes::copy_from_slice(&footer));
    Ok(())
}

/// Whether two disks differ in the block at `at`.
fn differs(
    (disk, map): (&dyn Disk, &BlockMap),
    (base, base_map): (&dyn Disk, &BlockMap),
    at: u64,
) -> Result<bool> {
    for at in (at..at + BLOCK).step_by(PIECE) {
        let range = at..at + PIECE as u64;
        if (map.any(range.clone()) || base_map.any(range))
            && read_at(disk, at, PIECE as u64)? != read_at(base, at, PIECE as u64)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A piece of a disk; past its end there are zeros.
pub(crate) fn read_at(disk: &dyn Disk, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut piece = vec![0; len as usize];
    let stored = disk.virtual_size().saturating_sub(at).min(len) as usize;
    if let Some(target) = piece.get_mut(..stored).filter(|t| !t.is_empty()) {
        disk.read_exact_at(target, at)?;
    }
    Ok(piece)
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

fn footer(virtual_size: u64, differencing: bool) -> [u8; 512] {
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
    put(&mut footer, 60, &if differencing { 4u32 } else { 3 }.to_be_bytes());
    put(&mut footer, 68, Uuid::new_v4().as_bytes());
    let sum = checksum(&footer);
    put(&mut footer, 64, &sum);
    footer
}

fn header(blocks: u64, base: Option<Uuid>) -> [u8; 1024] {
    let mut header = [0; 1024];
    put(&mut header, 0, b"cxsparse");
    put(&mut header, 8, &u64::MAX.to_be_bytes());
    put(&mut header, 16, &2048u64.to_be_bytes());
    put(&mut header, 24, &0x0001_0000u32.to_be_bytes());
    put(&mut header, 28, &u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes());
    put(&mut header, 32, &(BLOCK as u32).to_be_bytes());
    if let Some(base) = base {
        let name: Vec<u8> = file_name(base).encode_utf16().flat_map(u16::to_be_bytes).collect();
        let len = locator(base).len() as u32;
        put(&mut header, 40, base.as_bytes());
        put(&mut header, 64, &name);
        put(&mut header, 576, b"MacX");
        put(&mut header, 580, &512u32.to_be_bytes());
        put(&mut header, 584, &len.to_be_bytes());
        put(&mut header, 592, &1536u64.to_be_bytes());
    }
    let sum = checksum(&header);
    put(&mut header, 36, &sum);
    header
}

/// The name that a server gives to the file of a disk.
fn file_name(vdi: Uuid) -> String {
    format!("{vdi}.vhd")
}

/// The text in the slot at 1536, which tells where the base is.
fn locator(base: Uuid) -> String {
    format!("file://./{}", file_name(base))
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
        let footer = footer(24 << 20, false);
        let sum: u32 = footer.iter().map(|b| u32::from(*b)).sum();
        let stored = u32::from_be_bytes(footer[64..68].try_into().unwrap());
        let own: u32 = footer[64..68].iter().map(|b| u32::from(*b)).sum();
        assert_eq!(!stored, sum - own);
    }
}
