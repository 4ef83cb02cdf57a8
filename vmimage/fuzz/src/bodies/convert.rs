//! Whole conversions: an image becomes every format that can be written, and is read again.

use std::io::Cursor;
use std::sync::Arc;

use vmimage::qcow2::Qcow2Disk;
use vmimage::vhd::VhdDisk;
use vmimage::xva::XvaFile;
use vmimage::{
    DigestSet, Disk, DiskSource, Findings, Format, Image, Incoming, JoinedDisk, OpenOptions, Plan,
    PlanOptions, Policy, RawDisk, ReadAt, Source, StreamOptions, TargetFormat,
};

use super::place::{named, with_image};

/// Disks that are longer are only opened: a few bytes can stand for terabytes.
const LONGEST: u64 = 16 << 20;
/// Disks up to this length are read again from what they became.
const READ_AGAIN: u64 = 2 << 20;

// The fuzzer sets this name, which the compiler does not know.
#[allow(unexpected_cfgs)]
pub(crate) fn convert(data: &[u8]) -> bool {
    let (options, bytes) = named(data);
    with_image(bytes, |place| {
        let options = options.with_scratch(place.folder());
        let image = vmimage::open(place.image(), &options);
        let Ok(image) = image.or_else(|_| vmimage::open(place.image(), &options.lenient(true)))
        else {
            return false;
        };
        // All bytes are a raw disk, and it says little that they can be copied.
        let unknown = image.info().format() == Format::Raw && bytes.len() > 65_536;
        let small = |disk: &Arc<dyn Disk>| disk.virtual_size() <= LONGEST && !unknown;
        let salt =
            bytes.iter().fold(bytes.len(), |n, &b| n.wrapping_mul(31).wrapping_add(b.into()));
        let salt = salt / 7 % 9600;
        for disk in image.disks().iter().filter(|disk| small(disk)).take(2) {
            for (index, format) in TargetFormat::ALL.into_iter().enumerate() {
                // All would take milliseconds, and the next input takes another one.
                if !cfg!(fuzzing) || salt % TargetFormat::ALL.len() == index {
                    one(disk, format, salt / TargetFormat::ALL.len());
                }
            }
        }
        if image.disks().iter().all(small) {
            joined(&image);
        }
        true
    })
}

/// One disk in one format. A disk whose data cannot be read has no output, which is an answer.
fn one(disk: &Arc<dyn Disk>, format: TargetFormat, salt: usize) {
    let source = match salt % 2 {
        0 => DiskSource::new(Arc::clone(disk)),
        _ => DiskSource::for_format(Arc::clone(disk), format),
    };
    let Ok(mut source) = source else { return };
    let options = PlanOptions::new().with_gzip_level(salt as u32 / 2 % 2);
    let Ok(plan) = Plan::new(format, source.block_map(), &options) else { return };
    // A root costs many times what all else does: its leaves are 1 MiB.
    let with_root = salt.is_multiple_of(16);
    let Some((output, root)) = output(&plan, &mut source, with_root) else { return };
    if disk.virtual_size() <= READ_AGAIN {
        let content = content(disk.as_ref()).expect("it was read before");
        if let Some(root) = root {
            let again = RawDisk::new(Arc::new(content.clone())).expect("bytes are a disk");
            assert_eq!(vmimage::content_root(&again).expect("bytes are read"), root);
        }
        let written = content_of(format, output);
        let (same, more) = written.split_at(content.len());
        assert!(same == content, "{format} shows another content");
        assert!(more.iter().all(|&b| b == 0), "{format} shows more than zeros behind the end");
    }
}

/// All disks of an archive, and all layers of a chain, in one archive.
fn joined(image: &Image) {
    let of = |disks: Vec<Arc<dyn Disk>>, format| {
        let Ok(disk) = JoinedDisk::new(disks) else { return };
        let parts = disk.parts().to_vec();
        let Ok(mut source) = DiskSource::new(Arc::new(disk)) else { return };
        let options = PlanOptions::new().with_gzip_level(0);
        if let Ok(plan) = Plan::of_disks(format, source.block_map(), &parts, &options) {
            let _ = output(&plan, &mut source, false);
        }
    };
    if image.disks().len() > 1 && image.disks().len() < 8 {
        of(image.disks().to_vec(), TargetFormat::Xva);
    }
    let layers = image.layers();
    if layers.len() > 1 {
        of(layers, TargetFormat::VhdTgz);
    }
}

/// All bytes of a disk.
fn content(disk: &dyn Disk) -> vmimage::Result<Vec<u8>> {
    let mut bytes = vec![0; disk.virtual_size() as usize];
    disk.read_exact_at(&mut bytes, 0).map(|()| bytes)
}

/// The output and the content root of what went into it; the plan knew the length.
fn output(
    plan: &Plan,
    source: &mut dyn Source,
    with_root: bool,
) -> Option<(Vec<u8>, Option<String>)> {
    let segments: u64 = plan.segments().map(|segment| segment.output_len()).sum();
    let mut bytes = Vec::new();
    let mut sink = |piece: bytes::Bytes| {
        bytes.extend_from_slice(&piece);
        Ok(())
    };
    let options = StreamOptions::new().with_digests(DigestSet::NONE).with_workers(1);
    let options = options.with_content_root(with_root);
    let outcome = vmimage::stream(plan, source, &mut sink, &options).ok()?;
    assert_eq!(outcome.bytes, bytes.len() as u64);
    if let Some(promised) = plan.output_len() {
        assert_eq!(promised, outcome.bytes, "the promised length of {}", plan.format());
    }
    if plan.format() != TargetFormat::VhdTgz {
        assert_eq!(segments, outcome.bytes, "the segments of {}", plan.format());
    }
    Some((bytes, outcome.content_root))
}

/// The disk in an output, read by the strict readers.
fn content_of(format: TargetFormat, output: Vec<u8>) -> Vec<u8> {
    let mut findings = Findings::new(Policy::Strict);
    let mut of = |output: Vec<u8>| -> vmimage::Result<Vec<u8>> {
        if format == TargetFormat::VhdTgz {
            return streamed(output);
        }
        let file: Arc<dyn ReadAt> = Arc::new(output);
        let disk: Arc<dyn Disk> = match format {
            TargetFormat::Raw => Arc::new(RawDisk::new(file)?),
            TargetFormat::Qcow2 => Arc::new(Qcow2Disk::open(file, None, None, &mut findings)?),
            TargetFormat::Xva => {
                let xva = XvaFile::open(file, &mut findings)?;
                Arc::clone(&xva.disks()[0]) as _
            }
            _ => Arc::new(VhdDisk::from_chain(vec![file], &mut findings)?),
        };
        content(disk.as_ref())
    };
    of(output).unwrap_or_else(|error| panic!("our own {format} is not read: {error}"))
}

/// The same of what is read as a stream only.
fn streamed(output: Vec<u8>) -> vmimage::Result<Vec<u8>> {
    let incoming = vmimage::incoming(Cursor::new(output), &OpenOptions::new(), None)?;
    let Incoming::Source(mut source) = incoming else {
        panic!("the archive of a VHD begins with no map");
    };
    let mut bytes = vec![0; source.block_map().virtual_size() as usize];
    source.read_exact_at(&mut bytes, 0)?;
    source.finish().map(|()| bytes)
}
