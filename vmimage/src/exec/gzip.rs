//! Gzip members: each unit is compressed on its own, so that all cores can work.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use super::QUEUE;
use super::digest::thread_died;
use crate::plan::gzip_len::STORED_MAX;
use crate::plan::unit::UNIT;
use crate::{Error, ErrorKind, Result};

/// Deflate, no flags, no time, unknown operating system: nothing that differs between runs.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Units in, members out, in the same order.
#[derive(Debug)]
pub(super) struct Compressors {
    inputs: Vec<SyncSender<Bytes>>,
    outputs: Vec<Receiver<Result<Bytes>>>,
    sent: usize,
    received: usize,
}

impl Compressors {
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        level: u32,
        workers: usize,
    ) -> Self {
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for _ in 0..workers.max(1) {
            let (input, units): (SyncSender<Bytes>, _) = sync_channel(1);
            let (members, output) = sync_channel(QUEUE);
            inputs.push(input);
            outputs.push(output);
            scope.spawn(move || {
                let mut gzip = Gzip::new(level);
                for unit in units {
                    if members.send(gzip.member(&unit)).is_err() {
                        return;
                    }
                }
            });
        }
        Self { inputs, outputs, sent: 0, received: 0 }
    }

    /// Hands a unit to the next worker, and gives a finished member back when all are busy.
    pub(super) fn push(&mut self, unit: Bytes) -> Result<Option<Bytes>> {
        // As many in flight as there are workers and one waiting for each: `send` never blocks
        // while a finished member waits to be taken.
        let full = self.sent - self.received >= 2 * self.inputs.len();
        let member = if full { self.pop()? } else { None };
        let worker = self.sent % self.inputs.len();
        self.inputs[worker].send(unit).map_err(|_| thread_died("compression"))?;
        self.sent += 1;
        Ok(member)
    }

    /// The next member in order; `None` when all are out.
    pub(super) fn pop(&mut self) -> Result<Option<Bytes>> {
        if self.received == self.sent {
            return Ok(None);
        }
        let worker = self.received % self.outputs.len();
        self.received += 1;
        self.outputs[worker].recv().map_err(|_| thread_died("compression"))?.map(Some)
    }
}

/// One worker's state.
#[derive(Debug)]
struct Gzip {
    level: u32,
    deflate: Compress,
    /// The member of a unit of zeros, once it was needed.
    zeros: Option<Bytes>,
    /// What samples compress into.
    scratch: BytesMut,
}

impl Gzip {
    fn new(level: u32) -> Self {
        Self {
            level,
            deflate: Compress::new(Compression::new(level), false),
            zeros: None,
            scratch: BytesMut::new(),
        }
    }

    fn member(&mut self, unit: &Bytes) -> Result<Bytes> {
        let zeros = unit.len() == UNIT && super::fill::is_zero(unit);
        if zeros && let Some(member) = &self.zeros {
            return Ok(member.clone());
        }
        let mut out = BytesMut::with_capacity(unit.len() / 2 + 1024);
        out.put_slice(&HEADER);
        if self.level == 0 || !self.is_compressible(unit)? {
            store(unit, &mut out);
        } else {
            self.deflate(unit, &mut out)?;
        }
        let mut crc = Crc::new();
        crc.update(unit);
        out.put_u32_le(crc.sum());
        out.put_u32_le(unit.len() as u32);
        let member = out.freeze();
        if zeros {
            self.zeros = Some(member.clone());
        }
        Ok(member)
    }

    /// Whether any of a few samples shrinks. What is compressed or encrypted already costs a
    /// deflate most of its time and gains nothing.
    fn is_compressible(&mut self, unit: &[u8]) -> Result<bool> {
        const SAMPLES: usize = 8;
        const SAMPLE: usize = 4096;
        if unit.len() < 2 * SAMPLES * SAMPLE {
            return Ok(true);
        }
        for n in 0..SAMPLES {
            let at = unit.len() / SAMPLES * n;
            let sample = &unit[at..at + SAMPLE];
            self.scratch.clear();
            let mut scratch = std::mem::take(&mut self.scratch);
            self.deflate(sample, &mut scratch)?;
            let shrinks = scratch.len() < SAMPLE - SAMPLE / 32;
            self.scratch = scratch;
            if shrinks {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn deflate(&mut self, unit: &[u8], out: &mut BytesMut) -> Result<()> {
        self.deflate.reset();
        let mut buf = [0_u8; 32 * 1024];
        loop {
            let consumed = self.deflate.total_in() as usize;
            let before = self.deflate.total_out();
            let status = self
                .deflate
                .compress(&unit[consumed..], &mut buf, FlushCompress::Finish)
                .map_err(|e| Error::new(ErrorKind::Io, "gzip failed").with_source(e))?;
            let produced = (self.deflate.total_out() - before) as usize;
            out.put_slice(&buf[..produced]);
            if status == Status::StreamEnd {
                return Ok(());
            }
        }
    }
}

/// Deflate's stored blocks: the length of the result follows from the length of the input.
fn store(unit: &[u8], out: &mut BytesMut) {
    let blocks = unit.len().div_ceil(STORED_MAX);
    for (i, chunk) in unit.chunks(STORED_MAX).enumerate() {
        out.put_u8(u8::from(i + 1 == blocks));
        out.put_u16_le(chunk.len() as u16);
        out.put_u16_le(!(chunk.len() as u16));
        out.put_slice(chunk);
    }
}
