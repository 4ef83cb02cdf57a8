//! The output for who pulls it.

#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use vmimage::{
    BlockMap, Disk, DiskSource, Error, ErrorKind, GRANULE, OutputReader, Plan, PlanOptions,
    RawDisk, Result, Source, StreamOptions, TargetFormat, reader, stream,
};

/// A disk that ends as it is told, and whose end is noticed by who holds the other end of a channel.
struct Told {
    disk: DiskSource,
    fail_at: Option<u64>,
    whole: bool,
    _held: Option<Sender<()>>,
}

impl Source for Told {
    fn block_map(&self) -> &BlockMap {
        self.disk.block_map()
    }

    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        match self.fail_at {
            Some(at) if offset + buf.len() as u64 > at => Err(Error::corrupt("told to fail")),
            _ => self.disk.read_exact_at(buf, offset),
        }
    }

    fn finish(&mut self) -> Result<()> {
        if self.whole { Ok(()) } else { Err(Error::truncated("told to be cut")) }
    }
}

fn told() -> Told {
    let bytes: Vec<u8> = (0..100 * GRANULE).map(|n| (n / 777) as u8).collect();
    let disk: Arc<dyn Disk> = Arc::new(RawDisk::new(Arc::new(bytes)).unwrap());
    let disk = DiskSource::new(disk).unwrap();
    Told { disk, fail_at: None, whole: true, _held: None }
}

fn plan(format: TargetFormat) -> Plan {
    Plan::new(format, told().block_map(), &PlanOptions::new()).unwrap()
}

#[test]
fn what_is_pulled_is_what_would_be_pushed() {
    for format in TargetFormat::ALL {
        let (plan, options) = (plan(format), StreamOptions::new());
        let mut pushed = Vec::new();
        let mut sink = |bytes: bytes::Bytes| {
            pushed.extend_from_slice(&bytes);
            Ok(())
        };
        let outcome = stream(&plan, &mut told(), &mut sink, &options).unwrap();
        for step in [1000, 1 << 20, 5_000_001] {
            let mut output = reader(&plan, told(), &options);
            let mut pulled = Vec::new();
            let mut buf = vec![0; step];
            loop {
                assert_eq!(output.read(&mut []).unwrap(), 0);
                assert!(output.outcome().is_none());
                match output.read(&mut buf).unwrap() {
                    0 => break,
                    n => pulled.extend_from_slice(&buf[..n]),
                }
            }
            assert!(pulled == pushed, "{format} {step}");
            assert_eq!(output.outcome(), Some(&outcome));
            assert_eq!(output.read(&mut buf).unwrap(), 0);
        }
    }
}

#[test]
fn a_failure_never_reads_as_the_end() {
    let cases =
        [(Some(30 * GRANULE), true, ErrorKind::Corrupt), (None, false, ErrorKind::Truncated)];
    for format in TargetFormat::ALL {
        for (fail_at, whole, kind) in cases {
            let plan = plan(format);
            let source = Told { fail_at, whole, ..told() };
            let mut output = reader(&plan, source, &StreamOptions::new());
            let mut pulled = Vec::new();
            let error = output.read_to_end(&mut pulled).unwrap_err();
            assert_eq!(Error::io("reading", error).kind(), kind, "{format}");
            assert!(plan.output_len().is_none_or(|len| (pulled.len() as u64) < len));
            // And again.
            let error = output.read(&mut [0; 9]).unwrap_err();
            assert_eq!(Error::io("reading", error).kind(), kind, "{format}");
            assert!(output.outcome().is_none());
        }
    }
}

#[test]
fn a_reader_that_is_dropped_ends_its_thread() {
    fn is_send<T: Send>(_: &T) {}
    let (held, drops) = channel();
    let source = Told { _held: Some(held), ..told() };
    let mut output: OutputReader = reader(&plan(TargetFormat::Raw), source, &StreamOptions::new());
    is_send(&output);
    output.read_exact(&mut [0; 5]).unwrap();
    drop(output);
    // The source is gone, and its sender with it: this would wait for ever for a thread that stays.
    drops.recv().unwrap_err();
}
