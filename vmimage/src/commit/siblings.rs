//! Who else depends on a file: VHDs in a folder that name it as their parent.

use std::fs;
use std::path::{Path, PathBuf};

use crate::finding::{Findings, Policy};
use crate::store::identity;
use crate::vhd::file::VhdFile;
use crate::vhd::resolve::{open_file, parent_names};
use crate::vhd::{DiskType, file::head};
use crate::{Error, Result};

/// Whose children are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of<'a> {
    /// Those of the VHD with this UUID.
    Uuid(&'a [u8; 16]),
    /// Those of the raw disk with this file name.
    Raw(&'a str),
}

/// The differencing VHDs in `folder` whose parent is `of`, but for the file `but`.
///
/// Files that cannot be read as VHDs are passed over: this is a net below the caller's word, not
/// instead of it.
pub(super) fn children(folder: &Path, of: Of<'_>, but: (u64, u64)) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io(format!("cannot list the folder: {e}"), e).with_path(folder);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.metadata().is_ok_and(|m| m.is_file()) && is_child(&path, of, but) == Some(true) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn is_child(path: &Path, of: Of<'_>, but: (u64, u64)) -> Option<bool> {
    let file = open_file(path).ok()?;
    if identity(&file).ok()? == but {
        return Some(false);
    }
    let (footer, header, _) = head(&file, &mut Findings::new(Policy::Lenient)).ok()?;
    if footer.disk_type != DiskType::Differencing {
        return Some(false);
    }
    match of {
        Of::Uuid(uuid) => Some(header?.parent_uuid == *uuid),
        Of::Raw(name) => {
            if header?.parent_uuid != [0; 16] {
                return Some(false);
            }
            let mut findings = Findings::new(Policy::Lenient);
            let file = VhdFile::open(std::sync::Arc::new(file), Some(path), &mut findings).ok()?;
            let names = parent_names(&file);
            // A child that does not say where its raw parent is may mean this one.
            Some(names.is_empty() || names.iter().any(|n| n == name))
        }
    }
}
