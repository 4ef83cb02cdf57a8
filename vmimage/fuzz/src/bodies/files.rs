//! What works on files by their path: the check, the repair, the merge, archives that are spilled.

use std::io::Cursor;

use vmimage::tgz::{SingleVhd, unpack};
use vmimage::{CommitOptions, ErrorKind, RepairOptions, Verdict};

use super::disks::look_at;
use super::place::{Place, named, with_image};

/// Images that are longer are not read to their end here.
const LONGEST: u64 = 16 << 20;

/// The check says nothing good of what the strict reader refuses.
pub(crate) fn check(data: &[u8]) -> bool {
    let (options, bytes) = named(data);
    with_image(bytes, |place| {
        let options = options.with_scratch(place.folder());
        let _ = vmimage::info(place.image(), &options.clone().lenient(true));
        let Ok(report) = vmimage::check(place.image(), &options) else { return false };
        if let Err(error) = vmimage::open(place.image(), &options)
            && matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated)
        {
            assert_ne!(report.verdict(), Verdict::Sound, "refused: {error}");
        }
        true
    })
}

/// An archive of VHDs by its path, by the reader of one layer, and unpacked.
pub(crate) fn tgz(data: &[u8]) -> bool {
    let single = SingleVhd::new(Cursor::new(data.to_vec()));
    if let Ok(mut single) = single {
        let mut rest = std::io::Read::take(&mut single, LONGEST);
        let _ = std::io::copy(&mut rest, &mut std::io::sink());
    }
    with_image(data, |place| {
        let mut taken = false;
        let _ = unpack(Cursor::new(data.to_vec()), place.folder());
        for lenient in [false, true] {
            let options = vmimage::OpenOptions::new().lenient(lenient);
            let options = options.with_format(vmimage::Format::Tgz).with_scratch(place.folder());
            let Ok(image) = vmimage::open(place.image(), &options) else { continue };
            for disk in image.disks() {
                look_at(disk.as_ref());
            }
            taken = true;
        }
        taken
    })
}

/// A repair does what its plan says, leaves nothing for a second one, and can be taken back.
pub(crate) fn repair(data: &[u8]) -> bool {
    if data.starts_with(b"vmimgund") {
        return undo(data);
    }
    with_image(data, |place| {
        let mut taken = false;
        for checksums in [false, true] {
            let options = RepairOptions::new()
                .with_checksums(checksums)
                .with_time(1_700_000_000)
                .with_undo_file(place.beside());
            taken |= repair_once(place, data, &options);
            let _ = std::fs::remove_file(place.beside());
        }
        taken
    })
}

fn repair_once(place: &Place, data: &[u8], options: &RepairOptions) -> bool {
    let image = place.image();
    let Ok(plan) = vmimage::plan_repair(&image, options) else {
        assert!(vmimage::repair(&image, options).is_err(), "repaired without a plan");
        return false;
    };
    let done = vmimage::repair(&image, options).expect("what was planned");
    assert_eq!(plan.actions, done.actions);
    if done.undo.is_some() {
        let again = vmimage::plan_repair(&image, options).expect("it is still a VHD");
        assert_eq!(again.actions, [], "after {:?}", done.actions);
        vmimage::undo_repair(&image, place.beside()).expect("a fresh undo file");
    }
    assert!(std::fs::read(&image).expect("the image") == data, "the image is not what it was");
    true
}

/// Bytes as the undo file of a repair.
fn undo(data: &[u8]) -> bool {
    with_image(&[b'x'; 4096], |place| {
        std::fs::write(place.beside(), data).expect("room for the file");
        let undone = vmimage::undo_repair(place.image(), place.beside());
        let _ = std::fs::remove_file(place.beside());
        undone.is_ok()
    })
}

/// A child with these bytes is merged into `parent.vhd`: what was seen through it stays.
pub(crate) fn commit(data: &[u8]) -> bool {
    with_image(data, |place| {
        let open = vmimage::OpenOptions::new();
        let before = match vmimage::open(place.image(), &open) {
            Ok(image) if image.info().virtual_size() <= LONGEST => {
                Some(vmimage::content_root(image.disks()[0].as_ref()))
            }
            _ => None,
        };
        let options = CommitOptions::new().with_no_other_children(true);
        let merged = vmimage::commit(place.image(), &options);
        if let (Ok(_), Some(Ok(before))) = (&merged, before) {
            let parent = vmimage::open(place.parent(), &open).expect("a parent that was changed");
            let after = vmimage::content_root(parent.disks()[0].as_ref());
            assert_eq!(after.expect("a sound parent"), before, "the merge changed the disk");
        }
        place.write_parent();
        let _ = std::fs::remove_file(place.folder().join("parent.vhd.commit"));
        merged.is_ok()
    })
}
