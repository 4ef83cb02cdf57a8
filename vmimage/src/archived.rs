//! Images inside of archives and compression: XVA, `0.vhd` in a tar, a VHD in a gzip file.

use std::io::{self, Read};
use std::sync::{Arc, OnceLock};

use crate::archive::{Decoded, is_compressed};
use crate::finding::Findings;
use crate::image::{DiskInfo, Image, ImageInfo, Subformat};
use crate::options::{Format, OpenOptions, SizePolicy};
use crate::replay::{ReadFrom, ReplayDisk};
use crate::scan::{Scan, scan_map};
use crate::vhd::{DynamicHeader, Footer, VhdDisk, VhdStream, size_by};
use crate::xva::{DiskChoice, XvaFile, XvaStream};
use crate::{BlockMap, Disk, Error, ErrorKind, ReadAt, Result, ScanSource, Source, tgz, xva};

/// How much of a compressed file is unpacked to see what it is.
const START: usize = 512;
/// How much compressed input that may take.
const LOOK: u64 = 4 << 20;

/// What begins so, as far as it can be read as a stream.
pub(crate) fn format_of(start: &[u8]) -> Option<Format> {
    if start.starts_with(Footer::COOKIE) {
        Some(Format::Vhd)
    // With a damaged header, too, it is no raw disk.
    } else if xva::probe(start) || start.starts_with(b"ova.xml\0") {
        Some(Format::Xva)
    } else if tgz::probe(start) {
        Some(Format::Tgz)
    } else {
        None
    }
}

/// What a compressed file holds; `None` for what cannot be told or read.
pub(crate) fn probe_compressed(file: &dyn ReadAt) -> Result<Option<Format>> {
    let len = file.byte_len().map_err(|e| Error::io("cannot learn the file's length", e))?;
    let mut head = vec![0; len.min(LOOK) as usize];
    file.read_exact_at(&mut head, 0).map_err(|e| Error::io("cannot read the image", e))?;
    let mut start = Vec::new();
    // The head is cut somewhere: that it does not end as it should means nothing.
    if let Ok(decoded) = Decoded::new(Box::new(io::Cursor::new(head))) {
        let _ = decoded.take(START as u64).read_to_end(&mut start);
    }
    start.resize(START, 0);
    Ok(format_of(&start))
}

/// As [`is_compressed`], of a file.
pub(crate) fn is_compressed_file(file: &dyn ReadAt) -> Result<bool> {
    let len = file.byte_len().map_err(|e| Error::io("cannot learn the file's length", e))?;
    let mut start = [0; 4];
    if len < 4 {
        return Ok(false);
    }
    file.read_exact_at(&mut start, 0).map_err(|e| Error::io("cannot read the image", e))?;
    Ok(is_compressed(&start))
}

/// Opens an XVA with all its disks.
pub(crate) fn open_xva(file: Arc<dyn ReadAt>, options: &OpenOptions) -> Result<Image> {
    if is_compressed_file(&file)? {
        return open_packed_xva(&file, options);
    }
    let mut findings = Findings::new(options.policy());
    let xva = XvaFile::open(file, &mut findings)?;
    let disks = xva.disks().iter().map(|d| (d.reference().to_owned(), d.virtual_size()));
    let info = archive_info(Format::Xva, disks.collect(), &findings)?;
    let disks = xva.disks().iter().map(|d| Arc::clone(d) as Arc<dyn Disk>).collect();
    Ok(Image::new(info, disks))
}

/// The disks of a compressed archive are read forwards: once for the map, once for the data.
fn open_packed_xva(file: &Arc<dyn ReadAt>, options: &OpenOptions) -> Result<Image> {
    let policy = options.policy();
    let stream = move |file: &Arc<dyn ReadAt>, choice| {
        XvaStream::with_policy(ReadFrom::new(Arc::clone(file)), choice, policy)
    };
    let mut first = stream(file, DiskChoice::Index(0))?;
    let mut list: Vec<(String, u64)> =
        first.disks().iter().map(|d| (d.reference.clone(), d.virtual_size)).collect();
    if list.is_empty() {
        // The export of a single VDI tells its size by its last chunk.
        let mut piece = Vec::new();
        while first.next_piece(&mut piece)?.is_some() {}
        list.push(("0".to_owned(), first.virtual_size().unwrap_or(0)));
    }
    let info = archive_info(Format::Xva, list.clone(), first.findings())?;
    let disks = list.into_iter().enumerate().map(|(index, (_, size))| {
        let map: Arc<OnceLock<BlockMap>> = Arc::default();
        let (for_map, for_open) = (Arc::clone(file), Arc::clone(file));
        let known = Arc::clone(&map);
        let make_map = move || {
            let scan = stream(&for_map, DiskChoice::Index(index))?;
            let made = scan_map(&mut Sized(scan, size))?;
            Ok(known.get_or_init(|| made).clone())
        };
        let open = move || {
            let scan = stream(&for_open, DiskChoice::Index(index))?;
            let map = map.get().cloned().unwrap_or_else(|| BlockMap::empty(size));
            Ok(Box::new(ScanSource::with_map(Sized(scan, size), map)) as Box<dyn Source>)
        };
        Arc::new(ReplayDisk::new(size, make_map, open)) as Arc<dyn Disk>
    });
    Ok(Image::new(info, disks.collect()))
}

/// A scan whose size is known from an earlier pass.
struct Sized(XvaStream, u64);

impl Scan for Sized {
    fn virtual_size(&self) -> Option<u64> {
        Some(self.1)
    }

    fn next_piece(&mut self, buf: &mut Vec<u8>) -> Result<Option<u64>> {
        self.0.next_piece(buf)
    }
}

/// Describes an XVA by its own description; the disks of a compressed one are not read.
pub(crate) fn xva_info(file: Arc<dyn ReadAt>, options: &OpenOptions) -> Result<ImageInfo> {
    open_xva(file, options).map(|image| image.info().clone())
}

fn archive_info(
    format: Format,
    disks: Vec<(String, u64)>,
    findings: &Findings,
) -> Result<ImageInfo> {
    let Some((_, size)) = disks.first() else {
        return Err(Error::unsupported("the archive holds no disk"));
    };
    let mut info = ImageInfo::of_disk(format, *size);
    info.disks = disks
        .into_iter()
        .map(|(reference, virtual_size)| DiskInfo { reference, virtual_size })
        .collect();
    info.findings = findings.list().to_vec();
    Ok(info)
}

/// Opens `0.vhd` of an archive: in one pass where it is a single layer whose blocks are in order,
/// else unpacked into files without a name.
pub(crate) fn open_tgz(file: &Arc<dyn ReadAt>, options: &OpenOptions) -> Result<Image> {
    let stream = |file: &Arc<dyn ReadAt>| ReadFrom::new(Arc::clone(file));
    let layers = tgz::layers(stream(file))?;
    if layers == 1 {
        let again = Arc::clone(file);
        let open = move || tgz::SingleVhd::new(stream(&again));
        match open_vhd_stream(Format::Tgz, options, open) {
            Err(e) if e.kind() == ErrorKind::Unsupported => {}
            result => return result,
        }
    }
    let files = tgz::unpack(stream(file), options.scratch())?;
    let files = files.into_iter().map(|f| Arc::new(f) as Arc<dyn ReadAt>).collect();
    let mut findings = Findings::new(options.policy());
    let disk = VhdDisk::from_chain_by(files, options.size(), &mut findings)?;
    let mut info = stream_info(Format::Tgz, disk.footer(), options.size());
    info.block_size = disk.header().map(|h| u64::from(h.block_size));
    info.findings = findings.list().to_vec();
    let disk = Arc::new(disk);
    Ok(Image::new(info, vec![Arc::clone(&disk) as Arc<dyn Disk>]).with_chain(disk))
}

/// Describes `0.vhd` of an archive by its first bytes: what follows may be a terabyte.
pub(crate) fn tgz_info(file: &Arc<dyn ReadAt>, options: &OpenOptions) -> Result<ImageInfo> {
    let len = Footer::LEN + DynamicHeader::LEN;
    let start = tgz::leaf_start(ReadFrom::new(Arc::clone(file)), len)?;
    // A fixed disk has no footer there, and a header may lie elsewhere: that takes all of it.
    let mut findings = Findings::new(options.policy());
    let (Some(footer), Some(header)) = (start.get(..Footer::LEN), start.get(Footer::LEN..)) else {
        return open_tgz(file, options).map(|image| image.info().clone());
    };
    if !Footer::probe(footer) || !header.starts_with(DynamicHeader::COOKIE) {
        return open_tgz(file, options).map(|image| image.info().clone());
    }
    let footer = Footer::parse(footer, &mut findings)?;
    let header = DynamicHeader::parse(header, &mut findings)?;
    let mut info = stream_info(Format::Tgz, &footer, options.size());
    info.block_size = Some(u64::from(header.block_size));
    info.findings = findings.list().to_vec();
    Ok(info)
}

/// Opens a compressed VHD whose blocks are in order.
pub(crate) fn open_packed_vhd(file: Arc<dyn ReadAt>, options: &OpenOptions) -> Result<Image> {
    let open = move || Decoded::new(Box::new(ReadFrom::new(Arc::clone(&file))));
    open_vhd_stream(Format::Vhd, options, open).map_err(|error| match error.kind() {
        ErrorKind::Unsupported | ErrorKind::Reference => {
            let message = "the compressed VHD cannot be read as it is: unpack it first";
            Error::new(error.kind(), message).with_source(error)
        }
        _ => error,
    })
}

/// Opens a VHD out of a stream that can be opened again.
fn open_vhd_stream<R: Read + Send + 'static>(
    format: Format,
    options: &OpenOptions,
    open: impl Fn() -> Result<R> + Send + Sync + 'static,
) -> Result<Image> {
    let mut first = VhdStream::with_options(open()?, options)?;
    let info = stream_info(format, first.footer(), options.size());
    let map = first.block_map().clone();
    if map.next_run(0).is_none() {
        // Nobody will read a disk of zeros up to the end that proves the stream to be whole.
        first.finish()?;
    }
    let options = options.clone();
    let disk = ReplayDisk::new(
        map.virtual_size(),
        move || Ok(map.clone()),
        move || Ok(Box::new(VhdStream::with_options(open()?, &options)?) as Box<dyn Source>),
    );
    Ok(Image::new(info, vec![Arc::new(disk)]))
}

fn stream_info(format: Format, footer: &Footer, policy: SizePolicy) -> ImageInfo {
    let mut info = ImageInfo::of_disk(format, size_by(policy, footer));
    info.subformat = Some(Subformat::from(footer.disk_type));
    info.current_size = Some(footer.current_size);
    info.geometry_size = Some(footer.geometry.bytes());
    info.creator = Some(footer.creator_text());
    info
}
