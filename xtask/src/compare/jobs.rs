//! What is measured: each job's limit first, then ours, then others that do the same.

use std::path::{Path, PathBuf};

use super::workload::{Disk, Form, Input, Workshop};
use crate::tools;

/// Where things are.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) vmimg: PathBuf,
    pub(crate) dir: PathBuf,
}

/// A job that several tools do.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) name: &'static str,
    pub(crate) inputs: Vec<Input>,
    /// What our CPU time may be, as a multiple of the limit's.
    pub(crate) target: Option<f64>,
    /// What our output's length may be, as a multiple of the limit's.
    pub(crate) size_target: Option<f64>,
    pub(crate) entries: Vec<Entry>,
}

/// A tool with its arguments.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) tool: &'static str,
    pub(crate) ours: bool,
    pub(crate) command: Vec<String>,
    pub(crate) stdout: Option<PathBuf>,
    pub(crate) outputs: Vec<PathBuf>,
    pub(crate) check: Option<Vec<String>>,
}

/// All jobs.
pub(crate) fn jobs(shop: &Workshop, places: &Places) -> Vec<Job> {
    let maker = Maker { shop, places };
    let mut jobs = maker.conversions();
    jobs.extend(maker.chains());
    jobs.extend(maker.archives());
    jobs.extend(maker.digests());
    jobs.extend(maker.scale());
    jobs
}

/// qemu-img's words for our formats.
fn qemu_format(form: Form) -> Option<(&'static str, &'static [&'static str])> {
    match form {
        Form::Raw => Some(("raw", &[])),
        Form::Vhd => Some(("vpc", &["-o", "subformat=dynamic,force_size=on"])),
        Form::Qcow2 => Some(("qcow2", &[])),
        _ => None,
    }
}

/// vmimg's words, which are the judge's, too.
fn our_format(form: Form) -> &'static str {
    match form {
        Form::Raw | Form::Dense => "raw",
        Form::Vhd => "vhd",
        Form::Fixed => "vhd-fixed",
        Form::Qcow2 => "qcow2",
        Form::Xva | Form::XvaSha1 => "xva",
    }
}

struct Maker<'a> {
    shop: &'a Workshop,
    places: &'a Places,
}

impl Maker<'_> {
    fn text(&self, input: Input) -> String {
        self.shop.path(input).display().to_string()
    }

    fn out(&self, name: &str) -> PathBuf {
        self.places.dir.join(format!("out.{name}"))
    }

    /// `cp`, which only reads and writes.
    fn copy(&self, input: Input) -> Entry {
        let out = self.out("cp");
        let from = self.text(input);
        let command = ["cp", "--reflink=never", "--sparse=never", &from, &text(&out)];
        Entry { tool: "cp (the limit)", ours: false, ..entry(&command, out) }
    }

    fn convert(&self, from: Input, to: Form, tool: &'static str) -> Entry {
        let (format, out) = (our_format(to), self.out("ours"));
        let (vmimg, input) = (text(&self.places.vmimg), self.text(from));
        let command = [&vmimg, "convert", "-O", format, &input, &text(&out)];
        let check = self.judge(&["same", format, &text(&out), &self.text((from.0, Form::Raw))]);
        Entry { tool, ours: true, check: Some(check), ..entry(&command, out) }
    }

    fn judge(&self, args: &[&str]) -> Vec<String> {
        let script = text(&tools::root().join("xtask/scripts/judge-image.py"));
        ["python3", &script].iter().chain(args).map(|arg| (*arg).to_owned()).collect()
    }

    fn qemu(&self, from: Input, to: Form) -> Option<Entry> {
        tools::find("qemu-img")?;
        let ((source, _), (target, options)) = (qemu_format(from.1)?, qemu_format(to)?);
        let out = self.out("qemu");
        let (input, output) = (self.text(from), text(&out));
        let mut command = vec!["qemu-img", "convert", "-f", source, "-O", target];
        command.extend(options);
        command.extend([input.as_str(), output.as_str()]);
        Some(Entry { tool: "qemu-img", ours: false, ..entry(&command, out) })
    }

    fn conversion(&self, name: &'static str, from: Form, to: Form, target: Option<f64>) -> Job {
        let input = (Disk::Whole, from);
        let dense = (Disk::Whole, Form::Dense);
        let mut entries = vec![self.copy(dense), self.convert(input, to, "vmimg")];
        entries.extend(self.qemu(input, to));
        let inputs = vec![input, dense, (Disk::Whole, Form::Raw)];
        Job { name, inputs, target, size_target: None, entries }
    }

    fn conversions(&self) -> Vec<Job> {
        vec![
            self.conversion("vhd to raw", Form::Vhd, Form::Raw, Some(1.0)),
            self.conversion("vhd to vhd", Form::Vhd, Form::Vhd, Some(1.0)),
            self.conversion("vhd to qcow2", Form::Vhd, Form::Qcow2, Some(1.1)),
            self.conversion("raw to vhd", Form::Raw, Form::Vhd, Some(1.0)),
            self.conversion("raw to qcow2", Form::Raw, Form::Qcow2, None),
            self.conversion("qcow2 to raw", Form::Qcow2, Form::Raw, None),
            self.conversion("fixed vhd to qcow2", Form::Fixed, Form::Qcow2, None),
            self.conversion("vhd to xva", Form::Vhd, Form::Xva, None),
        ]
    }

    /// `qemu-img` is not asked: it would read the tip without its parents and call that success.
    fn chains(&self) -> Vec<Job> {
        let (input, dense) = ((Disk::Chain, Form::Vhd), (Disk::Chain, Form::Dense));
        let job = |name, to, target| Job {
            name,
            inputs: vec![input, dense, (Disk::Chain, Form::Raw)],
            target: Some(target),
            size_target: None,
            entries: vec![self.copy(dense), self.convert(input, to, "vmimg")],
        };
        vec![job("chain of 6 to raw", Form::Raw, 1.2), job("chain of 6 to vhd", Form::Vhd, 1.3)]
    }

    fn archives(&self) -> Vec<Job> {
        let xva = |name, form, target| {
            let input = (Disk::Chunks, form);
            let mut entries = vec![self.copy(input), self.convert(input, Form::Raw, "vmimg")];
            entries.extend(self.untar(input));
            entries.extend(self.xva_img(input));
            let inputs = vec![input, (Disk::Chunks, Form::Raw)];
            Job { name, inputs, target, size_target: None, entries }
        };
        vec![
            xva("xva to raw, xxhash verified", Form::Xva, Some(1.5)),
            xva("xva to raw, sha1 verified", Form::XvaSha1, None),
            self.tgz(),
        ]
    }

    /// No more than unpacking, into as many files as there are chunks.
    fn untar(&self, input: Input) -> Option<Entry> {
        tools::find("bsdtar")?;
        let out = self.out("tar");
        let script =
            format!("mkdir {0} && exec bsdtar -xf {1} -C {0}", text(&out), self.text(input));
        Some(Entry { tool: "bsdtar -x", ours: false, ..entry(&["sh", "-c", &script], out) })
    }

    /// Debian's version knows SHA-1 only.
    fn xva_img(&self, (disk, form): Input) -> Option<Entry> {
        tools::find("xva-img").filter(|_| form == Form::XvaSha1)?;
        let (folder, raw) = (self.out("tar"), self.out("xva-img"));
        let script = format!(
            "mkdir {0} && tar -xf {1} -C {0} && exec xva-img disk-export {0}/Ref:*/ {2}",
            text(&folder),
            self.text((disk, form)),
            text(&raw)
        );
        let made = entry(&["sh", "-c", &script], raw.clone());
        Some(Entry { tool: "tar + xva-img", outputs: vec![raw, folder], ..made })
    }

    fn tgz(&self) -> Job {
        let vhd = (Disk::Guest, Form::Vhd);
        let (input, folder) = (self.shop.path(vhd), self.shop.path(vhd));
        let folder = folder.parent().unwrap_or(&self.places.dir).to_owned();
        let (ours, other) = (self.out("ours"), self.out("tgz"));
        let mut entries = Vec::new();
        if tools::find("pigz").is_some() {
            let limit = entry(&["pigz", "-1", "-c", &text(&input)], other.clone());
            let stdout = Some(other.clone());
            entries.push(Entry { tool: "pigz -1 (the limit)", stdout, ..limit });
        }
        let vmimg = text(&self.places.vmimg);
        let command = [&vmimg, "convert", "-O", "tgz", &text(&input), &text(&ours)];
        let check =
            self.judge(&["same", "tgz", &text(&ours), &self.text((Disk::Guest, Form::Raw))]);
        let made = entry(&command, ours);
        entries.push(Entry { tool: "vmimg", ours: true, check: Some(check), ..made });
        for (tool, packer) in [("tar + pigz -1", "pigz -1"), ("tar + igzip -1", "igzip -1")] {
            let found = packer.split(' ').next().and_then(tools::find);
            if found.is_some() {
                let command =
                    ["tar", "-C", &text(&folder), "-I", packer, "-cf", &text(&other), "0.vhd"];
                entries.push(Entry { tool, ..entry(&command, other.clone()) });
            }
        }
        let inputs = vec![(Disk::Guest, Form::Raw), vhd];
        let (target, size_target) = (Some(0.5), Some(1.1));
        Job { name: "vhd to tgz, level 1", inputs, target, size_target, entries }
    }

    /// The SHA-256 of the payload is the limit: what has no data costs a root nothing, but a
    /// plain digest has to hash zeros, too.
    fn digests(&self) -> Vec<Job> {
        let (vhd, dense) = ((Disk::Whole, Form::Vhd), (Disk::Whole, Form::Dense));
        let raw = (Disk::Whole, Form::Raw);
        let job = |name, limit: Input, flags: &[&str], what: &str| {
            let out = self.out("digest");
            let (vmimg, input, limit_path) =
                (text(&self.places.vmimg), self.text(vhd), self.text(limit));
            let mut command = vec![vmimg.as_str(), "digest"];
            command.extend(flags);
            command.push(&input);
            let check = self.judge(&[what, &self.text(raw), &text(&out)]);
            let stdout = Some(out.clone());
            let made = entry(&command, out.clone());
            let ours = Entry { tool: "vmimg", ours: true, check: Some(check), stdout, ..made };
            let made = entry(&["sha256sum", &limit_path], out.clone());
            let limit = Entry { tool: "sha256sum (the limit)", stdout: Some(out), ..made };
            let entries = vec![limit, ours];
            Job { name, inputs: vec![vhd, dense, raw], target: None, size_target: None, entries }
        };
        vec![
            job("digest of a vhd", raw, &[], "sha256"),
            job("content root of a vhd", dense, &["--root"], "root"),
        ]
    }

    /// The same data on a disk of 8 GiB, which is the limit, and on one of 2040 GiB.
    fn scale(&self) -> Vec<Job> {
        let job = |name, from, to| {
            let (small, large) = ((Disk::Small, from), (Disk::Large, from));
            let mut limit = self.convert(small, to, "vmimg, 8 GiB (the limit)");
            limit.outputs = vec![self.out("small")];
            if let Some(last) = limit.command.last_mut() {
                *last = text(&self.out("small"));
            }
            limit.check = None;
            let entries = vec![limit, self.convert(large, to, "vmimg, 2040 GiB")];
            let inputs = vec![small, large, (Disk::Large, Form::Raw)];
            Job { name, inputs, target: Some(1.1), size_target: None, entries }
        };
        let root = |disk, tool| {
            let out = self.out(if disk == Disk::Small { "small" } else { "large" });
            let (vmimg, input) = (text(&self.places.vmimg), self.text((disk, Form::Vhd)));
            let made = entry(&[&vmimg, "digest", "--root", &input], out.clone());
            // The root does not depend on the disk's size: both have the one of the same truth.
            let check = self.judge(&["root", &self.text((Disk::Small, Form::Raw)), &text(&out)]);
            Entry { tool, ours: true, stdout: Some(out), check: Some(check), ..made }
        };
        vec![
            job("scale: vhd to raw", Form::Vhd, Form::Raw),
            job("scale: vhd to vhd", Form::Vhd, Form::Vhd),
            job("scale: vhd to qcow2", Form::Vhd, Form::Qcow2),
            Job {
                name: "scale: content root",
                inputs: vec![
                    (Disk::Small, Form::Vhd),
                    (Disk::Large, Form::Vhd),
                    (Disk::Small, Form::Raw),
                ],
                target: Some(1.1),
                size_target: None,
                entries: vec![
                    root(Disk::Small, "vmimg, 8 GiB (the limit)"),
                    root(Disk::Large, "vmimg, 2040 GiB"),
                ],
            },
            job("scale: raw to vhd", Form::Raw, Form::Vhd),
            job("scale: qcow2 to raw", Form::Qcow2, Form::Raw),
        ]
    }
}

fn entry(command: &[&str], out: PathBuf) -> Entry {
    Entry {
        tool: "",
        ours: false,
        command: command.iter().map(|arg| (*arg).to_owned()).collect(),
        stdout: None,
        outputs: vec![out],
        check: None,
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
