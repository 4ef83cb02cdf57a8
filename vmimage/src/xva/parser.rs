//! The parser without I/O: bytes in, events out.

use super::digest::{DigestKind, Running};
use super::machine::{ChunkHead, Machine, Need};
use crate::Result;
use crate::archive::BLOCK;
use crate::finding::Findings;

/// What an archive consists of, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum XvaEvent<'a> {
    /// The whole `ova.xml`, for [`Ova::parse`](super::Ova::parse).
    OvaXml(&'a [u8]),
    /// A chunk begins.
    ChunkStart(ChunkHead),
    /// Bytes of the chunk; all pieces together are as long as the chunk.
    Data(&'a [u8]),
    /// The chunk and its checksum have passed. Not verified means: a lenient parser went on after
    /// a checksum that is missing or does not match.
    ChunkEnd {
        /// The chunk.
        head: ChunkHead,
        /// Whether its checksum matched.
        verified: bool,
    },
    /// The archive has ended as it must.
    End,
}

/// A push parser of plain (uncompressed) XVA archives: no I/O, and no memory but for `ova.xml` and
/// the piece of a header.
///
/// ```
/// use vmimage::{Findings, xva::{XvaEvent, XvaParser}};
/// # fn main() -> vmimage::Result<()> {
/// # let archive = [0_u8; 0];
/// let mut parser = XvaParser::new(Findings::default());
/// let mut bytes = 0;
/// for piece in archive.chunks(1000) {
///     parser.push(piece, &mut |event| {
///         if let XvaEvent::Data(data) = event {
///             bytes += data.len();
///         }
///         Ok(())
///     })?;
/// }
/// let error = parser.finish(&mut |_| Ok(())).unwrap_err();
/// assert!(error.to_string().contains("empty"));
/// # Ok(())
/// # }
/// ```
pub struct XvaParser {
    machine: Machine,
    findings: Findings,
    /// What has come of something that is taken as a whole.
    partial: Vec<u8>,
    /// How many bytes have come of what is needed, its padding included.
    taken: u64,
    chunk: Option<Chunk>,
    sha1: bool,
    ended: bool,
}

/// The chunk that passes, or whose checksum is due.
struct Chunk {
    head: ChunkHead,
    running: Running,
}

impl std::fmt::Debug for XvaParser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XvaParser")
            .field("machine", &self.machine)
            .field("findings", &self.findings)
            .finish_non_exhaustive()
    }
}

/// Who takes the events; an error ends the parsing.
type Sink<'a> = &'a mut dyn FnMut(XvaEvent<'_>) -> Result<()>;

impl XvaParser {
    /// A parser at the start of an archive. The policy of `findings` says whether it survives
    /// violations.
    pub fn new(findings: Findings) -> Self {
        Self {
            machine: Machine::new(),
            findings,
            partial: Vec::new(),
            taken: 0,
            chunk: None,
            // Until the first checksum has told the kind.
            sha1: true,
            ended: false,
        }
    }

    /// What was odd so far.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// The names of the disks that have begun, in the order of the archive.
    pub fn references(&self) -> impl Iterator<Item = &str> {
        (0..self.machine.disks()).map(|disk| self.machine.reference(disk))
    }

    /// How many bytes of the archive have been used.
    pub fn position(&self) -> u64 {
        self.machine.at().saturating_add(self.taken)
    }

    /// Takes the next bytes of the archive, any number of them, and hands out what they are.
    ///
    /// # Errors
    /// `Corrupt` and `Unsupported`, and whatever `sink` answers; after an error the parser is of
    /// no use.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        sink: &mut dyn FnMut(XvaEvent<'_>) -> Result<()>,
    ) -> Result<()> {
        loop {
            let need = self.machine.need();
            if need == Need::Tail {
                self.end(sink)?;
                self.machine.tail(bytes, &mut self.findings)?;
                return Ok(());
            }
            self.begin(need, sink)?;
            let left = need.padded().saturating_sub(self.taken);
            if bytes.is_empty() && left > 0 {
                return Ok(());
            }
            let n = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (part, rest) = bytes.split_at(n);
            bytes = rest;
            self.take(need, part, sink)?;
        }
    }

    /// Says that no more bytes come.
    ///
    /// # Errors
    /// `Truncated` if the archive has not ended, and whatever `sink` answers.
    pub fn finish(&mut self, sink: &mut dyn FnMut(XvaEvent<'_>) -> Result<()>) -> Result<()> {
        if self.machine.need() != Need::Tail {
            if self.machine.need() == Need::Block && self.taken == 0 {
                self.machine.ended(&mut self.findings)?;
            } else {
                self.machine.cut(&mut self.findings)?;
            }
            self.close(false, sink)?;
        }
        self.end(sink)
    }

    fn end(&mut self, sink: Sink<'_>) -> Result<()> {
        if !std::mem::replace(&mut self.ended, true) {
            sink(XvaEvent::End)?;
        }
        Ok(())
    }

    /// Announces a chunk.
    fn begin(&mut self, need: Need, sink: Sink<'_>) -> Result<()> {
        if let Need::Chunk(head) = need
            && self.chunk.is_none()
        {
            self.chunk = Some(Chunk { head, running: Running::new(self.sha1) });
            sink(XvaEvent::ChunkStart(head))?;
        }
        Ok(())
    }

    /// Takes bytes that belong to what is needed.
    fn take(&mut self, need: Need, part: &[u8], sink: Sink<'_>) -> Result<()> {
        let content = need.len().saturating_sub(self.taken);
        let n = usize::try_from(content).map_or(part.len(), |content| content.min(part.len()));
        let content = part.get(..n).unwrap_or_default();
        self.taken += part.len() as u64;
        let whole = self.taken == need.padded();
        match need {
            Need::Chunk(_) => {
                if !content.is_empty() {
                    if let Some(chunk) = &mut self.chunk {
                        chunk.running.update(content);
                    }
                    sink(XvaEvent::Data(content))?;
                }
            }
            Need::Skip(_) | Need::Tail => {}
            _ => self.partial.extend_from_slice(content),
        }
        if whole {
            self.taken = 0;
            let partial = std::mem::take(&mut self.partial);
            self.whole(need, &partial, sink)?;
            // Its memory serves again, but for that of a description.
            self.partial = partial;
            self.partial.clear();
            self.partial.shrink_to(BLOCK);
        }
        Ok(())
    }

    /// What was needed has come as a whole.
    fn whole(&mut self, need: Need, content: &[u8], sink: Sink<'_>) -> Result<()> {
        match need {
            Need::Block => {
                if let Some(block) = content.first_chunk() {
                    self.machine.block(block, &mut self.findings)?;
                }
                if !self.machine.is_unproved() {
                    self.close(false, sink)?;
                }
            }
            Need::Extension(_) => self.machine.extension(content, &mut self.findings)?,
            Need::Ova(_) => {
                sink(XvaEvent::OvaXml(content))?;
                self.machine.passed();
            }
            Need::Digest(kind) => {
                let running = self.chunk.as_ref().map(|c| &c.running);
                let fits = |digest: &_| running?.fits(digest);
                let verified = self.machine.digest(content, fits, &mut self.findings)?;
                self.sha1 = kind != DigestKind::Xxh64;
                self.close(verified, sink)?;
            }
            Need::Chunk(_) | Need::Skip(_) | Need::Tail => self.machine.passed(),
        }
        Ok(())
    }

    fn close(&mut self, verified: bool, sink: Sink<'_>) -> Result<()> {
        match self.chunk.take() {
            Some(Chunk { head, .. }) => sink(XvaEvent::ChunkEnd { head, verified }),
            None => Ok(()),
        }
    }
}
