//! The door: which format a file has, and what opens it.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::archive::{is_compressed, is_gzip, unread_compression};
use crate::archived;
use crate::finding::Findings;
use crate::image::{Image, ImageInfo, ParentInfo, Subformat};
use crate::options::{Format, OpenOptions};
use crate::qcow2::{Header, Qcow2Disk, read_header};
use crate::raw::RawDisk;
use crate::vhd::{Footer, file, resolve, uuid_text};
use crate::{Disk, Error, ErrorKind, ReadAt, Result};

/// Opens an image with everything it is made of.
///
/// The format is probed unless the options name it. A VHD's parents are followed inside the
/// child's own folder; a parent elsewhere, a raw parent and whatever a QCOW2 refers to are used
/// only if [`OpenOptions::with_parent`] names them.
///
/// # Errors
/// `Reference` for a parent that was not found or not allowed (the message says which one),
/// `Unsupported` for formats and features that are not read, `Corrupt` and `Truncated` for
/// damage, `Io`.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("disk.raw");
/// std::fs::write(&path, vec![7; 1 << 20])?;
/// let image = vmimage::open(&path, &vmimage::OpenOptions::new())?;
/// let mut sector = [0; 512];
/// image.disks()[0].read_exact_at(&mut sector, 4096)?;
/// assert_eq!(sector, [7; 512]);
/// # Ok(())
/// # }
/// ```
pub fn open(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Image> {
    let result = open_any(path.as_ref(), options);
    options.unless_cancelled(result)
}

fn open_any(path: &Path, options: &OpenOptions) -> Result<Image> {
    let (source, format) = door(path, options)?;
    match format {
        Format::Raw => open_raw(source).map_err(|e| e.with_path(path)),
        Format::Vhd if archived::is_compressed_file(&source)? => {
            archived::open_packed_vhd(source, options).map_err(|e| e.with_path(path))
        }
        Format::Vhd => open_vhd(path, source, options),
        Format::Qcow2 => open_qcow2(path, source, options).map_err(|e| e.with_path(path)),
        Format::Xva => archived::open_xva(source, options).map_err(|e| e.with_path(path)),
        Format::Tgz => archived::open_tgz(&source, options).map_err(|e| e.with_path(path)),
    }
}

/// Describes an image from its own metadata; parents are not looked for.
///
/// # Errors
/// As [`open`], without those about parents.
pub fn info(path: impl AsRef<Path>, options: &OpenOptions) -> Result<ImageInfo> {
    let result = info_any(path.as_ref(), options);
    options.unless_cancelled(result)
}

fn info_any(path: &Path, options: &OpenOptions) -> Result<ImageInfo> {
    let (source, format) = door(path, options)?;
    match format {
        Format::Raw => open_raw(source).map(|i| i.info().clone()).map_err(|e| e.with_path(path)),
        Format::Vhd if archived::is_compressed_file(&source)? => {
            archived::open_packed_vhd(source, options)
                .map(|image| image.info().clone())
                .map_err(|e| e.with_path(path))
        }
        Format::Vhd => {
            let mut findings = Findings::new(options.policy());
            let vhd = file::VhdFile::open(source, Some(path), &mut findings)?;
            Ok(vhd_info(&vhd, options, &findings))
        }
        Format::Qcow2 => {
            let mut findings = Findings::new(options.policy());
            let header = read_header(&source, &mut findings).map_err(|e| e.with_path(path))?;
            Ok(qcow2_info(&header, &findings))
        }
        Format::Xva => archived::xva_info(source, options).map_err(|e| e.with_path(path)),
        Format::Tgz => archived::tgz_info(&source, options).map_err(|e| e.with_path(path)),
    }
}

/// The opened file and its format.
pub(crate) fn door(path: &Path, options: &OpenOptions) -> Result<(Arc<dyn ReadAt>, Format)> {
    let source = options.watched(resolve::open_file(path)?);
    let format = match options.format() {
        Some(format) => format,
        None => probe(&source).map_err(|e| e.with_path(path))?,
    };
    Ok((source, format))
}

fn open_raw(source: Arc<dyn ReadAt>) -> Result<Image> {
    let disk = RawDisk::new(source)?;
    let info = ImageInfo::of_disk(Format::Raw, disk.virtual_size());
    Ok(Image::new(info, vec![Arc::new(disk)]))
}

fn open_vhd(path: &Path, source: Arc<dyn ReadAt>, options: &OpenOptions) -> Result<Image> {
    let mut findings = Findings::new(options.policy());
    let tip = file::VhdFile::open(source, Some(path), &mut findings)?;
    let chain = resolve::Chain::resolve(tip, path, options, &mut findings)?;
    let mut info = vhd_info(&chain.files[0], options, &findings);
    if let Some(parent) = &mut info.parent {
        parent.path = match chain.files.get(1) {
            Some(file) => file.path.clone(),
            None => chain.raw.as_ref().map(|raw| raw.path.clone()),
        };
    }
    let parents = chain.files.iter().skip(1).filter_map(|file| file.path.clone());
    let parents = parents.chain(chain.raw.iter().map(|raw| raw.path.clone())).collect();
    let disk = Arc::new(chain.into_disk(options)?);
    let disks = vec![Arc::clone(&disk) as Arc<dyn Disk>];
    Ok(Image::new(info, disks).with_parents(parents).with_chain(disk))
}

fn vhd_info(tip: &file::VhdFile, options: &OpenOptions, findings: &Findings) -> ImageInfo {
    let footer = &tip.footer;
    let size = crate::vhd::size_by(options.size(), footer);
    let mut info = ImageInfo::of_disk(Format::Vhd, size);
    info.subformat = Some(Subformat::from(footer.disk_type));
    info.current_size = Some(footer.current_size);
    info.geometry_size = Some(footer.geometry.bytes());
    info.creator = Some(footer.creator_text());
    info.block_size = tip.sparse.as_ref().map(|s| u64::from(s.header.block_size));
    info.parent = resolve::hint(tip).map(|hint| ParentInfo {
        name: hint.name,
        uuid: (hint.uuid != [0; 16]).then(|| uuid_text(&hint.uuid)),
        path: None,
    });
    info.findings = findings.list().to_vec();
    info
}

/// Backing and data files are taken from the named parents: the one with the right name, else
/// the first. What is left of them serves the backing file in its turn.
fn open_qcow2(path: &Path, source: Arc<dyn ReadAt>, options: &OpenOptions) -> Result<Image> {
    let mut findings = Findings::new(options.policy());
    let header = read_header(&source, &mut findings)?;
    let mut info = qcow2_info(&header, &findings);
    let mut options = options.clone();
    let mut data: Option<Arc<dyn ReadAt>> = None;
    if header.external_data {
        let wanted = header.data_file.as_deref().unwrap_or_default();
        refuse_another(path, "data file", wanted, &options)?;
        if let Some(path) = options.take_parent(wanted) {
            data = Some(options.watched(resolve::open_file(&path)?));
        }
    }
    let mut backing = None;
    if let Some(wanted) = &header.backing_file {
        refuse_another(path, "backing file", wanted, &options)?;
    }
    if let Some(wanted) = &header.backing_file
        && let Some(path) = options.take_parent(wanted)
    {
        let below = options.for_backing(header.backing_format.as_deref());
        let image = open(&path, &below)?;
        backing = image.disks().first().map(Arc::clone);
        if let Some(parent) = &mut info.parent {
            parent.path = Some(path);
        }
    }
    let disk = Qcow2Disk::open(source, backing, data, &mut Findings::new(options.policy()))?;
    Ok(Image::new(info, vec![Arc::new(disk)]))
}

/// A file of another name may be the one that is meant, moved and renamed; but not while that is
/// there: then a layer was forgotten, and the next one would be taken for it.
fn refuse_another(path: &Path, what: &str, wanted: &str, options: &OpenOptions) -> Result<()> {
    let meant = path.parent().unwrap_or_else(|| Path::new("")).join(wanted);
    let there = meant.canonicalize().ok().filter(|there| there.is_file());
    let Some(there) = there.filter(|_| !options.parents().is_empty()) else { return Ok(()) };
    let is_meant = |named: &PathBuf| {
        let same_name = named.file_name() == meant.file_name();
        same_name || named.canonicalize().is_ok_and(|named| named == there)
    };
    if options.parents().iter().any(is_meant) {
        return Ok(());
    }
    let message = format!(
        "the image refers to the {what} {wanted:?}, which was not named while others were; name it \
         with --parent FILE"
    );
    Err(Error::new(ErrorKind::Reference, message))
}

fn qcow2_info(header: &Header, findings: &Findings) -> ImageInfo {
    let mut info = ImageInfo::of_disk(Format::Qcow2, header.size);
    info.block_size = Some(1 << header.cluster_bits);
    info.parent = header.backing_file.as_ref().map(|name| ParentInfo {
        name: name.clone(),
        uuid: None,
        path: None,
    });
    info.findings = findings.list().to_vec();
    info
}

/// The format of `source` by what its bytes say.
///
/// Raw is what nothing else matches, so that a guest which writes another format's magic into
/// its disk changes the answer: name the format wherever it is known.
///
/// # Errors
/// `Unsupported` for the formats that are known and not read, `Io`.
pub fn probe(source: &dyn ReadAt) -> Result<Format> {
    let len = source.byte_len().map_err(|e| Error::io("cannot learn the file's length", e))?;
    let read = |at: u64, n: u64| -> Result<Vec<u8>> {
        let mut bytes = vec![0; n as usize];
        source
            .read_exact_at(&mut bytes, at)
            .map_err(|e| Error::io("cannot read the image", e).with_offset(at))?;
        Ok(bytes)
    };
    let full = Footer::LEN as u64;
    let start = read(0, len.min(full))?;
    let tail = read(len.saturating_sub(full), len.min(full))?;
    if start.is_empty() {
        return Err(Error::truncated("the file is empty"));
    }
    if start.starts_with(b"QFI\xfb") {
        return Ok(Format::Qcow2);
    }
    // A fixed VHD shows its cookie at the end only.
    let short = tail.get(1..).filter(|_| len % full == full - 1).unwrap_or_default();
    if Footer::probe(&start) || Footer::probe(&tail) || Footer::probe(short) {
        return Ok(Format::Vhd);
    }
    if is_compressed(&start)
        && let Some(format) = archived::probe_compressed(source)?
    {
        return Ok(format);
    }
    if let Some(format) = archived::format_of(&start) {
        return Ok(format);
    }
    match foreign(&start) {
        None => Ok(Format::Raw),
        Some(name) => Err(Error::unsupported(format!(
            "this is {name}, which is not read; if it is the content of a disk, say so with \
             the format raw"
        ))),
    }
}

/// The name of a known format that is no disk image of ours.
pub(crate) fn foreign(start: &[u8]) -> Option<Cow<'static, str>> {
    const MAGICS: &[(&[u8], &str)] = &[
        (b"vhdxfile", "a VHDX image"),
        (b"KDMV", "a VMDK image"),
        (b"COWD", "a VMDK image"),
        (b"# Disk DescriptorFile", "a VMDK descriptor"),
        (b"QED\0", "a QED image"),
        (b"<<< ", "a VirtualBox VDI image"),
        (b"WithoutFreeSpace", "a Parallels image"),
        (b"WithouFreSpacExt", "a Parallels image"),
        (b"HTTP/1.", "an HTTP answer, not an image"),
        (b"<!DOCTYPE", "a page of HTML, not an image"),
        (b"<html", "a page of HTML, not an image"),
        (b"<?xml", "a text of XML, not an image"),
    ];
    if is_compressed(start) {
        let name = if is_gzip(start) { "gzip" } else { "zstd" };
        return Some(format!("a {name} file (unpack it first)").into());
    }
    if let Some(name) = unread_compression(start) {
        return Some(format!("a file compressed with {name} (unpack it first)").into());
    }
    if start.get(257..262) == Some(b"ustar") {
        return Some("a tar archive (unpack it first)".into());
    }
    // The text before it is free: VirtualBox has changed its own.
    if start.get(64..68) == Some(b"\x7f\x10\xda\xbe") {
        return Some("a VirtualBox VDI image".into());
    }
    MAGICS.iter().find(|(magic, _)| start.starts_with(magic)).map(|&(_, name)| name.into())
}
