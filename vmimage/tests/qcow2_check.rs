//! `check` of a QCOW2 image says what `qemu-img check` says: of sound images of all kinds, and of
//! broken ones, which are images of `qemu-img` with wrong bytes.

#![allow(clippy::unwrap_used)]

#[path = "qcow2_check/broken.rs"]
mod broken;
mod common;
#[path = "qcow2_check/random.rs"]
mod random;
#[path = "qcow2_check/sound.rs"]
mod sound;

use std::path::{Path, PathBuf};

use common::{tool, tool_ok};
use vmimage::{Finding, Format, OpenOptions, Severity, check};

/// What a check comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Clean,
    Leaks,
    /// Corruptions, errors, or not even opened.
    Corrupt,
}

/// What `qemu-img check` says; `None` without it.
fn qemu(image: &Path) -> Option<Class> {
    let name = image.to_str().unwrap();
    let output = tool("qemu-img", &["check", "-f", "qcow2", "--output=json", name])?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |key: &str| {
        let (_, rest) = text.split_once(&format!("\"{key}\": "))?;
        rest.split([',', '\n']).next()?.trim().parse::<u64>().ok()
    };
    Some(match (number("check-errors"), number("corruptions"), number("leaks")) {
        (Some(0), None | Some(0), None | Some(0)) => Class::Clean,
        (Some(0), None | Some(0), Some(_)) => Class::Leaks,
        _ => Class::Corrupt,
    })
}

/// What we say, and the codes of it. That there are snapshots, that the image was not closed or is
/// marked corrupt, that a bit is set where it means nothing, or that a size is odd,
/// is worth a word, but `qemu-img` has none for it.
fn ours(image: &Path) -> (Class, Vec<&'static str>) {
    let Ok(report) = check(image, &OpenOptions::new().with_format(Format::Qcow2)) else {
        return (Class::Corrupt, vec!["refused"]);
    };
    let silent = [
        "size-unaligned",
        "qcow2-header-length",
        "qcow2-snapshots",
        "qcow2-dirty",
        "qcow2-corrupt",
        "zero-bit",
    ];
    let silent = |f: &Finding| f.severity == Severity::Finding && silent.contains(&f.code);
    let said = report.findings().iter().filter(|f| !silent(f));
    let class = match said.clone().map(|f| f.severity).max() {
        None => Class::Clean,
        Some(Severity::Finding) => Class::Leaks,
        Some(_) => Class::Corrupt,
    };
    (class, said.map(|f| f.code).collect())
}

/// A folder for one image.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

/// Makes an image of `size` with these options and runs these commands on it, the words of each
/// after the program; `IMG` is the image. `None` where the tools are missing or too old.
fn make(folder: &Folder, options: &str, size: &str, commands: &[&str]) -> Option<PathBuf> {
    let image = folder.text("a.qcow2");
    let args = ["create", "-q", "-f", "qcow2", "-o", options, &image, size];
    if !tool("qemu-img", &args)?.status.success() {
        println!("skipped: this qemu-img has no {options}");
        return None;
    }
    for command in commands {
        if let Some(line) = command.strip_prefix("io ") {
            tool_ok("qemu-io", &["-f", "qcow2", "-c", line, &image])?;
            continue;
        }
        let words = command.split(' ').map(|w| if w == "IMG" { image.as_str() } else { w });
        tool_ok("qemu-img", &words.collect::<Vec<_>>())?;
    }
    Some(folder.path("a.qcow2"))
}
