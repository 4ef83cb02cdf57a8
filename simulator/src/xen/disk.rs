//! The disks that VDIs show: image files, read through `vmimage`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use vmimage::Disk;

/// The server's storage makes disks in multiples of this.
const ROUND: u64 = 2 * 1024 * 1024;

/// A disk and the size that its VDI has.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) disk: Arc<dyn Disk>,
    /// A VHD's own size; other images are rounded up, as on a real storage repository.
    pub(crate) virtual_size: u64,
    /// The bytes that its file takes.
    pub(crate) physical: u64,
}

/// Opens an image file of any format that `vmimage` reads.
pub(crate) fn open(path: &Path) -> io::Result<Opened> {
    let name =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    if is_vhd(path).map_err(name)? {
        return Err(name(io::Error::other("VHD is not read yet")));
    }
    let file = File::open(path).map_err(name)?;
    let physical = file.metadata()?.len();
    let virtual_size = physical.next_multiple_of(ROUND);
    Ok(Opened { disk: Arc::new(Raw(file, physical)), virtual_size, physical })
}

/// A raw file, until `vmimage` opens them.
#[derive(Debug)]
struct Raw(File, u64);

impl Disk for Raw {
    fn virtual_size(&self) -> u64 {
        self.1
    }

    fn extent_at(&self, offset: u64) -> vmimage::Result<vmimage::Extent> {
        use vmimage::{Extent, ExtentKind, ReadAt};
        let next = self.0.next_data(offset).map_err(|e| vmimage::Error::io("seek", e))?;
        Ok(match next {
            Some(data) if data.start == offset => {
                let kind = ExtentKind::Data { layer: 0, file_offset: offset };
                Extent::new(offset, data.end - offset, kind)
            }
            Some(data) => Extent::new(offset, data.start - offset, ExtentKind::Zero),
            None => Extent::new(offset, self.1 - offset, ExtentKind::Zero),
        })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> vmimage::Result<()> {
        self.0.read_exact_at(buf, offset).map_err(|e| vmimage::Error::io("read", e))
    }
}

fn is_vhd(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut cookie = [0; 8];
    if file.read_exact(&mut cookie).is_ok() && &cookie == b"conectix" {
        return Ok(true);
    }
    let len = file.metadata()?.len();
    Ok(len >= 512 && file.read_exact_at(&mut cookie, len - 512).is_ok() && &cookie == b"conectix")
}
