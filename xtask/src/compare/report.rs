//! The figures as a table for people, as JSON for programs, and as a chart.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::jobs::{Entry, Job};
use super::{Measured, Outcome, chart};
use crate::process::Result;
use crate::tools;

/// What ours may take of memory.
const MEMORY: u64 = 32 << 10;

/// The figures of a tool, against those of the limit.
pub(crate) struct Figures {
    pub(crate) least: f64,
    pub(crate) median: f64,
    most: f64,
    wall: f64,
    /// CPU time as a multiple of the limit's: the least of each, and the medians.
    pub(crate) ratio: f64,
    ratio_of_medians: f64,
    size_ratio: Option<f64>,
}

/// `None` for a tool that failed.
pub(crate) fn figures(measured: &Measured, limit: &Measured) -> Option<Figures> {
    let sorted = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values
    };
    let (cpu, wall, base) = (sorted(&measured.cpu), sorted(&measured.wall), sorted(&limit.cpu));
    let middle = |values: &[f64]| values.get(values.len() / 2).copied();
    let (least, median) = (*cpu.first()?, middle(&cpu)?);
    Some(Figures {
        least,
        median,
        most: *cpu.last()?,
        wall: middle(&wall)?,
        ratio: least / base.first()?,
        ratio_of_medians: median / middle(&base)?,
        size_ratio: measured.bytes.zip(limit.bytes).map(|(a, b)| a as f64 / b.max(1) as f64),
    })
}

/// Whether a job of ours keeps its promises; `None` if it has none.
fn met(job: &Job, entry: &Entry, measured: &Measured, figures: &Figures) -> Option<bool> {
    let is_limit = job.entries.first().is_some_and(|first| std::ptr::eq(first, entry));
    let target = job.target.filter(|_| entry.ours && !is_limit)?;
    let size =
        job.size_target.zip(figures.size_ratio).is_none_or(|(target, ratio)| ratio <= target);
    Some(figures.ratio <= target && size && measured.max_rss_kib <= MEMORY)
}

/// A line for each tool.
pub(crate) fn lines(outcome: &Outcome) -> String {
    let mut text = String::new();
    let Some(limit) = outcome.measured.first() else { return text };
    for (entry, measured) in outcome.job.entries.iter().zip(&outcome.measured) {
        let _ = match figures(measured, limit) {
            Some(f) => writeln!(
                text,
                "  {:28} cpu {:6.3} s, median {:6.3} s, x {:4.2} ({:4.2} by medians)",
                entry.tool, f.least, f.median, f.ratio, f.ratio_of_medians
            ),
            None => {
                writeln!(text, "  {:28} {}", entry.tool, measured.failed.as_deref().unwrap_or(""))
            }
        };
    }
    text
}

/// What a report is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About {
    /// The files' name.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What writes it.
    pub(crate) command: &'static str,
    pub(crate) quick: bool,
    pub(crate) runs: u32,
}

/// Writes a table for people, the figures as JSON, and a chart.
pub(crate) fn write(outcomes: &[Outcome], about: About, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).map_err(|e| format!("{}: {e}", out.display()))?;
    let machine = machine();
    let save = |name: &str, text: String| {
        let path = out.join(name);
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
    };
    let name = about.name;
    save(&format!("{name}.md"), table(outcomes, about, &machine))?;
    save(&format!("{name}.json"), json_of(outcomes, about, &machine))?;
    save(&format!("{name}.svg"), chart::draw(outcomes))
}

fn table(outcomes: &[Outcome], about: About, machine: &[(&str, String)]) -> String {
    let About { name, title, command, quick, runs } = about;
    let mut text = format!(
        "# {title}\n\nWritten by `cargo xtask {command}`; what the columns mean, and \
         how to read them, is in [the README](../README.md).\n\n",
    );
    if quick {
        text += "**Small inputs (`--quick`): these figures only show that it works.**\n\n";
    }
    for (what, value) in machine {
        let _ = writeln!(text, "- {what}: {value}");
    }
    let _ = writeln!(text, "- rounds: {runs}, alternating, after one that does not count\n");
    let _ = writeln!(text, "![CPU time as a multiple of the limit]({name}.svg)\n");
    text += "| job | tool | CPU s, least | CPU s, median [most] | wall s, median | peak RSS MiB | \
             output MB | ratio | ratio of medians | target | met |\n\
             |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|\n";
    for outcome in outcomes {
        let Some(limit) = outcome.measured.first() else { continue };
        for (entry, measured) in outcome.job.entries.iter().zip(&outcome.measured) {
            text += &row(&outcome.job, entry, measured, limit);
        }
    }
    text
}

fn row(job: &Job, entry: &Entry, measured: &Measured, limit: &Measured) -> String {
    let Some(f) = figures(measured, limit) else {
        let why = measured.failed.as_deref().unwrap_or("no figures").replace('|', "/");
        return format!("| {} | {} | failed: {why} | | | | | | | | |\n", job.name, entry.tool);
    };
    let memory = match measured.max_rss_kib {
        rss if rss <= measured.floor_rss_kib => {
            format!("< {}", measured.floor_rss_kib.div_ceil(1024))
        }
        rss => (rss.div_ceil(1024)).to_string(),
    };
    let megabytes = measured.bytes.map_or(String::new(), |b| format!("{:.1}", b as f64 / 1e6));
    let promise = met(job, entry, measured, &f);
    let target = promise.and(job.target).map_or(String::new(), |t| match job.size_target {
        Some(size) => format!("≤ {t} at ≤ {size} × the size"),
        None => format!("≤ {t}"),
    });
    let size = f.size_ratio.filter(|_| promise.is_some() && job.size_target.is_some());
    let size = size.map_or(String::new(), |r| format!(" ({r:.3} × the size)"));
    let verdict = match (&measured.wrong, promise) {
        (Some(wrong), _) => format!("**wrong: {}**", wrong.replace('|', "/")),
        (None, Some(true)) => format!("yes{size}"),
        (None, Some(false)) => format!("**no**{size}"),
        (None, None) => String::new(),
    };
    format!(
        "| {} | {} | {:.3} | {:.3} [{:.3}] | {:.3} | {memory} | {megabytes} | {:.2} | {:.2} | {target} | {verdict} |\n",
        job.name, entry.tool, f.least, f.median, f.most, f.wall, f.ratio, f.ratio_of_medians
    )
}

fn json_of(outcomes: &[Outcome], about: About, machine: &[(&str, String)]) -> String {
    let rows: Vec<_> = outcomes
        .iter()
        .flat_map(|o| o.job.entries.iter().zip(&o.measured).map(move |pair| (o, pair)))
        .map(|(o, (entry, m))| {
            let f = o.measured.first().and_then(|limit| figures(m, limit));
            json!({
                "job": o.job.name,
                "tool": entry.tool,
                "ours": entry.ours,
                "cpu": m.cpu,
                "wall": m.wall,
                "max_rss_kib": m.max_rss_kib,
                "bytes": m.bytes,
                "ratio": f.as_ref().map(|f| f.ratio),
                "ratio_of_medians": f.as_ref().map(|f| f.ratio_of_medians),
                "target": o.job.target,
                "met": f.as_ref().and_then(|f| met(&o.job, entry, m, f)),
                "failed": m.failed,
                "wrong": m.wrong,
            })
        })
        .collect();
    let About { quick, runs, .. } = about;
    let machine: serde_json::Map<_, _> =
        machine.iter().map(|(what, value)| ((*what).to_owned(), json!(value))).collect();
    let value = json!({ "quick": quick, "runs": runs, "machine": machine, "rows": rows });
    format!("{value:#}\n")
}

/// What the figures depend on.
fn machine() -> Vec<(&'static str, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let says = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(tools::root()).output().ok();
        let text = output.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().next().unwrap_or("not there").trim().to_owned()
    };
    vec![
        ("processor", format!("{}, {cores} cores", model.unwrap_or("unknown"))),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("load at the end", read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")),
        ("date", says("date", &["-u", "+%Y-%m-%d"])),
        ("commit", says("git", &["describe", "--always", "--dirty"])),
        ("curl", says("curl", &["--version"])),
        ("cp", says("cp", &["--version"])),
        ("qemu-img", says("qemu-img", &["--version"])),
        ("pigz", says("pigz", &["--version"])),
    ]
}
