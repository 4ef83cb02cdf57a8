//! The files of the workloads, made when a job asks for them and removed when none needs them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::content::{self, BLOCK, Content, Layer, Layered, PAGES, Pool, Random, RawFile};
use super::vhd::{Parent, Vhd};
use super::xva::{self, Checksum};
use super::{qcow2, standin};
use crate::process::Result;

const GIB: u64 = 1 << 30;
/// Per 2 MiB block of a file: where `tapdisk` leaves room before the bitmap.
const BLOCK_GAP: u64 = 4096;

/// A disk that jobs read, in the formats that they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Disk {
    /// W1: 4 GiB, three tenths of the blocks, in random order.
    Whole,
    /// W2: 1 GiB, a base and five children that each own a tenth of the pages of all blocks.
    Chain,
    /// W3: 2 GiB, 821 of 2048 chunks.
    Chunks,
    /// A real guest's disk, or libraries of this machine.
    Guest,
    /// 1 GiB of data on a disk of 8 GiB.
    Small,
    /// The same data at the same places of the largest disk that a VHD holds.
    Large,
}

/// A form in which a disk lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// Sparse, the truth that outputs are compared with.
    Raw,
    /// Dense, of the length that the same content has in a file without holes: the limit's input.
    Dense,
    /// A dynamic VHD, or the tip of the chain.
    Vhd,
    /// A fixed VHD.
    Fixed,
    /// QCOW2.
    Qcow2,
    /// XVA with `.xxhash` members.
    Xva,
    /// XVA with `.checksum` members.
    XvaSha1,
}

/// A file of a workload.
pub(crate) type Input = (Disk, Form);

/// The folder of the inputs.
#[derive(Debug)]
pub(crate) struct Workshop {
    dir: PathBuf,
    quick: bool,
    guest: Option<PathBuf>,
    pool: Rc<Pool>,
    there: BTreeSet<Input>,
}

impl Workshop {
    /// Works in `dir`; `quick` makes all disks but the largest an eighth of their size.
    pub(crate) fn new(dir: &Path, quick: bool, guest: Option<&Path>) -> Self {
        let pool = Rc::new(Pool::new(2026));
        let guest = guest.map(Path::to_owned);
        Self { dir: dir.to_owned(), quick, guest, pool, there: BTreeSet::new() }
    }

    /// Where an input lies, or will.
    pub(crate) fn path(&self, (disk, form): Input) -> PathBuf {
        if (disk, form) == (Disk::Guest, Form::Vhd) {
            // The one VHD that an archive for OpenStack holds is called so.
            return self.dir.join("guest").join("0.vhd");
        }
        let name = match disk {
            Disk::Whole => "w1",
            Disk::Chain => "w2",
            Disk::Chunks => "w3",
            Disk::Guest => "guest",
            Disk::Small => "small",
            Disk::Large => "large",
        };
        let end = match form {
            Form::Raw => "raw",
            Form::Dense => "dense",
            Form::Vhd => "vhd",
            Form::Fixed => "fixed.vhd",
            Form::Qcow2 => "qcow2",
            Form::Xva => "xva",
            Form::XvaSha1 => "sha1.xva",
        };
        self.dir.join(format!("{name}.{end}"))
    }

    /// The files of the chain, the oldest first.
    pub(crate) fn chain(&self) -> Vec<PathBuf> {
        let base = (0..LAYERS - 1).map(|i| self.dir.join(layer_name(i)));
        base.chain([self.path((Disk::Chain, Form::Vhd))]).collect()
    }

    /// Makes what is missing of `wanted` and removes all else.
    pub(crate) fn provide(&mut self, wanted: &[Input]) -> Result<()> {
        let gone: Vec<Input> =
            self.there.iter().filter(|input| !wanted.contains(input)).copied().collect();
        for input in gone {
            self.there.remove(&input);
            self.remove(input);
        }
        for input in wanted {
            if self.there.insert(*input) {
                self.make(*input).map_err(|e| format!("{}: {e}", self.path(*input).display()))?;
            }
        }
        Ok(())
    }

    fn remove(&self, input: Input) {
        let mut files = vec![self.path(input)];
        if input == (Disk::Chain, Form::Vhd) {
            files = self.chain();
        }
        for file in files {
            // The folder goes with the run in any case.
            let _ = std::fs::remove_file(file);
        }
    }

    fn make(&self, input @ (disk, form): Input) -> io::Result<()> {
        let path = self.path(input);
        if disk == Disk::Guest {
            return self.make_guest(form, &path);
        }
        let content = self.content(disk);
        let vhd = Vhd { uuid: uuid(disk as u8), order: Some(disk as u64), ..Vhd::default() };
        match form {
            Form::Raw => content::write_raw(&content, &path),
            Form::Dense => content::write_dense(&content, self.dense_len(disk, &content), &path),
            Form::Vhd if disk == Disk::Chain => self.make_chain(&content),
            Form::Vhd => vhd.write(&content, &path),
            Form::Fixed => vhd.write_fixed(&content, &path),
            Form::Qcow2 => qcow2::write(&content, &path),
            Form::Xva => xva::write(&content, Checksum::Xxhash, &path),
            Form::XvaSha1 => xva::write(&content, Checksum::Sha1, &path),
        }
    }

    /// What a copy has to move: the payload; for the chain, the VHD that results from it.
    fn dense_len(&self, disk: Disk, content: &Layered) -> u64 {
        let blocks = content.blocks().len() as u64;
        match disk {
            Disk::Chain => blocks * (BLOCK as u64 + BLOCK_GAP),
            _ => blocks * BLOCK as u64,
        }
    }

    fn scale(&self) -> u64 {
        if self.quick { 8 } else { 1 }
    }

    fn content(&self, disk: Disk) -> Layered {
        let mut random = Random::new(disk as u64 + 1);
        let (size, layers) = match disk {
            Disk::Chain => {
                let size = GIB / self.scale();
                let blocks = (size / BLOCK as u64) as u32;
                let base = random.choose(blocks as usize * 3 / 10, blocks);
                let children = (2..=LAYERS).map(|id| (id as u64, blocks));
                let mut layers = vec![Layer::whole(1, base)];
                layers.extend(children.map(|(id, n)| Layer::scattered(id, n, 10, &mut random)));
                (size, layers)
            }
            Disk::Chunks => {
                let size = 2 * GIB / self.scale();
                let chunks = (size >> 20) as u32;
                let inner = 821 / self.scale() as usize - 2;
                let mut chosen = random.choose(inner, chunks - 2);
                chosen.iter_mut().for_each(|chunk| *chunk += 1);
                chosen.extend([0, chunks - 1]);
                (size, vec![half_blocks(&chosen)])
            }
            Disk::Small | Disk::Large => {
                let blocks = (GIB / BLOCK as u64 / self.scale()) as usize;
                // The numbers must be those of the other disk, whatever the size.
                let chosen = Random::new(7).choose(blocks, (8 * GIB / BLOCK as u64) as u32);
                let size = if disk == Disk::Small { 8 * GIB } else { 2040 * GIB };
                (size, vec![Layer::whole(1, chosen)])
            }
            Disk::Whole | Disk::Guest => {
                let size = 4 * GIB / self.scale();
                let blocks = (size / BLOCK as u64) as u32;
                let chosen = random.choose(blocks as usize * 3 / 10, blocks);
                (size, vec![Layer::whole(1, chosen)])
            }
        };
        Layered { size, pool: Rc::clone(&self.pool), layers }
    }

    fn make_chain(&self, content: &Layered) -> io::Result<()> {
        let files = self.chain();
        for (i, file) in files.iter().enumerate() {
            let parent = i.checked_sub(1).and_then(|p| {
                let name = files[p].file_name()?.to_string_lossy().into_owned();
                Some(Parent { uuid: uuid(16 + p as u8), name })
            });
            let (uuid, order) = (uuid(16 + i as u8), Some(i as u64));
            let vhd = Vhd { uuid, parent, hidden: i + 1 < files.len(), order };
            vhd.write(&content.layer(i), file)?;
        }
        Ok(())
    }

    /// The guest's disk as a VHD: the given file if it is one, else made from the raw disk.
    fn make_guest(&self, form: Form, path: &Path) -> io::Result<()> {
        if form == Form::Raw {
            return match &self.guest {
                Some(guest) => content::write_raw(&RawFile::open(guest)?, path),
                None => standin::write((512 << 20) / self.scale(), path),
            };
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        match &self.guest {
            Some(guest) if is_vhd(guest) => std::fs::copy(guest, path).map(drop),
            _ => {
                let content = RawFile::open(&self.path((Disk::Guest, Form::Raw)))?;
                Vhd { uuid: uuid(9), ..Vhd::default() }.write(&content, path)
            }
        }
    }
}

/// The base and its children.
const LAYERS: usize = 6;

fn layer_name(index: usize) -> String {
    format!("w2-layer{index}.vhd")
}

/// Chunks of 1 MiB are half a block each.
fn half_blocks(chunks: &[u32]) -> Layer {
    let mut layer = Layer::whole(1, []);
    for chunk in chunks {
        let half = PAGES / 64 / 2;
        let start = (chunk % 2) as usize * half;
        layer.blocks.entry(chunk / 2).or_default()[start..start + half].fill(u64::MAX);
    }
    layer
}

/// Whether the file has the footer, at its end, that every VHD has.
pub(crate) fn is_vhd(path: &Path) -> bool {
    let footer = std::fs::File::open(path).and_then(|file| {
        let mut cookie = [0; 8];
        let at = file.metadata()?.len().saturating_sub(512);
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut cookie, at)?;
        Ok(cookie)
    });
    footer.is_ok_and(|cookie| &cookie == b"conectix")
}

fn uuid(last: u8) -> [u8; 16] {
    let mut uuid = *b"\x6b\xa7\xb8\x10\x9d\xad\x41\xd1\x80\xb4\x00\xc0\x4f\xd4\x30\x00";
    uuid[15] = last;
    uuid
}
