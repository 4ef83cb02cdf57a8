//! What is refused, and what only the lenient reading takes.

use std::fs;
use std::io::Cursor;
use std::path::PathBuf;

use vmimage::vhd::VhdStream;
use vmimage::{ErrorKind, OpenOptions, Verdict, check, open};

use crate::builder::{Rng, seal, utf16le};
use crate::forge::{DIFFERENCING, FIXED, MIB, Made, Recipe, Tail, Text};
use crate::judge;

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

    fn error(&self, lenient: bool) -> vmimage::Error {
        open(self.path(), &OpenOptions::new().lenient(lenient)).unwrap_err()
    }
}

fn tap() -> Recipe {
    Recipe {
        os: [0; 4],
        batmap: Some((0x0001_0002, None)),
        align: 4096,
        full_bits: false,
        ..Recipe::new("tap", b"tap\0", 0x0001_0003, 4 * MIB)
    }
}

fn content_is(made: &Made, sample: &Sample, options: &OpenOptions) {
    let image = open(sample.path(), options).unwrap();
    let view = judge::view(std::slice::from_ref(made), None);
    judge::reads(&*image.disks()[0], &view, &mut Rng::new(9), 5);
}

/// libyal's samples, made with an old qemu: wrong sums in both footers.
#[test]
fn bad_sums_are_read_leniently_only() {
    let lenient = OpenOptions::new().lenient(true);
    for kind in [FIXED, crate::forge::DYNAMIC] {
        let recipe = Recipe {
            kind,
            bad_sums: true,
            ..Recipe::new("libyal", b"qemu", 0x0001_0003, 4 * MIB + 512)
        };
        let made = recipe.make(&mut Rng::new(1));
        let sample = Sample::new(&made.bytes);
        assert_eq!(sample.error(false).kind(), ErrorKind::Corrupt);
        content_is(&made, &sample, &lenient);
        let image = open(sample.path(), &lenient).unwrap();
        assert_eq!(image.info().findings()[0].code, "footer-checksum");
        let report = check(sample.path(), &OpenOptions::new()).unwrap();
        assert_eq!(report.verdict(), Verdict::Corrupt);
    }
}

#[test]
fn version_0_1_of_vhd_util_is_refused() {
    let old = Recipe { version: 1, batmap: None, ..tap() };
    let made = old.make(&mut Rng::new(2));
    for lenient in [false, true] {
        let error = Sample::new(&made.bytes).error(lenient);
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("0.1"), "{error}");
    }
    let error = VhdStream::new(Cursor::new(made.bytes)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    // As a parent it is named in the reason.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("base.vhd"), old.make(&mut Rng::new(2)).bytes).unwrap();
    let child = Recipe {
        kind: DIFFERENCING,
        uuid: [5; 16],
        parent_uuid: old.uuid,
        parent_name: "base.vhd".into(),
        ..tap()
    };
    let tip = dir.path().join("tip.vhd");
    fs::write(&tip, child.make(&mut Rng::new(3)).bytes).unwrap();
    let error = open(&tip, &OpenOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Reference);
    assert!(error.to_string().contains("0.1"), "{error}");
}

#[test]
fn a_key_hash_is_refused_wherever_the_batmap_is() {
    for spare_entries in [0, 1_044_480] {
        for kind in [crate::forge::DYNAMIC, DIFFERENCING] {
            let recipe = Recipe { spare_entries, kind, ..tap() };
            let mut made = recipe.make(&mut Rng::new(3));
            let at = recipe.bat_end() + 29;
            made.bytes[at] = 1;
            for lenient in [false, true] {
                let error = Sample::new(&made.bytes).error(lenient);
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                assert!(error.to_string().contains("key"), "{error}");
            }
        }
    }
}

/// tapdisk poisons the last footer and leaves the copy alone.
#[test]
fn poison_is_refused_at_every_end() {
    let fixed = Recipe { kind: FIXED, ..tap() };
    let volume = Recipe { tail: Tail::Volume(MIB), ..tap() };
    let short = Recipe { tail: Tail::Short, ..tap() };
    for recipe in [tap(), fixed, volume, short] {
        let mut made = recipe.make(&mut Rng::new(4));
        let len = made.bytes.len();
        let end = if recipe.tail == Tail::Short { len - 511 } else { len - 512 };
        made.bytes[end..end + 8].copy_from_slice(b"v_poison");
        for lenient in [false, true] {
            let error = Sample::new(&made.bytes).error(lenient);
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("poison"), "{error}");
        }
    }
    let mut made = tap().make(&mut Rng::new(4));
    made.bytes[..8].copy_from_slice(b"v_poison");
    let error = VhdStream::new(Cursor::new(made.bytes)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// The first sectors of a fixed disk are the guest's: they must not pass for a copy of the footer.
#[test]
fn a_guest_cannot_forge_the_copy_of_a_fixed_disks_footer() {
    let fixed = Recipe { kind: FIXED, ..Recipe::new("fixed", b"win ", 0x0006_0001, 2 * MIB) };
    let inner = Recipe { uuid: [9; 16], ..Recipe::new("inner", b"win ", 0x0006_0001, MIB) };
    let mut made = fixed.make(&mut Rng::new(5));
    let forged = inner.make(&mut Rng::new(6)).bytes;
    made.bytes[..2048].copy_from_slice(&forged[..2048]);
    let whole = Sample::new(&made.bytes);
    let image = open(whole.path(), &OpenOptions::new()).unwrap();
    assert_eq!(image.disks()[0].virtual_size(), 2 * MIB as u64);
    let mut start = [0; 2048];
    image.disks()[0].read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, forged[..2048]);
    // Not even if the real footer is damaged.
    let at = made.bytes.len() - 512 + 30;
    made.bytes[at] ^= 1;
    let damaged = Sample::new(&made.bytes);
    assert_eq!(damaged.error(false).kind(), ErrorKind::Corrupt);
    let image = open(damaged.path(), &OpenOptions::new().lenient(true)).unwrap();
    assert_eq!(image.disks()[0].virtual_size(), 2 * MIB as u64);
}

/// The room of a locator may be given in sectors or in bytes, and its text may end with a null.
#[test]
fn locators_are_read_as_their_writers_mean_them() {
    let base = tap();
    let texts: [(&str, [u8; 4], u32, Vec<u8>); 6] = [
        ("sectors", *b"W2ru", 1, utf16le(".\\base.vhd")),
        ("bytes", *b"W2ru", 512, utf16le(".\\base.vhd")),
        ("nothing", *b"W2ru", 0, utf16le(".\\base.vhd")),
        ("a null", *b"W2ku", 1, utf16le("D:\\x\\base.vhd\0")),
        ("a byte order mark", *b"W2ru", 1, utf16le("\u{feff}base.vhd")),
        ("a null in the URL", *b"MacX", 1, b"file://./base.vhd\0\0".to_vec()),
    ];
    for (name, code, space, text) in texts {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("base.vhd"), base.make(&mut Rng::new(7)).bytes).unwrap();
        let child = Recipe {
            kind: DIFFERENCING,
            uuid: [5; 16],
            parent_uuid: base.uuid,
            texts: vec![Text { code, space, at: 4096, text }],
            ..Recipe::new("child", b"win ", 0x000A_0000, 4 * MIB)
        };
        let tip = dir.path().join("tip.vhd");
        fs::write(&tip, child.make(&mut Rng::new(8)).bytes).unwrap();
        let image = open(&tip, &OpenOptions::new()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(image.parents().len(), 1, "{name}");
    }
}

/// Sizes and block sizes that cannot be, each with sound checksums.
#[test]
fn absurd_numbers_are_typed_errors() {
    let base = Recipe::new("base", b"win ", 0x000A_0000, 4 * MIB);
    let whole = base.make(&mut Rng::new(1)).bytes;
    let end = whole.len() - 512;
    let with = |footer: Option<(usize, &[u8])>, header: Option<(usize, &[u8])>| {
        let mut bytes = whole.clone();
        if let Some((at, value)) = footer {
            for start in [0, end] {
                bytes[start + at..start + at + value.len()].copy_from_slice(value);
                seal(&mut bytes[start..start + 512], 64);
            }
        }
        if let Some((at, value)) = header {
            bytes[512 + at..512 + at + value.len()].copy_from_slice(value);
            seal(&mut bytes[512..1536], 36);
        }
        let sample = Sample::new(&bytes);
        let error = sample.error(false);
        assert!(!error.to_string().contains('\n'));
        for options in [OpenOptions::new(), OpenOptions::new().lenient(true)] {
            if let Ok(image) = open(sample.path(), &options) {
                let size = image.disks()[0].virtual_size();
                let mut last = [0; 512];
                let _ = image.disks()[0].read_exact_at(&mut last, size.saturating_sub(512));
            }
            let _ = vmimage::info(sample.path(), &options);
        }
        assert_eq!(check(sample.path(), &OpenOptions::new()).unwrap().verdict(), Verdict::Corrupt);
        error.kind()
    };
    use ErrorKind::{Corrupt, TooLarge, Truncated};
    for size in [1_u64 << 63, u64::MAX - 511, 1 << 62, (64 << 40) + 512] {
        assert_eq!(with(Some((48, &size.to_be_bytes())), None), TooLarge, "{size:#x}");
    }
    for size in [65_u64 << 20, 2040 << 30, 4 << 40] {
        assert_eq!(with(Some((48, &size.to_be_bytes())), None), Corrupt, "{size:#x}");
    }
    for block_size in [0_u32, 1, 3, 511, 512, 2048, 3 << 20, 1 << 31, u32::MAX, 1 << 29] {
        let kind = with(None, Some((32, &block_size.to_be_bytes())));
        assert_eq!(kind, Corrupt, "block size {block_size:#x}");
    }
    for table in [u64::MAX, 1 << 63, 1 << 40, end as u64 + 510] {
        let kind = with(None, Some((16, &table.to_be_bytes())));
        assert_eq!(kind, Truncated, "table at {table:#x}");
    }
    for header in [u64::MAX, 1 << 63, end as u64 - 500] {
        let kind = with(Some((16, &header.to_be_bytes())), None);
        assert!(matches!(kind, Truncated | Corrupt), "header at {header:#x}: {kind:?}");
    }
    assert_eq!(with(None, Some((28, &[0; 4]))), Corrupt);
    // The size of a fixed disk.
    let fixed = Recipe { kind: FIXED, ..base };
    let whole = fixed.make(&mut Rng::new(1)).bytes;
    let start = whole.len() - 512;
    for (size, kind) in [(1_u64 << 63, TooLarge), (65 << 40, TooLarge), (1 << 40, Truncated)] {
        let mut bytes = whole.clone();
        bytes[start + 48..start + 56].copy_from_slice(&size.to_be_bytes());
        seal(&mut bytes[start..], 64);
        assert_eq!(Sample::new(&bytes).error(false).kind(), kind, "{size:#x}");
    }
}

/// Nothing but a cookie, at either end and in every length around a sector.
#[test]
fn a_cookie_alone_is_no_image() {
    for cookie in [&b"conectix"[..], b"v_poison", b"cxsparse", b"QFI\xfb"] {
        for len in [8, 511, 512, 513, 1023, 1024, 1535, 1536, 4096, 65536] {
            for from_end in [0, 511, 512] {
                let mut bytes = vec![0; len];
                let at = if from_end == 0 { 0 } else { len.saturating_sub(from_end) };
                bytes[at..at + cookie.len()].copy_from_slice(cookie);
                let sample = Sample::new(&bytes);
                // A footer of 511 bytes ends a file that lacks its last byte; the guest of a raw
                // disk may write what it likes there.
                let short = from_end == 511 && len % 512 == 511;
                let image = match cookie {
                    b"QFI\xfb" => at == 0,
                    b"cxsparse" => false,
                    _ => at == 0 || from_end == 512 || short,
                };
                for options in [OpenOptions::new(), OpenOptions::new().lenient(true)] {
                    match open(sample.path(), &options) {
                        Ok(found) => {
                            assert_eq!(found.info().format(), vmimage::Format::Raw);
                            assert!(!image, "{cookie:?} of {len} at {at}");
                        }
                        Err(error) => {
                            assert!(image, "{cookie:?} of {len} at {at}: {error:?}");
                            assert!(matches!(
                                error.kind(),
                                ErrorKind::Corrupt | ErrorKind::Truncated | ErrorKind::Unsupported
                            ));
                        }
                    }
                }
            }
        }
    }
}
