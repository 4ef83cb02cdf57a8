//! Sound images, over the options of `qemu-img` and what happens to an image.

use crate::common::{tool, tool_ok};
use crate::{Class, Folder, make, ours, qemu};

const WRITES: &[&str] = &["io write -P 7 0 300k", "io write -P 8 1000k 70k", "io write -z 64k 64k"];

fn agree(options: &str, size: &str, commands: &[&str]) {
    let folder = Folder::new();
    let Some(image) = make(&folder, options, size, commands) else { return };
    let what = format!("{options} {commands:?}");
    assert_eq!(qemu(&image), Some(Class::Clean), "{what}");
    assert_eq!(ours(&image), (Class::Clean, vec![]), "{what}");
}

#[test]
fn every_option() {
    let all = [
        "compat=0.10",
        "compat=1.1",
        "cluster_size=512",
        "cluster_size=4k",
        "cluster_size=2M",
        "compat=0.10,cluster_size=1k",
        "refcount_bits=1",
        "refcount_bits=2",
        "refcount_bits=4,cluster_size=4k",
        "refcount_bits=8,cluster_size=512",
        "refcount_bits=32",
        "refcount_bits=64,cluster_size=512",
        "lazy_refcounts=on",
        "extended_l2=on",
        "extended_l2=on,cluster_size=16k",
        "extended_l2=on,preallocation=metadata",
        "preallocation=metadata",
        "preallocation=falloc",
        "preallocation=full,cluster_size=512",
    ];
    for options in all {
        agree(options, "5M", &[]);
        agree(options, "5M", WRITES);
    }
}

#[test]
fn what_happens_to_an_image() {
    let written = |more: &[&'static str]| [WRITES, more].concat();
    let lives = [
        written(&["io discard 0 128k", "io discard 1000k 64k"]),
        written(&["resize -q IMG 9M", "io write -P 3 8M 100k"]),
        written(&["resize -q --shrink IMG 512k"]),
        written(&["snapshot -c one IMG"]),
        written(&["snapshot -c one IMG", "io write -P 3 32k 100k", "snapshot -c two IMG"]),
        written(&["snapshot -c one IMG", "resize -q IMG 9M", "io write -P 3 8M 100k"]),
        written(&["snapshot -c one IMG", "io write -P 3 0 1M", "snapshot -d one IMG"]),
        written(&["snapshot -c one IMG", "io write -P 3 0 1M", "snapshot -a one IMG"]),
        written(&["snapshot -c one IMG", "io discard 0 2M"]),
        vec!["io write -c -P 5 0 64k", "io write -c -P 6 1M 64k", "io write -P 4 0 4k"],
        vec!["io write -c -P 5 0 64k", "snapshot -c one IMG", "io write -P 4 0 4k"],
    ];
    for life in &lives {
        // Growth with snapshots is refused for version 2.
        if !life.contains(&"resize -q IMG 9M") {
            agree("compat=0.10", "5M", life);
        }
        // A compressed write is one cluster.
        if !life[0].contains("-c") {
            agree("cluster_size=512", "5M", life);
            agree("refcount_bits=2,cluster_size=4k", "5M", life);
            agree("lazy_refcounts=on,cluster_size=8k", "5M", life);
        }
        agree("compat=1.1", "5M", life);
        agree("extended_l2=on", "5M", life);
    }
    agree("compression_type=zstd", "5M", &lives[9]);
}

#[test]
fn bitmaps() {
    let bitmaps = [
        &["bitmap --add IMG a"][..],
        &["bitmap --add IMG a", "bitmap --add -g 512 IMG b", "io write -P 9 2M 1M"],
        &["bitmap --add -g 512 IMG a", "io write -P 9 2M 1M", "snapshot -c one IMG"],
        &["bitmap --add IMG a", "bitmap --add IMG b", "bitmap --remove IMG a"],
    ];
    for commands in bitmaps {
        for options in ["compat=1.1", "cluster_size=512", "extended_l2=on"] {
            agree(options, "64M", commands);
        }
    }
}

#[test]
fn a_backing_file_and_a_data_file_are_no_matter() {
    let folder = Folder::new();
    let (base, tip) = (folder.text("a.qcow2"), folder.text("tip.qcow2"));
    if make(&folder, "compat=1.1", "5M", WRITES).is_none() {
        return;
    }
    tool_ok("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base, &tip]);
    tool_ok("qemu-io", &["-f", "qcow2", "-c", "write -P 1 32k 100k", &tip]);
    assert_eq!(qemu(&folder.path("tip.qcow2")), Some(Class::Clean));
    assert_eq!(ours(&folder.path("tip.qcow2")), (Class::Clean, vec![]));

    let data = format!("data_file={}", folder.text("a.data"));
    for more in ["", ",data_file_raw=on", ",extended_l2=on", ",preallocation=metadata"] {
        agree(&format!("{data}{more}"), "5M", WRITES);
    }
}

/// The options that only a conversion has.
#[test]
fn converted_and_compressed() {
    let folder = Folder::new();
    let (raw, image) = (folder.text("raw"), folder.path("a.qcow2"));
    let bytes: Vec<u8> = (0..3_u64 << 20).map(|i| ((i / 777 * i) >> 9) as u8).collect();
    std::fs::write(&raw, bytes).unwrap();
    for kind in ["zlib", "zstd"] {
        for cluster in ["512", "4k", "64k", "2M"] {
            let option = format!("compression_type={kind},cluster_size={cluster}");
            let args = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &option, &raw];
            let args = [&args[..], &[image.to_str().unwrap()]].concat();
            let Some(done) = tool("qemu-img", &args) else { return };
            if !done.status.success() {
                println!("skipped: {option}");
                continue;
            }
            assert_eq!(qemu(&image), Some(Class::Clean), "{option}");
            assert_eq!(ours(&image), (Class::Clean, vec![]), "{option}");
        }
    }
}
