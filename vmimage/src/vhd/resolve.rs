//! Which files form a chain: the rules by which a child's parent is found.
//!
//! A child comes from a guest or a stranger, so what it says about its parent is only followed
//! inside the child's own folder. Everything else must have been named by the caller.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::disk::{MAX_CHAIN, RawParent, VhdDisk};
use super::file::{VhdFile, head};
use super::{DynamicHeader, PlatformCode, uuid_text};
use crate::finding::{Findings, Policy};
use crate::options::OpenOptions;
use crate::{Error, ErrorKind, ReadAt, Result};

/// Opens a regular file or a block device for reading; anything else could hang or never end.
pub(crate) fn open_file(path: &Path) -> Result<File> {
    let io = |e| Error::io(format!("cannot open the image: {e}"), e).with_path(path);
    let kind = std::fs::metadata(path).map_err(io)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        let message = "is neither a regular file nor a block device";
        return Err(Error::new(ErrorKind::Usage, message).with_path(path));
    }
    File::open(path).map_err(io)
}

/// A resolved chain, the youngest file first.
pub(crate) struct Chain {
    pub(crate) files: Vec<VhdFile>,
    pub(crate) raw: Option<RawParent>,
}

/// What a child says about its parent, for people.
#[derive(Debug, Clone)]
pub(crate) struct ParentHint {
    pub(crate) name: String,
    pub(crate) uuid: [u8; 16],
}

impl Chain {
    /// The chain whose youngest file is `tip`.
    pub(crate) fn resolve(
        tip: VhdFile,
        path: &Path,
        options: &OpenOptions,
        findings: &mut Findings,
    ) -> Result<Self> {
        let mut finder = Finder::new(path, options)?;
        let mut chain = Self { files: vec![tip], raw: None };
        while let Some(child) = chain.files.last().filter(|f| f.is_differencing()) {
            if chain.files.len() >= MAX_CHAIN {
                return Err(Error::unsupported(format!(
                    "the chain has over {MAX_CHAIN} layers; coalesce it first"
                ))
                .with_path(path));
            }
            let Some(parent) = finder.parent_of(child)? else {
                chain.raw = Some(finder.raw_parent_of(child, options)?);
                break;
            };
            let mut own = Findings::new(options.policy());
            let file = options.watched(open_file(&parent)?);
            let file = VhdFile::open(file, Some(&parent), &mut own)?;
            findings.absorb(&parent.display().to_string(), &own);
            chain.files.push(file);
        }
        if chain.files[0].is_differencing() && !options.has_spare_parents() {
            finder.all_used()?;
        }
        Ok(chain)
    }

    /// The disk of the chain.
    pub(crate) fn into_disk(self, options: &OpenOptions) -> Result<VhdDisk> {
        VhdDisk::new(self.files, self.raw, options.size())
    }
}

/// What `child` says about its parent.
pub(crate) fn hint(child: &VhdFile) -> Option<ParentHint> {
    let header = child.sparse.as_ref().map(|s| &s.header)?;
    child.is_differencing().then(|| {
        let paths = locator_paths(child, header);
        let name = Some(base_name(&header.parent_name))
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .or_else(|| paths.iter().map(|p| base_name(p).to_owned()).find(|n| !n.is_empty()));
        ParentHint { name: name.unwrap_or_default(), uuid: header.parent_uuid }
    })
}

struct Named {
    path: PathBuf,
    identity: (u64, u64),
    /// The UUID of its footer; `None` if it is no VHD.
    uuid: Option<[u8; 16]>,
    used: bool,
}

struct Finder {
    named: Vec<Named>,
    /// Files of the chain so far, by device and inode.
    seen: Vec<(u64, u64)>,
    /// The folder of the name that the caller gave, then that of the file it stands for.
    tip_folders: Vec<PathBuf>,
}

impl Finder {
    fn new(tip: &Path, options: &OpenOptions) -> Result<Self> {
        let mut named = Vec::new();
        for path in options.parents() {
            let file = open_file(path)?;
            let footer = head(&file, &mut Findings::new(Policy::Lenient)).map(|(f, ..)| f);
            named.push(Named {
                path: path.clone(),
                identity: identity(path)?,
                uuid: footer.ok().map(|f| f.uuid),
                used: false,
            });
        }
        Ok(Self { named, seen: vec![identity(tip)?], tip_folders: folders(tip) })
    }

    /// The file of `child`'s parent; `None` if the parent is a raw disk.
    fn parent_of(&mut self, child: &VhdFile) -> Result<Option<PathBuf>> {
        let Some(header) = child.sparse.as_ref().map(|s| &s.header) else { return Ok(None) };
        if header.parent_uuid == [0; 16] {
            return Ok(None);
        }
        let by_name = self.named.iter_mut().find(|n| n.uuid == Some(header.parent_uuid));
        if let Some(named) = by_name {
            named.used = true;
            let (path, id) = (named.path.clone(), named.identity);
            self.enter(id, &path)?;
            return Ok(Some(path));
        }
        let mut refused = Vec::new();
        for path in self.candidates(child, header) {
            let Some(path) = inside(&path, &mut refused) else { continue };
            let file = open_file(&path)?;
            match head(&file, &mut Findings::new(Policy::Lenient)) {
                Ok((footer, ..)) if footer.uuid == header.parent_uuid => {
                    self.enter(identity(&path)?, &path)?;
                    return Ok(Some(path));
                }
                Ok((footer, ..)) => refused.push(format!(
                    "{} has the UUID {}",
                    path.display(),
                    uuid_text(&footer.uuid)
                )),
                Err(e) => refused.push(format!("{}: {e}", path.display())),
            }
        }
        Err(self.missing(child, &refused))
    }

    /// The raw disk below `child`, which only the caller can name.
    fn raw_parent_of(&mut self, child: &VhdFile, options: &OpenOptions) -> Result<RawParent> {
        let hint = hint(child);
        let name = hint.as_ref().map_or("", |h| h.name.as_str());
        // A guest can write a VHD's footer into its raw disk: that makes it no VHD, because the
        // child says so. A file that looks raw comes first all the same.
        let raw = |n: &Named| !n.used && n.uuid.is_none();
        let same = |n: &Named| n.path.file_name().is_some_and(|f| f == name);
        let index = self.named.iter().position(|n| raw(n) && same(n));
        let index = index.or_else(|| self.named.iter().position(raw));
        let index = index.or_else(|| self.named.iter().position(|n| !n.used && same(n)));
        let Some(index) = index.or_else(|| self.named.iter().position(|n| !n.used)) else {
            let message = format!(
                "its parent {name:?} is a raw disk (null UUID) and was not named; name it with \
                 --parent FILE"
            );
            return Err(at_child(Error::new(ErrorKind::Reference, message), child));
        };
        self.named[index].used = true;
        let (path, id) = (self.named[index].path.clone(), self.named[index].identity);
        self.enter(id, &path)?;
        let file = open_file(&path)?;
        let len = file
            .byte_len()
            .map_err(|e| Error::io("cannot learn the parent's length", e).with_path(&path))?;
        Ok(RawParent { file: options.watched(file), path, len })
    }

    /// Where the parent may lie, most trusted first: the relative path, the URL's, then the
    /// parent's bare names, each in the folder of the child.
    fn candidates(&self, child: &VhdFile, header: &DynamicHeader) -> Vec<(PathBuf, PathBuf)> {
        let mut names = Vec::new();
        let paths = locator_paths(child, header);
        for path in &paths {
            if is_relative(path) {
                names.push(path.clone());
            }
        }
        names.extend(paths.iter().map(|p| base_name(p).to_owned()));
        names.push(base_name(&header.parent_name).to_owned());
        // Control characters are in no honest name, and would end up in messages.
        names.retain(|n| !n.is_empty() && !n.chars().any(char::is_control));
        let mut out: Vec<(PathBuf, PathBuf)> = Vec::new();
        for folder in self.folders_of(child) {
            // Windows does not tell upper from lower case.
            let others = other_cases(&folder, &names);
            for name in names.iter().chain(&others) {
                let pair = (folder.clone(), folder.join(name));
                if !out.contains(&pair) {
                    out.push(pair);
                }
            }
        }
        out
    }

    fn folders_of(&self, child: &VhdFile) -> Vec<PathBuf> {
        match &child.path {
            // The tip is known by the caller's name for it.
            Some(path) if self.seen.len() > 1 => folders(path),
            _ => self.tip_folders.clone(),
        }
    }

    fn enter(&mut self, id: (u64, u64), path: &Path) -> Result<()> {
        if self.seen.contains(&id) {
            let message = "the chain of parents comes back to this file";
            return Err(Error::corrupt(message).with_path(path));
        }
        self.seen.push(id);
        Ok(())
    }

    fn missing(&self, child: &VhdFile, refused: &[String]) -> Error {
        let hint = hint(child);
        let (name, uuid) = hint.map_or_else(Default::default, |h| (h.name, h.uuid));
        let mut message =
            format!("its parent {name:?} (UUID {}) was not found in its folder", uuid_text(&uuid));
        for named in self.named.iter().filter(|n| !n.used) {
            let found = named.uuid.as_ref().map_or_else(|| "no VHD".to_owned(), uuid_text);
            message.push_str(&format!("; {} is {found}", named.path.display()));
        }
        for reason in refused {
            message.push_str("; ");
            message.push_str(reason);
        }
        message.push_str("; name it with --parent FILE");
        at_child(Error::new(ErrorKind::Reference, message), child)
    }

    /// A parent that the caller named and the chain does not need is a mistake worth telling.
    fn all_used(&self) -> Result<()> {
        match self.named.iter().find(|n| !n.used) {
            None => Ok(()),
            Some(named) => {
                let message = "was named as a parent, but the chain does not use it";
                Err(Error::new(ErrorKind::Usage, message).with_path(&named.path))
            }
        }
    }
}

fn at_child(error: Error, child: &VhdFile) -> Error {
    match &child.path {
        Some(path) => error.with_path(path),
        None => error,
    }
}

/// The folders of `path`: that of the name, then that of the file behind a link.
fn folders(path: &Path) -> Vec<PathBuf> {
    let parent = match path.parent() {
        Some(p) if p.as_os_str().is_empty() => Path::new("."),
        Some(p) => p,
        None => Path::new("/"),
    };
    let mut out: Vec<PathBuf> = parent.canonicalize().into_iter().collect();
    if let Some(real) = path.canonicalize().ok().and_then(|p| p.parent().map(Path::to_path_buf))
        && !out.contains(&real)
    {
        out.push(real);
    }
    out
}

/// The names in `folder` that differ from one of `names` by upper and lower case only.
fn other_cases(folder: &Path, names: &[String]) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let differs = |file: &String| {
        names.iter().any(|name| name != file && name.to_lowercase() == file.to_lowercase())
    };
    let mut found: Vec<String> = files.filter(differs).collect();
    found.sort_unstable();
    found
}

/// The candidate's real path, if it exists, is a regular file and lies inside its folder.
fn inside((folder, path): &(PathBuf, PathBuf), refused: &mut Vec<String>) -> Option<PathBuf> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => {
            refused.push(format!("{}: {e}", path.display()));
            return None;
        }
    };
    if !real.starts_with(folder) {
        refused.push(format!("{} leads out of the folder", path.display()));
        return None;
    }
    real.metadata().is_ok_and(|m| m.is_file()).then_some(real)
}

fn identity(path: &Path) -> Result<(u64, u64)> {
    let meta = std::fs::metadata(path)
        .map_err(|e| Error::io(format!("cannot open the image: {e}"), e).with_path(path))?;
    Ok((meta.dev(), meta.ino()))
}

/// Every file name by which `child` calls its parent.
pub(crate) fn parent_names(child: &VhdFile) -> Vec<String> {
    let Some(header) = child.sparse.as_ref().map(|s| &s.header) else { return Vec::new() };
    let paths = locator_paths(child, header);
    let names = paths.iter().map(String::as_str).chain([header.parent_name.as_str()]);
    names.map(base_name).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The locators' paths: the relative one first, then the URL, then the absolute one.
fn locator_paths(child: &VhdFile, header: &DynamicHeader) -> Vec<String> {
    let order = [PlatformCode::W2RU, PlatformCode::MACX, PlatformCode::W2KU];
    let of = |code| header.locators.iter().filter(move |l| l.code == code);
    order.into_iter().flat_map(of).filter_map(|l| child.locator_path(l)).collect()
}

fn is_relative(path: &str) -> bool {
    let drive = path.as_bytes().get(1) == Some(&b':');
    !path.starts_with('/') && !drive
}

/// The last component of a path of either world.
fn base_name(path: &str) -> &str {
    let name = path.rsplit(['/', '\\']).next().unwrap_or_default();
    if matches!(name, "." | "..") { "" } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_either_world() {
        assert_eq!(base_name("C:\\disks\\base.vhd"), "base.vhd");
        assert_eq!(base_name("/sr/a/base.vhd"), "base.vhd");
        assert_eq!(base_name("base.vhd"), "base.vhd");
        assert_eq!(base_name("a/.."), "");
        assert!(is_relative("./base.vhd") && is_relative("../x"));
        assert!(!is_relative("/x") && !is_relative("C:/x"));
    }
}
