//! The disks that VDIs show: image files, read through `vmimage`.

use std::io;
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

/// The size that storage gives to a disk of so many bytes.
pub(crate) fn rounded(size: u64) -> u64 {
    size.checked_next_multiple_of(ROUND).unwrap_or(size)
}

/// Opens an image file of any format that `vmimage` reads.
pub(crate) fn open(path: &Path) -> io::Result<Opened> {
    let image = vmimage::open(path, &vmimage::OpenOptions::new()).map_err(|e| one_line(&e))?;
    let [disk] = image.disks() else {
        let text = format!("{}: an image with exactly one disk is needed", path.display());
        return Err(io::Error::other(text));
    };
    let size = disk.virtual_size();
    let is_vhd = image.info().format() == vmimage::Format::Vhd;
    let virtual_size = if is_vhd { size } else { rounded(size) };
    let physical = path.metadata()?.len();
    Ok(Opened { disk: Arc::clone(disk), virtual_size, physical })
}

/// The error with its cause: whoever starts the program sees nothing else.
fn one_line(error: &vmimage::Error) -> io::Error {
    use std::error::Error as _;
    let text = error.to_string();
    match error.source().map(ToString::to_string) {
        Some(source) if !text.contains(&source) => io::Error::other(format!("{text}: {source}")),
        _ => io::Error::other(text),
    }
}
