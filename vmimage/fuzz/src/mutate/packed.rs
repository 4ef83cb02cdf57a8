//! What is packed is unpacked, changed and packed again.

use std::io::{Read, Write};

use super::{Rng, change as change_image};

/// No more is unpacked: the outputs are limited as well.
const LONGEST: u64 = 1 << 20;

pub(super) fn is_packed(bytes: &[u8]) -> bool {
    is_gzip(bytes) || bytes.starts_with(b"\x28\xb5\x2f\xfd")
}

fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x1f\x8b")
}

/// False if nothing comes out, or nothing that is known.
pub(super) fn change(rng: &mut Rng, bytes: &mut Vec<u8>) -> bool {
    // Within a frame the fuzzer's own changes reach the decoder.
    if rng.one_in(3) {
        return false;
    }
    let mut image = Vec::new();
    if is_gzip(bytes) {
        let _ = flate2::bufread::MultiGzDecoder::new(bytes.as_slice())
            .take(LONGEST)
            .read_to_end(&mut image);
    } else if let Ok(decoder) = ruzstd::decoding::StreamingDecoder::new(bytes.as_slice()) {
        let _ = decoder.take(LONGEST).read_to_end(&mut image);
    }
    if image.is_empty() || !change_image(rng, &mut image, 1) {
        return false;
    }
    *bytes = if rng.one_in(2) {
        ruzstd::encoding::compress_to_vec(
            image.as_slice(),
            ruzstd::encoding::CompressionLevel::Fastest,
        )
    } else {
        let level = flate2::Compression::new(rng.pick(&[0, 1, 6]));
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
        // Writing into memory does not fail.
        let _ = encoder.write_all(&image);
        encoder.finish().unwrap_or_default()
    };
    true
}
