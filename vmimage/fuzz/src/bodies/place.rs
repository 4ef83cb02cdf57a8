//! A folder for what the library reads by path only: the image under test, and a parent for it.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use vmimage::{
    DigestSet, DiskSource, Format, OpenOptions, Plan, PlanOptions, RawDisk, Source as _,
    StreamOptions, TargetFormat,
};

/// Formats that the first byte of an input can name, from 1 on. No image begins so.
const NAMED: [Format; 5] = [Format::Raw, Format::Vhd, Format::Qcow2, Format::Xva, Format::Tgz];
/// The parent's UUID; seeds of differencing disks name it.
pub(crate) const PARENT_UUID: [u8; 16] = *b"the fuzz parent!";

/// The options and the image that an input stands for.
pub(crate) fn named(data: &[u8]) -> (OpenOptions, &[u8]) {
    let options = OpenOptions::new();
    match data.split_first() {
        Some((&n @ 1..=5, rest)) => (options.with_format(NAMED[usize::from(n) - 1]), rest),
        _ => (options, data),
    }
}

/// One for each thread, with a name of this process: tests and fuzzers run at the same time.
pub(crate) struct Place(PathBuf);

thread_local! {
    static PLACE: OnceCell<Place> = const { OnceCell::new() };
}
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Calls `f` with the folder, in which there are an `image` with these bytes and `parent.vhd`.
pub(crate) fn with_image<T>(data: &[u8], f: impl FnOnce(&Place) -> T) -> T {
    PLACE.with(|place| {
        let place = place.get_or_init(Place::new);
        std::fs::write(place.image(), data).expect("room for the image");
        f(place)
    })
}

impl Place {
    fn new() -> Self {
        let ram = Path::new("/dev/shm");
        // A run sets TMPDIR to a folder that it removes, whatever happens to this process.
        let base = match std::env::var_os("TMPDIR") {
            None if ram.is_dir() => ram.to_owned(),
            _ => std::env::temp_dir(),
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = base.join(format!("vmimage-fuzz-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the image");
        let place = Self(folder);
        place.write_parent();
        place
    }

    /// Puts the parent back as it was.
    pub(crate) fn write_parent(&self) {
        static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
        let bytes = BYTES.get_or_init(parent).as_slice();
        std::fs::write(self.parent(), bytes).expect("room for the parent");
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.0.join("image")
    }

    pub(crate) fn parent(&self) -> PathBuf {
        self.0.join("parent.vhd")
    }

    pub(crate) fn beside(&self) -> PathBuf {
        self.0.join("beside")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A VHD of 2 MiB with data at its start.
fn parent() -> Vec<u8> {
    let disk = RawDisk::new(Arc::new(vec![b'p'; 100_000])).expect("bytes are a disk");
    let mut source = DiskSource::new(Arc::new(disk)).expect("bytes have a map");
    let options = PlanOptions::new().with_uuid(PARENT_UUID);
    let plan = Plan::new(TargetFormat::VhdDynamic, source.block_map(), &options);
    let plan = plan.expect("a small disk");
    let mut bytes = Vec::new();
    let mut sink = |piece: bytes::Bytes| {
        bytes.extend_from_slice(&piece);
        Ok(())
    };
    let options = StreamOptions::new().with_digests(DigestSet::NONE);
    vmimage::stream(&plan, &mut source, &mut sink, &options).expect("nothing can fail in memory");
    bytes
}
