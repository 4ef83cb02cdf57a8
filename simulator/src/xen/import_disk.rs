//! The content of a disk in each of the forms that a server takes, read field by field.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

use super::import_store::{GRAIN, Stored};

/// The form in which a disk comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Raw,
    /// Pieces of a raw disk, each with its place.
    Pieces,
    Vhd,
    Qcow2,
}

/// Writes what `body` holds (`length` bytes of it) onto a disk.
pub(crate) fn read(form: Form, body: &File, length: u64, disk: &mut Stored) -> io::Result<()> {
    match form {
        Form::Raw => raw(body, length, disk),
        Form::Pieces => pieces(body, length, disk),
        Form::Vhd => vhd(body, length, disk),
        Form::Qcow2 => qcow2(body, length, disk),
    }
}

fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Writes a piece, and leaves out grains of zeros.
fn put(disk: &mut Stored, at: u64, bytes: &[u8]) -> io::Result<()> {
    let mut at = at;
    for piece in bytes.chunks(GRAIN as usize) {
        let end = at + piece.len() as u64;
        if is_zero(piece) {
            disk.clear(at, end)?
        } else {
            disk.write(at, piece)?
        }
        at = end;
    }
    Ok(())
}

fn raw(body: &File, length: u64, disk: &mut Stored) -> io::Result<()> {
    let mut buffer = vec![0; GRAIN as usize];
    let mut at = 0;
    while at < length {
        let count = (length - at).min(GRAIN) as usize;
        let piece = buffer.get_mut(..count).unwrap_or_default();
        body.read_exact_at(piece, at)?;
        // The device ends where it ends, whatever the bytes are.
        if vmimage::Disk::virtual_size(disk) < at + count as u64 {
            return Err(bad("the image is larger than the disk"));
        }
        put(disk, at, piece)?;
        at += count as u64;
    }
    Ok(())
}

/// An offset and a length before each piece; the last one has neither.
fn pieces(body: &File, length: u64, disk: &mut Stored) -> io::Result<()> {
    let mut at = 0;
    while at < length {
        let head = bytes(body, at, 12)?;
        let (offset, count) = (le64(&head, 0), le32(&head, 8));
        if offset == 0 && count == 0 {
            return Ok(());
        }
        put(disk, offset, &bytes(body, at + 12, u64::from(count))?)?;
        at += 12 + u64::from(count);
    }
    Err(bad("the last piece is missing"))
}

/// A part of the body; never more of memory than the body has of bytes.
fn bytes(body: &File, at: u64, count: u64) -> io::Result<Vec<u8>> {
    let len = body.metadata()?.len();
    if at.checked_add(count).is_none_or(|end| end > len) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut buffer = vec![0; count as usize];
    body.read_exact_at(&mut buffer, at)?;
    Ok(buffer)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// Whether a structure's checksum at `at` is right.
fn summed(structure: &[u8], at: usize) -> bool {
    let all: u32 = structure.iter().fold(0, |sum, b| sum.wrapping_add(u32::from(*b)));
    let own = structure.get(at..at + 4).unwrap_or_default();
    let own: u32 = own.iter().map(|b| u32::from(*b)).sum();
    !(all.wrapping_sub(own)) == be32(structure, at)
}

fn vhd(body: &File, length: u64, disk: &mut Stored) -> io::Result<()> {
    let footer = bytes(body, 0, 512)?;
    if !footer.starts_with(b"conectix") || !summed(&footer, 64) {
        return Err(bad("no VHD footer at the start"));
    }
    if length < 1024 || bytes(body, length - 512, 512)? != footer {
        return Err(bad("no VHD footer at the end"));
    }
    let kind = be32(&footer, 60);
    let size = be64(&footer, 48);
    if !matches!(kind, 3 | 4) || size > vmimage::Disk::virtual_size(disk) {
        return Err(bad("a VHD that is neither dynamic nor differencing, or larger than the disk"));
    }
    let header = bytes(body, be64(&footer, 16), 1024)?;
    if !header.starts_with(b"cxsparse") || !summed(&header, 36) {
        return Err(bad("no VHD header"));
    }
    let block = u64::from(be32(&header, 32));
    if !block.is_power_of_two() || block < 4096 {
        return Err(bad("a VHD with blocks of an odd size"));
    }
    let bitmap = (block / 512 / 8).next_multiple_of(512);
    let table = bytes(body, be64(&header, 16), u64::from(be32(&header, 28)) * 4)?;
    for number in 0..size.div_ceil(block) {
        let start = number * block;
        // Where a difference has nothing, the disk stays as it is.
        if kind == 3 {
            disk.clear(start, start + block)?;
        }
        let Some(entry) = table.chunks_exact(4).nth(number as usize) else {
            return Err(bad("the VHD's table ends too early"));
        };
        let sector = be32(entry, 0);
        if sector == u32::MAX {
            continue;
        }
        let at = u64::from(sector) * 512;
        let present = bytes(body, at, bitmap)?;
        let data = bytes(body, at + bitmap, block)?;
        for run in runs(&present, block / 512) {
            let (from, to) = (run.start * 512, (run.end * 512).min(size.saturating_sub(start)));
            if let Some(piece) = data.get(from as usize..to as usize) {
                disk.write(start + from, piece)?;
            }
        }
    }
    Ok(())
}

/// The runs of ones in a bitmap, most significant bit first.
fn runs(bitmap: &[u8], count: u64) -> Vec<std::ops::Range<u64>> {
    let is_set = |n: u64| bitmap.get((n / 8) as usize).is_some_and(|b| b & (0x80 >> (n % 8)) != 0);
    let mut found: Vec<std::ops::Range<u64>> = Vec::new();
    for n in (0..count).filter(|n| is_set(*n)) {
        match found.last_mut() {
            Some(run) if run.end == n => run.end += 1,
            _ => found.push(n..n + 1),
        }
    }
    found
}

const COMPRESSED: u64 = 1 << 62;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

fn qcow2(body: &File, length: u64, disk: &mut Stored) -> io::Result<()> {
    let header = bytes(body, 0, 104.min(length))?;
    let version = be32(&header, 4);
    let (bits, size) = (be32(&header, 20), be64(&header, 24));
    if !header.starts_with(b"QFI\xfb") || !matches!(version, 2 | 3) || !(9..=21).contains(&bits) {
        return Err(bad("no QCOW2 header"));
    }
    if size > vmimage::Disk::virtual_size(disk) {
        return Err(bad("the image is larger than the disk"));
    }
    let is_difference = be64(&header, 8) != 0;
    let cluster = 1_u64 << bits;
    let per_table = cluster / 8;
    let first = bytes(body, be64(&header, 40), u64::from(be32(&header, 36)) * 8)?;
    let mut second = Vec::new();
    for number in 0..size.div_ceil(cluster) {
        let table = be64(&first, (number / per_table * 8) as usize) & OFFSET;
        if number % per_table == 0 {
            second = if table == 0 { Vec::new() } else { bytes(body, table, cluster)? };
        }
        let entry = be64(&second, (number % per_table * 8) as usize);
        let (start, end) = (number * cluster, ((number + 1) * cluster).min(size));
        let count = end - start;
        let is_zero = version == 3 && entry & 1 == 1 && entry & COMPRESSED == 0;
        if entry & COMPRESSED != 0 {
            let data = inflate(body, length, entry, bits)?;
            disk.write(start, data.get(..count as usize).unwrap_or_default())?;
        } else if entry & OFFSET != 0 && !is_zero {
            disk.write(start, &bytes(body, entry & OFFSET, count)?)?;
        } else if is_zero || !is_difference {
            disk.clear(start, end)?;
        }
    }
    Ok(())
}

/// A compressed cluster: its offset is in the low bits, its length in sectors above.
fn inflate(body: &File, length: u64, entry: u64, bits: u32) -> io::Result<Vec<u8>> {
    let split = 62 - (bits - 8);
    let offset = entry & ((1 << split) - 1);
    let sectors = ((entry & !COMPRESSED & !(1 << 63)) >> split) + 1;
    let end = ((offset / 512 + sectors) * 512).min(length);
    let packed = bytes(body, offset, end.saturating_sub(offset))?;
    let mut data = vec![0; 1 << bits];
    flate2::read::DeflateDecoder::new(packed.as_slice()).read_exact(&mut data)?;
    Ok(data)
}
