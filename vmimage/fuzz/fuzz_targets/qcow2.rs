//! A file as a QCOW2 image, strict and lenient: bounded reads at its start and end.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use vmimage::qcow2::Qcow2Disk;
use vmimage::{Disk, Findings, Policy, ReadAt};

fuzz_target!(|data: &[u8]| {
    for policy in [Policy::Strict, Policy::Lenient] {
        let file: Arc<dyn ReadAt> = Arc::new(data.to_vec());
        let Ok(disk) = Qcow2Disk::open(file, None, None, &mut Findings::new(policy)) else {
            continue;
        };
        let size = disk.virtual_size();
        let n = size.min(65_536);
        let mut buf = vec![0; n as usize];
        let _ = disk.read_exact_at(&mut buf, 0);
        let _ = disk.read_exact_at(&mut buf, size - n);
        if size < 1 << 30 {
            let _ = disk.block_map();
        }
    }
});
