//! The forward-only stream against the model, whole and cut.

use std::io::{Cursor, Read};

use proptest::prelude::*;
use vmimage::vhd::VhdStream;
use vmimage::{ErrorKind, Source};

use crate::builder::{Kind, Layer, Rng, SECTOR};

/// A reader that gives a few bytes at a time, as a socket does.
struct Dribble(Cursor<Vec<u8>>, Rng);

impl Read for Dribble {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let most = if self.1.one_in(2) { 700 } else { 70_000 };
        let n = 1 + self.1.below(most);
        let n = n.min(buf.len());
        self.0.read(&mut buf[..n])
    }
}

fn stream(bytes: Vec<u8>, seed: u64) -> vmimage::Result<VhdStream> {
    VhdStream::new(Dribble(Cursor::new(bytes), Rng::new(seed)))
}

fn layer(seed: u64) -> Layer {
    let mut rng = Rng::new(seed);
    let block_size = *rng.pick(&[4096, 32768, 512 << 10]);
    let size = (1 + rng.below(2000)) * SECTOR;
    Layer::random(&mut rng, Kind::Dynamic, size, block_size).like_xapi()
}

/// As tapdisk lays a file out: aligned blocks, a batmap, room in the BAT;
/// in ascending order it can be streamed too.
fn tap_layer(seed: u64) -> Layer {
    let mut rng = Rng::new(seed);
    let mut layer = Layer::random(&mut rng, Kind::Dynamic, 3 << 20, 32768);
    layer.order.sort_unstable();
    layer.creator = (*b"tap\0", 0x0001_0003);
    (layer.align, layer.gap, layer.spare_entries) = (4096, 0, 300);
    layer
}

#[test]
fn a_file_by_tapdisk_is_a_stream_if_its_blocks_ascend() {
    for seed in 0..20 {
        let layer = tap_layer(seed);
        let bytes = layer.build();
        assert!(drain(stream(bytes.clone(), seed).unwrap()).unwrap() == layer.view(&[]));
        let cut = bytes[..bytes.len() - 1].to_vec();
        assert!(stream(cut, seed).and_then(drain).is_err());
    }
    let mut encrypted = tap_layer(1).build();
    let bat_len = ((96 + 300) * 4_usize).next_multiple_of(SECTOR);
    encrypted[1536 + bat_len + 29] = 1;
    assert_eq!(stream(encrypted, 1).unwrap_err().kind(), ErrorKind::Unsupported);
}

/// Reads everything that the map says is data, and proves the end.
fn drain(mut s: VhdStream) -> vmimage::Result<Vec<u8>> {
    let map = s.block_map().clone();
    let mut out = vec![0; map.virtual_size() as usize];
    for run in map.runs() {
        s.read_exact_at(&mut out[run.start as usize..run.end as usize], run.start)?;
    }
    s.finish()?;
    s.finish()?;
    Ok(out)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_stream_is_what_the_guest_sees(seed in any::<u64>()) {
        let layer = layer(seed);
        let (bytes, view) = (layer.build(), layer.view(&[]));
        let s = stream(bytes.clone(), seed).unwrap();
        prop_assert_eq!(s.stream_len(), bytes.len() as u64);
        prop_assert!(drain(s).unwrap() == view);

        // In odd pieces, some of them skipped.
        let mut rng = Rng::new(seed ^ 2);
        let mut s = stream(bytes.clone(), seed).unwrap();
        let mut at = 0;
        while at < view.len() {
            let n = (1 + rng.below(50_000)).min(view.len() - at);
            if !rng.one_in(3) {
                let mut part = vec![0xAA; n];
                s.read_exact_at(&mut part, at as u64).unwrap();
                prop_assert!(part == view[at..at + n]);
            }
            at += n;
        }
        s.finish().unwrap();

        // Wherever it is cut, it is not whole.
        let cut = rng.below(bytes.len());
        let error = stream(bytes[..cut].to_vec(), seed).and_then(drain).unwrap_err();
        prop_assert_eq!(error.kind(), ErrorKind::Truncated, "cut at {}: {}", cut, error);
        // One byte more, or another last footer, is no proof either.
        let mut longer = bytes.clone();
        longer.push(0);
        prop_assert!(stream(longer, seed).and_then(drain).is_err());
        let mut other = bytes;
        let last = other.len() - 1;
        other[last] = 1;
        prop_assert!(stream(other, seed).and_then(drain).is_err());
    }
}

#[test]
fn an_empty_body_names_the_limit_of_vhd() {
    let error = stream(Vec::new(), 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
    assert!(error.to_string().contains("2040 GiB"), "{error}");
}

#[test]
fn a_server_error_in_the_body_is_quoted() {
    let bytes = layer(3).build();
    let complaint = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
    let mut body = bytes[..bytes.len() / 2].to_vec();
    body.extend(complaint);
    let error = stream(body, 5).and_then(drain).unwrap_err();
    assert!(error.to_string().contains("500 Internal Server Error"), "{error}");
    // In place of the last footer.
    let mut body = bytes[..bytes.len() - 512].to_vec();
    body.extend(complaint);
    let error = stream(body, 5).and_then(drain).unwrap_err();
    assert!(error.to_string().contains("500 Internal Server Error"), "{error}");
    let error = stream(complaint.to_vec(), 5).unwrap_err();
    assert!(error.to_string().contains("500 Internal Server Error"), "{error}");
}

#[test]
fn what_cannot_be_streamed_is_refused_by_name() {
    let mut rng = Rng::new(9);
    let mut disordered = Layer::random(&mut rng, Kind::Dynamic, 64 * 4096, 4096);
    disordered.order.sort_unstable_by(|a, b| b.cmp(a));
    let kind = |l: &Layer| stream(l.build(), 1).unwrap_err().kind();
    assert_eq!(kind(&disordered), ErrorKind::Unsupported);
    assert_eq!(kind(&Layer::new(Kind::Differencing, 4096, 4096)), ErrorKind::Reference);
    assert_eq!(stream(vec![0; 4096], 1).unwrap_err().kind(), ErrorKind::Unsupported);
    let mut s = stream(layer(3).build(), 1).unwrap();
    s.read_exact_at(&mut [0; 512], 512).unwrap();
    assert_eq!(s.read_exact_at(&mut [0; 512], 0).unwrap_err().kind(), ErrorKind::Usage);
    let end = s.block_map().virtual_size();
    assert_eq!(s.read_exact_at(&mut [0; 2], end - 1).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn a_disk_without_blocks_is_a_stream() {
    let empty = Layer::new(Kind::Dynamic, 5 << 20, 2 << 20).like_xapi();
    assert_eq!(drain(stream(empty.build(), 1).unwrap()).unwrap(), vec![0; 5 << 20]);
}

#[test]
fn data_out_of_their_place_are_no_stream() {
    for seed in 0..20 {
        let bytes = layer(seed).build();
        let end = bytes.len() - 512;
        let mut rng = Rng::new(seed);
        for inserted in [&[0][..], &[0; 7], &[0; 512], &[7; 512], &bytes[end..], &bytes] {
            for at in [end, 2048 + rng.below((end - 2048).max(1))] {
                let longer = [&bytes[..at], inserted, &bytes[at..]].concat();
                let len = inserted.len();
                assert!(stream(longer, seed).and_then(drain).is_err(), "{seed}: {len} at {at}");
            }
        }
        let longer = [&bytes, &bytes[end..]].concat();
        assert!(stream(longer, seed).and_then(drain).is_err());
    }
    // A volume has room behind the blocks, but nothing that a guest wrote.
    let bytes = tap_layer(1).build();
    let end = bytes.len() - 512;
    let with = |gap: &[u8]| [&bytes[..end], gap, &bytes[end..]].concat();
    assert!(stream(with(&[0; 4096]), 1).and_then(drain).is_ok());
    assert!(stream(with(&[0; 4095]), 1).and_then(drain).is_err());
    assert!(stream(with(&[&[0; 512][..], &[1; 512]].concat()), 1).and_then(drain).is_err());
}
