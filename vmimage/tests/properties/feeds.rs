//! The ways in which a disk comes to the crate.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use vmimage::vhd::{VhdDisk, VhdStream};
use vmimage::xva::{DiskChoice, XvaStream};
use vmimage::{
    Disk, Findings, Format, Incoming, OpenOptions, Policy, ReadAt, Result, Scan, Source, incoming,
    open,
};

use crate::archives::{self, DISK};
use crate::builder::Rng;
use crate::common::tool_ok;
use crate::forge::Tail;
use crate::model::{self, Story, save_sparse};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Raw,
    ChainInFiles,
    ChainInMemory,
    Vhd,
    PackedVhd,
    Xva,
    PackedXva,
    Tgz,
    Qcow2,
}

impl Kind {
    pub(crate) const ALL: [Self; 9] = [
        Self::Raw,
        Self::ChainInFiles,
        Self::ChainInMemory,
        Self::Vhd,
        Self::PackedVhd,
        Self::Xva,
        Self::PackedXva,
        Self::Tgz,
        Self::Qcow2,
    ];
}

/// Opens a stream; it can be done again.
pub(crate) type Open<T> = Box<dyn Fn() -> Result<Box<T>>>;

/// A disk, by each door through which its container can come in.
#[derive(Default)]
pub(crate) struct Feed {
    pub(crate) want: Vec<u8>,
    pub(crate) disk: Option<Arc<dyn Disk>>,
    pub(crate) source: Option<Open<dyn Source>>,
    pub(crate) scan: Option<Open<dyn Scan>>,
}

/// What arrives, which must begin with its map.
fn arriving(bytes: &Arc<Vec<u8>>) -> Open<dyn Source> {
    let bytes = Arc::clone(bytes);
    Box::new(move || match incoming(Cursor::new(bytes.to_vec()), &OpenOptions::new(), None)? {
        Incoming::Source(source) => Ok(source),
        other => panic!("{other:?}"),
    })
}

/// What arrives, whose map comes with its end.
pub(crate) fn passing(
    bytes: &Arc<Vec<u8>>,
    options: OpenOptions,
    disk: Option<&'static str>,
) -> Open<dyn Scan> {
    let bytes = Arc::clone(bytes);
    Box::new(move || match incoming(Cursor::new(bytes.to_vec()), &options, disk)? {
        Incoming::Scan(scan) => Ok(scan),
        other => panic!("{other:?}"),
    })
}

/// Opens a file; of an archive with several disks, the one that is meant.
fn opened(path: &Path, options: &OpenOptions) -> Option<Arc<dyn Disk>> {
    let image = open(path, options).unwrap();
    let mut names = image.info().disks().iter().map(|disk| disk.reference());
    let index = names.position(|name| name == DISK).unwrap_or(0);
    Some(Arc::clone(&image.disks()[index]))
}

/// The disk of a story in a container; `None` if this machine cannot make it.
pub(crate) fn feed(kind: Kind, story: &Story, folder: &Path) -> Option<Feed> {
    let mut rng = Rng::new(story.seed ^ 0xFEED);
    let path = folder.join("source");
    let plain = OpenOptions::new();
    let raw_too = matches!(kind, Kind::Raw | Kind::ChainInFiles | Kind::Qcow2);
    let chain = if raw_too { story.tell() } else { story.clone().without_raw().tell() };
    let mut feed = Feed { want: chain.view.clone(), ..Feed::default() };
    let save = |bytes: Vec<u8>| {
        std::fs::write(&path, &bytes).unwrap();
        Arc::new(bytes)
    };
    match kind {
        Kind::Raw => raw(&mut feed, &path, &mut rng),
        Kind::ChainInFiles => {
            let (tip, options) = chain.save(folder);
            feed.disk = opened(&tip, &options);
        }
        Kind::ChainInMemory => {
            let files = chain.layers.into_iter().map(|l| Arc::new(l.bytes) as Arc<dyn ReadAt>);
            let mut findings = Findings::new(Policy::Strict);
            feed.disk =
                Some(Arc::new(VhdDisk::from_chain(files.collect(), &mut findings).unwrap()));
        }
        Kind::Vhd => {
            let bytes = save(model::export(&feed.want, &mut rng).bytes);
            feed.disk = opened(&path, &plain);
            feed.source =
                Some(Box::new(move || Ok(Box::new(VhdStream::new(Cursor::new(bytes.to_vec()))?))));
        }
        Kind::PackedVhd => {
            let vhd = model::export(&feed.want, &mut rng).bytes;
            let bytes = save(archives::packed(&vhd, &mut rng));
            feed.disk = opened(&path, &plain);
            feed.source = Some(arriving(&bytes));
        }
        Kind::Xva => {
            let bytes = save(archives::xva(&feed.want, &mut rng));
            feed.disk = opened(&path, &plain);
            feed.scan = Some(Box::new(move || {
                let choice = DiskChoice::Reference(DISK.to_owned());
                Ok(Box::new(XvaStream::new(Cursor::new(bytes.to_vec()), choice)?))
            }));
        }
        Kind::PackedXva => {
            let xva = archives::xva(&feed.want, &mut rng);
            let bytes = save(archives::packed(&xva, &mut rng));
            feed.disk = opened(&path, &plain);
            feed.scan = Some(passing(&bytes, plain, Some(DISK)));
        }
        Kind::Tgz => tgz(&mut feed, &chain, folder, &mut rng),
        Kind::Qcow2 => feed.disk = Some(by_qemu(&feed.want, folder, &mut rng)?),
    }
    Some(feed)
}

/// A raw disk may end within a sector, and have holes.
fn raw(feed: &mut Feed, path: &Path, rng: &mut Rng) {
    let more = if rng.one_in(2) { 1 + rng.below(511) } else { 0 };
    feed.want.resize(feed.want.len() + more, 0xA5);
    match rng.one_in(2) {
        true => save_sparse(path, &feed.want),
        false => std::fs::write(path, &feed.want).unwrap(),
    }
    let raw = OpenOptions::new().with_format(Format::Raw);
    feed.disk = opened(path, &raw);
    feed.scan = Some(passing(&Arc::new(feed.want.clone()), raw, None));
}

/// The chain itself, or what a server would export, as the Nova driver stored it.
fn tgz(feed: &mut Feed, chain: &model::Chain, folder: &Path, rng: &mut Rng) {
    // A single layer is read as it passes, and such a stream must end with its footer.
    let whole = chain.layers.len() > 1 || chain.layers[0].recipe.tail == Tail::Whole;
    let single = !whole || rng.one_in(2);
    let files: Vec<Vec<u8>> = match single {
        true => vec![model::export(&feed.want, rng).bytes],
        false => chain.layers.iter().map(|layer| layer.bytes.clone()).collect(),
    };
    let tar = archives::layers(&files, rng);
    let bytes = if rng.one_in(4) { tar } else { archives::packed(&tar, rng) };
    let path = folder.join("source");
    std::fs::write(&path, &bytes).unwrap();
    feed.disk = opened(&path, &OpenOptions::new().with_scratch(folder));
    if single {
        feed.source = Some(arriving(&Arc::new(bytes)));
    }
}

/// A QCOW2 image as `qemu-img` writes it, some of them compressed.
fn by_qemu(want: &[u8], folder: &Path, rng: &mut Rng) -> Option<Arc<dyn Disk>> {
    let (raw, path) = (folder.join("qemu.raw"), folder.join("source"));
    save_sparse(&raw, want);
    let cluster = format!("cluster_size={}", rng.pick(&["4k", "64k", "2M"]));
    let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", &cluster];
    if rng.one_in(2) {
        args.push("-c");
    }
    args.extend([raw.to_str().unwrap(), path.to_str().unwrap()]);
    tool_ok("qemu-img", &args)?;
    opened(&path, &OpenOptions::new())
}
