//! Chains of many shapes, read by `vmimg`, against the digest from before the split.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::report::Entry;
use super::{Context, Verdict, disk, ensure};
use crate::process;

/// Size of the disk, how much of it is data, options of the splitter.
const SHAPES: &[(&str, &str, &[&str])] = &[
    ("512", "512", &[]),
    ("2M", "2M", &["--unaligned"]),
    ("7654400", "7M", &["--grown"]),
    ("99999744", "60M", &["--unaligned", "--grown"]),
    ("1G", "100M", &["--unaligned"]),
    ("4G", "64M", &["--grown"]),
];

/// Each shape: one digest of the chain, and of what is converted from it.
pub(crate) fn read(context: &Context<'_>, folder: &Path, entry: &mut Entry) -> Verdict {
    let minutes = Duration::from_secs(600);
    for (number, (size, data, options)) in SHAPES.iter().enumerate() {
        let folder = folder.join(number.to_string());
        let mut args = vec!["--synthetic", size, "--data", data];
        args.extend(*options);
        let args: Vec<&OsStr> = args.into_iter().map(AsRef::as_ref).collect();
        let [.., tip] = disk::split(&args, &folder, "")?;
        let due = disk::sha256(&folder.join("disk.raw"))?;
        let digest = |image: &Path| {
            let mut vmimg = Command::new(&context.built.vmimg);
            vmimg.arg("digest").arg(image);
            let log = folder.join("vmimg.log");
            let said = process::run(&mut vmimg, &log, minutes)?.success()?.stdout;
            let said = said.split_whitespace().next().unwrap_or_default().to_owned();
            ensure(said == due, || {
                format!("{size} {options:?}: {} has {said}, the disk {due}", image.display())
            })
        };
        digest(&tip)?;
        for format in ["qcow2", "raw", "vhd"] {
            let out = folder.join(format!("out.{format}"));
            let mut vmimg = Command::new(&context.built.vmimg);
            vmimg.args(["convert", "-O", format]).arg(&tip).arg(&out);
            process::run(&mut vmimg, &folder.join("vmimg.log"), minutes)?.success()?;
            // A VHD may end in a few more zeros, which a plain digest would count.
            if format != "vhd" || is_whole_blocks(size) {
                digest(&out)?;
            }
            let _ = std::fs::remove_file(out);
        }
    }
    entry.figure("chains", SHAPES.len());
    Ok(())
}

fn is_whole_blocks(size: &str) -> bool {
    size.ends_with(['M', 'G'])
}
