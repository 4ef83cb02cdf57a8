//! The archive that XenServer's Nova driver puts into Glance: `0.vhd`, `1.vhd`, … in a gzipped tar.
//!
//! `0.vhd` is the youngest layer of a chain, `1.vhd` its parent, and so on without a gap; besides
//! them only `swap.vhd` may be there, which is no part of the disk. The order in the archive is
//! not given. The rules are those of `plugins/xenserver` in Nova until it was removed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::archive::{BLOCK, Decoded, Members, Seen, padded, read_error, shown};
use crate::exec::fill::is_zero;
use crate::raw::MAX_DISK;
use crate::vhd::MAX_CHAIN;
use crate::{Error, ErrorKind, Result};

/// How much is read at once; zeros are left out of the spilled files in pieces of this size.
const PIECE: usize = 64 * 1024;

/// How many zeros may follow the end of the archive: tar rounds its length up to 10 KiB, or to
/// whatever it was told.
const MAX_TAIL: u64 = 1 << 20;

/// Whether a file that begins with these bytes (512 or more) is a plain archive of layers.
pub(crate) fn probe(start: &[u8]) -> bool {
    let Some(block) = start.first_chunk::<BLOCK>() else { return false };
    let header = crate::archive::TarHeader::parse(block);
    matches!(header, Ok(Some(header)) if classify(&header.name).is_ok())
}

/// How many layers an archive has; reads all of it, so that its end is proved.
pub(crate) fn layers(input: impl Read + Send + 'static) -> Result<usize> {
    let mut walk = Walk::new(Box::new(input))?;
    let mut count = 0;
    while let Some((name, _)) = walk.next()? {
        count += usize::from(classify(&name)?.is_some());
    }
    Ok(count)
}

/// The first bytes of `0.vhd`, no more than `len`; of the rest of the archive nothing is read.
pub(crate) fn leaf_start(input: impl Read + Send + 'static, len: usize) -> Result<Vec<u8>> {
    let mut walk = Walk::new(Box::new(input))?;
    while let Some((name, _)) = walk.next()? {
        if classify(&name)? == Some(0) {
            let mut start = vec![0; len.min(usize::try_from(walk.left).unwrap_or(len))];
            let mut n = 0;
            while n < start.len() {
                n += walk.read(start.get_mut(n..).unwrap_or_default())?;
            }
            return Ok(start);
        }
    }
    Err(Error::unsupported("the archive holds no 0.vhd"))
}

/// Unpacks the layers of an archive (gzip, Zstandard or plain) into files without a name in
/// `folder`, the youngest layer first: what
/// [`VhdDisk::from_chain`](crate::vhd::VhdDisk::from_chain) takes.
///
/// Zeros become holes. The files vanish with the last handle; names in the archive are compared
/// and never used as paths. An archive of one layer needs no files: [`SingleVhd`].
///
/// # Errors
/// `Corrupt` and `Truncated` for damage, `Unsupported` for members that do not belong there, for a
/// gap in the numbers and for a chain that is too long, `Io`.
pub fn unpack(input: impl Read + Send + 'static, folder: impl AsRef<Path>) -> Result<Vec<File>> {
    let folder = folder.as_ref();
    let mut walk = Walk::new(Box::new(input))?;
    let mut layers: Vec<Option<File>> = Vec::new();
    while let Some((name, len)) = walk.next()? {
        let Some(number) = classify(&name)? else { continue };
        if layers.get(number).is_some_and(Option::is_some) {
            return Err(Error::corrupt(format!("the archive holds {number}.vhd twice")));
        }
        let file = nameless(folder)
            .map_err(|e| Error::io("cannot create a file for a layer", e).with_path(folder))?;
        walk.spill(len, &file).map_err(|e| match e.kind() {
            ErrorKind::Io => e.with_path(folder),
            _ => e,
        })?;
        if layers.len() <= number {
            layers.resize_with(number + 1, || None);
        }
        if let Some(slot) = layers.get_mut(number) {
            *slot = Some(file);
        }
    }
    if layers.is_empty() {
        return Err(Error::unsupported("the archive holds no 0.vhd"));
    }
    let missing = layers.iter().position(Option::is_none);
    match missing {
        Some(number) => Err(Error::unsupported(format!(
            "the archive holds no {number}.vhd, but a layer with a higher number"
        ))),
        None => Ok(layers.into_iter().flatten().collect()),
    }
}

/// The one layer of an archive that holds no more: a [`Read`] that a
/// [`VhdStream`](crate::vhd::VhdStream) takes, so that nothing is spilled.
///
/// The end of the stream comes only after the end of the archive was found, and no second layer.
/// Errors of this crate are the source of the I/O errors.
#[derive(Debug)]
pub struct SingleVhd {
    walk: Walk,
    len: u64,
    done: bool,
}

impl SingleVhd {
    /// Reads up to the first layer, which must be `0.vhd`.
    ///
    /// # Errors
    /// Those of [`unpack`]; `Unsupported` if another layer comes first.
    pub fn new(input: impl Read + Send + 'static) -> Result<Self> {
        let mut walk = Walk::new(Box::new(input))?;
        while let Some((name, len)) = walk.next()? {
            match classify(&name)? {
                None => {}
                Some(0) => return Ok(Self { walk, len, done: false }),
                Some(_) => return Err(chain(&name)),
            }
        }
        Err(Error::unsupported("the archive holds no 0.vhd"))
    }

    /// The length of the VHD in bytes.
    pub fn byte_len(&self) -> u64 {
        self.len
    }

    /// Sees that nothing follows but the end.
    fn prove(&mut self) -> Result<()> {
        while let Some((name, _)) = self.walk.next()? {
            if classify(&name)?.is_some() {
                return Err(chain(&name));
            }
        }
        self.done = true;
        Ok(())
    }
}

impl Read for SingleVhd {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.done || buf.is_empty() {
            return Ok(0);
        }
        if self.walk.left == 0 {
            return self.prove().map(|()| 0).map_err(io_error);
        }
        self.walk.read(buf).map_err(io_error)
    }
}

fn chain(name: &str) -> Error {
    Error::unsupported(format!(
        "the archive holds {name}: it is a chain of layers, which must be unpacked before it is read"
    ))
}

/// The error of this crate within one of I/O; its kind tells a cut from other failures.
fn io_error(error: Error) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::Truncated => io::ErrorKind::UnexpectedEof,
        ErrorKind::Corrupt | ErrorKind::Unsupported => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}

/// The number of a layer; `None` for what may be there and does not matter.
fn classify(name: &str) -> Result<Option<usize>> {
    let name = name.strip_prefix("./").unwrap_or(name);
    if name == "swap.vhd" {
        return Ok(None);
    }
    let digits = name.strip_suffix(".vhd").filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
    // Each number has one name.
    let number: Option<usize> =
        digits.filter(|d| *d == "0" || !d.starts_with('0')).and_then(|d| d.parse().ok());
    match number {
        Some(number) if number < MAX_CHAIN => Ok(Some(number)),
        Some(number) => Err(Error::unsupported(format!(
            "the archive holds {number}.vhd; more than {MAX_CHAIN} layers are not read"
        ))),
        None => Err(Error::unsupported(format!(
            "the archive holds {}; an image for XenServer consists of 0.vhd, 1.vhd, … only",
            shown(name)
        ))),
    }
}

/// The members of an archive one after the other, their content read or passed over.
#[derive(Debug)]
struct Walk {
    input: Decoded,
    members: Members,
    at: u64,
    /// How much of the current member's content and of its padding has not been read.
    left: u64,
    padding: u64,
}

impl Walk {
    fn new(input: Box<dyn Read + Send>) -> Result<Self> {
        let input = Decoded::new(input)?;
        Ok(Self { input, members: Members::default(), at: 0, left: 0, padding: 0 })
    }

    /// Moves to the next file: its name and length. `None` once the archive has ended as it must.
    fn next(&mut self) -> Result<Option<(String, u64)>> {
        loop {
            self.pass(self.left.saturating_add(self.padding))?;
            let block = self.block()?;
            let seen = self.members.block(&block).map_err(|e| self.explain(e))?;
            match seen {
                Seen::Zeros => return self.end().map(|()| None),
                Seen::Skip(len) => self.enter(len),
                Seen::Extension(len) => {
                    self.enter(len);
                    let mut content = Vec::new();
                    let whole = (&mut self.input).take(len).read_to_end(&mut content);
                    let n = whole.map_err(|e| self.failed(e))? as u64;
                    if n < len {
                        return Err(self.cut());
                    }
                    self.passed(n);
                    self.members.extension(&content).map_err(|e| e.with_offset(self.at))?;
                }
                Seen::File(name, len) => {
                    if len > MAX_DISK {
                        let message = format!("the member {} claims {len} bytes", shown(&name));
                        return Err(Error::new(ErrorKind::TooLarge, message));
                    }
                    self.enter(len);
                    return Ok(Some((name, len)));
                }
            }
        }
    }

    fn enter(&mut self, len: u64) {
        self.left = len;
        self.padding = padded(len).unwrap_or(u64::MAX) - len;
    }

    fn passed(&mut self, n: u64) {
        self.at = self.at.saturating_add(n);
        let content = n.min(self.left);
        self.left -= content;
        self.padding -= (n - content).min(self.padding);
    }

    /// Content of the current member; zero bytes at its end only.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let most = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
        let buf = buf.get_mut(..most).unwrap_or_default();
        loop {
            match self.input.read(buf) {
                Ok(0) if !buf.is_empty() => return Err(self.cut()),
                Ok(n) => {
                    self.passed(n as u64);
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(e)),
            }
        }
    }

    /// Writes the content of the current member into an empty file, its zeros as holes.
    fn spill(&mut self, len: u64, file: &File) -> Result<()> {
        let failed = |e| Error::io("cannot write a layer", e);
        let mut piece = vec![0; PIECE];
        let mut at = 0;
        while self.left > 0 {
            let mut n = 0;
            while n < PIECE && self.left > 0 {
                n += self.read(piece.get_mut(n..).unwrap_or_default())?;
            }
            let part = piece.get(..n).unwrap_or_default();
            if !is_zero(part) {
                file.write_all_at(part, at).map_err(failed)?;
            }
            at += n as u64;
        }
        file.set_len(len).map_err(failed)
    }

    fn pass(&mut self, n: u64) -> Result<()> {
        let passed = io::copy(&mut (&mut self.input).take(n), &mut io::sink());
        let passed = passed.map_err(|e| self.failed(e))?;
        self.passed(passed);
        if passed < n { Err(self.cut()) } else { Ok(()) }
    }

    fn block(&mut self) -> Result<[u8; BLOCK]> {
        let mut block = [0; BLOCK];
        match self.input.read_exact(&mut block) {
            Ok(()) => {
                self.at += BLOCK as u64;
                Ok(block)
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(self.cut().with_source(e)),
            Err(e) => Err(self.failed(e)),
        }
    }

    /// The second block of zeros, and nothing but zeros after it.
    fn end(&mut self) -> Result<()> {
        if self.block()?.iter().any(|&b| b != 0) {
            let message = "a block of zeros lies between the members of the archive";
            return Err(Error::corrupt(message).with_offset(self.at));
        }
        let mut tail = 0;
        let mut piece = [0; 4096];
        loop {
            let n = match self.input.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.failed(e)),
            };
            tail += n as u64;
            if !is_zero(piece.get(..n).unwrap_or_default()) || tail > MAX_TAIL {
                let message = "something follows the end of the archive";
                return Err(Error::corrupt(message).with_offset(self.at));
            }
        }
    }

    fn explain(&self, error: Error) -> Error {
        if self.at == BLOCK as u64 {
            return Error::unsupported(format!("this is no tar archive: {error}"));
        }
        error.with_offset(self.at - BLOCK as u64)
    }

    fn cut(&self) -> Error {
        Error::truncated("the archive is cut short").with_offset(self.at)
    }

    fn failed(&self, error: io::Error) -> Error {
        read_error(error).with_offset(self.at)
    }
}

/// A file that can be read and written and has no name.
fn nameless(folder: &Path) -> io::Result<File> {
    match tmpfile(folder) {
        Some(file) => Ok(file),
        None => unlinked(folder),
    }
}

#[cfg(target_os = "linux")]
fn tmpfile(folder: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    // EXCL: the file can never be given a name.
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR).ok().map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn tmpfile(_folder: &Path) -> Option<File> {
    None
}

/// For file systems without nameless files: one that loses its name at once.
fn unlinked(folder: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!(".vmimage-{}-{counter}.layer", std::process::id()));
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tar_header;

    fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, data) in members {
            out.extend(tar_header(name, data.len() as u64, 0, 0o644));
            out.extend(*data);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        out.resize(out.len() + 2 * BLOCK, 0);
        out
    }

    fn try_unpack(bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let folder = tempfile::tempdir().unwrap();
        let files = unpack(io::Cursor::new(bytes), folder.path())?;
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let read = |file: File| {
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        Ok(files.into_iter().map(read).collect())
    }

    #[test]
    fn layers_come_youngest_first_and_zeros_are_holes() {
        let mut leaf = vec![0; 300_001];
        leaf[299_999] = 7;
        let bytes = tar(&[("./1.vhd", b"base"), ("swap.vhd", b"x"), ("./0.vhd", &leaf)]);
        assert_eq!(try_unpack(bytes).unwrap(), [leaf, b"base".to_vec()]);
        let folder = tempfile::tempdir().unwrap();
        let file = unlinked(folder.path()).unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_does_not_belong_is_refused() {
        for (members, kind) in [
            (&[("1.vhd", &b"a"[..])][..], ErrorKind::Unsupported),
            (&[("0.vhd", b"a"), ("2.vhd", b"a")], ErrorKind::Unsupported),
            (&[("0.vhd", b"a"), ("0.vhd", b"a")], ErrorKind::Corrupt),
            (&[("00.vhd", b"a")], ErrorKind::Unsupported),
            (&[("../0.vhd", b"a")], ErrorKind::Unsupported),
            (&[("/etc/passwd", b"a")], ErrorKind::Unsupported),
            (&[("99999999999999999999.vhd", b"a")], ErrorKind::Unsupported),
            (&[("31.vhd", b"a")], ErrorKind::Unsupported),
            (&[("swap.vhd", b"a")], ErrorKind::Unsupported),
            (&[], ErrorKind::Unsupported),
        ] {
            assert_eq!(try_unpack(tar(members)).unwrap_err().kind(), kind, "{members:?}");
        }
        let good = tar(&[("0.vhd", &[1; 3000]), ("1.vhd", b"b")]);
        for cut in (0..good.len()).step_by(17) {
            let kind = try_unpack(good[..cut].to_vec()).unwrap_err().kind();
            assert_eq!(kind, ErrorKind::Truncated, "{cut}");
        }
        let trailing = [good.clone(), vec![0; 10 * 1024]].concat();
        assert!(try_unpack(trailing.clone()).is_ok());
        assert!(try_unpack([trailing, vec![1]].concat()).is_err());
        let random = try_unpack(vec![7; 4096]).unwrap_err();
        assert_eq!(random.kind(), ErrorKind::Unsupported);
    }

    fn single(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        SingleVhd::new(io::Cursor::new(bytes)).map_err(io_error)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn a_single_layer_passes_through_and_proves_its_end() {
        let data = vec![3; 5000];
        let good = tar(&[("swap.vhd", b"x"), ("./0.vhd", &data), ("swap.vhd", b"x")]);
        assert_eq!(single(good.clone()).unwrap(), data);
        for cut in 0..good.len() {
            let error = single(good[..cut].to_vec()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
        }
        for members in [[("0.vhd", &data), ("1.vhd", &data)], [("1.vhd", &data), ("0.vhd", &data)]]
        {
            let error = single(tar(&members.map(|(n, d)| (n, &d[..])))).unwrap_err();
            let own = error.get_ref().unwrap().downcast_ref::<Error>().unwrap();
            assert_eq!(own.kind(), ErrorKind::Unsupported);
            assert!(own.to_string().contains("chain"), "{own}");
        }
    }
}
