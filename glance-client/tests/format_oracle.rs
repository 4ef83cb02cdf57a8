//! The check of formats before sending, against the inspectors that Glance itself uses (`oslo.utils` from PyPI), on whole
//! and on damaged images. It runs only with `MIGRATE_E2E_ORACLES=1`.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use glance_client::image::{ContainerFormat, DiskFormat, preflight};

const DECLARED: [&str; 10] =
    ["raw", "qcow2", "vhd", "vhdx", "vmdk", "vdi", "iso", "gpt", "luks", "ami"];

/// Numbers that look random and are the same each time (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end as u64).unwrap()
    }
}

fn with(len: usize, parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut data = vec![0; len];
    for (at, part) in parts {
        data[*at..][..part.len()].copy_from_slice(part);
    }
    data
}

fn samples() -> Vec<Vec<u8>> {
    let linux = [0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];
    let gpt = [0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
    let boot: (usize, &[u8]) = (510, &[0x55, 0xaa]);
    let vmdk = |kind: &str| {
        let text = format!(
            "# Disk DescriptorFile\nversion=1\ncreateType=\"{kind}\"\nRW 20480 SPARSE \"a.vmdk\"\n"
        );
        with(4096, &[(0, b"KDMV\x01"), (28, &[1]), (36, &[2]), (512, text.as_bytes())])
    };
    vec![
        with(4096, &[]),
        vec![7; 100],
        with(4096, &[(446, &linux), boot]),
        with(4096, &[(446, &gpt), boot]),
        with(4096, &[boot]),
        with(4096, &[(0x10, &[2]), (0x15, &[0xf8]), boot]),
        with(4096, &[(0, b"QFI\xfb\0\0\0\x03"), (24, &[0, 0, 0, 0, 0x40])]),
        with(4096, &[(0, b"QFI\xfb\0\0\0\x02"), (24, &[0, 0, 0, 0, 0x40])]),
        with(
            4096,
            &[(0, b"conectix\0\0\0\x02\0\x01\0\0"), (40, &[0, 0, 0, 0, 4]), (60, &[0, 0, 0, 3])],
        ),
        vmdk("monolithicSparse"),
        vmdk("streamOptimized"),
        vmdk("monolithicFlat"),
        with(4096, &[(0x40, &[0x7f, 0x10, 0xda, 0xbe]), (0x170, &[0, 0, 0, 4])]),
        with(4096, &[(0, b"QED\0")]),
        with(40960, &[(0x8000, b"\x01CD001\x01"), (0x8000 + 80, &[20]), (0x8000 + 129, &[8])]),
        with(
            40960,
            &[
                (446, &linux),
                boot,
                (0x8000, b"\x01CD001\x01"),
                (0x8000 + 80, &[20]),
                (0x8000 + 129, &[8]),
            ],
        ),
        with(4096, &[(0, b"LUKS\xba\xbe\0\x01"), (107, &[8])]),
        with(4096, &[(0, b"LUKS\xba\xbe\0\x02")]),
        with(4096, &[(0, b"\x1f\x8b\x08")]),
    ]
}

/// Where a flipped byte means something.
const PLACES: [usize; 22] =
    [0, 1, 3, 4, 6, 7, 8, 15, 0x10, 0x15, 28, 0x40, 63, 72, 78, 79, 446, 450, 454, 462, 466, 510];

fn python() -> std::path::PathBuf {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oslo-utils-venv");
    let python = venv.join("bin/python");
    if !venv.join("ready").exists() {
        let done =
            |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
        done(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        let install = [
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "oslo.utils==10.2.0",
            "cryptography",
        ];
        done(Command::new(&python).args(install));
        std::fs::write(venv.join("ready"), "").unwrap();
    }
    python
}

#[test]
fn the_check_before_sending_refuses_all_that_glance_refuses() {
    if std::env::var("MIGRATE_E2E_ORACLES").as_deref() != Ok("1") {
        println!("skipped: MIGRATE_E2E_ORACLES=1 is not set");
        return;
    }
    let mut random = Random(1);
    let mut cases = Vec::new();
    for sample in samples() {
        for round in 0..30 {
            let mut data = sample.clone();
            for _ in 0..round.min(3) {
                let place = PLACES[random.below(PLACES.len())].min(data.len() - 1);
                data[place] = [0, 1, 2, 0x80, 0xee, 0xff][random.below(6)];
            }
            let declared = if round == 0 {
                &DECLARED[..]
            } else {
                &[DECLARED[random.below(DECLARED.len())], "raw"]
            };
            cases.extend(declared.iter().map(|declared| (*declared, data.clone())));
        }
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracles/format_inspector.py");
    let mut child = Command::new(python())
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: String = cases
        .iter()
        .map(|(declared, data)| {
            format!("{{\"declared\": \"{declared}\", \"data\": \"{}\"}}\n", hex::encode(data))
        })
        .collect();
    let mut input = child.stdin.take().unwrap();
    let writing = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    let verdicts: Vec<_> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(verdicts.len(), cases.len());
    let (mut refused, mut stricter) = (0, 0);
    for ((declared, data), verdict) in cases.iter().zip(&verdicts) {
        let head = &data[..data.len().min(glance_client::image::HEAD_LEN)];
        let ours = preflight(&DiskFormat::from(*declared), &ContainerFormat::Bare, head);
        let about = || format!("{declared}: {:02x?}…", &data[..16]);
        match (verdict.as_str(), ours) {
            ("ok", Ok(())) => {}
            ("ok", Err(error)) => {
                // What Glance takes silently and wrongly is refused here on purpose.
                stricter += 1;
                let text = error.to_string();
                let known =
                    ["declare it as", "differencing", "without a type", "description elsewhere"];
                assert!(known.iter().any(|words| text.contains(words)), "{}: {text}", about());
            }
            (_, Err(_)) => refused += 1,
            (verdict, Ok(())) => panic!("Glance refuses it, and we do not: {}: {verdict}", about()),
        }
    }
    println!("{} cases: {refused} refused by both, {stricter} by us alone", cases.len());
    assert!(refused > 300 && stricter > 0, "the cases say nothing");
}
