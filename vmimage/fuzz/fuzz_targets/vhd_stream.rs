//! Bytes as an export stream: read what the map promises, then prove the end.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use vmimage::{Source, vhd::VhdStream};

fuzz_target!(|data: &[u8]| {
    let Ok(mut stream) = VhdStream::new(Cursor::new(data.to_vec())) else { return };
    let runs: Vec<_> = stream.block_map().runs().take(8).collect();
    let mut buf = vec![0; 65_536];
    for run in runs {
        let n = (run.end - run.start).min(65_536) as usize;
        if stream.read_exact_at(&mut buf[..n], run.start).is_err() {
            return;
        }
    }
    let _ = stream.finish();
});
