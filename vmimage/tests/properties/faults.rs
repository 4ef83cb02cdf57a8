//! What fails while a disk is read, wherever that is: the right error, no file, and never so much
//! for a sink that it could be taken for the whole.

use std::io::ErrorKind as Cause;
use std::sync::Arc;

use proptest::prelude::*;
use vmimage::vhd::VhdDisk;
use vmimage::xva::XvaFile;
use vmimage::{
    Disk, DiskSource, ErrorKind, FileOptions, Findings, Incoming, OpenOptions, Outcome, Plan,
    PlanOptions, ReadAt, Result, ScanSource, Source, StreamOptions, TargetFormat, incoming,
    scan_map, scan_to_file, stream, stream_to_file, to_file,
};

use crate::archives::{self, DISK};
use crate::builder::Rng;
use crate::doubles::{Dog, Fuse, Room, Trap, TrapDisk, TrapFile, TrapPipe};
use crate::forge::MIB;
use crate::model::{self, Story};

/// Where the fuse is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the disk that is converted.
    Disk,
    /// In the files of its chain.
    Chain,
    /// In the archive.
    Xva,
    /// In the pipe, with a VHD or an archive.
    VhdPipe,
    XvaPipe,
    TgzPipe,
}

const PLACES: [Place; 6] =
    [Place::Disk, Place::Chain, Place::Xva, Place::VhdPipe, Place::XvaPipe, Place::TgzPipe];

/// How the output is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// To a file, with so many threads where the disk can be read anywhere.
    File(usize),
    StreamToFile,
    Stream,
}

pub(crate) const WAYS: [Way; 4] = [Way::File(1), Way::File(3), Way::StreamToFile, Way::Stream];

#[derive(Debug, Clone, Copy)]
struct Plot {
    place: Place,
    format: TargetFormat,
    way: Way,
    trap: Trap,
    /// At which call, in 65536ths of all.
    at: u16,
    /// Whether there is an older file.
    old: bool,
}

prop_compose! {
    fn plots()(
        place in prop::sample::select(&PLACES[..]),
        format in prop::sample::select(&TargetFormat::ALL[..]),
        way in prop::sample::select(&WAYS[..]),
        trap in prop::sample::select(vec![
            Trap::Fail(Cause::Other),
            Trap::Fail(Cause::UnexpectedEof),
            Trap::Fail(Cause::Interrupted),
            Trap::Cut,
            Trap::Cancel,
            Trap::Stall,
        ]),
        at in prop_oneof![1 => 0..2000_u16, 4 => any::<u16>(), 2 => 64000..=u16::MAX],
        old in any::<bool>(),
    ) -> Plot {
        Plot { place, format, way, trap, at, old }
    }
}

/// What a disk is read from.
struct Origin {
    place: Place,
    /// The chain's files, or one.
    files: Vec<Arc<Vec<u8>>>,
    /// The longest read of a pipe.
    most: usize,
}

impl Origin {
    fn new(place: Place, story: &Story) -> Self {
        let mut rng = Rng::new(story.seed ^ 0xBAD);
        let chain = story.clone().without_raw().tell();
        let vhd = |rng: &mut Rng| model::export(&chain.view, rng).bytes;
        let files = match place {
            Place::Disk | Place::Chain => chain.layers.iter().map(|l| l.bytes.clone()).collect(),
            Place::Xva => vec![archives::xva(&chain.view, &mut rng)],
            Place::VhdPipe => vec![vhd(&mut rng)],
            Place::XvaPipe => vec![archives::xva(&chain.view, &mut rng)],
            Place::TgzPipe => vec![archives::layers(&[vhd(&mut rng)], &mut rng)],
        };
        let mut files: Vec<Vec<u8>> = files;
        if matches!(place, Place::VhdPipe | Place::XvaPipe | Place::TgzPipe) && !rng.one_in(3) {
            files[0] = archives::packed(&files[0], &mut rng);
        }
        let most = *rng.pick(&[700, 5000, MIB]);
        Self { place, files: files.into_iter().map(Arc::new).collect(), most }
    }

    /// The disk, if it can be read anywhere.
    fn disk(&self, fuse: &Arc<Fuse>) -> Result<Option<Arc<dyn Disk>>> {
        let trapped = |bytes: &Arc<Vec<u8>>| -> Arc<dyn ReadAt> {
            Arc::new(TrapFile(bytes.to_vec(), Arc::clone(fuse)))
        };
        let mut findings = Findings::default();
        Ok(Some(match self.place {
            Place::Disk => {
                let files = self.files.iter().map(|f| Arc::clone(f) as Arc<dyn ReadAt>).collect();
                let disk = VhdDisk::from_chain(files, &mut findings)?;
                Arc::new(TrapDisk(Arc::new(disk), Arc::clone(fuse)))
            }
            Place::Chain => {
                let files = self.files.iter().map(trapped).collect();
                Arc::new(VhdDisk::from_chain(files, &mut findings)?)
            }
            Place::Xva => {
                let xva = XvaFile::open(trapped(&self.files[0]), &mut findings)?;
                let found = xva.disks().iter().find(|disk| disk.reference() == DISK);
                Arc::clone(found.unwrap()) as Arc<dyn Disk>
            }
            _ => return Ok(None),
        }))
    }

    fn pipe(&self, fuse: &Arc<Fuse>) -> Result<Incoming> {
        let pipe = TrapPipe::new(&self.files[0], self.most, fuse);
        let disk = (self.place == Place::XvaPipe).then_some(DISK);
        incoming(pipe, &OpenOptions::new(), disk)
    }
}

/// One conversion.
pub(crate) struct Job<'a> {
    pub(crate) format: TargetFormat,
    pub(crate) way: Way,
    pub(crate) room: &'a Room,
    /// What the sink gets.
    pub(crate) sunk: Vec<u8>,
    pub(crate) file: FileOptions,
    pub(crate) stream: StreamOptions,
}

impl<'a> Job<'a> {
    pub(crate) fn new(format: TargetFormat, way: Way, room: &'a Room) -> Self {
        let (file, stream) = (FileOptions::new(), StreamOptions::new());
        Self { format, way, room, sunk: Vec::new(), file, stream }
    }

    pub(crate) fn with_cancel(mut self, fuse: &Fuse) -> Self {
        self.file = self.file.with_cancel(Arc::clone(&fuse.flag));
        self.stream = self.stream.with_cancel(Arc::clone(&fuse.flag));
        self
    }

    pub(crate) fn convert(&mut self, disk: &Arc<dyn Disk>) -> Result<Outcome> {
        let plan = Plan::new(self.format, &disk.block_map()?, &PlanOptions::new())?;
        match self.way {
            Way::File(workers) => {
                to_file(&plan, disk, &self.room.path(), &self.file.clone().with_workers(workers))
            }
            _ => self.forwards(&plan, &mut DiskSource::new(Arc::clone(disk))?),
        }
    }

    fn forwards(&mut self, plan: &Plan, source: &mut dyn Source) -> Result<Outcome> {
        if self.way != Way::Stream {
            return stream_to_file(plan, source, &self.room.path(), &self.file);
        }
        let sunk = &mut self.sunk;
        let mut sink = |bytes: bytes::Bytes| {
            sunk.extend_from_slice(&bytes);
            Ok(())
        };
        stream(plan, source, &mut sink, &self.stream)
    }

    /// What passes by, with a look ahead by another pipe where the format wants one.
    fn pass(&mut self, origin: &Origin, fuse: &Arc<Fuse>) -> Result<Outcome> {
        let options = PlanOptions::new();
        match origin.pipe(fuse)? {
            Incoming::Source(mut source) => {
                let plan = Plan::new(self.format, source.block_map(), &options)?;
                self.forwards(&plan, source.as_mut())
            }
            Incoming::Scan(mut scan) => {
                let archive = matches!(self.format, TargetFormat::VhdTgz | TargetFormat::Xva);
                if matches!(self.way, Way::File(_)) && !archive {
                    let path = self.room.path();
                    return scan_to_file(scan.as_mut(), self.format, &path, &options, &self.file);
                }
                let Incoming::Scan(mut before) = origin.pipe(&Fuse::none())? else { panic!() };
                let map = scan_map(before.as_mut())?;
                let plan = Plan::new(self.format, &map, &options)?;
                self.forwards(&plan, &mut ScanSource::with_map(scan, map))
            }
            other => panic!("{other:?}"),
        }
    }

    fn run(&mut self, origin: &Origin, fuse: &Arc<Fuse>) -> Result<Outcome> {
        match origin.disk(fuse)? {
            Some(disk) => self.convert(&disk),
            None => self.pass(origin, fuse),
        }
    }

    /// The whole of what was written.
    pub(crate) fn output(self) -> Vec<u8> {
        if self.way == Way::Stream { self.sunk } else { self.room.output() }
    }
}

fn expected(trap: Trap) -> ErrorKind {
    match trap {
        Trap::Fail(Cause::UnexpectedEof) | Trap::Cut => ErrorKind::Truncated,
        Trap::Fail(_) => ErrorKind::Io,
        Trap::Cancel | Trap::Stall => ErrorKind::Cancelled,
    }
}

/// A signal during a read from a pipe is no failure; a positioned read never tells of one. And
/// behind the end of an archive there may be zeros, of which none is needed.
fn is_harmless(plot: &Plot, origin: &Origin, fuse: &Fuse) -> bool {
    let pipe = matches!(plot.place, Place::VhdPipe | Place::XvaPipe | Place::TgzPipe);
    let file = &origin.files[0];
    let end = file.iter().rposition(|b| *b != 0).unwrap().next_multiple_of(512) + 1024;
    match plot.trap {
        Trap::Fail(Cause::Interrupted) => pipe,
        Trap::Cut => plot.place == Place::TgzPipe && fuse.given() >= end as u64,
        _ => false,
    }
}

fn spring(story: &Story, plot: &Plot) {
    let _dog = Dog::watch(format!("{plot:?} {story:?}"));
    let origin = Origin::new(plot.place, story);
    let (room, calm) = (Room::new(plot.old), Fuse::none());
    let mut job = Job::new(plot.format, plot.way, &room);
    job.run(&origin, &calm).unwrap();
    let whole = job.output();

    let fuse = Fuse::new(calm.calls() * usize::from(plot.at) / 65536, plot.trap);
    let room = Room::new(plot.old);
    let mut job = Job::new(plot.format, plot.way, &room).with_cancel(&fuse);
    let what = format!("{plot:?}");
    let result = job.run(&origin, &fuse);
    let fails = fuse.is_blown() && !is_harmless(plot, &origin, &fuse);
    match result {
        Ok(_) => {
            // Threads share a cache, and so do not always read as often.
            assert!(!fails, "{what}: succeeded");
            assert!(job.output() == whole, "{what}: another output");
        }
        Err(error) => {
            assert!(fails, "{what}: {error:?}");
            // What ends within its first sector may be anything.
            let nothing = plot.trap == Trap::Cut && fuse.given() < 512;
            let unknown = nothing && error.kind() == ErrorKind::Unsupported;
            assert!(unknown || error.kind() == expected(plot.trap), "{what}: {error:?}");
            room.assert_untouched(&what);
            assert!(job.sunk.len() < whole.len() && whole.starts_with(&job.sunk), "{what}");
            // The flag is looked at about once per MiB, by each thread.
            assert!(fuse.late() <= 6 * MIB as u64, "{what}: {} bytes late", fuse.late());
        }
    }
}

proptest! {
    #![proptest_config(crate::cases(100))]

    #[test]
    fn a_failure_at_any_read_leaves_nothing(story in model::any_story(), plot in plots()) {
        spring(&story, &plot);
    }
}
