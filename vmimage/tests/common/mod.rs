//! Disks made of numbers, and the independent readers that this machine has.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test file uses a part.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use vmimage::{BlockMap, Disk, Error, Extent, ExtentKind, GRANULE, Result, Source};

/// A disk in memory that stores some granules only.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    size: u64,
    granules: BTreeMap<u64, Vec<u8>>,
}

impl MemDisk {
    pub fn new(size: u64) -> Self {
        Self { size, granules: BTreeMap::new() }
    }

    /// Allocates granule `index` and fills it with bytes that depend on `seed`.
    pub fn with_granule(mut self, index: u64, seed: u64) -> Self {
        let mut state = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
        let bytes = (0..GRANULE / 8)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .collect();
        self.granules.insert(index, bytes);
        self
    }

    /// Allocates granule `index` and leaves it all zeros.
    pub fn with_zero_granule(mut self, index: u64) -> Self {
        self.granules.insert(index, vec![0; GRANULE as usize]);
        self
    }

    /// A disk whose every granule holds data.
    pub fn full(size: u64, seed: u64) -> Self {
        (0..size.div_ceil(GRANULE)).fold(Self::new(size), |d, i| d.with_granule(i, seed))
    }

    pub fn arc(self) -> Arc<dyn Disk> {
        Arc::new(self)
    }

    /// All guest-visible bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = vec![0; self.size as usize];
        self.read_exact_at(&mut all, 0).unwrap();
        all
    }
}

impl Disk for MemDisk {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        let index = offset / GRANULE;
        let end = ((index + 1) * GRANULE).min(self.size);
        let kind = match self.granules.contains_key(&index) {
            true => ExtentKind::Data { layer: 0, file_offset: offset },
            false => {
                let next = self.granules.range(index..).next();
                let end = next.map_or(self.size, |(i, _)| i * GRANULE);
                return Ok(Extent::new(offset, end - offset, ExtentKind::Zero));
            }
        };
        Ok(Extent::new(offset, end - offset, kind))
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset + buf.len() as u64 > self.size {
            return Err(Error::truncated("a read past the end of the disk"));
        }
        buf.fill(0);
        let end = offset + buf.len() as u64;
        for (index, bytes) in self.granules.range(offset / GRANULE..end.div_ceil(GRANULE)) {
            let from = (index * GRANULE).max(offset);
            let to = ((index + 1) * GRANULE).min(end);
            let within = (from - index * GRANULE) as usize..(to - index * GRANULE) as usize;
            buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(&bytes[within]);
        }
        Ok(())
    }
}

/// A forward-only source that insists on the rules, and fails where it is told to.
#[derive(Debug)]
pub struct ForwardSource {
    disk: MemDisk,
    map: BlockMap,
    at: u64,
    pub fail_at: Option<u64>,
    pub fail_finish: bool,
    pub finished: bool,
}

impl ForwardSource {
    pub fn new(disk: &MemDisk) -> Self {
        Self {
            disk: disk.clone(),
            map: disk.block_map().unwrap(),
            at: 0,
            fail_at: None,
            fail_finish: false,
            finished: false,
        }
    }
}

impl Source for ForwardSource {
    fn block_map(&self) -> &BlockMap {
        &self.map
    }

    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        assert!(offset >= self.at, "read backwards");
        let end = offset + buf.len() as u64;
        assert!(
            self.map.first_run(offset..end) == Some(offset..end),
            "only ranges with data are read"
        );
        self.at = end;
        if self.fail_at.is_some_and(|fail| end > fail) {
            return Err(Error::truncated("the stream ended early"));
        }
        self.disk.read_exact_at(buf, offset)
    }

    fn finish(&mut self) -> Result<()> {
        if self.fail_finish {
            return Err(Error::truncated("the stream has no footer"));
        }
        self.finished = true;
        Ok(())
    }
}

/// Runs a tool; `None`, with a word, if this machine has none.
pub fn tool(name: &str, args: &[&str]) -> Option<Output> {
    match Command::new(name).args(args).output() {
        Ok(output) => Some(output),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: no {name} on this machine");
            None
        }
        Err(e) => panic!("{name}: {e}"),
    }
}

/// Runs a tool that must succeed, and gives what it printed.
pub fn tool_ok(name: &str, args: &[&str]) -> Option<String> {
    let output = tool(name, args)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{name} {args:?}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Some(text)
}

/// The guest-visible bytes of an image as `qemu-img` reads it.
pub fn qemu_read(format: &str, image: &Path) -> Option<Vec<u8>> {
    let raw = image.with_extension("qemu-raw");
    let (from, to) = (image.to_str().unwrap(), raw.to_str().unwrap());
    tool_ok("qemu-img", &["convert", "-f", format, "-O", "raw", from, to])?;
    Some(std::fs::read(raw).unwrap())
}

/// Equal but for a tail of zeros.
pub fn assert_same_content(expected: &[u8], actual: &[u8], what: &str) {
    let common = expected.len().min(actual.len());
    if expected[..common] != actual[..common] {
        let at = expected.iter().zip(actual).position(|(a, b)| a != b);
        panic!("{what}: differs at {at:?}");
    }
    for tail in [&expected[common..], &actual[common..]] {
        assert!(tail.iter().all(|b| *b == 0), "{what}: the tail is not zero");
    }
}
