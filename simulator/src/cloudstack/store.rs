//! Where data arrive: the file, the check of its checksum, decompression, and what the format's
//! own words say of the size.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use md5::Md5;
use sha1::{Digest, Sha1};
use sha2::{Sha224, Sha256, Sha384, Sha512};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Blocks in flight between the connection and the disk.
const BLOCKS: usize = 4;

/// The largest decompressed image.
const LARGEST: u64 = 1 << 42;

/// A file that is being written by a thread of its own.
#[derive(Debug)]
pub(super) struct Sink {
    blocks: mpsc::Sender<Bytes>,
    work: JoinHandle<io::Result<u64>>,
}

impl Sink {
    pub(super) fn start(path: PathBuf) -> Self {
        let (blocks, mut receive) = mpsc::channel::<Bytes>(BLOCKS);
        let work = tokio::task::spawn_blocking(move || {
            let mut file = File::create(path)?;
            let mut size = 0;
            while let Some(block) = receive.blocking_recv() {
                file.write_all(&block)?;
                size += block.len() as u64;
            }
            Ok(size)
        });
        Self { blocks, work }
    }

    /// Hands over a block; false when the file could not be written, which `finish` explains.
    pub(super) async fn write(&self, block: Bytes) -> bool {
        self.blocks.send(block).await.is_ok()
    }

    /// How many bytes are in the file.
    pub(super) async fn finish(self) -> io::Result<u64> {
        drop(self.blocks);
        self.work.await.map_err(io::Error::other)?
    }
}

/// A template that is stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// As a guest sees it.
    pub(super) size: u64,
    /// The length of the file.
    pub(super) physical: u64,
}

/// Checks the received file and leaves the template's data in its place.
pub(super) fn install(
    path: &Path,
    name: &str,
    format: &str,
    checksum: Option<&str>,
) -> Result<Stored, String> {
    if let Some(wanted) = checksum {
        verify(path, wanted)?;
    }
    let unpacked = |e: io::Error| format!("Unable to decompress {name}: {e}");
    let name = name.to_ascii_lowercase();
    if name.ends_with(".gz") {
        unpack(path, |file, out| io::copy(&mut limited(MultiGzDecoder::new(file)), out))
            .map_err(unpacked)?;
    } else if name.ends_with(".bz2") {
        unpack(path, |file, out| io::copy(&mut limited(MultiBzDecoder::new(file)), out))
            .map_err(unpacked)?;
    } else if name.ends_with(".zip") {
        unpack(path, unzip).map_err(unpacked)?;
    }
    measure(path, format)
}

/// `{ALGORITHM}hex`; MD5 without a name.
fn verify(path: &Path, wanted: &str) -> Result<(), String> {
    let named = wanted.strip_prefix('{').and_then(|rest| rest.split_once('}'));
    let (algorithm, wanted) = named.unwrap_or(("MD5", wanted));
    let found = match algorithm {
        "MD5" => digest::<Md5>(path),
        "SHA-1" => digest::<Sha1>(path),
        "SHA-224" => digest::<Sha224>(path),
        "SHA-256" => digest::<Sha256>(path),
        "SHA-384" => digest::<Sha384>(path),
        "SHA-512" => digest::<Sha512>(path),
        other => return Err(format!("No such algorithm: {other}")),
    };
    let found = found.map_err(|e| e.to_string())?;
    if found.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    Err(format!("Checksum mismatch: corrupt template, {{{algorithm}}}{found} was received"))
}

fn digest<D: Digest>(path: &Path) -> io::Result<String> {
    let (mut file, mut digest) = (File::open(path)?, D::new());
    let mut block = vec![0; 1 << 18];
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hex::encode(digest.finalize())),
            count => digest.update(&block[..count]),
        }
    }
}

type Packed = io::BufReader<File>;

fn limited(source: impl Read) -> impl Read {
    source.take(LARGEST)
}

/// All files of an archive one after the other, as `unzip -p` gives them: there should be one.
fn unzip(file: Packed, out: &mut File) -> io::Result<u64> {
    let mut archive = zip::ZipArchive::new(file)?;
    let mut written = 0;
    for number in 0..archive.len() {
        let mut source = archive.by_index(number)?.take(LARGEST - written);
        written += io::copy(&mut source, out)?;
    }
    Ok(written)
}

fn unpack(path: &Path, copy: impl FnOnce(Packed, &mut File) -> io::Result<u64>) -> io::Result<()> {
    let packed = path.with_extension("packed");
    std::fs::rename(path, &packed)?;
    let source = io::BufReader::new(File::open(&packed)?);
    let copied = File::create(path).and_then(|mut file| copy(source, &mut file));
    std::fs::remove_file(&packed)?;
    copied.map(|_| ())
}

fn measure(path: &Path, format: &str) -> Result<Stored, String> {
    let look = || -> io::Result<(u64, [u8; 512], [u8; 512])> {
        let mut file = File::open(path)?;
        let physical = file.metadata()?.len();
        let (mut head, mut tail) = ([0; 512], [0; 512]);
        let mut at = 0;
        while at < head.len() {
            match file.read(&mut head[at..])? {
                0 => break,
                count => at += count,
            }
        }
        if physical >= 512 {
            file.seek(SeekFrom::End(-512))?;
            file.read_exact(&mut tail)?;
        }
        Ok((physical, head, tail))
    };
    let (physical, head, tail) = look().map_err(|e| e.to_string())?;
    if physical == 0 {
        return Err("Failed post download script: the template is empty".to_owned());
    }
    let size = match format {
        // A fixed image has its footer at the end only, where nobody looks: its size is taken
        // to be the length of the file.
        "VHD" if head.starts_with(b"conectix") => be64(&head, 48),
        "VHD" if tail.starts_with(b"conectix") => physical,
        "QCOW2" if head.starts_with(b"QFI\xfb") => be64(&head, 24),
        "VHD" | "QCOW2" => {
            return Err(format!("Failed post download script: this is no {format}"));
        }
        _ => physical,
    };
    Ok(Stored { size, physical })
}

fn be64(head: &[u8], at: usize) -> u64 {
    let bytes = head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_be_bytes)
}

/// What `file` says of the beginning of an upload has to go with the end of its name.
pub(super) fn content_fits(path: &Path, name: &str) -> bool {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(512).read_to_end(&mut head));
    let name = name.to_ascii_lowercase();
    let starts = |mark: &[u8]| head.starts_with(mark);
    read.is_ok()
        && match name.rsplit('.').next().unwrap_or_default() {
            "gz" => starts(b"\x1f\x8b"),
            "bz2" => starts(b"BZh"),
            "zip" => starts(b"PK\x03\x04"),
            "vhd" => starts(b"conectix"),
            "vhdx" => starts(b"vhdxfile"),
            "qcow2" => starts(b"QFI\xfb"),
            "vmdk" => starts(b"KDMV") || starts(b"# Disk DescriptorFile"),
            "ova" | "tar" => head.get(257..262) == Some(b"ustar"),
            "raw" | "img" | "iso" => true,
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("template");
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    /// Only as much of one as the double looks at.
    fn vhd(dynamic: bool) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let mut footer = [0; 512];
        footer[..8].copy_from_slice(b"conectix");
        footer[48..56].copy_from_slice(&(10_u64 << 20).to_be_bytes());
        bytes[3584..].copy_from_slice(&footer);
        if dynamic {
            bytes[..512].copy_from_slice(&footer);
        }
        bytes
    }

    #[test]
    fn the_size_of_a_fixed_vhd_is_that_of_its_file() {
        let (_folder, path) = file(&vhd(true));
        let stored = install(&path, "a.vhd", "VHD", None).unwrap();
        assert_eq!(stored, Stored { size: 10 << 20, physical: 4096 });
        let (_folder, path) = file(&vhd(false));
        let stored = install(&path, "a.vhd", "VHD", None).unwrap();
        assert_eq!(stored, Stored { size: 4096, physical: 4096 });
        let (_folder, path) = file(b"something else");
        assert!(install(&path, "a.vhd", "VHD", None).unwrap_err().contains("no VHD"));
    }

    #[test]
    fn checksums_with_and_without_a_name() {
        let (_folder, path) = file(b"abc");
        for wanted in [
            "900150983cd24fb0d6963f7d28e17f72",
            "{MD5}900150983CD24FB0D6963F7D28E17F72",
            "{SHA-1}a9993e364706816aba3e25717850c26c9cd0d89d",
            "{SHA-256}ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ] {
            assert_eq!(verify(&path, wanted), Ok(()), "{wanted}");
        }
        assert!(verify(&path, "{SHA-256}00").is_err());
        assert!(verify(&path, "{CRC}00").unwrap_err().contains("No such algorithm"));
    }

    #[test]
    fn zip_is_unpacked_stored_or_deflated() {
        for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
            let mut archive = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
            let options = zip::write::SimpleFileOptions::default().compression_method(method);
            archive.start_file("web01.vhd", options).unwrap();
            archive.write_all(&vhd(true)).unwrap();
            let packed = archive.finish().unwrap().into_inner();
            let (_folder, path) = file(&packed);
            assert!(content_fits(&path, "a.vhd.zip") && !content_fits(&path, "a.vhd.gz"));
            let stored = install(&path, "a.vhd.zip", "VHD", None).unwrap();
            assert_eq!(stored.size, 10 << 20);
            assert_eq!(std::fs::read(&path).unwrap(), vhd(true));
            let (_folder, path) = file(&packed[..packed.len() / 2]);
            assert!(install(&path, "a.vhd.zip", "VHD", None).unwrap_err().contains("decompress"));
        }
    }

    #[test]
    fn gzip_is_unpacked_after_the_checksum() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(&vhd(true)).unwrap();
        let packed = packer.finish().unwrap();
        let sum = format!("{{SHA-256}}{}", hex::encode(Sha256::digest(&packed)));
        let (_folder, path) = file(&packed);
        let stored = install(&path, "a.vhd.gz", "VHD", Some(&sum)).unwrap();
        assert_eq!(stored.size, 10 << 20);
        assert_eq!(std::fs::read(&path).unwrap(), vhd(true));
        let (_folder, path) = file(&packed[..packed.len() / 2]);
        assert!(install(&path, "a.vhd.gz", "VHD", None).unwrap_err().contains("decompress"));
    }
}
