//! The client of RFB against a server that we did not write: QEMU, with its own screen dump as the
//! judge of every byte.
#![cfg(all(unix, feature = "console"))]
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use xenapi::console::{BootCommand, Rfb, RfbOptions, RfbVersion, Screenshot};

const PATIENCE: Duration = Duration::from_secs(60);

/// A machine without a disk; ends with this.
struct Machine {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    /// `None`, with a word, where there is no QEMU.
    fn start(more: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let socket = |name: &str| folder.path().join(name).display().to_string();
        let child = Command::new("qemu-system-x86_64")
            .args(["-machine", "pc", "-accel", "tcg", "-m", "64", "-nodefaults", "-vga", "std"])
            .args(["-display", "none", "-vnc", &format!("unix:{}", socket("vnc"))])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", socket("qmp"))])
            .args(more)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn();
        match child {
            Ok(child) => Some(Self { child, folder }),
            Err(e) => {
                eprintln!("skipped: qemu-system-x86_64 cannot be run: {e}");
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn rfb(&self, version: RfbVersion) -> Rfb<UnixStream> {
        let options = RfbOptions::new()
            .with_highest_version(version)
            .with_key_interval(Duration::from_millis(30));
        let rfb = Rfb::connect(dial(&self.path("vnc")).await, &options).await.unwrap();
        assert_eq!(rfb.version(), version);
        rfb
    }

    async fn monitor(&self) -> Monitor {
        let mut monitor = Monitor(BufReader::new(dial(&self.path("qmp")).await));
        monitor.line().await;
        monitor.ask("qmp_capabilities", json!({})).await;
        monitor
    }

    /// QEMU's own picture of the screen.
    async fn dump(&self, monitor: &mut Monitor) -> (usize, usize, Vec<u8>) {
        let file = self.path("screen.ppm");
        monitor.ask("screendump", json!({"filename": file.to_str().unwrap()})).await;
        ppm(&std::fs::read(file).unwrap())
    }
}

async fn dial(path: &Path) -> UnixStream {
    let dialling = async {
        loop {
            match UnixStream::connect(path).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, dialling).await.unwrap()
}

struct Monitor(BufReader<UnixStream>);

impl Monitor {
    async fn line(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }

    async fn ask(&mut self, execute: &str, arguments: Value) -> Value {
        let question = json!({"execute": execute, "arguments": arguments}).to_string() + "\n";
        self.0.get_mut().write_all(question.as_bytes()).await.unwrap();
        loop {
            let answer = self.line().await;
            assert!(answer.get("error").is_none(), "{execute}: {answer}");
            if let Some(result) = answer.get("return") {
                return result.clone();
            }
        }
    }
}

/// A binary PPM: `P6 width height 255` and the pixels.
fn ppm(file: &[u8]) -> (usize, usize, Vec<u8>) {
    let mut parts = file.splitn(4, |byte| *byte == b'\n');
    assert_eq!(parts.next().unwrap(), b"P6");
    let size = String::from_utf8(parts.next().unwrap().to_vec()).unwrap();
    assert_eq!(parts.next().unwrap(), b"255");
    let (width, height) = size.split_once(' ').unwrap();
    (width.parse().unwrap(), height.parse().unwrap(), parts.next().unwrap().to_vec())
}

fn equal(shot: &Screenshot, dump: &(usize, usize, Vec<u8>)) -> bool {
    (shot.width, shot.height) == (dump.0, dump.1) && shot.rgb == dump.2
}

/// What the firmware left on the screen, over each version of the protocol.
#[tokio::test]
async fn a_screenshot_is_what_qemu_itself_dumps() {
    let Some(machine) = Machine::start(&[]) else { return };
    let mut monitor = machine.monitor().await;
    let mut rfb = machine.rfb(RfbVersion::V3_8).await;
    assert!(rfb.name().starts_with("QEMU"), "{}", rfb.name());
    rfb.wait_stable(Duration::from_secs(4), PATIENCE).await.unwrap();
    // The firmware has said that there is nothing to boot: not one colour only.
    let shot = rfb.screenshot().await.unwrap();
    assert!(shot.rgb.chunks(3).any(|pixel| pixel != &shot.rgb[..3]), "the screen is empty");
    // Stopped, nothing blinks: what both see is one moment.
    monitor.ask("stop", json!({})).await;
    for version in [RfbVersion::V3_3, RfbVersion::V3_7, RfbVersion::V3_8] {
        let shot = machine.rfb(version).await.screenshot().await.unwrap();
        let dump = machine.dump(&mut monitor).await;
        assert!(equal(&shot, &dump), "{version}: {shot:?} against {}x{}", dump.0, dump.1);
        let file = shot.to_png().unwrap();
        assert!(file.starts_with(b"\x89PNG\r\n\x1a\n"), "{version}");
    }
}

/// A boot sector that echoes what the BIOS reads from the keyboard.
///
/// ```text
/// xor ah,ah; int 16h               ; read a key
/// mov ah,0eh; xor bx,bx; int 10h   ; write it
/// mov dx,0e9h; out dx,al           ; and to QEMU's debug port, for the test
/// jmp 0
/// ```
const ECHO: [u8; 16] = [
    0x30, 0xe4, 0xcd, 0x16, 0xb4, 0x0e, 0x31, 0xdb, 0xcd, 0x10, 0xba, 0xe9, 0x00, 0xee, 0xeb, 0xf0,
];

#[tokio::test]
async fn what_is_typed_arrives_in_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, heard) = (folder.path().join("boot.raw"), folder.path().join("heard"));
    let mut sector = vec![0; 1 << 20];
    sector[..ECHO.len()].copy_from_slice(&ECHO);
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    std::fs::write(&disk, sector).unwrap();
    let drive = format!("file={},format=raw,if=ide", disk.display());
    let port = format!("file,id=heard,path={}", heard.display());
    let more =
        ["-drive", &drive, "-chardev", &port, "-device", "isa-debugcon,iobase=0xe9,chardev=heard"];
    let Some(machine) = Machine::start(&more) else { return };
    let mut rfb = machine.rfb(RfbVersion::V3_8).await;
    let until = tokio::time::Instant::now() + PATIENCE;
    // The firmware drops keys until the boot sector reads them.
    while !std::fs::read(&heard).unwrap_or_default().ends_with(b".") {
        assert!(tokio::time::Instant::now() < until, "the guest reads no key");
        rfb.type_text(".").await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let dots = std::fs::read(&heard).unwrap().len();
    let before = rfb.screenshot().await.unwrap();
    let line: String = (' '..='~').collect();
    rfb.type_text(&line).await.unwrap();
    rfb.run(&BootCommand::parse("<leftCtrlOn>c<leftCtrlOff><wait1>!<tab><enter>").unwrap())
        .await
        .unwrap();
    let expected = line + "\u{3}!\t\r";
    while std::fs::read(&heard).unwrap().len() < dots + expected.len() {
        assert!(tokio::time::Instant::now() < until + PATIENCE, "some keys are lost");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let typed = std::fs::read(&heard).unwrap();
    assert_eq!(String::from_utf8_lossy(&typed[dots..]), expected);
    rfb.wait_stable(Duration::from_secs(2), PATIENCE).await.unwrap();
    assert_ne!(rfb.screenshot().await.unwrap(), before, "and it shows");
}
