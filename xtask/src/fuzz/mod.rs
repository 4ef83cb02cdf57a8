//! `cargo xtask fuzz`: the fuzz targets of `vmimage`, each for a while on a copy of its seeds.
//!
//! A nightly compiler is not needed: the code has no `unsafe`, so panics, endless work and too
//! much memory are what there is to find, and none of that takes a sanitizer.

mod compile;
mod report;
mod run;

use std::path::{Path, PathBuf};

use crate::process::Result;
use crate::tools;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How much processor time each target gets
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    minutes: f64,
    /// Only this target; may be repeated
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// Names the targets and runs nothing
    #[arg(long)]
    list: bool,
    /// How many targets run at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Writes the table as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The folder of the fuzz targets.
fn folder() -> PathBuf {
    tools::root().join("vmimage/fuzz")
}

/// Fuzzes; `false` if anything was found.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let known = targets(&folder().join("fuzz_targets"))?;
    if args.list {
        known.iter().for_each(|name| println!("{name}"));
        return Ok(true);
    }
    if let Some(name) = args.target.iter().find(|name| !known.contains(name)) {
        return Err(format!("there is no target {name}; there are {}", known.join(", ")));
    }
    if !(args.minutes > 0.0 && args.minutes < 100_000.0) {
        return Err(format!("--minutes {} is no time to run", args.minutes));
    }
    let wanted: Vec<String> = known
        .into_iter()
        .filter(|name| args.target.is_empty() || args.target.contains(name))
        .collect();
    let programs = compile::build(&wanted)?;
    let seconds = (args.minutes * 60.0).ceil() as u64;
    let outcomes = run::all(&wanted, &programs, seconds, args.jobs as usize)?;
    print!("{}", report::table(&outcomes));
    if let Some(file) = &args.json {
        let text = format!("{:#}\n", report::json(&outcomes));
        std::fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    let advice = report::advice(&outcomes);
    eprint!("{advice}");
    Ok(advice.is_empty())
}

/// The names of the targets, in order.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut names: Vec<String> = paths
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_is_a_program_and_has_seeds() {
        let folder = super::folder();
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let names = super::targets(&folder.join("fuzz_targets")).unwrap();
        assert!(!names.is_empty());
        for name in names {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            assert!(folder.join("corpus").join(&name).is_dir(), "{name}");
        }
    }
}
