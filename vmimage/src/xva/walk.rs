//! An archive from its start to its end, each chunk verified: what reads all of it.

use std::io::{self, Read};

use super::digest::Digest;
use super::machine::{ChunkHead, Machine, Need};
use crate::archive::{BLOCK, Decoded, read_error};
use crate::finding::{Findings, Policy};
use crate::{Error, Result};

/// What comes next of an archive.
#[derive(Debug)]
pub(super) enum Step {
    /// A chunk, whose data are in the buffer.
    Chunk(ChunkHead),
    /// Nothing: the archive has ended as it must, or (if lenient) somehow.
    End,
}

/// The reader.
#[derive(Debug)]
pub(super) struct Walk {
    input: Decoded,
    pub(super) machine: Machine,
    pub(super) findings: Findings,
    done: bool,
}

impl Walk {
    pub(super) fn new(input: Box<dyn Read + Send>, policy: Policy) -> Result<Self> {
        let input = Decoded::new(input)?;
        let findings = Findings::new(policy);
        Ok(Self { input, machine: Machine::new(), findings, done: false })
    }

    /// Reads up to the first chunk, and `ova.xml` if it comes before it.
    pub(super) fn ova(&mut self) -> Result<Option<Vec<u8>>> {
        while !self.done {
            match self.machine.need() {
                Need::Ova(len) => {
                    let mut text = Vec::new();
                    if !self.fill_new(&mut text, len)? {
                        self.cut()?;
                        return Ok(None);
                    }
                    self.machine.passed();
                    return Ok(Some(text));
                }
                Need::Chunk(_) | Need::Tail => break,
                need => self.small(need, &[])?,
            }
        }
        Ok(None)
    }

    /// The next chunk, verified, into `data`. Its length becomes that of the chunk.
    pub(super) fn step(&mut self, data: &mut Vec<u8>) -> Result<Step> {
        while !self.done {
            match self.machine.need() {
                Need::Chunk(head) => return self.chunk(head, data),
                Need::Tail => return self.tail(data).map(|()| Step::End),
                need => self.small(need, &[])?,
            }
        }
        Ok(Step::End)
    }

    fn chunk(&mut self, head: ChunkHead, data: &mut Vec<u8>) -> Result<Step> {
        // A chunk is 4 MiB at most. What was in the buffer is not cleared: it is overwritten.
        data.resize(usize::try_from(head.len).unwrap_or(usize::MAX), 0);
        let padding = (Need::Chunk(head).padded() - head.len) as usize;
        let mut scratch = [0; BLOCK];
        let scratch = scratch.get_mut(..padding).unwrap_or_default();
        if !(self.fill(data)? && self.fill(scratch)?) {
            self.cut()?;
            return Ok(Step::End);
        }
        self.machine.passed();
        self.prove(data)?;
        Ok(Step::Chunk(head))
    }

    /// Reads the chunk's checksum, which follows it.
    fn prove(&mut self, data: &[u8]) -> Result<()> {
        while !self.done && self.machine.is_unproved() {
            match self.machine.need() {
                Need::Chunk(_) | Need::Ova(_) | Need::Tail => break,
                need => self.small(need, data)?,
            }
        }
        Ok(())
    }

    /// Brings everything that is neither a chunk nor the description.
    fn small(&mut self, need: Need, data: &[u8]) -> Result<()> {
        match need {
            Need::Block => {
                let mut block = [0; BLOCK];
                match self.fill_some(&mut block)? {
                    BLOCK => self.machine.block(&block, &mut self.findings),
                    0 => self.machine.ended(&mut self.findings),
                    _ => self.cut(),
                }
            }
            Need::Extension(len) => {
                let mut content = Vec::new();
                if !self.fill_new(&mut content, len)? {
                    return self.cut();
                }
                self.machine.extension(&content, &mut self.findings)
            }
            Need::Digest(kind) => {
                let mut text = [0; BLOCK];
                if !self.fill(&mut text)? {
                    return self.cut();
                }
                let text = text.get(..kind.text_len()).unwrap_or_default();
                let fits = |digest: &Digest| Some(digest.fits(data));
                self.machine.digest(text, fits, &mut self.findings).map(|_| ())
            }
            _ => {
                let len = need.padded();
                let passed = io::copy(&mut (&mut self.input).take(len), &mut io::sink());
                if passed.map_err(|e| self.failed(e))? < len {
                    return self.cut();
                }
                self.machine.passed();
                Ok(())
            }
        }
    }

    /// Reads to the end of the input, which must be zeros.
    fn tail(&mut self, scratch: &mut Vec<u8>) -> Result<()> {
        scratch.resize(64 * 1024, 0);
        loop {
            let n = self.fill_some(scratch)?;
            let rest = scratch.get(..n).unwrap_or_default();
            // Of a stream of zeros without an end enough has been seen.
            if !self.machine.tail(rest, &mut self.findings)? || n < scratch.len() {
                break;
            }
        }
        scratch.clear();
        self.done = true;
        Ok(())
    }

    /// The input ended within a member.
    fn cut(&mut self) -> Result<()> {
        self.done = true;
        self.machine.cut(&mut self.findings)
    }

    /// Reads a content of `len` bytes and its padding into a new buffer, which grows with what
    /// really comes.
    fn fill_new(&mut self, buf: &mut Vec<u8>, len: u64) -> Result<bool> {
        let padded = crate::archive::padded(len).unwrap_or(u64::MAX);
        let result = (&mut self.input).take(padded).read_to_end(buf);
        let n = result.map_err(|e| self.failed(e))?;
        buf.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(n as u64 == padded)
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<bool> {
        Ok(self.fill_some(buf)? == buf.len())
    }

    /// Reads until `buf` is full or the input ends.
    fn fill_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut n = 0;
        while n < buf.len() {
            match self.input.read(buf.get_mut(n..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(got) => n = (n + got).min(buf.len()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(e)),
            }
        }
        Ok(n)
    }

    fn failed(&self, error: io::Error) -> Error {
        read_error(error).with_offset(self.machine.at())
    }
}
