//! The contract of `vmimg` on the command line.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The program, which Cargo builds with the tests of this package.
fn vmimg() -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.set_file_name("examples");
    Command::new(path.join("vmimg"))
}

fn run(folder: &Path, args: &[&str]) -> Output {
    vmimg().args(args).current_dir(folder).output().unwrap()
}

fn ok(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{args:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs what must fail: one line on standard error that has `word`, and no new file.
fn fails(folder: &Path, args: &[&str], word: &str) {
    let before = names(folder);
    let output = run(folder, args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{args:?}: {errors}");
    assert_eq!(errors.lines().count(), 1, "{args:?}: {errors}");
    assert!(errors.contains(word) && output.stdout.is_empty(), "{args:?}: {errors}");
    assert_eq!(names(folder), before, "{args:?}");
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

/// A folder with `disk.raw`: 5 MiB and a bit, data in three places.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = vec![0_u8; (5 << 20) + 512];
    for at in [0, 3_000_000, (5 << 20) + 11] {
        disk[at..at + 500].fill(0xa5);
    }
    std::fs::write(folder.path().join("disk.raw"), disk).unwrap();
    folder
}

#[test]
fn every_format_goes_there_and_back() {
    let folder = folder();
    let at = folder.path();
    let (digest, root) =
        (ok(at, &["digest", "disk.raw"]), ok(at, &["digest", "--root", "disk.raw"]));
    for format in ["raw", "vhd", "vhd-fixed"] {
        ok(at, &["convert", "-O", format, "disk.raw", "there"]);
        assert_eq!(ok(at, &["digest", "--root", "there"]), root);
        assert_eq!(ok(at, &["check", "there"]), "sound\n");
        assert_eq!(ok(at, &["compare", "disk.raw", "there"]), "same content\n");
        ok(at, &["convert", "-O", "raw", "there", "back"]);
        assert_eq!(ok(at, &["compare", "back", "disk.raw"]), "same content\n");
    }
    ok(at, &["convert", "-O", "raw", "disk.raw", "copy"]);
    assert_eq!(ok(at, &["digest", "copy"]), digest);
    ok(at, &["convert", "-O", "tgz", "disk.raw", "disk.tgz"]);
    ok(at, &["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
}

#[test]
fn info_has_the_fields_of_the_contract() {
    let folder = folder();
    let at = folder.path();
    ok(at, &["convert", "-O", "vhd", "disk.raw", "disk.vhd"]);
    let info: serde_json::Value =
        serde_json::from_str(&ok(at, &["info", "--json", "disk.vhd"])).unwrap();
    assert_eq!(info["format"], "vhd");
    assert_eq!(info["subformat"], "dynamic");
    assert_eq!(info["virtual_size"], 6 << 20);
    assert_eq!(info["current_size"], 6 << 20);
    assert_eq!(info["creator"], "tap");
    assert_eq!(info["block_size"], 2 << 20);
    assert!(info["parent"].is_null() && info["geometry_size"].is_u64());
    assert_eq!(info["disks"][0]["virtual_size"], 6 << 20);
    let map: serde_json::Value =
        serde_json::from_str(&ok(at, &["map", "--json", "disk.vhd"])).unwrap();
    let sum: u64 = map.as_array().unwrap().iter().map(|e| e["length"].as_u64().unwrap()).sum();
    assert_eq!(sum, 6 << 20);
}

#[test]
fn failures_are_one_line_and_leave_nothing() {
    let folder = folder();
    let at = folder.path();
    ok(at, &["convert", "-O", "vhd", "disk.raw", "disk.vhd"]);
    let whole = std::fs::read(at.join("disk.vhd")).unwrap();
    std::fs::write(at.join("cut.vhd"), &whole[..whole.len() / 2]).unwrap();
    fails(at, &[], "no command");
    fails(at, &["convert", "-O", "raw"], "<IN> <OUT>");
    fails(at, &["convert", "-O", "floppy", "disk.raw", "out"], "floppy");
    fails(at, &["convert", "-O", "xvb", "disk.raw", "out"], "xvb");
    fails(at, &["convert", "-O", "xva", "--checksum", "md5", "disk.raw", "out"], "sha1");
    fails(at, &["convert", "-O", "qcow2", "--keep-chain", "disk.raw", "out"], "--keep-chain");
    fails(at, &["convert", "-O", "raw", "cut.vhd", "out"], "past the end");
    fails(at, &["convert", "-O", "raw", "missing\nfile", "out"], "missing\\nfile");
    fails(at, &["convert", "-O", "raw", "disk.vhd", "no/such/folder/out"], "no/such");
    fails(at, &["convert", "-O", "vhd", "disk.vhd", "./disk.vhd"], "part of the input");
    fails(at, &["convert", "-O", "raw", "disk.vhd", "--disk", "7", "out"], "--disk");
    // Nothing comes: that matters more than the disk that was named.
    fails(at, &["convert", "-O", "raw", "--disk", "7", "-", "out"], "empty");
    fails(at, &["digest", "--algorithm", "crc", "disk.vhd"], "crc");
    fails(at, &["compare", "disk.vhd", "nothing"], "nothing");
    assert_eq!(std::fs::read(at.join("disk.vhd")).unwrap(), whole);

    assert_eq!(run(at, &["check", "cut.vhd"]).status.code(), Some(2));
    std::fs::write(at.join("other.raw"), b"other").unwrap();
    let output = run(at, &["compare", "disk.raw", "other.raw"]);
    assert_eq!((output.status.code(), output.stderr.is_empty()), (Some(1), true));
}

#[test]
fn streams_go_in_and_out() {
    let folder = folder();
    let at = folder.path();
    ok(at, &["convert", "-O", "vhd", "disk.raw", "disk.vhd"]);
    let streamed = run(at, &["convert", "-O", "vhd", "disk.raw", "-"]);
    assert!(streamed.status.success());
    let file = std::fs::read(at.join("disk.vhd")).unwrap();
    assert!(streamed.stdout == file);

    let feed = |bytes: &[u8]| {
        let mut child = vmimg()
            .args(["convert", "-O", "qcow2", "-", "from-stdin"])
            .current_dir(at)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(bytes);
        child.wait_with_output().unwrap()
    };
    let cut = feed(&file[..file.len() - 700]);
    assert_eq!(cut.status.code(), Some(3));
    assert_eq!(String::from_utf8(cut.stderr).unwrap().lines().count(), 1);
    assert!(!at.join("from-stdin").exists());
    assert!(feed(&file).status.success());
    assert!(std::fs::read(at.join("from-stdin")).unwrap().starts_with(b"QFI\xfb"));
}

/// By `/dev/stdout` a file is meant that someone else has opened, and may have written to.
#[test]
fn standard_output_by_another_name_is_written_and_not_replaced() {
    let folder = folder();
    let at = folder.path();
    let disk = std::fs::read(at.join("disk.raw")).unwrap();
    for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let mut file = std::fs::File::create(at.join("out")).unwrap();
        file.write_all(b"before").unwrap();
        let done = vmimg()
            .args(["convert", "-O", "raw", "disk.raw", name])
            .current_dir(at)
            .stdout(file.try_clone().unwrap())
            .status()
            .unwrap();
        assert!(done.success(), "{name}");
        file.write_all(b"after").unwrap();
        let expected = [b"before", disk.as_slice(), b"after"].concat();
        assert!(std::fs::read(at.join("out")).unwrap() == expected, "{name}");
    }
}

/// VirtualBox registers no two disks with one UUID, and a child knows its parent by it.
#[test]
fn different_disks_have_different_uuids_and_one_disk_has_its_own() {
    let folder = folder();
    let at = folder.path();
    std::fs::write(at.join("a.raw"), vec![1; 1 << 20]).unwrap();
    std::fs::write(at.join("b.raw"), vec![2; 1 << 20]).unwrap();
    for format in ["vhd", "vhd-fixed"] {
        let uuid = |disk: &str, more: &[&str]| {
            ok(at, &[&["convert", "-O", format, disk, "out"], more].concat());
            let bytes = std::fs::read(at.join("out")).unwrap();
            let footer = &bytes[bytes.len() - 512..];
            assert!(footer.starts_with(b"conectix"));
            hex::encode(&footer[68..84])
        };
        assert_eq!(uuid("a.raw", &[]), uuid("./a.raw", &[]));
        assert_ne!(uuid("a.raw", &[]), uuid("b.raw", &[]));
        let given = "01234567-89ab-4def-8123-456789abcdef";
        assert_eq!(uuid("a.raw", &["--uuid", given]), given.replace('-', ""));
    }
    for bad in ["0123", "g1234567-89ab-4def-8123-456789abcdef"] {
        fails(at, &["convert", "-O", "vhd", "a.raw", "x", "--uuid", bad], "no UUID");
    }
}

#[test]
fn an_output_that_is_a_folder_is_refused() {
    let folder = folder();
    let at = folder.path();
    std::fs::create_dir(at.join("sub")).unwrap();
    fails(at, &["convert", "-O", "raw", "disk.raw", "sub"], "folder");
}

#[test]
fn damage_below_the_tables_names_the_image() {
    let folder = folder();
    let at = folder.path();
    ok(at, &["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    let mut bytes = std::fs::read(at.join("disk.qcow2")).unwrap();
    // The first entry of the first L2 table, far beyond the file.
    bytes[4 << 16] = 0x80;
    bytes[(4 << 16) + 3] = 0x10;
    std::fs::write(at.join("disk.qcow2"), bytes).unwrap();
    fails(at, &["convert", "-O", "raw", "disk.qcow2", "out"], "disk.qcow2: a cluster lies past");
    fails(at, &["digest", "disk.qcow2"], "disk.qcow2: a cluster lies past");
    fails(at, &["digest", "--root", "disk.qcow2"], "disk.qcow2: a cluster lies past");
}

#[test]
fn a_limit_of_file_sizes_is_a_failure_with_a_word() {
    let folder = folder();
    let output = Command::new("sh")
        .args(["-c", "ulimit -f 100; exec \"$0\" convert -f raw -O raw disk.raw out"])
        .arg(vmimg().get_program())
        .current_dir(folder.path())
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.lines().count() == 1 && errors.contains("cannot write"), "{errors}");
    assert_eq!(names(folder.path()).len(), 1);
}

#[test]
fn a_signal_leaves_nothing_while_no_data_come() {
    let folder = folder();
    for signal in ["INT", "TERM"] {
        let mut child = vmimg()
            .args(["convert", "-O", "raw", "-", "out"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Wait until the handler is there: before, the signal just kills.
        let start = Instant::now();
        let status = format!("/proc/{}/status", child.id());
        while start.elapsed() < Duration::from_secs(20) && !handles_signals(&status) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let stdin = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        assert_eq!(output.status.code(), Some(130));
        assert_eq!(output.stderr, b"vmimg: interrupted\n");
        assert_eq!(names(folder.path()).len(), 1);
    }
}

/// Whether SIGTERM (15) is in the set of caught signals.
fn handles_signals(status: &str) -> bool {
    std::fs::read_to_string(status)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.strip_prefix("SigCgt:"))
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & (1 << 14) != 0)
}

/// Feeds `input` to the program.
fn pipe(folder: &Path, input: &[u8], args: &[&str]) -> Output {
    let mut child = vmimg()
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = input.to_vec();
    let feeder = std::thread::spawn(move || {
        // A program that refuses its input reads no more of it.
        let _ = stdin.write_all(&bytes);
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

#[test]
fn archives_go_in_and_out() {
    let folder = folder();
    let at = folder.path();
    ok(at, &["convert", "-O", "xva", "--name", "web01", "disk.raw", "vm.xva"]);
    let info: serde_json::Value =
        serde_json::from_str(&ok(at, &["info", "--json", "vm.xva"])).unwrap();
    assert_eq!((&info["format"], &info["disks"][0]["ref"]), (&"xva".into(), &"Ref:100000".into()));
    ok(at, &["compare", "disk.raw", "vm.xva"]);
    ok(at, &["check", "vm.xva"]);
    ok(at, &["convert", "-O", "tgz", "vm.xva", "image.tgz"]);
    assert!(ok(at, &["info", "image.tgz"]).contains("format: tgz"));
    ok(at, &["compare", "image.tgz", "disk.raw"]);
    ok(at, &["check", "image.tgz"]);
    for format in ["raw", "vhd", "vhd-fixed", "qcow2", "xva", "tgz"] {
        for disk in ["0", "Ref:100000"] {
            ok(at, &["convert", "-O", format, "--disk", disk, "vm.xva", "out"]);
            ok(at, &["compare", "out", "disk.raw"]);
        }
    }
    fails(at, &["convert", "-O", "raw", "--disk", "Ref:7", "vm.xva", "no"], "Ref:100000");
    fails(at, &["compare", "--disk", "7", "vm.xva", "disk.raw"], "vm.xva: name one disk");
    // The disk of an archive is compared with an image that does not know its name.
    for both in [["vm.xva", "disk.raw"], ["disk.raw", "vm.xva"]] {
        ok(at, &["compare", "--disk", "Ref:100000", both[0], both[1]]);
    }
    fails(at, &["compare", "--disk", "7", "disk.raw", "disk.raw"], "disk.raw: name one disk");
    // Damage is found before anything is left.
    let mut bytes = std::fs::read(at.join("vm.xva")).unwrap();
    let data = bytes.iter().rposition(|b| *b == 0xa5).unwrap();
    bytes[data] ^= 1;
    std::fs::write(at.join("bad.xva"), &bytes).unwrap();
    fails(at, &["convert", "-O", "raw", "bad.xva", "no"], "checksum");
    assert_eq!(run(at, &["check", "bad.xva"]).status.code(), Some(2));
    ok(at, &["convert", "-O", "raw", "--lenient", "bad.xva", "out"]);
}

#[test]
fn streams_of_archives_become_files_and_what_can_be_a_stream() {
    let folder = folder();
    let at = folder.path();
    ok(at, &["convert", "-O", "xva", "disk.raw", "vm.xva"]);
    ok(at, &["convert", "-O", "tgz", "disk.raw", "image.tgz"]);
    let xva = std::fs::read(at.join("vm.xva")).unwrap();
    for format in ["raw", "vhd", "vhd-fixed", "qcow2"] {
        let output = pipe(at, &xva, &["convert", "-O", format, "-", "out"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ok(at, &["compare", "out", "disk.raw"]);
    }
    let raw = std::fs::read(at.join("disk.raw")).unwrap();
    let output = pipe(at, &xva, &["convert", "-O", "raw", "-", "-"]);
    assert!(output.stdout.starts_with(&raw) && output.stdout.len() - raw.len() < 1 << 20);
    for format in ["vhd", "qcow2", "xva", "tgz"] {
        let output = pipe(at, &xva, &["convert", "-O", format, "-", "-"]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{format}");
    }
    let tgz = std::fs::read(at.join("image.tgz")).unwrap();
    for (input, args) in [
        (&tgz, vec!["convert", "-O", "qcow2", "-", "out"]),
        (&raw, vec!["convert", "-f", "raw", "-O", "raw", "-", "out"]),
    ] {
        let output = pipe(at, input, &args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ok(at, &["compare", "out", "disk.raw"]);
    }
    // A pipe by its name is a stream as well.
    let pipe_done = Command::new("mkfifo").arg("pipe").current_dir(at).status();
    if pipe_done.is_ok_and(|status| status.success()) {
        let (path, bytes) = (at.join("pipe"), xva.clone());
        let feeder = std::thread::spawn(move || std::fs::write(path, bytes));
        ok(at, &["convert", "-O", "vhd", "pipe", "out"]);
        feeder.join().unwrap().unwrap();
        ok(at, &["compare", "out", "disk.raw"]);
    }
    std::fs::remove_file(at.join("out")).unwrap();
    for cut in [0, 600, xva.len() / 2, xva.len() - 1] {
        let output = pipe(at, &xva[..cut], &["convert", "-O", "qcow2", "-", "out"]);
        assert_eq!(output.status.code(), Some(3), "{cut}");
        assert!(!at.join("out").exists(), "{cut}");
    }
}

/// A compressed archive is unpacked once where that is enough, and twice where it is not.
#[test]
fn a_compressed_archive_is_the_disk_that_it_was() {
    let folder = folder();
    let at = folder.path();
    ok(at, &["convert", "-O", "xva", "disk.raw", "vm.xva"]);
    let gzip = |name: &str| {
        let done = Command::new("gzip").args(["-1", "-k", name]).current_dir(at).status();
        done.is_ok_and(|status| status.success())
    };
    if !gzip("vm.xva") {
        eprintln!("skipped: no gzip");
        return;
    }
    let mut bytes = std::fs::read(at.join("vm.xva")).unwrap();
    let data = bytes.iter().rposition(|b| *b == 0xa5).unwrap();
    bytes[data] ^= 1;
    std::fs::write(at.join("bad.xva"), &bytes).unwrap();
    assert!(gzip("bad.xva"));
    for format in ["raw", "vhd", "vhd-fixed", "qcow2", "xva", "tgz"] {
        for disk in [&["--disk", "0"][..], &[]] {
            ok(at, &[&["convert", "-O", format, "vm.xva.gz", "out"], disk].concat());
            ok(at, &["compare", "out", "disk.raw"]);
        }
        fails(at, &["convert", "-O", format, "--disk", "7", "vm.xva.gz", "no"], "Ref:100000");
        fails(at, &["convert", "-O", format, "bad.xva.gz", "no"], "bad.xva.gz");
        fails(at, &["convert", "-O", format, "vm.xva.gz", "vm.xva.gz"], "part of the input");
        let streamed = run(at, &["convert", "-O", format, "vm.xva.gz", "-"]);
        assert!(streamed.status.success(), "{format}");
        std::fs::write(at.join("out"), &streamed.stdout).unwrap();
        ok(at, &["compare", "out", "disk.raw"]);
    }
}

/// A VHD `name/leaf.vhd` whose parent lies in another folder, from two raw disks.
fn chain(at: &Path, name: &str, uuid: [u8; 16]) {
    use vmimage::{DiskSource, FileOptions, OpenOptions, Plan, PlanOptions, Source, VhdParent};
    let disk = |byte: u8| -> std::sync::Arc<dyn vmimage::Disk> {
        let mut bytes = vec![1; 4 << 20];
        bytes[3 << 20..].fill(byte);
        std::sync::Arc::new(vmimage::RawDisk::new(std::sync::Arc::new(bytes)).unwrap())
    };
    let write = |source: &DiskSource, options: &PlanOptions, path: &str| {
        let vhd = vmimage::TargetFormat::VhdDynamic;
        let plan = Plan::new(vhd, source.block_map(), options).unwrap();
        let path = at.join(name).join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        vmimage::to_file(&plan, source.disk(), &path, &FileOptions::new()).unwrap();
    };
    let base = DiskSource::new(disk(2)).unwrap();
    write(&base, &PlanOptions::new().with_uuid(uuid), "away/base.vhd");
    let delta = DiskSource::difference(disk(3), base.disk().as_ref()).unwrap();
    let options = PlanOptions::new().with_parent(VhdParent::new(uuid, "base.vhd"));
    write(&delta, &options, "leaf.vhd");
    assert!(vmimage::open(at.join(name).join("leaf.vhd"), &OpenOptions::new()).is_err());
}

#[test]
fn two_chains_with_parents_elsewhere_are_compared() {
    let folder = folder();
    let at = folder.path();
    chain(at, "a", [1; 16]);
    chain(at, "b", [2; 16]);
    let parents = ["--parent", "a/away/base.vhd", "--parent", "b/away/base.vhd"];
    let both = [&["compare", "a/leaf.vhd", "b/leaf.vhd"][..], &parents].concat();
    assert_eq!(ok(at, &both), "same content\n");
    // What no chain needs is still a mistake.
    fails(at, &[&["compare", "a/leaf.vhd", "disk.raw"][..], &parents].concat(), "b/away");
    fails(at, &[&["digest", "a/leaf.vhd"][..], &parents].concat(), "b/away");
    ok(at, &["convert", "-O", "vhd", "disk.raw", "c.vhd"]);
    fails(at, &[&["compare", "a/leaf.vhd", "c.vhd"][..], &parents].concat(), "b/away");
}

#[test]
fn the_map_is_a_picture_or_a_list() {
    let folder = folder();
    let at = folder.path();
    ok(at, &["convert", "-O", "vhd", "disk.raw", "disk.vhd"]);
    let picture = ok(at, &["map", "--draw", "disk.vhd"]);
    assert!(picture.contains("disk.vhd") && picture.contains('0') && picture.contains("zeros"));
    assert!(ok(at, &["map", "disk.vhd"]).lines().all(|line| line.contains("layer 0 at")));
}

#[test]
fn repair_tells_first_and_can_be_undone() {
    let folder = folder();
    let at = folder.path();
    ok(at, &["convert", "-O", "vhd", "disk.raw", "disk.vhd"]);
    assert_eq!(ok(at, &["repair", "disk.vhd"]), "nothing to repair\n");
    let path = at.join("disk.vhd");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len() - 512;
    bytes[end + 70] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(run(at, &["repair", "disk.vhd"]).status.code(), Some(1));
    assert!(std::fs::read(&path).unwrap() == bytes, "a plan has written");
    assert!(ok(at, &["repair", "--write", "disk.vhd"]).contains("repaired"));
    assert_eq!(ok(at, &["check", "disk.vhd"]), "sound\n");
    ok(at, &["repair", "--undo", "disk.vhd"]);
    assert!(std::fs::read(&path).unwrap() == bytes, "not as it was");
}
