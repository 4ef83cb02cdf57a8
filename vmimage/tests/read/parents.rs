//! Which files are taken for parents.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use vmimage::{ErrorKind, OpenOptions, open};

use crate::builder::{Block, Kind, Layer, utf16le};
use crate::builder::{Rng, random_chain};
use crate::chains::compare;

fn base() -> Layer {
    let mut base = Layer::new(Kind::Dynamic, 4096, 4096);
    base.blocks.insert(0, Block { held: vec![true; 8], data: vec![0xBB; 4096] });
    base.order = vec![0];
    base
}

fn child() -> Layer {
    let mut child = Layer::new(Kind::Differencing, 4096, 4096);
    (child.uuid, child.parent_uuid) = (*b"child-0123456789", base().uuid);
    child
}

fn put(folder: &Path, name: &str, layer: &Layer) -> PathBuf {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, layer.build()).unwrap();
    path
}

/// The first byte of the guest, or the error.
fn look(path: &Path, options: &OpenOptions) -> Result<u8, vmimage::Error> {
    let mut byte = [0];
    open(path, options)?.disks()[0].read_exact_at(&mut byte, 0)?;
    Ok(byte[0])
}

fn plain(path: &Path) -> Result<u8, vmimage::Error> {
    look(path, &OpenOptions::new())
}

#[test]
fn each_way_to_name_a_parent_is_followed() {
    let ways: &[(&str, [u8; 4], Vec<u8>)] = &[
        ("base.vhd", *b"W2ru", utf16le(".\\base.vhd")),
        ("sub/base.vhd", *b"W2ru", utf16le("sub\\base.vhd")),
        ("base.vhd", *b"W2ku", utf16le("C:\\disks\\base.vhd")),
        ("base.vhd", *b"MacX", b"file://./base.vhd".to_vec()),
        ("my base.vhd", *b"MacX", b"file://localhost/var/my%20base.vhd".to_vec()),
    ];
    for (name, code, text) in ways {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), name, &base());
        let mut child = child();
        child.locators = vec![(*code, text.clone())];
        assert_eq!(plain(&put(dir.path(), "child.vhd", &child)).unwrap(), 0xBB, "{name}");
    }
    for parent_name in ["base.vhd", "C:\\disks\\base.vhd", "/sr/base.vhd"] {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "base.vhd", &base());
        let mut child = child();
        child.parent_name = parent_name.into();
        assert_eq!(plain(&put(dir.path(), "child.vhd", &child)).unwrap(), 0xBB, "{parent_name}");
    }
}

#[test]
fn the_folder_is_not_left() {
    let dir = tempfile::tempdir().unwrap();
    let base_path = put(dir.path(), "base.vhd", &base());
    let mut child = child();
    child.locators = vec![(*b"W2ru", utf16le("..\\base.vhd"))];
    let path = put(dir.path(), "in/child.vhd", &child);
    let error = plain(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Reference);
    let text = error.to_string();
    assert!(text.contains("base.vhd") && text.contains("--parent"), "{text}");
    assert!(!text.contains('\n'));
    // A link inside of the folder leads out of it just as well.
    child.locators = vec![(*b"W2ru", utf16le("link.vhd"))];
    let path = put(dir.path(), "in/child.vhd", &child);
    symlink(&base_path, dir.path().join("in/link.vhd")).unwrap();
    assert_eq!(plain(&path).unwrap_err().kind(), ErrorKind::Reference);
    // The absolute path exists, and is not followed either.
    child.locators = vec![(*b"MacX", format!("file://{}", base_path.display()).into_bytes())];
    let path = put(dir.path(), "in/child.vhd", &child);
    assert_eq!(plain(&path).unwrap_err().kind(), ErrorKind::Reference);
    // Named by the caller it is.
    assert_eq!(look(&path, &OpenOptions::new().with_parent(&base_path)).unwrap(), 0xBB);
    // A link within the folder is fine.
    put(dir.path(), "in/real.vhd", &base());
    symlink("real.vhd", dir.path().join("in/near.vhd")).unwrap();
    child.locators = vec![(*b"W2ru", utf16le(".\\near.vhd"))];
    assert_eq!(plain(&put(dir.path(), "in/child.vhd", &child)).unwrap(), 0xBB);
}

#[test]
fn a_parent_with_another_uuid_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut stranger = base();
    stranger.uuid = *b"stranger-0123456";
    let path = put(dir.path(), "base.vhd", &stranger);
    let mut child = child();
    child.parent_name = "base.vhd".into();
    let tip = put(dir.path(), "child.vhd", &child);
    assert_eq!(plain(&tip).unwrap_err().kind(), ErrorKind::Reference);
    let named = OpenOptions::new().with_parent(&path);
    assert_eq!(look(&tip, &named).unwrap_err().kind(), ErrorKind::Reference);
    // One that the chain has no use for is a mistake of the caller.
    let right = put(dir.path(), "right.vhd", &base());
    let both = OpenOptions::new().with_parent(&right).with_parent(&path);
    assert_eq!(look(&tip, &both).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(look(&tip, &both.with_spare_parents(true)).unwrap(), 0xBB);
    assert_eq!(look(&tip, &OpenOptions::new().with_parent(&right)).unwrap(), 0xBB);
}

#[test]
fn circles_and_long_chains_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut own = child();
    own.parent_uuid = own.uuid;
    own.parent_name = "own.vhd".into();
    let path = put(dir.path(), "own.vhd", &own);
    assert_eq!(plain(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    let link = |from: u8, to: u8| {
        let mut layer = child();
        (layer.uuid, layer.parent_uuid) = ([from; 16], [to; 16]);
        layer.parent_name = format!("{to}.vhd");
        put(dir.path(), &format!("{from}.vhd"), &layer)
    };
    let path = link(1, 2);
    link(2, 1);
    assert_eq!(plain(&path).unwrap_err().kind(), ErrorKind::Corrupt);
    let report = vmimage::check(&path, &OpenOptions::new()).unwrap();
    assert_eq!(report.verdict(), vmimage::Verdict::Corrupt);
    for i in 10..255 {
        link(i, i + 1);
    }
    let mut last = base();
    last.uuid = [255; 16];
    put(dir.path(), "255.vhd", &last);
    // XenServer would stop at 30.
    assert_eq!(plain(&dir.path().join("10.vhd")).unwrap(), 0xBB);
    let report = vmimage::check(dir.path().join("226.vhd"), &OpenOptions::new()).unwrap();
    assert!(!report.findings().iter().any(|f| f.code == "chain-depth"), "{report:?}");
    let report = vmimage::check(dir.path().join("225.vhd"), &OpenOptions::new()).unwrap();
    assert!(report.findings().iter().any(|f| f.code == "chain-depth"), "{report:?}");
}

#[test]
fn a_raw_parent_must_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("base.raw");
    fs::write(&raw, vec![0xDD; 2000]).unwrap();
    let mut child = child();
    child.parent_uuid = [0; 16];
    child.parent_name = "base.raw".into();
    let tip = put(dir.path(), "child.vhd", &child);
    let error = plain(&tip).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Reference);
    assert!(error.to_string().contains("--parent"), "{error}");
    let image = open(&tip, &OpenOptions::new().with_parent(&raw)).unwrap();
    let mut all = vec![1; 4096];
    image.disks()[0].read_exact_at(&mut all, 0).unwrap();
    assert!(all[..2000].iter().all(|b| *b == 0xDD) && all[2000..].iter().all(|b| *b == 0));
}

#[test]
fn files_in_a_folder_are_the_chain_in_memory() {
    for seed in 0..60 {
        let (mut layers, view) = random_chain(seed);
        let dir = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..layers.len()).map(|i| format!("{i}.vhd")).collect();
        for i in 0..layers.len() - 1 {
            let text = format!(".\\{}", names[i + 1]);
            layers[i].locators = vec![(*b"W2ru", utf16le(&text))];
        }
        let files: Vec<Vec<u8>> = layers.iter().map(Layer::build).collect();
        for (name, file) in names.iter().zip(&files) {
            fs::write(dir.path().join(name), file).unwrap();
        }
        let image = open(dir.path().join("0.vhd"), &OpenOptions::new()).unwrap();
        compare(&*image.disks()[0], &files, &view, &mut Rng::new(seed));
        let parent = image.info().parent().map(|p| p.path().unwrap().to_path_buf());
        assert_eq!(parent.is_some(), layers.len() > 1);
        let report = vmimage::check(dir.path().join("0.vhd"), &OpenOptions::new()).unwrap();
        assert_ne!(report.verdict(), vmimage::Verdict::Corrupt, "{report:?}");
    }
}

#[test]
fn names_are_found_whatever_their_case() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child();
    child.parent_name = "C:\\disks\\BÄSE.vhd".into();
    let tip = put(dir.path(), "child.vhd", &child);
    assert_eq!(plain(&tip).unwrap_err().kind(), ErrorKind::Reference);
    put(dir.path(), "Bäse.VHD", &base());
    assert_eq!(plain(&tip).unwrap(), 0xBB);
}

#[test]
fn a_raw_parent_may_hold_what_looks_like_a_vhd() {
    let dir = tempfile::tempdir().unwrap();
    // The guest has a VHD inside of its disk: the child still says that the disk is raw.
    let raw = dir.path().join("base.raw");
    let bytes = base().build();
    fs::write(&raw, &bytes).unwrap();
    let mut child = child();
    child.parent_uuid = [0; 16];
    child.blocks.clear();
    let tip = put(dir.path(), "child.vhd", &child);
    let image = open(&tip, &OpenOptions::new().with_parent(&raw)).unwrap();
    let disk = &image.disks()[0];
    let mut start = vec![1; 512];
    disk.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, bytes[..512]);
}
