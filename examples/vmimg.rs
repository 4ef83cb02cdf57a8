//! `vmimg` looks at, converts, checks and compares disk images of virtual machines.
//!
//! `cargo run --release --example vmimg -- --help` teaches the rest.

use std::error::Error as StdError;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Parser, Subcommand};
use serde_json::json;
use vmimage::{Comparison, Disk, Format, Image, OpenOptions, SizePolicy, Verdict, Watch};

#[path = "vmimg/convert.rs"]
mod convert;
#[path = "vmimg/map.rs"]
mod map;
#[path = "vmimg/mend.rs"]
mod mend;
#[path = "vmimg/streams.rs"]
mod streams;

use streams::{progress_bar, spinner, watch_signals};

type Result<T, E = Box<dyn StdError + Send + Sync>> = std::result::Result<T, E>;

/// What went wrong is neither "different" (1) nor "corrupt" (2).
const FAILED: u8 = 3;
const INTERRUPTED: u8 = 130;

/// Look at, convert, check and compare disk images: VHD (chains too), XVA, QCOW2, raw.
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
  curl ... | vmimg convert -O raw - disk.raw  a VHD or XVA stream, as XenServer exports it
  vmimg convert -O qcow2 --disk 1 vm.xva d.qcow2
                                              the second disk of an exported VM (.xva, .xva.gz,
                                              .xva.zst)
  vmimg convert -O xva leaf.vhd vm.xva        a VM to import into XenServer
  vmimg convert -O raw disk.vhd - | ssh ...   to a stream, without a file between
  vmimg compare disk.vhd disk.qcow2           do both hold the same bytes?
  vmimg digest disk.qcow2                     what sha256sum says of the raw disk
  vmimg map leaf.vhd                          which layer has which part of the disk: a picture
  vmimg check disk.vhd                        is it sound?
  vmimg repair disk.vhd                       what could be mended? (--write does it, with an
                                              undo file)
  vmimg commit --no-other-children leaf.vhd   merge the leaf into its parent, in place

Exit codes: 0 success; 1 different (compare), findings (check) or work to do (repair); 2 corrupt
(check); 3 failure, with one line on standard error; 130 interrupted. A failure leaves no output
file behind.";

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
    /// Show which ranges of the disk hold data, and in which layer
    Map(MapArgs),
    /// Mend the metadata of a VHD in place: tells what it would do unless --write is given
    Repair(mend::RepairArgs),
    /// Merge a differencing VHD into its parent, in place and safe to kill
    Commit(mend::CommitArgs),
}

/// How to open an image.
#[derive(Debug, Args)]
struct OpenArgs {
    /// Format of the input: raw, vhd, qcow2, xva or tgz (default: what its bytes say)
    #[arg(short = 'f', value_name = "FMT")]
    format: Option<Format>,
    /// Allow this file as a parent or backing file, wherever it lies; may be repeated
    #[arg(long, value_name = "FILE")]
    parent: Vec<PathBuf>,
    /// Which disk, by reference or index, of an image that holds several
    #[arg(long, value_name = "DISK")]
    disk: Option<String>,
    /// Go on where an image violates its format but can be read
    #[arg(long)]
    lenient: bool,
    /// Which size of a VHD counts: current, geometry, or qemu (the geometry for what qemu and
    /// Virtual PC wrote)
    #[arg(long, value_name = "RULE", default_value = "current")]
    size: SizePolicy,
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
struct MapArgs {
    #[command(flatten)]
    open: OpenArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print a line for each run of data (default unless on a terminal)
    #[arg(long, conflicts_with = "json")]
    list: bool,
    /// Draw a picture (default on a terminal)
    #[arg(long, conflicts_with_all = ["json", "list"])]
    draw: bool,
    /// The image
    file: PathBuf,
}

#[derive(Debug, Args)]
struct ConvertArgs {
    #[command(flatten)]
    open: OpenArgs,
    /// Format of the output: raw, vhd (dynamic, as XenServer writes it), vhd-fixed, qcow2, xva (all
    /// disks of the input, or the one named) or tgz (0.vhd in a gzipped tar)
    #[arg(short = 'O', value_name = "FMT")]
    output_format: String,
    /// Checksums of an xva: xxhash (XenServer 8.1 and newer, XCP-ng) or sha1 (all)
    #[arg(long, value_name = "KIND", default_value = "xxhash")]
    checksum: String,
    /// Keep the layers of a chain of VHDs: a tgz of 0.vhd, 1.vhd... in place of one disk
    #[arg(long)]
    keep_chain: bool,
    /// Compression of a tgz: 0 stores, 1 is fast, 9 is small
    #[arg(long, value_name = "LEVEL", default_value_t = 1)]
    level: u32,
    /// What an xva calls its VM
    #[arg(long)]
    name: Option<String>,
    /// The UUID of a vhd (default: one that follows from the input's name, age and map)
    #[arg(long)]
    uuid: Option<String>,
    /// The image, or - for a VHD, XVA or tgz stream on standard input (a raw one with -f raw); a
    /// pipe, too
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
        Err(error) => fail(&*hinted(&cli.command, error)),
    }
}

/// `error` with the way on, where there is one.
fn hinted(command: &Command, error: Box<dyn StdError + Send + Sync>) -> Box<dyn StdError> {
    let has_lenient = !matches!(command, Command::Repair(_) | Command::Commit(_));
    match error.downcast::<vmimage::Error>() {
        Ok(own) if has_lenient && own.is_tolerable() => {
            format!("{own}; --lenient reads it all the same").into()
        }
        Ok(own) => own,
        Err(other) => other,
    }
}

fn run(command: &Command, cancel: &Arc<AtomicBool>) -> Result<ExitCode> {
    match command {
        Command::Info(args) => info(args),
        Command::Convert(args) => convert::convert(args, cancel),
        Command::Digest(args) => digest(args, cancel),
        Command::Check(args) => check(args),
        Command::Compare(args) => compare(args, cancel),
        Command::Map(args) => show_map(args),
        Command::Repair(args) => mend::repair(args),
        Command::Commit(args) => mend::commit(args, cancel),
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
            serde_json::Value::Null | serde_json::Value::Array(_) => {}
            serde_json::Value::String(value) => text += &format!("{key}: {}\n", one_line(value)),
            value => match value.as_u64() {
                Some(bytes) => text += &format!("{key}: {bytes} ({})\n", size_text(bytes)),
                None => text += &format!("{key}: {value}\n"),
            },
        }
    }
    for (index, disk) in info.disks().iter().enumerate() {
        let (name, size) = (one_line(disk.reference()), disk.virtual_size());
        text += &format!("disk {index}: {name}, {size} bytes ({})\n", size_text(size));
    }
    for finding in info.findings() {
        text += &format!("note: {}\n", one_line(&finding.to_string()));
    }
    print(&text)
}

fn digest(args: &DigestArgs, cancel: &Arc<AtomicBool>) -> Result<ExitCode> {
    let disk = args.open.open(&args.file)?;
    let named = |e: vmimage::Error| e.with_path(&args.file);
    let bar = match args.root {
        true => progress_bar(Some(disk.block_map().map_err(named)?.allocated())),
        false => progress_bar(Some(disk.virtual_size())),
    };
    let watch = watch(&bar, cancel);
    let digest = match args.root {
        true => vmimage::content_root_watched(disk.as_ref(), &watch),
        false => vmimage::guest_sha256_watched(disk.as_ref(), &watch),
    };
    bar.finish_and_clear();
    print(&format!("{}\n", digest.map_err(named)?))
}

/// Hooks that end with a signal and move a bar.
fn watch(bar: &indicatif::ProgressBar, cancel: &Arc<AtomicBool>) -> Watch {
    let bar = bar.clone();
    Watch::new().with_cancel(Arc::clone(cancel)).with_progress(move |bytes| bar.set_position(bytes))
}

fn check(args: &InfoArgs) -> Result<ExitCode> {
    let spinner = spinner("checking");
    let report = vmimage::check(&args.file, &args.open.options(args.open.format));
    spinner.finish_and_clear();
    let report = report?;
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

fn compare(args: &CompareArgs, cancel: &Arc<AtomicBool>) -> Result<ExitCode> {
    let open =
        |file, format| vmimage::open(file, &args.open.options(format).with_spare_parents(true));
    let images = [open(&args.a, args.open.format)?, open(&args.b, args.second_format)?];
    refuse_spare_parents(args, &images)?;
    let [a, b] = &images;
    let disk = |of: &Image, file: &Path, other: &Image| {
        // One of several is compared with an image that holds one.
        let several = |image: &Image| image.info().format() == Format::Xva;
        let named = args.open.disk.as_deref().filter(|_| several(of) || !several(other));
        pick_disk(of, file, named)
    };
    let (a, b) = (disk(a, &args.a, b)?, disk(b, &args.b, a)?);
    let bar = progress_bar(Some(a.virtual_size().max(b.virtual_size())));
    let result = vmimage::compare_watched(a.as_ref(), b.as_ref(), &watch(&bar, cancel));
    bar.finish_and_clear();
    match result? {
        Comparison::Same => print("same content\n"),
        Comparison::DifferAt(offset) => {
            print(&format!("different: first at byte {offset}\n"))?;
            Ok(ExitCode::from(1))
        }
        _ => Err("the comparison gave an answer that this program does not know".into()),
    }
}

/// A parent that neither of two chains uses is a mistake worth telling, as it is for one.
fn refuse_spare_parents(args: &CompareArgs, images: &[Image; 2]) -> Result<()> {
    // Which backing files a QCOW2 uses is not told.
    let chains = images.iter().all(|image| image.info().format() != Format::Qcow2)
        && images.iter().any(|image| !image.parents().is_empty());
    let is_used = |named: &&PathBuf| {
        let used = images.iter().flat_map(|image| image.parents());
        used.into_iter().any(|parent| convert::is_same_file(named, parent))
    };
    match args.open.parent.iter().find(|named| chains && !is_used(named)) {
        None => Ok(()),
        Some(spare) => {
            let spare = spare.display();
            Err(format!("{spare}: was named as a parent, but neither chain uses it").into())
        }
    }
}

fn show_map(args: &MapArgs) -> Result<ExitCode> {
    let image = vmimage::open(&args.file, &args.open.options(args.open.format))?;
    let disk = pick_disk(&image, &args.file, args.open.disk.as_deref())?;
    let files: Vec<_> =
        std::iter::once(&args.file).chain(image.parents()).map(Clone::clone).collect();
    map::show(disk.as_ref(), &files, map::Show::choose(args.json, args.list, args.draw))?;
    Ok(ExitCode::SUCCESS)
}

impl OpenArgs {
    fn options(&self, format: Option<Format>) -> OpenOptions {
        let options = OpenOptions::new().lenient(self.lenient).size_policy(self.size);
        let options = self.parent.iter().fold(options, OpenOptions::with_parent);
        match format {
            Some(format) => options.with_format(format),
            None => options,
        }
    }

    fn open(&self, file: &Path) -> Result<Arc<dyn Disk>> {
        pick_disk(&vmimage::open(file, &self.options(self.format))?, file, self.disk.as_deref())
    }
}

fn pick_disk(image: &Image, file: &Path, reference: Option<&str>) -> Result<Arc<dyn Disk>> {
    let disk = match reference {
        Some(reference) => image.disk(reference),
        None if image.disks().len() > 1 => None,
        None => image.disks().first(),
    };
    disk.cloned().ok_or_else(|| {
        let disks: Vec<_> = image.info().disks().iter().map(|d| d.reference()).collect();
        let (file, disks) = (file.display(), disks.join(", "));
        format!("{file}: name one disk of the image with --disk: {disks}").into()
    })
}

/// Prints; a reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
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

/// A number of bytes for people.
fn size_text(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
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
