//! The checksums of chunks: XXH64 since XenServer 8.1, SHA-1 before and in exports of single VDIs.

use std::fmt;
use std::hash::Hasher;

use sha1::{Digest as _, Sha1};
use twox_hash::XxHash64;

/// The algorithm of a chunk's checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DigestKind {
    /// XXH64 with the seed 0, in `.xxhash`: 16 hexadecimal digits.
    Xxh64,
    /// SHA-1, in `.checksum`: 40 hexadecimal digits.
    Sha1,
}

impl DigestKind {
    /// How many hexadecimal digits its text has.
    pub(crate) fn text_len(self) -> usize {
        match self {
            Self::Xxh64 => 16,
            Self::Sha1 => 40,
        }
    }
}

impl fmt::Display for DigestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xxh64 => "xxhash",
            Self::Sha1 => "sha1",
        })
    }
}

/// A checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Digest {
    Xxh64(u64),
    Sha1([u8; 20]),
}

impl Digest {
    /// From hexadecimal digits of either case, and nothing else.
    pub(crate) fn parse(kind: DigestKind, text: &[u8]) -> Option<Self> {
        if text.len() != kind.text_len() {
            return None;
        }
        let mut bytes = [0; 20];
        let (pairs, _) = text.as_chunks::<2>();
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            let digit = |c: &u8| char::from(*c).to_digit(16);
            *byte = (digit(high)? << 4 | digit(low)?) as u8;
        }
        Some(match (kind, bytes.first_chunk::<8>()) {
            (DigestKind::Xxh64, Some(first)) => Self::Xxh64(u64::from_be_bytes(*first)),
            _ => Self::Sha1(bytes),
        })
    }

    pub(crate) fn of(kind: DigestKind, data: &[u8]) -> Self {
        match kind {
            DigestKind::Xxh64 => Self::Xxh64(XxHash64::oneshot(0, data)),
            DigestKind::Sha1 => Self::Sha1(Sha1::digest(data).into()),
        }
    }

    pub(crate) fn kind(&self) -> DigestKind {
        match self {
            Self::Xxh64(_) => DigestKind::Xxh64,
            Self::Sha1(_) => DigestKind::Sha1,
        }
    }

    /// Whether it is that of `data`.
    pub(crate) fn fits(&self, data: &[u8]) -> bool {
        *self == Self::of(self.kind(), data)
    }
}

/// Checksums of data that comes in pieces, while it is not known which of them will be wanted.
pub(crate) struct Running {
    xxh: XxHash64,
    sha1: Option<Sha1>,
}

impl Running {
    /// SHA-1 costs as much as all the rest, so it is left out where it is not expected.
    pub(crate) fn new(with_sha1: bool) -> Self {
        Self { xxh: XxHash64::with_seed(0), sha1: with_sha1.then(Sha1::new) }
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        self.xxh.write(data);
        if let Some(sha1) = &mut self.sha1 {
            sha1.update(data);
        }
    }

    /// Whether `digest` is that of the data; `None` if its kind was not computed.
    pub(crate) fn fits(&self, digest: &Digest) -> Option<bool> {
        Some(match digest {
            Digest::Xxh64(sum) => self.xxh.finish() == *sum,
            Digest::Sha1(sum) => <[u8; 20]>::from(self.sha1.clone()?.finalize()) == *sum,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_values_of_nothing_and_of_a_letter() {
        for (kind, data, text) in [
            (DigestKind::Xxh64, "", "EF46DB3751D8E999"),
            (DigestKind::Xxh64, "a", "d24ec4f1a98c6e5b"),
            (DigestKind::Sha1, "", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ] {
            let digest = Digest::parse(kind, text.as_bytes()).unwrap();
            assert!(digest.fits(data.as_bytes()) && !digest.fits(b"b"));
            let mut running = Running::new(true);
            running.update(data.as_bytes());
            assert_eq!(running.fits(&digest), Some(true));
        }
        let sha1 = Digest::of(DigestKind::Sha1, b"");
        assert_eq!(Running::new(false).fits(&sha1), None);
    }

    #[test]
    fn other_texts_are_no_digests() {
        for text in
            ["", "EF46DB3751D8E99", "EF46DB3751D8E9999", "EF46DB3751D8E99G", "+F46DB3751D8E999"]
        {
            assert_eq!(Digest::parse(DigestKind::Xxh64, text.as_bytes()), None, "{text}");
        }
    }
}
