//! The compression around an archive, recognised by its first bytes.

use std::hash::Hasher;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use twox_hash::XxHash64;

use super::magic::{MAGIC_LEN, is_gzip, is_zstd, unread_compression};
use crate::{Error, ErrorKind, Result};

/// The largest window of a Zstandard frame that is accepted; the decoder keeps so much.
const MAX_WINDOW: u64 = 32 << 20;

/// How much compressed input is read at once.
const INPUT: usize = 256 * 1024;

/// What a stream of bytes begins with, and the rest of it.
type Input = BufReader<io::Chain<io::Cursor<Vec<u8>>, Box<dyn Read + Send>>>;

/// A stream without its compression: plain, gzip (any number of members) or Zstandard (any number
/// of frames).
///
/// Compressed input that ends too early is an error, never a silent end. The memory is that of
/// the decoder: at most the window of a frame.
pub(crate) enum Decoded {
    Plain(io::Chain<io::Cursor<Vec<u8>>, Box<dyn Read + Send>>),
    Gzip(Box<MultiGzDecoder<Input>>),
    Zstd(Box<Zstd>),
}

impl std::fmt::Debug for Decoded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl Decoded {
    /// Reads the first bytes of `input` and chooses.
    ///
    /// # Errors
    /// `Io` of the input, `Unsupported` for compressions that are known and not read.
    pub(crate) fn new(mut input: Box<dyn Read + Send>) -> Result<Self> {
        let mut start = Vec::new();
        (&mut input).take(MAGIC_LEN).read_to_end(&mut start).map_err(read_error)?;
        if let Some(name) = unread_compression(&start) {
            return Err(Error::unsupported(format!(
                "the archive is compressed with {name}; gzip and zstd are read, so unpack it first"
            )));
        }
        let (gzip, zstd) = (is_gzip(&start), is_zstd(&start));
        let input = io::Cursor::new(start).chain(input);
        Ok(if gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(INPUT, input))))
        } else if zstd {
            Self::Zstd(Box::new(Zstd::new(BufReader::with_capacity(INPUT, input))))
        } else {
            Self::Plain(input)
        })
    }
}

impl Read for Decoded {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buf),
            Self::Gzip(gzip) => gzip.read(buf).map_err(damage),
            Self::Zstd(zstd) => zstd.read(buf).map_err(damage),
        }
    }
}

/// Damage of the compression is not an I/O failure, whoever reads the stream.
fn damage(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            let message = "the archive's compression is damaged";
            io::Error::other(Error::corrupt(message).with_source(error))
        }
        _ => error,
    }
}

/// What a failed read of an archive means.
pub(crate) fn read_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::truncated("the compressed archive is cut short").with_source(error)
        }
        _ => Error::io("the archive cannot be read", error),
    }
}

/// Zstandard frames, one after the other, each with its checksum verified.
pub(crate) struct Zstd {
    input: Watched,
    decoder: FrameDecoder,
    /// Of the content of the current frame.
    hash: XxHash64,
    produced: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    InFrame,
    Failed,
}

impl Zstd {
    fn new(input: Input) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW);
        let input = Watched { input, ended: false, failed: None };
        Self { input, decoder, hash: XxHash64::with_seed(0), produced: 0, state: State::Between }
    }

    fn step(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.state == State::Between {
                if !self.next_frame()? {
                    return Ok(0);
                }
                continue;
            }
            let n = self.decoder.read(buf)?;
            if n > 0 {
                self.hash.write(buf.get(..n).unwrap_or_default());
                self.produced += n as u64;
                return Ok(n);
            }
            if self.decoder.is_finished() {
                self.prove_frame()?;
                self.state = State::Between;
                continue;
            }
            // One block is at most 128 KiB.
            let one = BlockDecodingStrategy::UptoBlocks(1);
            if let Err(e) = self.decoder.decode_blocks(&mut self.input, one) {
                return Err(self.failure(&e));
            }
        }
    }

    /// Reads the header of the next frame with content; `false` at the end of the input.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.input.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.input) {
                Ok(()) => break,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => self.skip(u64::from(length))?,
                Err(e) => return Err(self.failure(&e)),
            }
        }
        self.hash = XxHash64::with_seed(0);
        self.produced = 0;
        self.state = State::InFrame;
        Ok(true)
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.input.input.by_ref().take(length), &mut io::sink())?;
        if skipped < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// The length and the checksum that the frame may carry; the decoder compares neither.
    fn prove_frame(&self) -> io::Result<()> {
        let announced = self.decoder.content_size();
        if announced != 0 && announced != self.produced {
            return Err(damaged("a zstd frame is not as long as it says"));
        }
        let sum = self.decoder.get_checksum_from_data();
        if sum.is_some_and(|sum| sum != self.hash.finish() as u32) {
            return Err(damaged("a zstd frame does not match its checksum"));
        }
        Ok(())
    }

    /// The decoder wraps all causes alike; the input knows whether it ended or failed.
    fn failure(&mut self, error: &FrameDecoderError) -> io::Error {
        if let Some(failed) = self.input.failed.take() {
            return failed;
        }
        if let FrameDecoderError::WindowSizeTooBig { requested, .. } = error {
            return io::Error::other(Error::unsupported(format!(
                "the zstd frame needs a window of {requested} bytes, more than the 32 MiB that \
                 are given to it; decompress it with zstd --long=31 first"
            )));
        }
        if let FrameDecoderError::DictNotProvided { .. } = error {
            return io::Error::other(Error::unsupported(
                "the zstd frame needs a dictionary that is not in the archive; decompress it first",
            ));
        }
        let kind = match self.input.ended {
            true => io::ErrorKind::UnexpectedEof,
            false => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error.to_string())
    }
}

impl Read for Zstd {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // After damage the decoder's state is worth nothing.
        if self.state == State::Failed {
            return Err(damaged("the zstd stream failed before"));
        }
        if buf.is_empty() {
            return Ok(0);
        }
        let result = self.step(buf);
        if result.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::Interrupted) {
            self.state = State::Failed;
        }
        result
    }
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::other(Error::new(ErrorKind::Corrupt, what))
}

/// The input, with what it said last.
struct Watched {
    input: Input,
    ended: bool,
    failed: Option<io::Error>,
}

impl Read for Watched {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.input.read(buf) {
                // The decoder would lose what it has read of a block.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let shown = io::Error::from(e.kind());
                    self.failed = Some(e);
                    return Err(shown);
                }
                Ok(n) => {
                    self.ended |= n == 0 && !buf.is_empty();
                    return Ok(n);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).unwrap();
        out.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn decode(bytes: Vec<u8>) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut decoded = Decoded::new(Box::new(io::Cursor::new(bytes)))?;
        decoded.read_to_end(&mut out).map_err(read_error)?;
        Ok(out)
    }

    fn text() -> Vec<u8> {
        (0..300_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect()
    }

    #[test]
    fn several_members_and_frames_are_one_stream() {
        let (a, b) = (text(), b"the end".to_vec());
        let whole = [a.clone(), b.clone()].concat();
        assert_eq!(decode(whole.clone()).unwrap(), whole);
        assert_eq!(decode([gzip(&a), gzip(&b)].concat()).unwrap(), whole);
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        let frames = [skippable.clone(), zstd(&a), skippable, zstd(&b)].concat();
        assert_eq!(decode(frames).unwrap(), whole);
        assert_eq!(decode(Vec::new()).unwrap(), b"");
        assert_eq!(decode(b"ab".to_vec()).unwrap(), b"ab");
    }

    #[test]
    fn a_cut_stream_never_ends_silently() {
        for packed in [gzip(&text()), zstd(&text())] {
            for cut in (6..packed.len()).step_by(packed.len() / 97 + 1).chain([packed.len() - 1]) {
                let error = decode(packed[..cut].to_vec()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Truncated, "{cut} of {}", packed.len());
            }
        }
    }

    #[test]
    fn damage_is_corrupt_or_caught_by_nothing() {
        for packed in [gzip(&text()), zstd(&text())] {
            for at in (0..packed.len()).step_by(packed.len() / 300 + 1) {
                let mut bad = packed.clone();
                bad[at] ^= 0x41;
                if let Err(error) = decode(bad) {
                    assert!(!matches!(error.kind(), ErrorKind::Io | ErrorKind::Usage), "{error:?}");
                }
            }
        }
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        // A frame with the window of `zstd --long=27`.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, (27 - 10) << 3, 1, 0, 0];
        let error = decode(frame.to_vec()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("32 MiB"), "{error}");
        assert_eq!(decode(b"BZh91AY".to_vec()).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
