//! The conversion: what comes in, what goes out, and by which way.

use std::error::Error as StdError;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use indicatif::ProgressBar;
use vmimage::{
    DigestSet, DiskSource, FileOptions, Format, Image, Incoming, JoinedDisk, OpenOptions, Outcome,
    Plan, PlanOptions, Scan, ScanSource, Source, StreamOptions, TargetFormat, Watch,
};

use crate::streams::{Stdin, is_stdout, is_stream, progress_bar, stream_output};
use crate::{ConvertArgs, Result, pick_disk};

pub(crate) fn convert(args: &ConvertArgs, cancel: &Arc<AtomicBool>) -> Result<ExitCode> {
    let format: TargetFormat = args.output_format.parse()?;
    let options = plan_options(args)?;
    let input = Input::open(args, format, cancel)?;
    let out = stream_output(&args.output)?;
    let job = Job { args, format, options, cancel };
    match input {
        Input::Disk(source, parts) => {
            let plan = Plan::of_disks(format, source.block_map(), &parts, &job.options)?;
            job.disk(source, &plan, out)?
        }
        Input::Source(mut source) => {
            let plan = Plan::new(format, source.block_map(), &job.options)?;
            job.stream(source.as_mut(), &plan, out)?
        }
        Input::Scan(scan) => job.scan(scan, out)?,
    };
    Ok(ExitCode::SUCCESS)
}

fn plan_options(args: &ConvertArgs) -> Result<PlanOptions> {
    let mut options = PlanOptions::new().with_gzip_level(args.level);
    options = options.with_xva_checksum(args.checksum.parse()?);
    if let Some(name) = &args.name {
        options = options.with_name(name);
    }
    if let Some(uuid) = &args.uuid {
        options = options.with_uuid(uuid_bytes(uuid)?);
    }
    Ok(options.with_identity(identity(args)))
}

/// The input by its name and its age: what is converted again has the UUID that it had, and
/// nothing else has. Of a stream nothing is known.
fn identity(args: &ConvertArgs) -> Vec<u8> {
    let path = args.input.canonicalize();
    let Some(path) = path.ok().filter(|_| args.input != Path::new("-")) else { return Vec::new() };
    let age = path.metadata().map(|m| (m.mtime(), m.mtime_nsec())).unwrap_or_default();
    let mut identity = path.into_os_string().into_encoded_bytes();
    identity.extend(format!("\0{age:?}\0{:?}", args.open.disk).bytes());
    identity
}

fn uuid_bytes(text: &str) -> Result<[u8; 16]> {
    let bytes = hex::decode(text.replace('-', "")).ok().and_then(|b| b.try_into().ok());
    bytes.ok_or_else(|| format!("{text:?} is no UUID").into())
}

/// What is to be done, whatever the input is.
struct Job<'a> {
    args: &'a ConvertArgs,
    format: TargetFormat,
    options: PlanOptions,
    cancel: &'a Arc<AtomicBool>,
}

impl Job<'_> {
    fn disk(&self, mut source: DiskSource, plan: &Plan, out: Option<File>) -> Result<Outcome> {
        if out.is_some() {
            return self.stream(&mut source, plan, out);
        }
        let bar = progress_bar(plan.output_len());
        let options = FileOptions::new().with_watch(self.watch(&bar));
        let outcome = vmimage::to_file(plan, source.disk(), &self.args.output, &options)?;
        bar.finish_and_clear();
        Ok(outcome)
    }

    fn stream(&self, source: &mut dyn Source, plan: &Plan, out: Option<File>) -> Result<Outcome> {
        let bar = progress_bar(plan.output_len());
        let outcome = match out {
            Some(mut out) => {
                let options = StreamOptions::new()
                    .with_digests(DigestSet::NONE)
                    .with_content_root(false)
                    .with_watch(self.watch(&bar));
                vmimage::stream(plan, source, &mut |bytes| out.write_all(&bytes), &options)?
            }
            None => {
                let options = FileOptions::new().with_watch(self.watch(&bar));
                vmimage::stream_to_file(plan, source, &self.args.output, &options)?
            }
        };
        bar.finish_and_clear();
        Ok(outcome)
    }

    /// A stream that does not tell ahead which parts of its disk hold data.
    fn scan(&self, scan: Box<dyn Scan>, out: Option<File>) -> Result<Outcome> {
        // What goes wrong with standard input has no name.
        let named = |e: Box<dyn StdError + Send + Sync>| match e.downcast::<vmimage::Error>() {
            Ok(error) if self.args.input != Path::new("-") => {
                (*error).with_path(&self.args.input).into()
            }
            Ok(error) => error,
            Err(other) => other,
        };
        self.scan_unnamed(scan, out).map_err(named)
    }

    fn scan_unnamed(&self, mut scan: Box<dyn Scan>, out: Option<File>) -> Result<Outcome> {
        if out.is_some() {
            let mut source = ScanSource::for_format(scan, self.format)?;
            let plan = Plan::new(self.format, source.block_map(), &self.options)?;
            return self.stream(&mut source, &plan, out);
        }
        let bar = progress_bar(scan.virtual_size());
        let options = FileOptions::new().with_watch(self.watch(&bar));
        let path = &self.args.output;
        let outcome =
            vmimage::scan_to_file(scan.as_mut(), self.format, path, &self.options, &options)?;
        bar.finish_and_clear();
        Ok(outcome)
    }

    fn watch(&self, bar: &ProgressBar) -> Watch {
        let bar = bar.clone();
        Watch::new()
            .with_cancel(Arc::clone(self.cancel))
            .with_progress(move |bytes| bar.set_position(bytes))
    }
}

/// What is converted.
enum Input {
    /// One disk, or several side by side.
    Disk(DiskSource, Vec<std::ops::Range<u64>>),
    Source(Box<dyn Source>),
    Scan(Box<dyn Scan>),
}

impl Input {
    fn open(args: &ConvertArgs, to: TargetFormat, cancel: &Arc<AtomicBool>) -> Result<Self> {
        if is_stream(&args.input) {
            return Self::stdin(args, cancel);
        }
        let mut options = args.open.options(args.open.format);
        // Layers that must be unpacked first lie where the output will.
        if let Some(folder) = args.output.parent().filter(|f| !f.as_os_str().is_empty()) {
            options = options.with_scratch(folder);
        }
        if let Some(scan) = one_pass(args, to, &options) {
            return Ok(Self::Scan(scan));
        }
        let image = vmimage::open(&args.input, &options)?;
        refuse_overwriting(args, &image)?;
        let disks = match args.open.disk.as_deref() {
            None if args.keep_chain => layers(&image, to)?,
            None if to == TargetFormat::Xva => image.disks().to_vec(),
            reference => vec![pick_disk(&image, &args.input, reference)?],
        };
        // A sector that a layer stores as zeros hides what its parent has: it must stay.
        let stored = if args.keep_chain { TargetFormat::Raw } else { to };
        let [disk] = disks.as_slice() else {
            let joined = JoinedDisk::new(disks)?;
            let parts = joined.parts().to_vec();
            let source = DiskSource::for_format(Arc::new(joined), stored);
            return Ok(Self::Disk(source.map_err(|e| e.with_path(&args.input))?, parts));
        };
        let source = DiskSource::for_format(Arc::clone(disk), stored);
        let whole = 0..disk.virtual_size();
        Ok(Self::Disk(source.map_err(|e| e.with_path(&args.input))?, Vec::from([whole])))
    }

    fn stdin(args: &ConvertArgs, cancel: &Arc<AtomicBool>) -> Result<Self> {
        if !args.open.parent.is_empty() || args.keep_chain {
            return Err("a stream has no parents: drop --parent and --keep-chain".into());
        }
        let format = args.open.format;
        if format == Some(Format::Qcow2) {
            let message = "a qcow2 image has its tables in no order: it must be read from a file";
            return Err(message.into());
        }
        let stdin = Stdin::start(&args.input, Arc::clone(cancel))?;
        let options = args.open.options(format);
        Ok(match vmimage::incoming(stdin, &options, args.open.disk.as_deref())? {
            Incoming::Source(source) => Self::Source(source),
            Incoming::Scan(scan) => Self::Scan(scan),
            _ => return Err("the stream is of a kind that this program does not know".into()),
        })
    }
}

/// A compressed archive as the stream that it is, for an output that can do without a map: to
/// learn the map, all of it would be unpacked twice. `None` also for whatever is wrong, which the
/// usual way tells.
fn one_pass(args: &ConvertArgs, to: TargetFormat, options: &OpenOptions) -> Option<Box<dyn Scan>> {
    let plain = args.open.parent.is_empty() && !args.keep_chain;
    let in_order = matches!(to, TargetFormat::Raw | TargetFormat::VhdFixed);
    let usual = matches!(args.open.format, None | Some(Format::Xva));
    let is_file = args.input.metadata().is_ok_and(|m| m.is_file());
    let to_file = !is_stdout(&args.output) && args.output.metadata().map_or(true, |m| m.is_file());
    let fits = in_order || (to == TargetFormat::VhdDynamic && to_file);
    if !(plain && fits && usual && is_file) || is_same_file(&args.input, &args.output) {
        return None;
    }
    let file = File::open(&args.input).ok()?;
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).ok()?;
    if !magic.starts_with(b"\x1f\x8b") && magic != *b"\x28\xb5\x2f\xfd" {
        return None;
    }
    match vmimage::incoming(file, options, args.open.disk.as_deref()) {
        Ok(Incoming::Scan(scan)) if scan.virtual_size().is_some() => Some(scan),
        _ => None,
    }
}

/// The layers of a chain, each with what it stores itself.
fn layers(image: &Image, to: TargetFormat) -> Result<Vec<Arc<dyn vmimage::Disk>>> {
    if to != TargetFormat::VhdTgz {
        return Err("only a tgz keeps the layers of a chain: drop --keep-chain".into());
    }
    let layers = image.layers();
    if layers.is_empty() {
        return Err("the image is no chain of VHDs: drop --keep-chain".into());
    }
    Ok(layers)
}

fn refuse_overwriting(args: &ConvertArgs, image: &Image) -> Result<()> {
    let parts = image.parents().iter().chain(&args.open.parent);
    for file in parts.chain(std::iter::once(&args.input)) {
        if is_same_file(file, &args.output) {
            let output = args.output.display();
            return Err(format!("{output} is part of the input: name another output").into());
        }
    }
    Ok(())
}

pub(crate) fn is_same_file(a: &Path, b: &Path) -> bool {
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
