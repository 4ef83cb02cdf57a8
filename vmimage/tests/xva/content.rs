//! Byte-exact content, by every way of reading.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use vmimage::xva::{DiskChoice, Ova, XvaEvent, XvaFile, XvaParser, XvaStream, examine, probe};
use vmimage::{Disk, ExtentKind, Findings, GRANULE, Policy, ReadAt, Scan, Verdict};

use crate::shape::{Sample, all, assert_no_data, drain, sample, samples};

fn open_file(sample: &Sample) -> (XvaFile, Findings) {
    let mut findings = Findings::new(Policy::Strict);
    let file: Arc<dyn ReadAt> = Arc::new(File::open(&sample.archive).unwrap());
    (XvaFile::open(file, &mut findings).unwrap(), findings)
}

/// Compares in reads of `step` bytes, over the data and around it.
fn compare(disk: &dyn Disk, raw: &File, step: usize) {
    let size = disk.virtual_size();
    let (mut ours, mut theirs) = (vec![0; step], vec![0; step]);
    let mut at = 0;
    while at < size {
        let extent = disk.extent_at(at).unwrap();
        assert!(extent.offset == at && extent.len > 0);
        if extent.kind == ExtentKind::Zero {
            assert_no_data(raw, at, at + extent.len);
        }
        let n = (size - at).min(step as u64) as usize;
        disk.read_exact_at(&mut ours[..n], at).unwrap();
        raw.read_exact_at(&mut theirs[..n], at).unwrap();
        assert!(ours[..n] == theirs[..n], "differs in {n} bytes at {at}");
        at += if extent.len > 100 << 20 { extent.len } else { n as u64 };
    }
}

#[test]
fn disks_are_what_an_importer_makes_of_them() {
    for sample in all() {
        let (xva, findings) = open_file(&sample);
        let disk = xva.disks().iter().find(|d| d.reference() == sample.reference).unwrap();
        assert_eq!(disk.virtual_size(), sample.size, "{}", sample.name);
        let raw = File::open(&sample.raw).unwrap();
        for step in [1 << 20, 2 << 20, 65536, 300_001] {
            compare(disk.as_ref(), &raw, step);
        }
        let expected: &[&str] = match sample.name.as_str() {
            "sha1" => &["unknown-member"],
            _ => &[],
        };
        let codes: Vec<_> = findings.list().iter().map(|f| f.code).collect();
        assert_eq!(codes, expected, "{}", sample.name);
        assert!(xva.late_findings().is_empty());
    }
}

#[test]
fn streams_give_the_same_whole_or_in_bits() {
    for sample in all() {
        let raw = File::open(&sample.raw).unwrap();
        let which = DiskChoice::Reference(sample.reference.clone());
        let mut stream =
            XvaStream::new(File::open(&sample.archive).unwrap(), which.clone()).unwrap();
        assert_eq!(stream.virtual_size(), (sample.name != "vdi").then_some(sample.size));
        drain(&mut stream, &raw).unwrap();
        if sample.name == "small" {
            let bits = Bits(std::fs::read(&sample.archive).unwrap(), 0);
            drain(&mut XvaStream::new(bits, which).unwrap(), &raw).unwrap();
        }
    }
}

/// A reader that gives seven bytes at a time.
struct Bits(Vec<u8>, usize);

impl Read for Bits {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = buf.len().min(7).min(self.0.len() - self.1);
        buf[..n].copy_from_slice(&self.0[self.1..self.1 + n]);
        self.1 += n;
        Ok(n)
    }
}

#[test]
fn the_parser_does_not_care_how_the_bytes_are_cut() {
    let (Some(bytes), Some(folder)) = (sample("xxhash"), samples()) else { return };
    let raw = std::fs::read(folder.join("xxhash-Ref:9.raw")).unwrap();
    for piece in [bytes.len(), 1 << 20, 100_001, 511] {
        let mut parser = XvaParser::new(Findings::new(Policy::Strict));
        let (mut disk, mut at, mut chosen) = (vec![0; raw.len()], 0, false);
        let (mut chunks, mut ends, mut ova) = (0, 0, None);
        let mut sink = |event: XvaEvent<'_>| {
            match event {
                XvaEvent::OvaXml(xml) => ova = Some(Ova::parse(xml, &mut Findings::default())?),
                XvaEvent::ChunkStart(head) => {
                    chunks += 1;
                    // The second disk of the archive.
                    chosen = head.disk == 1;
                    at = head.offset as usize;
                }
                XvaEvent::Data(data) if chosen => {
                    disk[at..at + data.len()].copy_from_slice(data);
                    at += data.len();
                }
                XvaEvent::ChunkEnd { verified, .. } => {
                    assert!(verified);
                    chunks -= 1;
                }
                XvaEvent::End => ends += 1,
                _ => {}
            }
            Ok(())
        };
        for part in bytes.chunks(piece) {
            parser.push(part, &mut sink).unwrap();
        }
        parser.finish(&mut sink).unwrap();
        assert_eq!((chunks, ends), (0, 1));
        assert_eq!(ova.unwrap().disks().len(), 2);
        assert!(disk == raw, "in pieces of {piece}");
        assert_eq!(parser.references().collect::<Vec<_>>(), ["Ref:10", "Ref:9"]);
    }
}

#[test]
fn the_description_is_there() {
    let Some(sample) = all().into_iter().find(|s| s.name == "xxhash") else { return };
    let (xva, _) = open_file(&sample);
    let vm = xva.ova().unwrap().vm().unwrap();
    assert_eq!(vm.name_label, "web <01> & co");
    assert!(vm.is_uefi() && vm.is_hvm());
    let names: Vec<_> = xva.disks().iter().map(|d| d.reference()).collect();
    assert_eq!(names, ["Ref:10", "Ref:9"]);
    let record = xva.disks()[1].record().unwrap();
    assert_eq!((record.name.as_str(), record.userdevice.as_deref()), ("disk 0", Some("0")));
    assert!(record.bootable);
    let map = xva.disks()[1].block_map().unwrap();
    // Chunks 0, 3, 4 and the last; the zeros between them are known.
    assert_eq!(map.allocated(), 4 << 20);
    assert!(!map.any(1 << 20..3 << 20) && map.any(3 << 20..(3 << 20) + GRANULE));
}

#[test]
fn disks_are_chosen_by_index_name_or_device() {
    let Some(bytes) = sample("xxhash") else { return };
    let choose = |which| {
        let stream = crate::shape::stream(bytes.clone(), which, Policy::Strict)?;
        Ok::<_, vmimage::Error>(stream.disk().unwrap().reference.clone())
    };
    assert_eq!(choose(DiskChoice::Index(0)).unwrap(), "Ref:10");
    assert_eq!(choose(DiskChoice::Device("0".into())).unwrap(), "Ref:9");
    assert_eq!(choose(DiskChoice::Reference("Ref:9".into())).unwrap(), "Ref:9");
    for which in [
        DiskChoice::Only,
        DiskChoice::Index(2),
        DiskChoice::Device("3".into()),
        DiskChoice::Reference("Ref:1".into()),
    ] {
        let error = choose(which).unwrap_err();
        assert_eq!(error.kind(), vmimage::ErrorKind::Usage);
        assert!(error.to_string().contains("Ref:9 (\"disk 0\", device \"0\""), "{error}");
    }
    // Without a description only the end tells that a disk is not there.
    let vdi = sample("vdi").unwrap();
    for which in [DiskChoice::Only, DiskChoice::Index(0), DiskChoice::Reference("vdi".into())] {
        crate::shape::swallow(vdi.clone(), which, Policy::Strict).unwrap();
    }
    for which in [DiskChoice::Index(1), DiskChoice::Device("0".into())] {
        let error = crate::shape::swallow(vdi.clone(), which, Policy::Strict).unwrap_err();
        assert_eq!(error.kind(), vmimage::ErrorKind::Usage);
    }
}

#[test]
fn sound_archives_are_reported_sound() {
    for sample in all() {
        let mut findings = Findings::new(Policy::Lenient);
        examine(Arc::new(File::open(&sample.archive).unwrap()), &mut findings).unwrap();
        let expected = match sample.name.as_str() {
            "sha1" | "padded" => Verdict::Findings,
            _ => Verdict::Sound,
        };
        let report = vmimage::Report::new(findings);
        assert_eq!(report.verdict(), expected, "{}: {:?}", sample.name, report.findings());
        let bytes = std::fs::read(&sample.archive).unwrap();
        assert!(probe(&bytes) && !probe(&bytes[..511]) && !probe(&bytes[512..]));
    }
}

#[test]
fn a_written_description_is_read_by_python() {
    let xml = Ova::minimal("a & b", &[("Ref:5", 1 << 40)]).to_xml();
    let script = "import sys,xmlrpc.client as x\n\
        d=x.loads('<params><param>'+sys.argv[1].split('\\n',1)[1]+'</param></params>')[0][0]\n\
        o={e['class']:e['snapshot'] for e in d['objects']}\n\
        print(o['VM']['name_label'],o['VDI']['virtual_size'],o['VBD']['bootable'],len(o['VM'])>80)";
    if let Some(answer) = crate::common::tool_ok("python3", &["-c", script, &xml]) {
        assert_eq!(answer.trim(), "a & b 1099511627776 True True");
    }
}
