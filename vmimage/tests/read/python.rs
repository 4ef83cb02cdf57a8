//! Chains in XenServer's dialect, written by a Python script together with the disk that a guest
//! sees: the second other opinion.

use std::process::Command;

use vmimage::{OpenOptions, Verdict, check, open};

use crate::builder::Rng;
use crate::chains::compare;

#[test]
fn a_chain_by_python_is_what_its_guest_sees() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/make_chain.py");
    for (seed, percent, piece) in [("1", "5", "512"), ("2", "20", "4096"), ("3", "30", "2097152")] {
        let dir = tempfile::tempdir().unwrap();
        let out = Command::new("python3")
            .arg(script)
            .arg(dir.path())
            .args([seed, "15", "4", percent, piece])
            .output();
        match out {
            Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr)),
            Err(e) => return println!("skipped: python3 cannot be run ({e})"),
        }
        let tip = dir.path().join("0.vhd");
        let view = std::fs::read(dir.path().join("expected.raw")).unwrap();
        let files: Vec<Vec<u8>> =
            (0..4).map(|i| std::fs::read(dir.path().join(format!("{i}.vhd"))).unwrap()).collect();
        let image = open(&tip, &OpenOptions::new()).unwrap();
        compare(&*image.disks()[0], &files, &view, &mut Rng::new(1));
        let report = check(&tip, &OpenOptions::new()).unwrap();
        assert_eq!(report.verdict(), Verdict::Sound, "{report:?}");
    }
}
