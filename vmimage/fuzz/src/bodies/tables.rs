//! The pure parsers: what they accept, they can write and parse again to the same.

use vmimage::vhd::{Bat, Batmap, Bitmap, DynamicHeader, Footer, Locator, PlatformCode};
use vmimage::xva::Ova;
use vmimage::{Findings, Policy};

pub(crate) fn vhd_tables(data: &[u8]) -> bool {
    let mut findings = Findings::new(Policy::Lenient);
    let mut taken = false;
    if let Ok(footer) = Footer::parse(data, &mut findings) {
        let again = Footer::parse(&footer.to_bytes(), &mut Findings::new(Policy::Lenient));
        assert_eq!(again.expect("its own bytes"), footer);
        taken = true;
    }
    if let Ok(header) = DynamicHeader::parse(data, &mut findings) {
        let again = DynamicHeader::parse(&header.to_bytes(), &mut Findings::new(Policy::Lenient))
            .expect("its own bytes");
        assert_eq!(
            (again.table_offset, again.block_size),
            (header.table_offset, header.block_size)
        );
        let _ = header.needed_entries(u64::MAX);
        taken = true;
    }
    if let Some(mut batmap) = Batmap::parse_header(data) {
        let _ = batmap.load(data.to_vec(), &mut findings);
        let _ = batmap.get(u64::MAX);
        taken = true;
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
    taken
}

/// A description is text that the strict parser takes again, with the same disks.
pub(crate) fn ova(data: &[u8]) -> bool {
    let Ok(ova) = Ova::parse(data, &mut Findings::new(Policy::Lenient)) else { return false };
    let again = Ova::parse(ova.to_xml().as_bytes(), &mut Findings::new(Policy::Strict));
    let sizes = |ova: &Ova| -> Vec<(String, u64)> {
        ova.disks().into_iter().map(|d| (d.reference, d.virtual_size)).collect()
    };
    assert_eq!(sizes(&again.expect("its own text")), sizes(&ova));
    true
}
