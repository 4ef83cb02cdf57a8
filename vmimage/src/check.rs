//! Everything that is odd about an image, in one report.

use std::path::Path;
use std::sync::Arc;

use crate::archived;
use crate::finding::{Findings, Policy, Report};
use crate::open::door;
use crate::options::{Format, OpenOptions};
use crate::replay::ReadFrom;
use crate::vhd::{self, file::VhdFile, resolve::Chain};
use crate::{ErrorKind, ReadAt, Result};

/// Examines an image and, where they are found, its parents.
///
/// What the strict reader would refuse is reported, not returned; the policy of `options` does
/// not matter.
///
/// # Errors
/// `Io`, `Usage`, `Unsupported` for what is not read at all, and `Cancelled`.
pub fn check(path: impl AsRef<Path>, options: &OpenOptions) -> Result<Report> {
    let path = path.as_ref();
    let options = options.clone().lenient(true);
    let mut findings = Findings::new(Policy::Lenient);
    let result = options.unless_cancelled(examine(path, &options, &mut findings));
    if let Err(error) = result {
        match error.kind() {
            ErrorKind::Corrupt | ErrorKind::Truncated | ErrorKind::TooLarge => {
                findings.corrupt("unreadable", error.to_string(), error.offset());
            }
            ErrorKind::Reference => findings.note("parent-missing", error.to_string()),
            _ => return Err(error.with_path(path)),
        }
    }
    Ok(Report::new(findings))
}

fn examine(path: &Path, options: &OpenOptions, findings: &mut Findings) -> Result<()> {
    let (source, format) = door(path, options)?;
    if crate::store::beside(path, ".commit").exists() {
        let message = "a commit into this image is unfinished: read it through its child, and run \
                       the commit again";
        findings.corrupt("commit-unfinished", message, None);
    }
    match format {
        Format::Vhd if archived::is_compressed_file(&source)? => {
            let image = archived::open_packed_vhd(source, options)?;
            read_all(&image)
        }
        Format::Vhd => {
            if vhd::check::unknown_type(&source, findings) {
                return Ok(());
            }
            let tip = VhdFile::open(source, Some(path), findings)?;
            vhd::check::examine(&tip, findings)?;
            let chain = Chain::resolve(tip, path, options, findings)?;
            let depth = chain.files.len() + usize::from(chain.raw.is_some());
            if depth > vhd::XENSERVER_CHAIN {
                let message = format!("the chain has {depth} layers; XenServer stops at 30");
                findings.note("chain-depth", message);
            }
            for parent in chain.files.iter().skip(1) {
                let mut own = Findings::new(Policy::Lenient);
                vhd::check::examine(parent, &mut own)?;
                let name = parent.path.as_deref().unwrap_or(path).display().to_string();
                findings.absorb(&name, &own);
            }
            Ok(())
        }
        Format::Qcow2 => crate::qcow2::check::examine(source, findings),
        Format::Raw => crate::open(path, options).map(|_| ()),
        Format::Xva => crate::xva::examine(source, findings),
        Format::Tgz => examine_tgz(source, options, findings),
    }
}

/// Each layer by itself, and whether they are a chain.
fn examine_tgz(
    source: Arc<dyn ReadAt>,
    options: &OpenOptions,
    findings: &mut Findings,
) -> Result<()> {
    let files = crate::tgz::unpack(ReadFrom::new(source), options.scratch())?;
    let files: Vec<Arc<dyn ReadAt>> = files.into_iter().map(|f| Arc::new(f) as _).collect();
    for (number, file) in files.iter().enumerate() {
        let mut own = Findings::new(Policy::Lenient);
        let vhd = VhdFile::open(Arc::clone(file), None, &mut own)?;
        vhd::check::examine(&vhd, &mut own)?;
        findings.absorb(&format!("{number}.vhd"), &own);
    }
    vhd::VhdDisk::from_chain(files, &mut Findings::new(Policy::Strict)).map(|_| ())
}

/// What can only be read forwards is whole if it can be read.
fn read_all(image: &crate::Image) -> Result<()> {
    image.disks().iter().try_for_each(|disk| crate::content_root(disk.as_ref()).map(|_| ()))
}
