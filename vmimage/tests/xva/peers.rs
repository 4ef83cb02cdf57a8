//! Compressed by other tools, and read by another reader.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use vmimage::xva::{DiskChoice, XvaFile, XvaStream, examine};
use vmimage::{ErrorKind, Findings, Policy, ReadAt, Report, Verdict};

use crate::common::{tool, tool_ok};
use crate::shape::{all, drain, samples, swallow};

/// A file as a tool packs it; `None`, with a word, without the tool.
fn packed(tool_name: &str, args: &[&str], file: &Path) -> Option<Vec<u8>> {
    let path = file.to_str().unwrap();
    Some(tool(tool_name, &[args, &[path]].concat())?.stdout).filter(|out| !out.is_empty())
}

#[test]
fn compressed_archives_are_read_in_one_pass() {
    let Some(folder) = samples() else { return };
    for (name, args) in [
        ("gzip", &["-1c"][..]),
        ("zstd", &["-1qc"]),
        ("zstd", &["-3qc", "--long=24", "--no-check"]),
    ] {
        for sample in all().iter().filter(|s| ["xxhash", "far", "vdi"].contains(&s.name.as_str())) {
            let Some(bytes) = packed(name, args, &sample.archive) else { continue };
            let which = DiskChoice::Reference(sample.reference.clone());
            let file = folder.join(format!("packed-{name}-{}", sample.name));
            std::fs::write(&file, &bytes).unwrap();
            let mut stream = XvaStream::new(File::open(&file).unwrap(), which.clone()).unwrap();
            drain(&mut stream, &File::open(&sample.raw).unwrap()).unwrap();
            let source: Arc<dyn ReadAt> = Arc::new(bytes.clone());
            let mut findings = Findings::new(Policy::Lenient);
            examine(Arc::clone(&source), &mut findings).unwrap();
            assert_eq!(Report::new(findings).verdict(), Verdict::Sound, "{name} {}", sample.name);
            let error = XvaFile::open(source, &mut Findings::default()).unwrap_err();
            assert!(error.to_string().contains("compressed"), "{error}");
            for cut in [bytes.len() - 1, bytes.len() - 9, bytes.len() / 2, 100] {
                let cut = bytes[..cut].to_vec();
                let error = swallow(cut, which.clone(), Policy::Strict).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Truncated, "{name}: {error:?}");
            }
        }
    }
}

#[test]
fn members_and_frames_may_be_many() {
    let Some(folder) = samples() else { return };
    let Some(sample) = all().into_iter().find(|s| s.name == "sha1") else { return };
    let whole = std::fs::read(&sample.archive).unwrap();
    for (name, args) in [("gzip", ["-1c"]), ("zstd", ["-1qc"])] {
        let mut bytes = Vec::new();
        for (i, part) in whole.chunks(whole.len() / 3 + 1).enumerate() {
            let file = folder.join(format!("part-{name}-{i}"));
            std::fs::write(&file, part).unwrap();
            bytes.extend(packed(name, &args, &file).unwrap_or_default());
        }
        if bytes.is_empty() {
            continue;
        }
        let which = DiskChoice::Reference(sample.reference.clone());
        let mut stream = XvaStream::new(std::io::Cursor::new(bytes), which).unwrap();
        drain(&mut stream, &File::open(&sample.raw).unwrap()).unwrap();
    }
}

#[test]
fn a_window_beyond_32_mib_is_refused_with_a_word() {
    let Some(folder) = samples() else { return };
    let file = folder.join("long.zst");
    // From a pipe: with a known length zstd makes the window as small as the file.
    let args = ["-1q", "--long=27", "-f", "-o", file.to_str().unwrap()];
    let child = Command::new("zstd").args(args).stdin(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        println!("skipped: no zstd on this machine");
        return;
    };
    let input = std::fs::read(folder.join("xxhash.xva")).unwrap();
    child.stdin.take().unwrap().write_all(&input).unwrap();
    assert!(child.wait().unwrap().success());
    let bytes = std::fs::read(&file).unwrap();
    let error = swallow(bytes, DiskChoice::Index(0), Policy::Strict).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("32 MiB"), "{error}");
}

/// Debian's `xva-img` knows SHA-1 only, and reads an archive that `tar` has unpacked.
#[test]
fn xva_img_reads_the_same_disk() {
    let Some(folder) = samples() else { return };
    let Some(sample) = all().into_iter().find(|s| s.name == "sha1" && s.reference == "Ref:9")
    else {
        return;
    };
    if tool("xva-img", &["--help"]).is_none() || tool("tar", &["--version"]).is_none() {
        return;
    }
    let unpacked = folder.join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let (archive, into) = (sample.archive.to_str().unwrap(), unpacked.to_str().unwrap());
    tool_ok("tar", &["-xf", archive, "-C", into]);
    // It takes each number for a place, so keep-alive chunks shift its disk: compare the other one.
    let raw = folder.join("xva-img.raw");
    let disk = unpacked.join("Ref:10/");
    tool_ok("xva-img", &["-p", "disk-export", disk.to_str().unwrap(), raw.to_str().unwrap()]);
    let theirs = std::fs::read(raw).unwrap();
    let bytes = std::fs::read(&sample.archive).unwrap();
    let ours = swallow(bytes, DiskChoice::Reference("Ref:10".into()), Policy::Strict).unwrap();
    crate::common::assert_same_content(&ours, &theirs, "xva-img");
}
