//! Gzip: each unit is compressed on its own, so that all cores can work, and ends with a whole byte,
//! so that the parts are one stream. Not every reader knows files of several members.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use bytes::{BufMut, Bytes};
use flate2::{Compress, Compression, Crc, FlushCompress};

use super::QUEUE;
use super::deflate::{Deflater, END};
use super::digest::thread_died;
use crate::plan::gzip_len::{OVERHEAD, STORED_MAX};
use crate::plan::unit::UNIT;
use crate::{Error, ErrorKind, Result};

/// Deflate, no flags, no time, unknown operating system: nothing that differs between runs.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// The length of the trailer: the last block, checksum, length.
const TRAILER: usize = END.len() + 8;
const _: () = assert!(HEADER.len() + TRAILER == OVERHEAD as usize);

/// A unit of the input as a part of the stream.
#[derive(Debug)]
struct Part {
    bytes: Bytes,
    /// Of what it stands for.
    crc: Crc,
}

impl Part {
    fn again(&self) -> Self {
        let mut crc = Crc::new();
        crc.combine(&self.crc);
        Self { bytes: self.bytes.clone(), crc }
    }
}

/// Units in, parts of the stream out, in the same order.
#[derive(Debug)]
pub(super) struct Compressors {
    inputs: Vec<SyncSender<Bytes>>,
    outputs: Vec<Receiver<Result<Part>>>,
    sent: usize,
    received: usize,
    /// Of all units whose parts were received.
    crc: Crc,
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
            let (parts, output) = sync_channel(QUEUE);
            inputs.push(input);
            outputs.push(output);
            scope.spawn(move || {
                let mut gzip = Gzip::new(level);
                for unit in units {
                    if parts.send(gzip.part(&unit)).is_err() {
                        return;
                    }
                }
            });
        }
        Self { inputs, outputs, sent: 0, received: 0, crc: Crc::new() }
    }

    /// Hands a unit to the next worker, and gives a finished part back when all are busy.
    pub(super) fn push(&mut self, unit: Bytes) -> Result<Option<Bytes>> {
        // As many in flight as there are workers and one waiting for each: `send` never blocks
        // while a finished part waits to be taken.
        let full = self.sent - self.received >= 2 * self.inputs.len();
        let part = if full { self.pop()? } else { None };
        let worker = self.sent % self.inputs.len();
        self.inputs[worker].send(unit).map_err(|_| thread_died("compression"))?;
        self.sent += 1;
        Ok(part)
    }

    /// The next part in order; `None` when all are out.
    pub(super) fn pop(&mut self) -> Result<Option<Bytes>> {
        if self.received == self.sent {
            return Ok(None);
        }
        let worker = self.received % self.outputs.len();
        self.received += 1;
        let part = self.outputs[worker].recv().map_err(|_| thread_died("compression"))??;
        self.crc.combine(&part.crc);
        Ok(Some(part.bytes))
    }

    /// What comes before the first part.
    pub(super) fn header() -> Bytes {
        Bytes::from_static(&HEADER)
    }

    /// What comes after the last part: an empty last block, the checksum, the length.
    pub(super) fn trailer(&self) -> Bytes {
        let mut out = Vec::with_capacity(TRAILER);
        out.put_slice(&END);
        out.put_u32_le(self.crc.sum());
        out.put_u32_le(self.crc.amount());
        Bytes::from(out)
    }
}

/// One worker's state.
#[derive(Debug)]
struct Gzip {
    method: Method,
    /// The part for a unit of zeros, once it was needed.
    zeros: Option<Part>,
}

/// How a unit becomes a part of a deflate stream.
#[derive(Debug)]
enum Method {
    Store,
    Fast(Deflater),
    Library(Library),
}

impl Method {
    fn new(level: u32) -> Self {
        match level {
            0 => Self::Store,
            1 => Self::Fast(Deflater::new()),
            // The library's level 2 is larger than our level 1 on some text.
            _ => Self::Library(Library::new(level.max(3))),
        }
    }

    fn deflate(&mut self, unit: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Store => store(unit, out),
            Self::Fast(deflater) => deflater.part(unit, out),
            Self::Library(library) => return library.deflate(unit, out),
        }
        Ok(())
    }
}

impl Gzip {
    fn new(level: u32) -> Self {
        Self { method: Method::new(level), zeros: None }
    }

    fn part(&mut self, unit: &Bytes) -> Result<Part> {
        let zeros = unit.len() == UNIT && super::fill::is_zero(unit);
        if zeros && let Some(part) = &self.zeros {
            return Ok(part.again());
        }
        let mut out = Vec::with_capacity(unit.len() / 2 + 1024);
        self.method.deflate(unit, &mut out)?;
        let mut crc = Crc::new();
        crc.update(unit);
        let part = Part { bytes: Bytes::from(out), crc };
        if zeros {
            self.zeros = Some(part.again());
        }
        Ok(part)
    }
}

/// Levels at which the output counts for more than the time.
#[derive(Debug)]
struct Library {
    deflate: Compress,
    /// Looks at samples.
    probe: Deflater,
    /// What samples compress into.
    scratch: Vec<u8>,
}

impl Library {
    fn new(level: u32) -> Self {
        Self {
            deflate: Compress::new(Compression::new(level), false),
            probe: Deflater::new(),
            scratch: Vec::new(),
        }
    }

    fn deflate(&mut self, unit: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if !self.is_compressible(unit) {
            store(unit, out);
            return Ok(());
        }
        self.deflate.reset();
        let mut buf = [0_u8; 32 * 1024];
        loop {
            let consumed = self.deflate.total_in() as usize;
            let before = self.deflate.total_out();
            self.deflate
                .compress(&unit[consumed..], &mut buf, FlushCompress::Sync)
                .map_err(|e| Error::new(ErrorKind::Io, "gzip failed").with_source(e))?;
            let produced = (self.deflate.total_out() - before) as usize;
            out.put_slice(&buf[..produced]);
            // All was taken, and nothing waits for more room.
            if produced < buf.len() && self.deflate.total_in() as usize == unit.len() {
                return Ok(());
            }
        }
    }

    /// Whether any of a few samples shrinks. What is compressed or encrypted already costs the
    /// library most of its time and gains nothing.
    fn is_compressible(&mut self, unit: &[u8]) -> bool {
        const SAMPLES: usize = 8;
        const SAMPLE: usize = 4096;
        if unit.len() < 2 * SAMPLES * SAMPLE {
            return true;
        }
        (0..SAMPLES).any(|n| {
            let at = unit.len() / SAMPLES * n;
            self.scratch.clear();
            self.probe.part(&unit[at..at + SAMPLE], &mut self.scratch);
            self.scratch.len() < SAMPLE - SAMPLE / 32
        })
    }
}

/// Deflate's stored blocks: the length of the result follows from the length of the input.
fn store(unit: &[u8], out: &mut Vec<u8>) {
    for chunk in unit.chunks(STORED_MAX) {
        out.put_u8(0);
        out.put_u16_le(chunk.len() as u16);
        out.put_u16_le(!(chunk.len() as u16));
        out.put_slice(chunk);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::exec::deflate::tests::{noise, samples};

    /// What a program writes when it is given `input`; `None` if there is no such program.
    fn run(command: &[&str], input: &[u8]) -> Option<Vec<u8>> {
        let mut child = match Command::new(command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        {
            Ok(child) => child,
            Err(e) => {
                println!("skipped: {} cannot be run ({e})", command[0]);
                return None;
            }
        };
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input).unwrap());
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{command:?}");
            Some(output.stdout)
        })
    }

    fn packed(level: u32, units: &[Vec<u8>]) -> Vec<u8> {
        std::thread::scope(|scope| {
            let mut gzip = Compressors::start(scope, level, 2);
            let mut out = Compressors::header().to_vec();
            for unit in units {
                out.extend(gzip.push(Bytes::from(unit.clone())).unwrap().into_iter().flatten());
            }
            while let Some(part) = gzip.pop().unwrap() {
                out.extend(part);
            }
            out.extend(gzip.trailer());
            out
        })
    }

    #[test]
    fn other_programs_read_each_level() {
        let mut units = samples();
        units.retain(|unit| !unit.is_empty()); // There is no such unit.
        units.extend([vec![0; UNIT], noise(1, UNIT), vec![0; UNIT], vec![1; 3 * UNIT]]);
        let all = units.concat();
        for level in [0, 1, 2, 6, 9] {
            let packed = packed(level, &units);
            if run(&["gzip", "-t"], &packed).is_some() {
                assert!(run(&["gzip", "-dc"], &packed).unwrap() == all, "level {level}: gzip");
            }
            // One member, and nothing behind it: what Python's readers of streams want.
            let python = "import sys, zlib; z = zlib.decompressobj(31); \
                          sys.stdout.buffer.write(z.decompress(sys.stdin.buffer.read())); \
                          sys.exit(not z.eof or len(z.unused_data))";
            if let Some(back) = run(&["python3", "-c", python], &packed) {
                assert!(back == all, "level {level}: python3");
            }
        }
    }

    #[test]
    fn a_higher_level_is_not_larger() {
        let words = noise(1, 300_000);
        let text = words.iter().flat_map(|n| format!("{} of {}, ", n % 50, n / 16).into_bytes());
        let unit = [text.collect::<Vec<_>>()];
        let sizes = [0, 1, 2, 6, 9].map(|level| packed(level, &unit).len());
        assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
        assert!(sizes[1] < sizes[0] / 2, "{sizes:?}");
    }

    #[test]
    fn noise_is_stored_at_each_level() {
        let unit = [noise(1, UNIT)];
        let stored = packed(0, &unit);
        for level in 1..=9 {
            // What is left of the last block may be packed, and then ends within a byte.
            assert!(packed(level, &unit).len() <= stored.len() + 5, "level {level}");
        }
    }
}
