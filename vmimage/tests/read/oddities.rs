//! Oddities of real files, one by one.

use std::fs;
use std::path::PathBuf;

use vmimage::{ErrorKind, Format, OpenOptions, SizePolicy, Subformat, Verdict, check, info, open};

use crate::builder::{Block, Kind, Layer, seal};

pub(crate) fn layer() -> Layer {
    let mut layer = Layer::new(Kind::Dynamic, 5 * 4096, 4096);
    for i in [1, 3] {
        layer.blocks.insert(i, Block { held: vec![true; 8], data: vec![i as u8; 4096] });
    }
    layer.order = vec![3, 1];
    layer
}

struct Sample(tempfile::TempDir);

impl Sample {
    fn new(bytes: &[u8]) -> Self {
        let sample = Self(tempfile::tempdir().unwrap());
        fs::write(sample.path(), bytes).unwrap();
        sample
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("image")
    }

    fn open(&self) -> vmimage::Result<vmimage::Image> {
        open(self.path(), &OpenOptions::new())
    }

    fn kind(&self) -> ErrorKind {
        let error = self.open().unwrap_err();
        assert!(!error.to_string().contains('\n'));
        error.kind()
    }

    fn verdict(&self) -> (Verdict, Vec<&'static str>) {
        let report = check(self.path(), &OpenOptions::new()).unwrap();
        (report.verdict(), report.findings().iter().map(|f| f.code).collect())
    }

    fn content(&self) -> Vec<u8> {
        let image = self.open().unwrap();
        let disk = &image.disks()[0];
        let mut all = vec![9; disk.virtual_size() as usize];
        disk.read_exact_at(&mut all, 0).unwrap();
        all
    }
}

#[test]
fn a_sound_file_is_sound() {
    let sample = Sample::new(&layer().build());
    assert_eq!(sample.verdict(), (Verdict::Sound, vec![]));
    let image = sample.open().unwrap();
    let info = image.info();
    assert_eq!((info.format(), info.subformat()), (Format::Vhd, Some(Subformat::Dynamic)));
    assert_eq!((info.virtual_size(), info.current_size()), (5 * 4096, Some(5 * 4096)));
    assert_eq!((info.creator(), info.block_size()), (Some("caml"), Some(4096)));
    assert_eq!(info.disks().len(), 1);
    assert!(info.parent().is_none());
}

#[test]
fn a_footer_is_found_where_it_is() {
    let (bytes, view) = (layer().build(), layer().view(&[]));
    // 511 bytes at the end.
    let short = Sample::new(&bytes[..bytes.len() - 1]);
    assert_eq!(short.content(), view);
    assert_eq!(short.verdict().1, ["footer-short"]);
    // Only the copy at the start: gone, or damaged.
    let gone = Sample::new(&bytes[..bytes.len() - 512]);
    assert_eq!(gone.content(), view);
    assert_eq!(gone.verdict(), (Verdict::Findings, vec!["footer-missing"]));
    let mut damaged = bytes.clone();
    let end = damaged.len() - 512;
    damaged[end + 50] ^= 0xff;
    let damaged = Sample::new(&damaged);
    assert_eq!(damaged.content(), view);
    assert_eq!(damaged.verdict(), (Verdict::Findings, vec!["footer-damaged"]));
    // Only the one at the end.
    let mut copyless = bytes.clone();
    copyless[..8].fill(0);
    let copyless = Sample::new(&copyless);
    assert_eq!(copyless.content(), view);
    assert_eq!(copyless.verdict(), (Verdict::Findings, vec!["footer-copy-missing"]));
    // Two sound footers that tell different stories.
    let mut other = layer();
    other.size = 4 * 4096;
    let mut mixed = bytes;
    mixed[..512].copy_from_slice(&other.footer());
    let (verdict, codes) = Sample::new(&mixed).verdict();
    assert_eq!((verdict, codes), (Verdict::Corrupt, vec!["footer-mismatch"]));
}

#[test]
fn a_fixed_disk_shows_itself_at_its_end_only() {
    let mut fixed = Layer::new(Kind::Fixed, 10 * 512, 4096);
    fixed.blocks.insert(0, Block { held: vec![true; 8], data: vec![5; 4096] });
    let sample = Sample::new(&fixed.build());
    assert_eq!(sample.open().unwrap().info().subformat(), Some(Subformat::Fixed));
    assert_eq!(sample.content(), fixed.view(&[]));
    assert_eq!(sample.verdict().0, Verdict::Sound);
    let bytes = fixed.build();
    let short = Sample::new(&bytes[512..]);
    assert_eq!(short.kind(), ErrorKind::Truncated);
    assert_eq!(short.verdict().0, Verdict::Corrupt);
}

#[test]
fn damage_is_refused_and_reported() {
    let bytes = layer().build();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        let sample = Sample::new(&bytes);
        let (verdict, codes) = sample.verdict();
        assert_eq!(verdict, Verdict::Corrupt, "{codes:?}");
        (sample.kind(), codes)
    };
    let entry = |index: usize| 1536 + 4 * index;
    // A block past the end of the file; a table cut off.
    let (kind, codes) = with(&|b| b[entry(1)] = 0x7f);
    assert_eq!((kind, codes), (ErrorKind::Truncated, vec!["block-outside"]));
    let (kind, _) = with(&|b| b.truncate(1540));
    assert_eq!(kind, ErrorKind::Truncated);
    let (kind, codes) = with(&|b| b.truncate(b.len() - 2000));
    assert_eq!((kind, codes), (ErrorKind::Truncated, vec!["footer-missing", "block-outside"]));
    // Two blocks in one place; a block on the tables.
    let (kind, codes) = with(&|b| b.copy_within(entry(1)..entry(2), entry(3)));
    assert_eq!((kind, codes), (ErrorKind::Corrupt, vec!["block-overlap"]));
    let (kind, codes) = with(&|b| b[entry(1)..entry(2)].copy_from_slice(&[0, 0, 0, 1]));
    assert_eq!((kind, codes[0]), (ErrorKind::Corrupt, "block-on-tables"));
    // A header without its checksum.
    let (kind, codes) = with(&|b| b[512 + 58] = 1);
    assert_eq!((kind, codes), (ErrorKind::Corrupt, vec!["header-checksum"]));
    // A BAT that is too short for the disk.
    let (kind, _) = with(&|b| {
        b[512 + 31] = 4;
        seal(&mut b[512..1536], 36);
    });
    assert_eq!(kind, ErrorKind::Corrupt);
}

#[test]
fn what_is_disabled_encrypted_or_ancient_is_refused() {
    let mut bytes = layer().build();
    let end = bytes.len() - 512;
    bytes[end..end + 8].copy_from_slice(b"v_poison");
    assert_eq!(Sample::new(&bytes).kind(), ErrorKind::Unsupported);
    let mut ancient = layer();
    ancient.creator = (*b"tap\0", 1);
    assert_eq!(Sample::new(&ancient.build()).kind(), ErrorKind::Unsupported);
    let mut tap = layer();
    tap.creator = (*b"tap\0", 0x0001_0003);
    let mut bytes = tap.build();
    assert_eq!(Sample::new(&bytes).verdict().0, Verdict::Sound);
    let batmap = 2048;
    assert_eq!(&bytes[batmap..batmap + 8], b"tdbatmap");
    bytes[batmap + 29] = 1;
    assert_eq!(Sample::new(&bytes).kind(), ErrorKind::Unsupported);
}

#[test]
fn a_batmap_is_trusted_only_if_its_sum_fits() {
    let mut tap = layer();
    tap.creator = (*b"tap\0", 0x0001_0003);
    // The batmap says that block 1 is full; its bitmap says that it is not.
    let mut bytes = tap.build();
    let at = u32::from_be_bytes(bytes[1540..1544].try_into().unwrap()) as usize * 512;
    bytes[at] = 0x0f;
    assert!(Sample::new(&bytes).verdict().1.contains(&"batmap-bitmap"));
    // Damaged, it is ignored, and the bitmap counts.
    bytes[2048 + 512] ^= 1;
    let sample = Sample::new(&bytes);
    assert!(sample.verdict().1.contains(&"batmap-damaged"));
    let content = sample.content();
    assert_eq!((content[4096], content[4096 + 4 * 512]), (0, 1));
    // Missing, it is missed, and nothing else changes.
    let mut bytes = tap.build();
    bytes[2048..2056].fill(0);
    let sample = Sample::new(&bytes);
    assert_eq!(sample.verdict(), (Verdict::Findings, vec!["batmap-missing"]));
    assert_eq!(sample.content(), layer().view(&[]));
}

#[test]
fn a_zero_bit_over_data_is_reported() {
    let mut layer = layer();
    layer.blocks.get_mut(&3).unwrap().held[2] = false;
    let sample = Sample::new(&layer.build());
    assert_eq!(sample.content(), layer.view(&[]));
    let (verdict, codes) = sample.verdict();
    assert_eq!((verdict, codes), (Verdict::Findings, vec!["zero-bit-over-data"]));
    layer.blocks.get_mut(&3).unwrap().data[1024..1536].fill(0);
    assert_eq!(Sample::new(&layer.build()).verdict().0, Verdict::Sound);
}

#[test]
fn harmless_oddities_are_findings() {
    let codes = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = layer().build();
        let end = bytes.len() - 512;
        change(&mut bytes);
        bytes.copy_within(0..512, end);
        seal(&mut bytes[..512], 64);
        seal(&mut bytes[end..], 64);
        seal(&mut bytes[512..1536], 36);
        let sample = Sample::new(&bytes);
        assert_eq!(sample.content(), layer().view(&[]));
        let (verdict, codes) = sample.verdict();
        assert_eq!(verdict, Verdict::Findings, "{codes:?}");
        codes
    };
    assert_eq!(codes(&|b| b[24..28].fill(0xff)), ["timestamp-future"]);
    assert_eq!(codes(&|b| b[56..60].fill(0x10)), ["geometry-too-large"]);
    assert_eq!(codes(&|b| b[68..84].fill(0)), ["footer-uuid"]);
    assert_eq!(codes(&|b| b[11] = 0), ["footer-features"]);
    assert_eq!(codes(&|b| b[85] = 7), ["footer-flags"]);
    assert_eq!(codes(&|b| b[400] = 7), ["footer-reserved"]);
    assert_eq!(codes(&|b| b[512 + 800] = 7), ["header-reserved"]);
    assert_eq!(codes(&|b| b[512 + 8] = 7), ["header-data-offset"]);
    assert_eq!(codes(&|b| b[512 + 40] = 7), ["parent-unexpected"]);
}

#[test]
fn hidden_and_grown_files_are_read() {
    let mut hidden = layer();
    hidden.hidden = 1;
    assert_eq!(Sample::new(&hidden.build()).verdict().0, Verdict::Sound);
    // LVHD: the footer is at the end of the volume, far from the last block.
    let mut volume = layer();
    volume.gap = 40 * 512;
    let sample = Sample::new(&volume.build());
    assert_eq!(sample.content(), layer().view(&[]));
    assert_eq!(sample.verdict().0, Verdict::Sound);
}

#[test]
fn sizes_follow_the_policy() {
    let mut bytes = layer().build();
    let end = bytes.len() - 512;
    for at in [0, end] {
        bytes[at + 56..at + 60].copy_from_slice(&[0, 2, 2, 2]);
        bytes[at + 28..at + 32].copy_from_slice(b"vpc ");
        seal(&mut bytes[at..at + 512], 64);
    }
    let sample = Sample::new(&bytes);
    let size = |policy| {
        let options = OpenOptions::new().size_policy(policy);
        let image = open(sample.path(), &options).unwrap();
        assert_eq!(image.info().geometry_size(), Some(4096));
        assert_eq!(
            info(sample.path(), &options).unwrap().virtual_size(),
            image.info().virtual_size()
        );
        image.disks()[0].virtual_size()
    };
    assert_eq!(size(SizePolicy::CurrentSize), 5 * 4096);
    assert_eq!(size(SizePolicy::Geometry), 4096);
    assert_eq!(size(SizePolicy::QemuCompat), 4096);
}

#[test]
fn lenient_reading_survives_a_wrong_checksum() {
    let mut bytes = layer().build();
    let end = bytes.len() - 512;
    bytes[64] ^= 1;
    bytes[end + 64] ^= 1;
    let sample = Sample::new(&bytes);
    assert_eq!(sample.kind(), ErrorKind::Corrupt);
    let image = open(sample.path(), &OpenOptions::new().lenient(true)).unwrap();
    assert_eq!(image.info().findings()[0].code, "footer-checksum");
}

#[test]
fn other_formats_are_named_not_read_as_raw() {
    let mut tar = vec![0; 1024];
    tar[..7].copy_from_slice(b"ova.xml");
    let samples: &[(&[u8], &str)] = &[
        (&tar, "XVA"),
        (b"\x1f\x8b\x08 and so on", "gzip"),
        (b"PK\x03\x04....", "zip"),
        (b"vhdxfile....", "VHDX"),
        (b"KDMV....", "VMDK"),
        (b"\x28\xb5\x2f\xfd....", "zstd"),
        (b"", "empty"),
    ];
    for (bytes, word) in samples {
        let sample = Sample::new(bytes);
        let error = sample.open().unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    // A tar archive that is none of ours is not taken for a disk.
    tar[257..262].copy_from_slice(b"ustar");
    tar[0] = b'x';
    assert!(Sample::new(&tar).open().unwrap_err().to_string().contains("tar archive"));
    let gzip = Sample::new(b"\x1f\x8b\x08 and so on");
    let raw = open(gzip.path(), &OpenOptions::new().with_format(Format::Raw)).unwrap();
    assert_eq!(raw.disks()[0].virtual_size(), 13);
}

#[test]
fn only_files_and_block_devices_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    let kind = |path: &std::path::Path| open(path, &OpenOptions::new()).unwrap_err().kind();
    assert_eq!(kind(dir.path()), ErrorKind::Usage);
    assert_eq!(kind("/dev/zero".as_ref()), ErrorKind::Usage);
    assert_eq!(kind(&dir.path().join("none")), ErrorKind::Io);
}

/// BAT entries beyond 2^31 sectors: a sparse file of more than 1 TiB.
#[test]
fn blocks_beyond_one_tebibyte_are_reached() {
    use std::os::unix::fs::FileExt;
    let mut layer = Layer::new(Kind::Dynamic, 2 << 20, 2 << 20);
    let block = Block { held: vec![true; 4096], data: vec![7; 2 << 20] };
    layer.blocks.insert(0, block);
    layer.order = vec![0];
    let bytes = layer.build();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("far.vhd");
    let file = fs::File::create(&path).unwrap();
    let far: u64 = 0xC000_0000 * 512;
    let mut tables = bytes[..2048].to_vec();
    tables[1536..1540].copy_from_slice(&0xC000_0000_u32.to_be_bytes());
    let written = file
        .write_all_at(&tables, 0)
        .and_then(|()| file.write_all_at(&bytes[2048..2048 + 512 + (2 << 20)], far))
        .and_then(|()| file.write_all_at(&layer.footer(), far + 512 + (2 << 20)));
    if let Err(e) = written {
        println!("skipped: the file system takes no file of 1.5 TiB ({e})");
        return;
    }
    let image = open(&path, &OpenOptions::new()).unwrap();
    let mut sector = [0; 512];
    image.disks()[0].read_exact_at(&mut sector, 1 << 20).unwrap();
    assert_eq!(sector, [7; 512]);
}
