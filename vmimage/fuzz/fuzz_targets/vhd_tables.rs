//! The pure parsers of VHD: what they accept, they can write and parse again to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmimage::vhd::{Bat, Batmap, Bitmap, DynamicHeader, Footer, Locator, PlatformCode};
use vmimage::{Findings, Policy};

fuzz_target!(|data: &[u8]| {
    let mut findings = Findings::new(Policy::Lenient);
    if let Ok(footer) = Footer::parse(data, &mut findings) {
        let again = Footer::parse(&footer.to_bytes(), &mut Findings::new(Policy::Lenient));
        assert_eq!(again.expect("its own bytes"), footer);
    }
    if let Ok(header) = DynamicHeader::parse(data, &mut findings) {
        let again = DynamicHeader::parse(&header.to_bytes(), &mut Findings::new(Policy::Lenient))
            .expect("its own bytes");
        assert_eq!((again.table_offset, again.block_size), (header.table_offset, header.block_size));
        let _ = header.needed_entries(u64::MAX);
    }
    if let Some(mut batmap) = Batmap::parse_header(data) {
        let _ = batmap.load(data.to_vec(), &mut findings);
        let _ = batmap.get(u64::MAX);
    }
    for code in [PlatformCode::W2RU, PlatformCode::MACX] {
        let _ = Locator::new(code, 1, 1, 1).path(data);
    }
    assert_eq!(Bat::parse(data).len(), data.len() / 4);
    let bitmap = Bitmap::parse(data, 4096);
    let mut at = 0;
    while at < 4096 {
        let (held, end) = bitmap.run(at);
        assert!(end > at && (at..end).all(|s| bitmap.get(s) == held));
        at = end;
    }
});
