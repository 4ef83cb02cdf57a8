//! Bytes that pass once, forwards.

use std::io::Cursor;
use std::sync::Arc;

use vmimage::vhd::VhdStream;
use vmimage::xva::{DiskChoice, XvaEvent, XvaFile, XvaParser, XvaStream, examine};
use vmimage::{Findings, Incoming, OpenOptions, Policy, ReadAt, Scan, Source, incoming};

use super::disks::look_at;

/// What is read of one stream: a few bytes can stand for gigabytes.
const ENOUGH: u64 = 32 << 20;
/// The same of compressed input, where each byte may stand for 32 KiB.
const PACKED: usize = 32 << 10;

/// Reads what the map promises, then proves the end.
fn drain(source: &mut dyn Source) -> bool {
    let runs: Vec<_> = source.block_map().runs().take(8).collect();
    let mut buf = vec![0; 65_536];
    for run in runs {
        let n = (run.end - run.start).min(65_536) as usize;
        if source.read_exact_at(&mut buf[..n], run.start).is_err() {
            return false;
        }
    }
    source.finish().is_ok()
}

/// Pieces ascend, hold something, are no longer than promised, and lie within the disk.
fn scan(scan: &mut dyn Scan) -> bool {
    let (mut buf, mut end) = (Vec::new(), 0);
    while end < ENOUGH {
        match scan.next_piece(&mut buf) {
            Ok(Some(offset)) => {
                assert!(offset >= end && !buf.is_empty() && buf.len() <= 4 << 20);
                end = offset + buf.len() as u64;
            }
            Ok(None) => {
                let size = scan.virtual_size().expect("its size is known at its end");
                assert!(end <= size, "data at {end} of {size} bytes");
                return true;
            }
            Err(_) => return false,
        }
    }
    true
}

pub(crate) fn vhd_stream(data: &[u8]) -> bool {
    VhdStream::new(Cursor::new(data.to_vec())).is_ok_and(|mut stream| drain(&mut stream))
}

/// The door for streams, which unpacks gzip and Zstandard.
pub(crate) fn decode(data: &[u8]) -> bool {
    if data.len() > PACKED {
        return false;
    }
    let mut taken = false;
    for lenient in [false, true] {
        let options = OpenOptions::new().lenient(lenient);
        for disk in [None, Some("0")] {
            taken |= match incoming(Cursor::new(data.to_vec()), &options, disk) {
                Ok(Incoming::Source(mut source)) => drain(source.as_mut()),
                Ok(Incoming::Scan(mut stream)) => scan(stream.as_mut()),
                _ => false,
            };
        }
    }
    taken
}

/// An XVA by the parser, as a stream, by index, and examined.
pub(crate) fn xva(data: &[u8]) -> bool {
    if data.starts_with(b"<") {
        return super::tables::ova(data);
    }
    let mut taken = false;
    for policy in [Policy::Strict, Policy::Lenient] {
        push(data, policy);
        let which = DiskChoice::Index(0);
        if data.len() <= PACKED || !is_packed(data) {
            let stream = XvaStream::with_policy(Cursor::new(data.to_vec()), which, policy);
            taken |= stream.is_ok_and(|mut stream| scan(&mut stream));
        }
        let file: Arc<dyn ReadAt> = Arc::new(data.to_vec());
        let Ok(xva) = XvaFile::open(file, &mut Findings::new(policy)) else { continue };
        xva.disks().iter().for_each(|disk| look_at(disk.as_ref()));
    }
    let _ = examine(Arc::new(data.to_vec()), &mut Findings::new(Policy::Lenient));
    taken
}

fn is_packed(data: &[u8]) -> bool {
    data.starts_with(b"\x1f\x8b") || data.starts_with(b"\x28\xb5\x2f\xfd")
}

/// The events of a chunk come as start, data, end, and the data are as long as the chunk.
fn push(data: &[u8], policy: Policy) {
    let mut parser = XvaParser::new(Findings::new(policy));
    let mut left = None;
    let mut sink = |event: XvaEvent<'_>| {
        match event {
            XvaEvent::ChunkStart(head) => assert!(left.replace(head.len).is_none()),
            XvaEvent::Data(data) => {
                let n: u64 = left.expect("data of a chunk");
                left = Some(n.checked_sub(data.len() as u64).expect("no more than the chunk has"));
            }
            // A cut archive ends within a chunk.
            XvaEvent::ChunkEnd { .. } => assert!(left.take().is_some()),
            XvaEvent::End => assert!(left.is_none()),
            _ => {}
        }
        Ok(())
    };
    for part in data.chunks(700) {
        if parser.push(part, &mut sink).is_err() {
            return;
        }
    }
    let _ = parser.finish(&mut sink);
}
