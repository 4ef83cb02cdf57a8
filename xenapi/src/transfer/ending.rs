//! Whether what came is whole by the rules of its format: a body without a length can end early
//! and look as if it had not.

mod archive;
#[cfg(feature = "gzip")]
mod gzip;
mod qcow2;

use archive::Archive;
use qcow2::Qcow2;

use super::sniff;

const SECTOR: usize = 512;
/// How long an answer of failure behind the data may be.
const LONGEST_ANSWER: usize = 4096;

/// Watches the bytes of an export as they pass.
#[derive(Debug)]
pub(super) struct Ending {
    received: u64,
    form: Form,
}

#[derive(Debug)]
enum Form {
    /// A disk of this size, or of one that nobody told.
    Raw(Option<u64>),
    Vhd {
        first: Vec<u8>,
        last: Vec<u8>,
    },
    Qcow2(Box<Qcow2>),
    Archive(Archive),
    /// Data that only must not end with an answer of failure.
    Unknown {
        last: Vec<u8>,
    },
}

impl Ending {
    /// A raw disk of `size` bytes, if that is known.
    pub(super) fn raw(size: Option<u64>) -> Self {
        Self::of(Form::Raw(size))
    }

    pub(super) fn vhd() -> Self {
        Self::of(Form::Vhd { first: Vec::new(), last: Vec::new() })
    }

    pub(super) fn qcow2() -> Self {
        Self::of(Form::Qcow2(Box::default()))
    }

    /// A tar file, compressed or not; gzip is inflated if `deep` says so.
    pub(super) fn archive(deep: bool) -> Self {
        Self::of(Form::Archive(Archive::new(deep)))
    }

    /// Anything at all, from a server that says that it has failed behind it.
    pub(super) fn unknown() -> Self {
        Self::of(Form::Unknown { last: Vec::new() })
    }

    fn of(form: Form) -> Self {
        Self { received: 0, form }
    }

    pub(super) fn see(&mut self, bytes: &[u8]) {
        match &mut self.form {
            Form::Raw(_) => {}
            Form::Vhd { first, last } => {
                let wanted = SECTOR.saturating_sub(first.len()).min(bytes.len());
                first.extend_from_slice(bytes.get(..wanted).unwrap_or_default());
                keep_last(last, bytes, SECTOR);
            }
            Form::Qcow2(qcow2) => qcow2.see(self.received, bytes),
            Form::Archive(archive) => archive.see(bytes),
            Form::Unknown { last } => keep_last(last, bytes, LONGEST_ANSWER),
        }
        self.received += bytes.len() as u64;
    }

    /// What is missing, in words; nothing if the stream has the end that its format has.
    pub(super) fn verdict(self) -> Result<(), String> {
        let received = self.received;
        match self.form {
            Form::Raw(None) => Ok(()),
            Form::Raw(Some(size)) if size == received => Ok(()),
            Form::Raw(Some(size)) => {
                Err(format!("{received} bytes came of a disk that has {size}"))
            }
            Form::Vhd { first, last } => {
                let whole = received >= 1024 && received.is_multiple_of(512);
                if whole && first == last && first.starts_with(b"conectix") {
                    Ok(())
                } else {
                    Err(format!("the VHD of {received} bytes does not end with its footer"))
                }
            }
            Form::Qcow2(qcow2) => qcow2.verdict(received),
            Form::Archive(archive) => archive.verdict(received),
            Form::Unknown { last } => match sniff::answer_at_end(&last) {
                Some(said) => {
                    Err(format!("the server reports a failure behind {received} bytes: {said}"))
                }
                None => Ok(()),
            },
        }
    }
}

/// Keeps the last `count` bytes of everything that passes.
fn keep_last(last: &mut Vec<u8>, bytes: &[u8], count: usize) {
    let taken = bytes.get(bytes.len().saturating_sub(count)..).unwrap_or_default();
    let surplus = (last.len() + taken.len()).saturating_sub(count);
    last.drain(..surplus);
    last.extend_from_slice(taken);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut_into(cut: usize, ending: fn() -> Ending, bytes: &[u8]) -> Result<(), String> {
        let mut ending = ending();
        bytes.chunks(cut).for_each(|piece| ending.see(piece));
        ending.verdict()
    }

    fn archive() -> Ending {
        Ending::archive(false)
    }

    /// The verdict on `bytes`, however they are cut.
    fn verdict(ending: fn() -> Ending, bytes: &[u8]) -> Result<(), String> {
        let mut verdicts =
            [1, 7, 511, 512, 4096, usize::MAX].map(|cut| cut_into(cut, ending, bytes));
        verdicts.sort();
        assert_eq!(verdicts.first(), verdicts.last(), "the cuts make a difference");
        verdicts[0].clone()
    }

    #[test]
    fn a_raw_disk_has_its_size() {
        assert!(verdict(|| Ending::raw(Some(1000)), &[0; 1000]).is_ok());
        assert!(verdict(|| Ending::raw(Some(1000)), &[0; 999]).is_err());
        assert!(verdict(|| Ending::raw(Some(1000)), &[0; 1001]).is_err());
        assert!(verdict(|| Ending::raw(None), &[0; 77]).is_ok());
    }

    #[test]
    fn a_vhd_ends_with_the_footer_that_it_starts_with() {
        let mut footer = [7; 512];
        footer[..8].copy_from_slice(b"conectix");
        let whole = [&footer[..], &[0; 3072], &footer].concat();
        assert!(verdict(Ending::vhd, &whole).is_ok());
        for cut in [0, 8, 512, 1024, whole.len() - 512, whole.len() - 1] {
            assert!(verdict(Ending::vhd, &whole[..cut]).is_err(), "{cut}");
        }
        let longer = [&whole[..], b"HTTP/1.1 500 Internal Error\r\n\r\n"].concat();
        assert!(verdict(Ending::vhd, &longer).is_err());
    }

    #[test]
    fn anything_may_be_whole_but_not_with_an_answer_behind_it() {
        let page = b"<html>HTTP 500</html>";
        let answer = [
            b"HTTP/1.1 500 Internal Error\r\nconnection: close\r\nContent-Length: 21\r\n\r\n",
            &page[..],
        ]
        .concat();
        let data = b"20260101T00:00:00Z a line\n".repeat(1000);
        assert!(verdict(Ending::unknown, &data).is_ok());
        let failed = verdict(Ending::unknown, &[&data[..], &answer].concat()).unwrap_err();
        assert!(failed.contains("Internal Error: HTTP 500"), "{failed}");
        // A log may tell of an answer.
        assert!(verdict(Ending::unknown, &[&answer[..], &data].concat()).is_ok());
    }

    fn member(name: &str, data: &[u8]) -> Vec<u8> {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut member = header.to_vec();
        member.extend_from_slice(data);
        member.resize(member.len().next_multiple_of(512), 0);
        member
    }

    #[test]
    fn a_tar_file_ends_with_two_blocks_of_zeros_and_not_within_a_member() {
        // The members' own zeros are no end.
        let members = [member("ova.xml", b"<x/>"), member("Ref:4/00000000", &[0; 3000])].concat();
        let whole = [&members[..], &[0; 1024]].concat();
        assert!(verdict(archive, &whole).is_ok());
        assert!(verdict(archive, &[&whole[..], &[0; 9216]].concat()).is_ok());
        for cut in [0, 3, 512, 1024, 1600, 3072, members.len(), whole.len() - 1] {
            assert!(verdict(archive, &whole[..cut]).is_err(), "{cut}");
        }
        let longer = [&whole[..], b"HTTP/1.1 500 Internal Error\r\n\r\n"].concat();
        assert!(verdict(archive, &longer).is_err());
        let mut broken = whole.clone();
        broken[0] ^= 1;
        assert!(verdict(archive, &broken).is_err());
    }

    #[test]
    fn a_zstandard_frame_ends_with_its_last_block() {
        // A frame with a content size, a checksum, a raw block and a run; an empty one before it
        // that is to be skipped.
        let frame = [
            &[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9][..],
            &[0x28, 0xb5, 0x2f, 0xfd, 0b0000_0100, 0x58],
            &[5 << 3, 0, 0],
            b"hello",
            &[(4 << 3) | (1 << 1) | 1, 0, 0],
            b"x",
            b"sum!",
        ]
        .concat();
        assert!(verdict(archive, &frame[10..]).is_ok());
        let two = [&frame[10..], &frame[..]].concat();
        assert!(verdict(archive, &two).is_ok());
        for cut in 1..frame.len() - 10 {
            assert!(verdict(archive, &frame[10..10 + cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_gzip_stream_has_a_trailer_with_the_length_of_a_tar_file() {
        let stream = |length: u32| {
            let mut stream = b"\x1f\x8b\x08\0\0\0\0\0\0\x03body of it-CRC".to_vec();
            stream.extend_from_slice(&length.to_le_bytes());
            stream
        };
        assert!(verdict(archive, &stream(10_240)).is_ok());
        assert!(verdict(archive, &stream(10_241)).is_err());
        assert!(verdict(archive, &stream(10_240)[..20]).is_err());
    }

    #[cfg(feature = "gzip")]
    #[test]
    fn a_gzip_stream_that_is_inflated_is_whole_or_not() {
        use std::io::Write as _;

        let inflated = || Ending::archive(true);
        let gzip = |bytes: &[u8]| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(bytes).unwrap();
            gzip.finish().unwrap()
        };
        let noise: Vec<u8> = (0..20_000_u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        let members = [member("ova.xml", b"<x/>"), member("Ref:4/00000000", &noise)].concat();
        let tar = [&members[..], &[0; 1024]].concat();
        let whole = gzip(&tar);
        assert_eq!(verdict(inflated, &whole), Ok(()));
        // Of two members, as some programs write it.
        let (first, second) = tar.split_at(5000);
        assert_eq!(verdict(inflated, &[gzip(first), gzip(second)].concat()), Ok(()));
        for cut in [0, 1, 3, 10, 17, 1000, whole.len() - 9, whole.len() - 8, whole.len() - 1] {
            assert!(verdict(inflated, &whole[..cut]).is_err(), "{cut}");
        }
        // What the look at the trailer alone does not see: a tar file without its end, a length
        // that happens to be one of a tar file, a byte that has changed.
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        let mut cut = whole[..whole.len() / 2].to_vec();
        cut.extend_from_slice(&[9, 9, 9, 9, 0, 0, 0, 0]);
        for broken in [gzip(&members), cut, changed] {
            assert!(verdict(archive, &broken).is_ok());
            assert!(verdict(inflated, &broken).is_err());
        }
        let longer = [&whole[..], b"HTTP/1.1 500 Internal Error\r\n\r\n"].concat();
        assert!(verdict(inflated, &longer).is_err());
        // Other archives are looked at as ever.
        assert_eq!(verdict(inflated, &tar), Ok(()));
    }

    /// An image of three clusters of data, the last one shorter than a cluster in the guest.
    fn qcow2() -> Vec<u8> {
        const CLUSTER: usize = 512;
        let mut image = vec![0; 7 * CLUSTER + 100];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"QFI\xfb\0\0\0\x03");
        put(20, &9_u32.to_be_bytes());
        put(24, &(65 * CLUSTER as u64 + 100).to_be_bytes());
        put(36, &2_u32.to_be_bytes());
        put(40, &(2 * CLUSTER as u64).to_be_bytes());
        put(48, &(CLUSTER as u64).to_be_bytes());
        put(56, &1_u32.to_be_bytes());
        put(2 * CLUSTER, &((3 * CLUSTER) as u64 | 1 << 63).to_be_bytes());
        put(2 * CLUSTER + 8, &((4 * CLUSTER) as u64 | 1 << 63).to_be_bytes());
        put(3 * CLUSTER, &((5 * CLUSTER) as u64 | 1 << 63).to_be_bytes());
        put(4 * CLUSTER, &((6 * CLUSTER) as u64 | 1 << 63).to_be_bytes());
        put(4 * CLUSTER + 8, &((7 * CLUSTER) as u64 | 1 << 63).to_be_bytes());
        image
    }

    #[test]
    fn a_qcow2_image_has_all_clusters_that_its_tables_name() {
        let whole = qcow2();
        assert!(verdict(Ending::qcow2, &whole).is_ok());
        for cut in [0, 50, 104, 512, 1200, 2048, 3000, whole.len() - 101, whole.len() - 1] {
            assert!(verdict(Ending::qcow2, &whole[..cut]).is_err(), "{cut}");
        }
        let mut other = whole;
        other[0] = b'X';
        assert!(verdict(Ending::qcow2, &other).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_have_a_verdict(
            magic in proptest::sample::select(vec![
                &b""[..], b"ova.xml", b"conectix", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"QFI\xfb\0\0\0\x03",
            ]),
            noise in proptest::collection::vec(proptest::num::u8::ANY, 0..3000),
            at in 0_usize..8000,
            cut in 1_usize..2000,
        ) {
            let mut bytes = [magic, &noise[..]].concat();
            for ending in [Ending::vhd, Ending::qcow2, archive, || Ending::archive(true)] {
                let _ = cut_into(cut, ending, &bytes);
            }
            // And an image whose tables are damaged.
            bytes = qcow2();
            let at = at % bytes.len();
            let end = bytes.len().min(at + noise.len() % 9);
            bytes[at..end].copy_from_slice(&noise[..end - at]);
            let _ = cut_into(cut, Ending::qcow2, &bytes);
        }
    }
}
