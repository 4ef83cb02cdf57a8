//! Damaged and hostile archives: a typed error, whatever is wrong.

use std::io::Read;
use std::sync::Arc;

use vmimage::xva::{DiskChoice, XvaEvent, XvaParser, XvaStream, examine};
use vmimage::{Disk, Error, ErrorKind, Findings, Policy, Report, Result, Scan, Verdict};

use crate::shape::{end, member, open, plain, sample, stream, swallow};

/// Every way of reading a whole archive; each must answer, and none may panic.
fn read_all(bytes: &[u8], policy: Policy) -> [Result<()>; 3] {
    let by_index = |bytes: Vec<u8>| {
        let (xva, _) = open(bytes, policy)?;
        for disk in xva.disks() {
            let n = disk.virtual_size().min(20_000_000);
            let mut buf = vec![0; n as usize];
            disk.read_exact_at(&mut buf, 0)?;
            for part in buf.chunks_mut(3000).take(5) {
                disk.read_exact_at(part, disk.virtual_size() - part.len() as u64)?;
            }
        }
        Ok(())
    };
    let pushed = || {
        let mut parser = XvaParser::new(Findings::new(policy));
        for part in bytes.chunks(4099) {
            parser.push(part, &mut |_: XvaEvent<'_>| Ok(()))?;
        }
        parser.finish(&mut |_| Ok(()))
    };
    let streamed = swallow(bytes.to_vec(), DiskChoice::Index(1), policy).map(|_| ());
    [by_index(bytes.to_vec()), streamed, pushed()]
}

fn verdict(bytes: Vec<u8>) -> Result<Report> {
    let mut findings = Findings::new(Policy::Lenient);
    examine(Arc::new(bytes), &mut findings)?;
    Ok(Report::new(findings))
}

fn codes(report: &Report) -> Vec<&'static str> {
    report.findings().iter().map(|f| f.code).collect()
}

#[test]
fn a_cut_archive_is_truncated_wherever_it_is_cut() {
    let Some(bytes) = sample("small") else { return };
    for cut in (0..bytes.len()).step_by(61).chain(bytes.len() - 4..bytes.len()) {
        for error in read_all(&bytes[..cut], Policy::Strict).map(Result::unwrap_err) {
            assert_eq!(error.kind(), ErrorKind::Truncated, "{cut}: {error}");
        }
        // Leniently it is read as far as it goes, or refused.
        read_all(&bytes[..cut], Policy::Lenient).into_iter().for_each(drop);
        if let Ok(report) = verdict(bytes[..cut].to_vec()) {
            assert_eq!(report.verdict(), Verdict::Corrupt, "{cut}");
        }
    }
}

#[test]
fn no_flipped_byte_gets_into_the_data() {
    let Some(bytes) = sample("small") else { return };
    let want = swallow(bytes.clone(), DiskChoice::Index(1), Policy::Strict).unwrap();
    assert_eq!(want, [b'r'; 3000]);
    for at in 0..bytes.len() {
        if at % 7 != 0 && !(at % 512 < 12 || (124..160).contains(&(at % 512))) {
            continue;
        }
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        for policy in [Policy::Strict, Policy::Lenient] {
            for error in read_all(&bad, policy).into_iter().filter_map(Result::err) {
                let kind = error.kind();
                assert!(!matches!(kind, ErrorKind::Io | ErrorKind::Reference), "{at}: {error:?}");
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
        // What is read strictly without a complaint is right.
        if let Ok(data) = swallow(bad.clone(), DiskChoice::Index(1), Policy::Strict) {
            assert_eq!(data.len(), want.len(), "{at}");
            assert!(data == want, "{at}");
        }
        let _ = verdict(bad);
    }
}

/// The offset of the nth block that begins with `start`.
fn find(bytes: &[u8], start: &[u8]) -> usize {
    let at = bytes.chunks(512).position(|block| block.starts_with(start));
    at.unwrap() * 512
}

#[test]
fn the_complaint_names_disk_chunk_and_offset() {
    let Some(mut bytes) = sample("xxhash") else { return };
    let data = find(&bytes, b"Ref:9/00000005\0") + 512;
    bytes[data + 777_777] ^= 1;
    let read = |at: u64, len: usize| {
        let (xva, _) = open(bytes.clone(), Policy::Strict).unwrap();
        xva.disks()[1].read_exact_at(&mut vec![0; len], at)
    };
    for error in [
        read(3 << 20, 1 << 20).unwrap_err(),
        read((3 << 20) + 5, 10).unwrap_err(),
        swallow(bytes.clone(), DiskChoice::Index(1), Policy::Strict).unwrap_err(),
        // It also spoils the other disk: the archive is not whole.
        swallow(bytes.clone(), DiskChoice::Index(0), Policy::Strict).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let text = error.to_string();
        assert!(text.contains("Ref:9") && text.contains("3145728"), "{text}");
        assert!(error.offset().is_some());
    }
    read(0, 3 << 20).unwrap();
    // Leniently the data come, with a finding.
    let (xva, findings) = open(bytes.clone(), Policy::Lenient).unwrap();
    xva.disks()[1].read_exact_at(&mut vec![0; 9 << 20], 0).unwrap();
    assert!(findings.list().is_empty());
    assert_eq!(xva.late_findings()[0].code, "checksum-mismatch");
    let mut lenient = stream(bytes.clone(), DiskChoice::Index(1), Policy::Lenient).unwrap();
    let mut buf = Vec::new();
    while lenient.next_piece(&mut buf).unwrap().is_some() {}
    assert_eq!(lenient.findings().list()[0].code, "checksum-mismatch");
    assert_eq!(codes(&verdict(bytes).unwrap()), ["checksum-mismatch"]);
}

#[test]
fn damage_in_one_place_leaves_the_rest_readable() {
    let Some(good) = sample("xxhash") else { return };
    let chunk = find(&good, b"Ref:9/00000005\0");
    let sum = find(&good, b"Ref:9/00000005.xxhash");
    // A chunk's header is destroyed: its data are lost, the rest is found again.
    let mut bad = good.clone();
    bad[chunk..chunk + 512].fill(0x55);
    let report = verdict(bad.clone()).unwrap();
    assert_eq!(codes(&report), ["tar-header", "checksum-misplaced"]);
    let (xva, _) = open(bad.clone(), Policy::Lenient).unwrap();
    let (whole, _) = open(good.clone(), Policy::Strict).unwrap();
    let read = |xva: &vmimage::xva::XvaFile| {
        let mut buf = vec![0; 9 << 20];
        xva.disks()[1].read_exact_at(&mut buf, 0).unwrap();
        buf
    };
    let (mut want, got) = (read(&whole), read(&xva));
    want[3 << 20..4 << 20].fill(0);
    assert!(want == got);
    assert_eq!(open(bad, Policy::Strict).unwrap_err().kind(), ErrorKind::Corrupt);
    // A checksum is missing: cut out.
    let cut = [&good[..sum], &good[sum + 1024..]].concat();
    assert_eq!(codes(&verdict(cut.clone()).unwrap()), ["checksum-missing"]);
    for error in read_all(&cut, Policy::Strict).map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("has no checksum"), "{error}");
    }
    // A checksum is no number; a chunk comes twice; the last chunk is missing.
    let mut odd = good.clone();
    odd[sum + 512] = b'x';
    assert_eq!(codes(&verdict(odd).unwrap()), ["checksum-damaged"]);
    let twice = [&good[..sum + 1024], &good[chunk..]].concat();
    let report = verdict(twice.clone()).unwrap();
    assert_eq!(codes(&report), ["chunk-order", "checksum-misplaced"]);
    assert_eq!(open(twice, Policy::Strict).unwrap_err().kind(), ErrorKind::Corrupt);
    let last = find(&good, b"Ref:9/00000011\0");
    let short = [&good[..last], &end()].concat();
    assert_eq!(codes(&verdict(short.clone()).unwrap()), ["last-chunk-missing"]);
    for error in read_all(&short, Policy::Strict).into_iter().take(2).map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::Truncated, "{error}");
    }
}

#[test]
fn a_name_of_a_lost_member_is_lost_with_it() {
    let Some(good) = sample("small") else { return };
    let first = find(&good, b"Ref:3/00000000\0");
    let mut long = plain("././@LongLink", b"Ref:9/00000000");
    long[156] = b'L';
    let sum = long[..512].iter().map(|&b| u32::from(b)).sum::<u32>();
    let stored: u32 = long[148..154].iter().map(|&b| u32::from(b)).sum();
    // The sum is taken with blanks for itself.
    let sum = sum - stored - u32::from(b' ') + 8 * u32::from(b' ');
    long[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    let bytes = [&good[..first], &long, &[0x55; 512], &good[first..]].concat();
    let (xva, findings) = open(bytes, Policy::Lenient).unwrap();
    assert_eq!(findings.list()[0].code, "tar-header");
    let names: Vec<_> = xva.disks().iter().map(|d| d.reference()).collect();
    assert_eq!(names, ["Ref:3", "Ref:4"]);
}

#[test]
fn records_and_members_must_agree() {
    let Some(good) = sample("small") else { return };
    let first = find(&good, b"Ref:3/00000000\0");
    let second = find(&good, b"Ref:4/00000000\0");
    let without = [&good[..second], &end()].concat();
    assert_eq!(codes(&verdict(without.clone()).unwrap()), ["disk-without-data"]);
    let (xva, findings) = open(without.clone(), Policy::Strict).unwrap();
    assert_eq!((xva.disks().len(), findings.list()[0].code), (1, "disk-without-data"));
    swallow(without.clone(), DiskChoice::Index(0), Policy::Strict).unwrap();
    let error = swallow(without, DiskChoice::Index(1), Policy::Strict).unwrap_err();
    assert!(error.to_string().contains("metadata"), "{error}");
    let more = [&good[..first], &plain("Ref:2/00000000", b""), &good[first..]].concat();
    let report = verdict(more).unwrap();
    assert_eq!(codes(&report), ["chunk-size", "disk-without-record"]);
}

#[test]
fn what_follows_the_end_is_looked_at() {
    let Some(good) = sample("small") else { return };
    let padded = [&good[..], &[0; 9000]].concat();
    assert_eq!(verdict(padded.clone()).unwrap().verdict(), Verdict::Sound);
    read_all(&padded, Policy::Strict).into_iter().for_each(|r| r.unwrap());
    let more = [&padded[..], b"x"].concat();
    assert_eq!(codes(&verdict(more.clone()).unwrap()), ["trailing-data"]);
    for error in read_all(&more, Policy::Strict).map(Result::unwrap_err) {
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(padded.len() as u64)));
    }
}

#[test]
fn zeros_without_end_come_to_an_end() {
    let Some(good) = sample("small") else { return };
    let endless = std::io::Cursor::new(good).chain(std::io::repeat(0));
    let mut stream = XvaStream::new(endless, DiskChoice::Index(0)).unwrap();
    let mut buf = Vec::new();
    let error = loop {
        match stream.next_piece(&mut buf) {
            Ok(Some(_)) => {}
            Ok(None) => panic!("an endless archive was proved whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("without end"), "{error}");
}

fn refused(bytes: &[u8]) -> Vec<Error> {
    read_all(bytes, Policy::Lenient).into_iter().for_each(drop);
    read_all(bytes, Policy::Strict).into_iter().filter_map(Result::err).collect()
}

#[test]
fn hostile_members_are_refused_or_passed_over() {
    let Some(good) = sample("small") else { return };
    let first = find(&good, b"Ref:3/00000000\0");
    let at = |extra: &[u8]| [&good[..first], extra, &good[first..]].concat();
    // Names are names: a member from elsewhere is no path.
    for name in ["../../etc/passwd", "/etc/passwd", "Ref:3/../../x", "\u{1b}[2J"] {
        assert_eq!(refused(&at(&plain(name, b"root"))).len(), 0, "{name}");
        // But nothing of that kind may come first.
        let error = &refused(&plain(name, b"root"))[0];
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(!error.to_string().contains('\u{1b}'));
    }
    // Sizes.
    let base = |n: u64| {
        let mut field = [0_u8; 12];
        field[0] = 0x80;
        field[4..].copy_from_slice(&n.to_be_bytes());
        field
    };
    for (size, kind) in [
        (base(1 << 63), ErrorKind::Corrupt),
        (base(u64::MAX), ErrorKind::Corrupt),
        ([0xff; 12], ErrorKind::Corrupt),
        (base((1 << 63) - 1), ErrorKind::Unsupported),
        (base(1 << 40), ErrorKind::Unsupported),
        (*b"77777777777\0", ErrorKind::Unsupported),
        (base(1 << 30), ErrorKind::Truncated),
    ] {
        let errors = refused(&at(&member("junk", &size, b"")));
        assert_eq!(errors.len(), 3);
        assert!(errors.iter().all(|e| e.kind() == kind), "{errors:?}");
        let errors = refused(&at(&member("Ref:3/00000000", &size, b"")));
        assert_eq!(errors.len(), 3);
        assert!(errors.iter().all(|e| e.kind() == kind || e.kind() == ErrorKind::Unsupported));
    }
    // A counter at its end, and past it.
    let sum = find(&good, b"Ref:3/00000000.xxhash") + 512;
    let digest = &good[sum..sum + 16];
    let data = vec![b'q'; 5000];
    for (number, strict) in
        [("99999999", true), ("9999999999999", false), ("18446744073709551615", false)]
    {
        let name = format!("vdi/{number}");
        let archive = [
            plain("vdi/00000000", &data),
            plain("vdi/00000000.xxhash", digest),
            plain(&name, &data),
            plain(&format!("{name}.xxhash"), digest),
            end(),
        ]
        .concat();
        let got = open(archive.clone(), Policy::Strict);
        assert_eq!(got.is_ok(), strict, "{number}: {got:?}");
        if let Ok((xva, _)) = got {
            assert_eq!(xva.disks()[0].virtual_size(), 99_999_999 * 5000 + 5000);
        }
        assert_eq!(verdict(archive).unwrap().verdict() == Verdict::Sound, strict);
    }
    // More disks than there can be, a chunk that is too long, a description that is too long.
    let many: Vec<u8> = (0..1100).flat_map(|i| plain(&format!("Ref:{i}/00000000"), b"q")).collect();
    assert_eq!(open(many, Policy::Lenient).unwrap_err().kind(), ErrorKind::Unsupported);
    for (name, size) in [("vdi/00000000", (4 << 20) + 1), ("ova.xml", (16 << 20) + 1)] {
        let errors = refused(&member(name, &base(size), b""));
        assert!(errors.iter().all(|e| e.kind() == ErrorKind::Unsupported), "{errors:?}");
    }
    assert_eq!(refused(&[7; 2000])[0].kind(), ErrorKind::Unsupported);
    assert_eq!(refused(&end())[0].kind(), ErrorKind::Unsupported);
    assert_eq!(refused(&[])[0].kind(), ErrorKind::Truncated);
}
