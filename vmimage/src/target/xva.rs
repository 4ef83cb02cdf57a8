//! XVA: the archive in which XenServer exports and imports whole machines.
//!
//! ```text
//! ova.xml                     what the machine is
//! Ref:100/00000000            1 MiB of the disk, with a tar header of its own
//! Ref:100/00000000.xxhash     its checksum
//! ...                         chunks of zeros are left out, but for the first and the last one
//! two blocks of zeros
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use sha1::Sha1;
use sha2::Digest as _;
use twox_hash::XxHash64;

use super::{Layout, Part, SegmentIter};
use crate::archive::tar_header;
use crate::exec::hex;
use crate::plan::{PlanOptions, Segment};
use crate::xva::Ova;
use crate::{BlockMap, Error, ErrorKind, Result};

const CHUNK: u64 = 1 << 20;
const BLOCK: u64 = 512;
const MODE: u32 = 0o644;
/// Two blocks of zeros end the archive.
const END: u64 = 2 * BLOCK;
/// Names have eight digits.
const MAX_CHUNKS: u64 = 100_000_000;

/// How the chunks of an XVA are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum XvaChecksum {
    /// `.xxhash` members with XXH64: XenServer 8.1 and newer, XCP-ng.
    #[default]
    XxHash,
    /// `.checksum` members with SHA-1: every version.
    Sha1,
}

impl XvaChecksum {
    fn extension(self) -> &'static str {
        match self {
            Self::XxHash => "xxhash",
            Self::Sha1 => "checksum",
        }
    }

    /// The text in the archive: upper case for XXH64 and lower case for SHA-1, as XAPI has it.
    fn text(self, bytes: &[u8]) -> String {
        match self {
            Self::XxHash => format!("{:016X}", XxHash64::oneshot(0, bytes)),
            Self::Sha1 => hex(&Sha1::digest(bytes)),
        }
    }

    /// The length of the text.
    fn len(self) -> u64 {
        match self {
            Self::XxHash => 16,
            Self::Sha1 => 40,
        }
    }
}

impl FromStr for XvaChecksum {
    type Err = Error;

    /// `xxhash` or `sha1`.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "xxhash" => Ok(Self::XxHash),
            "sha1" => Ok(Self::Sha1),
            _ => Err(Error::new(ErrorKind::Usage, "an XVA has xxhash or sha1 checksums")),
        }
    }
}

/// A chunk of an XVA as a piece of a plan. It is never cut in two: its checksum is known when
/// all its bytes were read.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct XvaChunk {
    reference: Arc<str>,
    number: u64,
    /// Where its bytes start, in guest bytes of the plan.
    pub offset: u64,
    /// How many there are.
    pub len: u64,
    checksum: XvaChecksum,
}

impl fmt::Debug for XvaChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XvaChunk({} at {}, {} bytes)", self.name(), self.offset, self.len)
    }
}

impl XvaChunk {
    /// The length of what lies before the bytes of the disk.
    pub(crate) const HEADER: usize = BLOCK as usize;
    /// The longest a chunk can get in the output.
    pub(crate) const MAX: usize = (CHUNK + 3 * BLOCK) as usize;

    fn name(&self) -> String {
        format!("{}/{:08}", self.reference, self.number)
    }

    /// How many bytes of the output it is.
    pub(crate) fn output_len(&self) -> u64 {
        BLOCK + self.len.next_multiple_of(BLOCK) + 2 * BLOCK
    }

    /// Writes the chunk into `out`, which is [`output_len`](Self::output_len) long; `read` fills
    /// in the bytes of the disk.
    pub(crate) fn write(
        &self,
        out: &mut [u8],
        read: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let (header, rest) = out.split_at_mut(BLOCK as usize);
        header.copy_from_slice(&tar_header(&self.name(), self.len, 0, MODE));
        let (data, rest) = rest.split_at_mut(self.len.next_multiple_of(BLOCK) as usize);
        let (data, padding) = data.split_at_mut(self.len as usize);
        padding.fill(0);
        read(data)?;
        let (header, text) = rest.split_at_mut(BLOCK as usize);
        let name = format!("{}.{}", self.name(), self.checksum.extension());
        header.copy_from_slice(&tar_header(&name, self.checksum.len(), 0, MODE));
        text.fill(0);
        let sum = self.checksum.text(data);
        text[..sum.len()].copy_from_slice(sum.as_bytes());
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct Xva {
    disks: Vec<XvaDisk>,
    /// `ova.xml` as a tar member.
    ova: Bytes,
    checksum: XvaChecksum,
}

#[derive(Debug)]
struct XvaDisk {
    part: Part,
    reference: Arc<str>,
    /// Whole chunks: an importer may drop a part of one.
    size: u64,
}

impl Xva {
    pub(super) fn new(parts: Vec<Part>, options: &PlanOptions) -> Result<Self> {
        let mut disks = Vec::new();
        for (index, part) in parts.into_iter().enumerate() {
            let size = part.map.virtual_size().max(1).next_multiple_of(CHUNK);
            if size / CHUNK > MAX_CHUNKS {
                let message = format!("a disk of {size} bytes has more chunks than an XVA counts");
                return Err(Error::new(ErrorKind::TooLarge, message));
            }
            // Disks are in the order of their references as text.
            let reference = format!("Ref:{}", 100_000 + index).into();
            disks.push(XvaDisk { part, reference, size });
        }
        let list: Vec<_> = disks.iter().map(|d| (&*d.reference, d.size)).collect();
        let xml = Ova::minimal(options.name.as_deref().unwrap_or("imported"), &list).to_xml();
        let mut ova = tar_header("ova.xml", xml.len() as u64, 0, MODE).to_vec();
        ova.extend_from_slice(xml.as_bytes());
        ova.resize(ova.len().next_multiple_of(BLOCK as usize), 0);
        Ok(Self { disks, ova: Bytes::from(ova), checksum: options.checksum })
    }
}

impl XvaDisk {
    /// The first and the last chunk, and those with data.
    fn chunks(&self, checksum: XvaChecksum) -> impl Iterator<Item = Segment> + Send + '_ {
        let last = self.size / CHUNK - 1;
        let middle = self.part.map.blocks(CHUNK).filter(move |n| (1..last).contains(n));
        let end = (last > 0).then_some(last);
        std::iter::once(0).chain(middle).chain(end).map(move |number| {
            Segment::Chunk(XvaChunk {
                reference: Arc::clone(&self.reference),
                number,
                offset: self.part.base + number * CHUNK,
                len: CHUNK,
                checksum,
            })
        })
    }
}

impl Layout for Xva {
    fn virtual_size(&self) -> u64 {
        self.disks.first().map_or(0, |disk| disk.size)
    }

    fn output_len(&self) -> u64 {
        let chunks = |disk: &XvaDisk| {
            disk.chunks(self.checksum).map(|chunk| chunk.output_len()).sum::<u64>()
        };
        self.ova.len() as u64 + self.disks.iter().map(chunks).sum::<u64>() + END
    }

    fn segments<'a>(&'a self, _map: &'a BlockMap) -> SegmentIter<'a> {
        let chunks = self.disks.iter().flat_map(|disk| disk.chunks(self.checksum));
        let ova = std::iter::once(Segment::Inline(self.ova.clone()));
        Box::new(ova.chain(chunks).chain(std::iter::once(Segment::Zero(END))))
    }
}
