//! Bytes as an XVA: by the parser, as a stream (compressed or not), by index, and as ova.xml.
#![no_main]

use std::io::Cursor;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vmimage::xva::{DiskChoice, Ova, XvaEvent, XvaFile, XvaParser, XvaStream, examine};
use vmimage::{Disk, Findings, Policy, ReadAt, Scan};

fuzz_target!(|data: &[u8]| {
    if let Ok(ova) = Ova::parse(data, &mut Findings::new(Policy::Lenient)) {
        let xml = ova.to_xml();
        Ova::parse(xml.as_bytes(), &mut Findings::new(Policy::Strict)).expect("its own text");
    }
    for policy in [Policy::Strict, Policy::Lenient] {
        push(data, policy);
        let which = DiskChoice::Index(0);
        if let Ok(mut stream) = XvaStream::with_policy(Cursor::new(data.to_vec()), which, policy) {
            let (mut buf, mut end) = (Vec::new(), 0);
            while let Ok(Some(offset)) = stream.next_piece(&mut buf) {
                assert!(offset >= end && !buf.is_empty() && buf.len() <= 4 << 20);
                end = offset + buf.len() as u64;
            }
        }
        let file: Arc<dyn ReadAt> = Arc::new(data.to_vec());
        let Ok(xva) = XvaFile::open(file, &mut Findings::new(policy)) else { continue };
        for disk in xva.disks() {
            let n = disk.virtual_size().min(65_536);
            let mut buf = vec![0; n as usize];
            let _ = disk.read_exact_at(&mut buf, 0);
            let _ = disk.read_exact_at(&mut buf, disk.virtual_size() - n);
        }
    }
    let _ = examine(Arc::new(data.to_vec()), &mut Findings::new(Policy::Lenient));
});

/// The events of a chunk come as start, data, end, and the data are as long as the chunk.
fn push(data: &[u8], policy: Policy) {
    let mut parser = XvaParser::new(Findings::new(policy));
    let mut left = None;
    let mut sink = |event: XvaEvent<'_>| {
        match event {
            XvaEvent::ChunkStart(head) => assert!(left.replace(head.len).is_none()),
            XvaEvent::Data(data) => {
                let n = left.expect("data of a chunk");
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
