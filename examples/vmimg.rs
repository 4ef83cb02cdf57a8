//! `vmimg` looks at, converts, checks and compares disk images of virtual machines.
//!
//! `cargo run --release --example vmimg -- --help` teaches the rest.

use std::error::Error as StdError;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Parser, Subcommand};
use serde_json::json;
use vmimage::vhd::VhdStream;
use vmimage::{
    Comparison, DigestSet, Disk, DiskSource, ExtentKind, FileOptions, Format, Image, OpenOptions,
    Plan, PlanOptions, Source, StreamOptions, TargetFormat, Verdict,
};

#[path = "vmimg/streams.rs"]
mod streams;

use streams::{Stdin, progress_bar, stream_output, watch_signals};

type Result<T, E = Box<dyn StdError + Send + Sync>> = std::result::Result<T, E>;

/// What went wrong is neither "different" (1) nor "corrupt" (2).
const FAILED: u8 = 3;
const INTERRUPTED: u8 = 130;

/// Look at, convert, check and compare disk images: VHD (chains too), QCOW2, raw.
#[derive(Debug, Parser)]
#[command(name = "vmimg", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  vmimg info leaf.vhd                         what is it, how large is its disk, who is its parent
  vmimg convert -O qcow2 leaf.vhd disk.qcow2  a VHD and its parents, collapsed into one image
  vmimg convert -O vhd --parent /sr/base.vhd leaf.vhd whole.vhd
                                              with a parent that lies in another folder
  curl ... | vmimg convert -O raw - disk.raw  a VHD stream, as XenServer exports it
  vmimg convert -O raw disk.vhd - | ssh ...   to a stream, without a file between
  vmimg compare disk.vhd disk.qcow2           do both hold the same bytes?
  vmimg digest disk.qcow2                     what sha256sum says of the raw disk
  vmimg check disk.vhd                        is it sound?

Exit codes: 0 success; 1 different (compare) or findings (check); 2 corrupt (check); 3 failure,
with one line on standard error; 130 interrupted. A failure leaves no output file behind.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Describe an image from its own metadata
    Info(InfoArgs),
    /// Convert an image; the output appears when it is whole
    Convert(ConvertArgs),
    /// Print the SHA-256 of the bytes that the guest sees
    Digest(DigestArgs),
    /// Look for damage: exit code 0 sound, 1 findings, 2 corrupt
    Check(InfoArgs),
    /// Compare the disks of two images: exit code 0 same content, 1 different
    Compare(CompareArgs),
    /// List which ranges of the disk hold data
    Map(InfoArgs),
}

/// How to open an image.
#[derive(Debug, Args)]
struct OpenArgs {
    /// Format of the input: raw, vhd or qcow2 (default: what its bytes say)
    #[arg(short = 'f', value_name = "FMT")]
    format: Option<Format>,
    /// Allow this file as a parent or backing file, wherever it lies; may be repeated
    #[arg(long, value_name = "FILE")]
    parent: Vec<PathBuf>,
    /// Go on where an image violates its format but can be read
    #[arg(long)]
    lenient: bool,
}

#[derive(Debug, Args)]
struct InfoArgs {
    #[command(flatten)]
    open: OpenArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The image
    file: PathBuf,
}

#[derive(Debug, Args)]
struct ConvertArgs {
    #[command(flatten)]
    open: OpenArgs,
    /// Format of the output: raw, vhd (dynamic, as XenServer writes it), vhd-fixed, qcow2 or tgz
    /// (0.vhd in a gzipped tar)
    #[arg(short = 'O', value_name = "FMT")]
    output_format: String,
    /// Which disk, by reference or index, of an image that holds several
    #[arg(long, value_name = "DISK")]
    disk: Option<String>,
    /// The image, or - for a VHD stream on standard input
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The file to write, or - for standard output
    #[arg(value_name = "OUT")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct DigestArgs {
    #[command(flatten)]
    open: OpenArgs,
    /// The algorithm
    #[arg(long, default_value = "sha256", value_parser = ["sha256"])]
    algorithm: String,
    /// Print the content root instead: the same for every format and length of the same content
    #[arg(long)]
    root: bool,
    /// The image
    file: PathBuf,
}

#[derive(Debug, Args)]
struct CompareArgs {
    #[command(flatten)]
    open: OpenArgs,
    /// Format of the second image (-f is for the first)
    #[arg(short = 'F', value_name = "FMT")]
    second_format: Option<Format>,
    /// The first image
    a: PathBuf,
    /// The second image
    b: PathBuf,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let cancel = match watch_signals() {
        Ok(cancel) => cancel,
        Err(error) => return fail(error.as_ref()),
    };
    match run(&cli.command, &cancel) {
        Ok(code) => code,
        Err(_) if cancel.load(Ordering::Relaxed) => interrupted(),
        Err(error) => fail(error.as_ref()),
    }
}

fn run(command: &Command, cancel: &Arc<AtomicBool>) -> Result<ExitCode> {
    match command {
        Command::Info(args) => info(args),
        Command::Convert(args) => convert(args, cancel),
        Command::Digest(args) => digest(args),
        Command::Check(args) => check(args),
        Command::Compare(args) => compare(args),
        Command::Map(args) => map(args),
    }
}

fn info(args: &InfoArgs) -> Result<ExitCode> {
    let info = vmimage::info(&args.file, &args.open.options(args.open.format))?;
    let parent = info.parent().map(|p| json!({ "name": p.name(), "uuid": p.uuid() }));
    let disks: Vec<_> = info
        .disks()
        .iter()
        .map(|d| json!({ "ref": d.reference(), "virtual_size": d.virtual_size() }))
        .collect();
    let value = json!({
        "format": info.format().to_string(),
        "subformat": info.subformat().map(|s| s.to_string()),
        "virtual_size": info.virtual_size(),
        "current_size": info.current_size(),
        "geometry_size": info.geometry_size(),
        "creator": info.creator(),
        "block_size": info.block_size(),
        "parent": parent,
        "disks": disks,
    });
    if args.json {
        return print(&format!("{value:#}\n"));
    }
    let mut text = String::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            serde_json::Value::Null => {}
            serde_json::Value::String(value) => text += &format!("{key}: {}\n", one_line(value)),
            value => text += &format!("{key}: {value}\n"),
        }
    }
    print(&text)
}

fn convert(args: &ConvertArgs, cancel: &Arc<AtomicBool>) -> Result<ExitCode> {
    if args.output_format == "xva" {
        return Err("XVA is not written yet: use vhd, which XenServer imports too".into());
    }
    let format: TargetFormat = args.output_format.parse()?;
    let mut input = Input::open(args, format, cancel)?;
    let plan = Plan::new(format, input.source().block_map(), &PlanOptions::new())?;
    let bar = progress_bar(plan.output_len());
    let watched = bar.clone();
    let progress = move |bytes| watched.set_position(bytes);
    if let Some(mut out) = stream_output(&args.output)? {
        let options = StreamOptions::new()
            .with_digests(DigestSet::NONE)
            .with_content_root(false)
            .with_cancel(Arc::clone(cancel))
            .with_progress(progress);
        vmimage::stream(&plan, input.source(), &mut |bytes| out.write_all(&bytes), &options)?;
    } else {
        let options = FileOptions::new().with_cancel(Arc::clone(cancel)).with_progress(progress);
        match &mut input {
            Input::Disk(source) => vmimage::to_file(&plan, source.disk(), &args.output, &options)?,
            Input::Stream(source) => {
                vmimage::stream_to_file(&plan, source.as_mut(), &args.output, &options)?
            }
        };
    }
    bar.finish_and_clear();
    Ok(ExitCode::SUCCESS)
}

fn digest(args: &DigestArgs) -> Result<ExitCode> {
    let disk = args.open.open(&args.file)?;
    let digest = match args.root {
        true => vmimage::content_root(disk.as_ref()),
        false => vmimage::guest_sha256(disk.as_ref()),
    };
    let digest = digest.map_err(|e| e.with_path(&args.file))?;
    print(&format!("{digest}\n"))
}

fn check(args: &InfoArgs) -> Result<ExitCode> {
    let report = vmimage::check(&args.file, &args.open.options(args.open.format))?;
    let (word, code) = match report.verdict() {
        Verdict::Sound => ("sound", 0),
        Verdict::Findings => ("findings", 1),
        _ => ("corrupt", 2),
    };
    if args.json {
        let findings: Vec<_> = report
            .findings()
            .iter()
            .map(|f| {
                json!({
                    "severity": f.severity.to_string(),
                    "code": f.code,
                    "message": f.message,
                    "offset": f.offset,
                })
            })
            .collect();
        let value = json!({
            "verdict": word,
            "findings": findings,
            "dropped": report.dropped(),
        });
        print(&format!("{value:#}\n"))?;
    } else {
        let lines: String =
            report.findings().iter().map(|f| one_line(&f.to_string()) + "\n").collect();
        print(&format!("{lines}{word}\n"))?;
    }
    Ok(ExitCode::from(code))
}

fn compare(args: &CompareArgs) -> Result<ExitCode> {
    let a = args.open.open(&args.a)?;
    let b = args.open.open_as(&args.b, args.second_format)?;
    match vmimage::compare(a.as_ref(), b.as_ref())? {
        Comparison::Same => print("same content\n"),
        Comparison::DifferAt(offset) => {
            print(&format!("different: first at byte {offset}\n"))?;
            Ok(ExitCode::from(1))
        }
        _ => Err("the comparison gave an answer that this program does not know".into()),
    }
}

/// The words of `qemu-img map --output=json`.
fn map(args: &InfoArgs) -> Result<ExitCode> {
    let disk = args.open.open(&args.file)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut write = || -> Result<()> {
        let mut separator = "[";
        let mut at = 0;
        while at < disk.virtual_size() {
            let (len, kind) = merged_extent(disk.as_ref(), at)?;
            let data = !matches!(kind, ExtentKind::Zero);
            let (depth, offset) = match kind {
                ExtentKind::Data { layer, file_offset } => (layer, Some(file_offset)),
                _ => (0, None),
            };
            if args.json {
                let row = json!({
                    "start": at, "length": len, "depth": depth, "zero": !data, "data": data,
                    "offset": offset,
                });
                write!(out, "{separator}{row}")?;
                separator = ",\n";
            } else if data {
                let place = offset.map_or_else(|| "-".to_owned(), |o| o.to_string());
                writeln!(out, "{at} {len} layer {depth} at {place}")?;
            }
            at += len;
        }
        if args.json {
            writeln!(out, "{}", if separator == "[" { "[]" } else { "]" })?;
        }
        Ok(out.flush()?)
    };
    match write() {
        Err(error) if is_broken_pipe(error.as_ref()) => Ok(ExitCode::SUCCESS),
        result => result.map(|()| ExitCode::SUCCESS),
    }
}

/// One line of the map: neighbours of one kind that are also neighbours in the file.
fn merged_extent(disk: &dyn Disk, start: u64) -> Result<(u64, ExtentKind)> {
    let first = disk.extent_at(start)?;
    let mut len = first.len;
    while start + len < disk.virtual_size() {
        let next = disk.extent_at(start + len)?;
        let joins = match (first.kind, next.kind) {
            (
                ExtentKind::Data { layer, file_offset },
                ExtentKind::Data { layer: next_layer, file_offset: next_offset },
            ) => layer == next_layer && file_offset + len == next_offset,
            (a, b) => a == b,
        };
        if !joins {
            break;
        }
        len += next.len;
    }
    Ok((len, first.kind))
}

impl OpenArgs {
    fn options(&self, format: Option<Format>) -> OpenOptions {
        let options = OpenOptions::new().lenient(self.lenient);
        let options = self.parent.iter().fold(options, OpenOptions::with_parent);
        match format {
            Some(format) => options.with_format(format),
            None => options,
        }
    }

    fn open(&self, file: &Path) -> Result<Arc<dyn Disk>> {
        self.open_as(file, self.format)
    }

    fn open_as(&self, file: &Path, format: Option<Format>) -> Result<Arc<dyn Disk>> {
        pick_disk(&vmimage::open(file, &self.options(format))?, None)
    }
}

fn pick_disk(image: &Image, reference: Option<&str>) -> Result<Arc<dyn Disk>> {
    let disk = match reference {
        Some(reference) => image.disk(reference),
        None if image.disks().len() > 1 => None,
        None => image.disks().first(),
    };
    disk.cloned().ok_or_else(|| {
        let disks: Vec<_> = image.info().disks().iter().map(|d| d.reference()).collect();
        format!("name one disk of the image with --disk: {}", disks.join(", ")).into()
    })
}

/// What is converted.
enum Input {
    Disk(DiskSource),
    Stream(Box<VhdStream>),
}

impl Input {
    fn open(args: &ConvertArgs, to: TargetFormat, cancel: &Arc<AtomicBool>) -> Result<Self> {
        if args.input == Path::new("-") {
            if args.open.format.is_some_and(|format| format != Format::Vhd) {
                return Err("standard input is read as a VHD stream only: drop -f".into());
            }
            if !args.open.parent.is_empty() || args.disk.as_deref().is_some_and(|d| d != "0") {
                let message = "a VHD stream holds one disk, 0, and has no parents: drop --disk \
                               and --parent";
                return Err(message.into());
            }
            let stdin = Stdin::start(Arc::clone(cancel))?;
            return Ok(Self::Stream(Box::new(VhdStream::new(stdin)?)));
        }
        let image = vmimage::open(&args.input, &args.open.options(args.open.format))?;
        let parts = image.parents().iter().chain(&args.open.parent);
        for file in parts.chain(std::iter::once(&args.input)) {
            if is_same_file(file, &args.output) {
                let output = args.output.display();
                return Err(format!("{output} is part of the input: name another output").into());
            }
        }
        let disk = pick_disk(&image, args.disk.as_deref())?;
        // A format with blocks leaves stored zeros out; in the others they cost nothing anyway.
        let source = match to {
            TargetFormat::Raw | TargetFormat::VhdFixed => DiskSource::new(disk),
            _ => DiskSource::without_zeros(disk),
        };
        Ok(Self::Disk(source.map_err(|e| e.with_path(&args.input))?))
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Disk(source) => source,
            Self::Stream(source) => source.as_mut(),
        }
    }
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Prints; a reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn is_broken_pipe(error: &(dyn StdError + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Help where it was asked for; else one line with what clap says before its usage text.
fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return print(&text).unwrap_or_else(|e| fail(e.as_ref()));
    }
    let what: Vec<_> =
        if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            vec!["no command given"]
        } else {
            text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect()
        };
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    complain(&format!("{what} (try --help)"));
    ExitCode::from(FAILED)
}

/// The error and its causes in one line.
fn fail(error: &(dyn StdError + 'static)) -> ExitCode {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    complain(&text);
    ExitCode::from(FAILED)
}

fn interrupted() -> ExitCode {
    complain("interrupted");
    ExitCode::from(INTERRUPTED)
}

fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "vmimg: {}", one_line(text));
}

/// Control characters, which names from an image or a file system may hold, made visible.
fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped: Box<dyn Iterator<Item = char>> = match c.is_control() {
                true => Box::new(c.escape_default()),
                false => Box::new(std::iter::once(c)),
            };
            escaped
        })
        .collect()
}
