//! A VHD that arrives as a stream, forwards only: what XAPI's `export_raw_vdi?format=vhd` sends.

use std::io::{self, Read};

use super::{Bat, Batmap, Bitmap, DiskType, DynamicHeader, Footer, SECTOR, size_by};
use crate::finding::Findings;
use crate::{BlockMap, Error, ErrorKind, OpenOptions, Result, Source};

/// How many bytes before the BAT, before a block or before the last footer are skipped as
/// padding; a stream that has more is not an export.
const MAX_GAP: u64 = 16 << 20;

/// How much of what was read last is kept, to tell a server's complaint from data.
const TAIL: usize = 1024;

/// The forward-only reader of a VHD stream.
///
/// XAPI sends footer, header, BAT, then the blocks in ascending order and the footer again, with
/// no length ahead and with status 200 even if it fails later. So the stream must prove that it
/// is whole: [`finish`](Source::finish) wants the last footer to equal the first one and the
/// stream to end there, with nothing but padding between it and the last block.
///
/// A fixed VHD or a raw stream does not begin with its size; read those from a file.
///
/// ```
/// use vmimage::{Source, vhd::VhdStream};
/// let error = VhdStream::new(std::io::empty()).unwrap_err();
/// assert!(error.to_string().contains("2040 GiB"));
/// ```
pub struct VhdStream {
    input: Input,
    first: [u8; Footer::LEN],
    footer: Footer,
    header: DynamicHeader,
    bat: Bat,
    /// The size of the disk in bytes, by the caller's policy.
    size: u64,
    map: BlockMap,
    /// The end of the last block, where the last footer is expected.
    blocks_end: u64,
    /// What stood there, if it was read to see what it is.
    seen: Option<[u8; Footer::LEN]>,
    /// The end of what was read, in guest bytes.
    guest: u64,
    block: Option<Current>,
    finished: bool,
}

/// The block in which the stream stands.
struct Current {
    index: u64,
    bitmap: Bitmap,
}

impl std::fmt::Debug for VhdStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VhdStream")
            .field("footer", &self.footer)
            .field("map", &self.map)
            .field("position", &self.input.at)
            .finish_non_exhaustive()
    }
}

impl VhdStream {
    /// Reads up to the end of the BAT, so that the map is known.
    ///
    /// # Errors
    /// `Truncated` for an empty or short stream, `Unsupported` for a stream that is no dynamic
    /// VHD or whose blocks are not in ascending order, `Corrupt` for damage.
    pub fn new(input: impl Read + Send + 'static) -> Result<Self> {
        Self::with_options(input, &OpenOptions::new())
    }

    /// As [`new`](Self::new), with the rule for the size and the leniency of `options`.
    ///
    /// # Errors
    /// Those of [`new`](Self::new).
    pub fn with_options(input: impl Read + Send + 'static, options: &OpenOptions) -> Result<Self> {
        let mut input = Input { from: Box::new(input), at: 0, tail: Vec::new() };
        let first = first_sector(&mut input)?;
        let mut findings = Findings::new(options.policy());
        let footer = Footer::parse(&first, &mut findings)?;
        match footer.disk_type {
            DiskType::Dynamic => {}
            DiskType::Differencing => {
                return Err(Error::new(
                    ErrorKind::Reference,
                    "the stream is a differencing VHD, a delta to a disk that is not in it; \
                     export without a base",
                ));
            }
            DiskType::Fixed => return Err(no_stream("a fixed VHD")),
        }
        if footer.is_ancient_tap() {
            return Err(Error::unsupported("the VHD was written by tapdisk 0.1"));
        }
        input.skip_gap(footer.data_offset, "the header")?;
        let mut raw = [0; DynamicHeader::LEN];
        input.fill(&mut raw)?;
        let header = DynamicHeader::parse(&raw, &mut findings)
            .map_err(|e| e.with_offset(footer.data_offset))?;
        let bat = read_bat(&mut input, &footer, &header)?;
        let size = size_by(options.size(), &footer);
        let mut this = Self {
            size,
            map: BlockMap::empty(size),
            blocks_end: 0,
            seen: None,
            guest: 0,
            block: None,
            finished: false,
            input,
            first,
            footer,
            header,
            bat,
        };
        this.examine_order()?;
        this.refuse_encryption()?;
        Ok(this)
    }

    /// The footer with which the stream began.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// The length of the whole stream in bytes, which XAPI does not announce but the BAT tells.
    pub fn stream_len(&self) -> u64 {
        self.blocks_end + Footer::LEN as u64
    }

    /// How many bytes of the stream have been consumed.
    pub fn position(&self) -> u64 {
        self.input.at
    }

    /// A block map, and the proof that blocks follow one another in the order of the guest.
    fn examine_order(&mut self) -> Result<()> {
        let block_size = u64::from(self.header.block_size);
        let stride = self.header.bitmap_len() + block_size;
        let mut end = self.header.bat_end().unwrap_or(u64::MAX);
        for (index, start) in self.bat.allocated() {
            if start < end {
                return Err(Error::unsupported(format!(
                    "the stream's block {index} lies before an earlier one (or on the tables); \
                     such a VHD must be read from a file"
                ))
                .with_offset(start));
            }
            if start - end > MAX_GAP {
                return Err(Error::corrupt(format!(
                    "the stream has {} bytes of padding before block {index}",
                    start - end
                ))
                .with_offset(start));
            }
            end = start + stride;
            self.map.insert(index * block_size..(index + 1) * block_size);
        }
        self.blocks_end = end;
        Ok(())
    }

    /// Looks at the batmap, which lies between the table and the first block, or between the table
    /// and the footer of a disk without blocks.
    fn refuse_encryption(&mut self) -> Result<()> {
        let Some(at) = self.header.bat_end() else { return Ok(()) };
        let first = self.bat.allocated().next().map(|(_, start)| start);
        let room = first.is_none_or(|first| first.saturating_sub(at) >= Batmap::LEN as u64);
        if self.footer.batmap_rule().is_none() || !room || self.input.at > at {
            return Ok(());
        }
        self.input.skip_gap(at, "the batmap")?;
        let mut raw = [0; Batmap::LEN];
        self.input.fill(&mut raw)?;
        match Batmap::parse_header(&raw) {
            Some(batmap) if batmap.encrypted => {
                Err(Error::unsupported("the VHD is encrypted (its batmap carries a key hash)"))
            }
            Some(batmap) if first.is_none() => {
                let blocks = self.header.blocks_for(self.footer.current_size);
                self.input.skip_gap(batmap.map_offset, "the batmap")?;
                self.input.skip(batmap.map_len(blocks))?;
                self.blocks_end = self.input.at;
                Ok(())
            }
            _ => {
                self.seen = first.is_none().then_some(raw);
                Ok(())
            }
        }
    }

    /// Makes the stream stand in block `index`, which begins at `start`.
    fn enter(&mut self, index: u64, start: u64) -> Result<()> {
        if self.block.as_ref().is_none_or(|b| b.index != index) {
            self.input.skip_to(start, "a block")?;
            let mut raw = vec![0; usize::try_from(self.header.bitmap_len()).unwrap_or(0)];
            self.input.fill(&mut raw)?;
            let sectors = u64::from(self.header.block_size) / SECTOR;
            let bitmap = Bitmap::parse(&raw, sectors);
            self.block = Some(Current { index, bitmap });
        }
        Ok(())
    }

    /// Fills `part` from byte `within` of the block `index`.
    fn read_block(&mut self, part: &mut [u8], index: u64, start: u64, within: u64) -> Result<()> {
        let data = start + self.header.bitmap_len();
        self.enter(index, start)?;
        self.input.skip_to(data + within, "a block")?;
        self.input.fill(part)?;
        if let Some(block) = &self.block {
            blank_absent(part, within, &block.bitmap);
        }
        Ok(())
    }

    fn check_forward(&self, len: usize, offset: u64) -> Result<()> {
        let end = offset.checked_add(len as u64);
        if offset < self.guest || end.is_none_or(|end| end > self.size) {
            let message = "a stream is read forwards and within the disk only";
            return Err(Error::new(ErrorKind::Usage, message).with_offset(offset));
        }
        Ok(())
    }
}

impl Source for VhdStream {
    fn block_map(&self) -> &BlockMap {
        &self.map
    }

    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check_forward(buf.len(), offset)?;
        let block_size = u64::from(self.header.block_size);
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (index, within) = (at / block_size, at % block_size);
            let n = (block_size - within).min(rest.len() as u64);
            let (part, tail) = rest.split_at_mut(n as usize);
            // A geometry may reach past the end of the disk, where there is nothing.
            let inside = self.footer.current_size.saturating_sub(at).min(n) as usize;
            let (part, outside) = part.split_at_mut(inside);
            outside.fill(0);
            match self.bat.block(index) {
                Some(start) if inside > 0 => self.read_block(part, index, start, within)?,
                _ => part.fill(0),
            }
            at += n;
            self.guest = at;
            rest = tail;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        if self.finished {
            return Ok(());
        }
        self.input.skip(self.blocks_end.saturating_sub(self.input.at))?;
        // XAPI pads nothing.
        let padding = if &self.footer.creator_app == b"caml" { 0 } else { MAX_GAP };
        let last = self.input.last_sector(self.seen.take(), padding)?;
        if last != self.first {
            return Err(self.input.ended("the stream does not end with the footer it began with"));
        }
        self.finished = true;
        Ok(())
    }
}

/// Sets the sectors of `part` (from byte `within` of its block on) that the block lacks to zero.
fn blank_absent(part: &mut [u8], within: u64, bitmap: &Bitmap) {
    if bitmap.is_full() {
        return;
    }
    let end = within + part.len() as u64;
    let mut at = within;
    while at < end {
        let (held, until) = bitmap.run(at / SECTOR);
        let stop = (until * SECTOR).min(end);
        if !held && let Some(gap) = part.get_mut((at - within) as usize..(stop - within) as usize) {
            gap.fill(0);
        }
        at = stop.max(at + 1);
    }
}

fn no_stream(what: &str) -> Error {
    Error::unsupported(format!(
        "the stream is {what}, not a dynamic VHD; it does not begin with its size, so read it \
         from a file"
    ))
}

fn first_sector(input: &mut Input) -> Result<[u8; Footer::LEN]> {
    let mut first = [0; Footer::LEN];
    let n = input.fill_some(&mut first)?;
    let got = first.get(..n).unwrap_or_default();
    if got.is_empty() {
        return Err(Error::truncated(
            "the stream is empty; XAPI answers so for a disk over 2040 GiB, which a VHD cannot \
             hold: export it as raw or qcow2",
        ));
    }
    if got.starts_with(b"HTTP/1.") {
        return Err(input.ended("the stream is an HTTP answer, not a VHD"));
    }
    if !Footer::probe(got) {
        return Err(no_stream("of another format"));
    }
    if n < Footer::LEN {
        return Err(input.ended("the stream ends within its first footer"));
    }
    Ok(first)
}

fn read_bat(input: &mut Input, footer: &Footer, header: &DynamicHeader) -> Result<Bat> {
    let entries = header.needed_entries(footer.current_size)?;
    input.skip_gap(header.table_offset, "the block allocation table")?;
    let mut bat = Bat::default();
    let mut piece = [0; 4096];
    let mut left = entries as usize * 4;
    // Piece by piece: memory follows what has really arrived.
    while left > 0 {
        let n = left.min(piece.len());
        let part = piece.get_mut(..n).unwrap_or_default();
        input.fill(part)?;
        bat.extend(part);
        left -= n;
    }
    Ok(bat)
}

/// The stream with its position and the last bytes that came.
struct Input {
    from: Box<dyn Read + Send>,
    at: u64,
    tail: Vec<u8>,
}

impl Input {
    /// Reads until `buf` is full or the stream ends.
    fn fill_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut n = 0;
        while n < buf.len() {
            let rest = buf.get_mut(n..).unwrap_or_default();
            match self.from.read(rest) {
                Ok(0) => break,
                Ok(got) => n = (n + got).min(buf.len()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let at = self.at + n as u64;
                    return Err(Error::io("the stream broke off", e).with_offset(at));
                }
            }
        }
        self.at += n as u64;
        self.remember(buf.get(..n).unwrap_or_default());
        Ok(n)
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<()> {
        if self.fill_some(buf)? < buf.len() {
            return Err(self.ended("the stream is cut short: it ends before its last block"));
        }
        Ok(())
    }

    fn remember(&mut self, bytes: &[u8]) {
        if bytes.len() >= TAIL {
            self.tail.clear();
        } else if self.tail.len() + bytes.len() > TAIL {
            let drop = self.tail.len() + bytes.len() - TAIL;
            self.tail.drain(..drop.min(self.tail.len()));
        }
        let from = bytes.len().saturating_sub(TAIL);
        self.tail.extend_from_slice(bytes.get(from..).unwrap_or_default());
    }

    /// Moves forwards to `offset`, over padding of bounded length.
    fn skip_gap(&mut self, offset: u64, what: &str) -> Result<()> {
        if offset.saturating_sub(self.at) > MAX_GAP {
            let message = format!("{what} of the stream is placed at {offset}, far from its start");
            return Err(Error::corrupt(message).with_offset(self.at));
        }
        self.skip_to(offset, what)
    }

    /// Moves forwards to `offset`.
    fn skip_to(&mut self, offset: u64, what: &str) -> Result<()> {
        match offset.checked_sub(self.at) {
            Some(0) => Ok(()),
            Some(n) => self.skip(n),
            None => Err(Error::unsupported(format!(
                "{what} is at {offset} of the stream, which stands at {}; such a VHD must be \
                 read from a file",
                self.at
            ))),
        }
    }

    fn skip(&mut self, mut n: u64) -> Result<()> {
        let mut scratch = vec![0; n.min(64 * 1024) as usize];
        while n > 0 {
            let part = n.min(scratch.len() as u64);
            self.fill(scratch.get_mut(..part as usize).unwrap_or_default())?;
            n -= part;
        }
        Ok(())
    }

    /// The last sector of the stream, which must end after it; `seen` was read before. In front of
    /// it there may be `padding`, as in a file on a larger volume: whole sectors of zeros. Anything
    /// else there would be data
    /// that slipped out of its place.
    fn last_sector(
        &mut self,
        seen: Option<[u8; Footer::LEN]>,
        padding: u64,
    ) -> Result<[u8; Footer::LEN]> {
        let mut last = seen.unwrap_or([0; Footer::LEN]);
        if seen.is_none() {
            self.fill(&mut last)?;
        }
        let start = self.at - Footer::LEN as u64;
        loop {
            let mut next = [0; Footer::LEN];
            match self.fill_some(&mut next)? {
                0 => return Ok(last),
                n if n < next.len()
                    || last.iter().any(|&b| b != 0)
                    || self.at - start > padding + Footer::LEN as u64 =>
                {
                    return Err(self.ended("the stream goes on after its last block"));
                }
                _ => last = next,
            }
        }
    }

    /// An error about the end of the stream, with the server's complaint if there is one.
    fn ended(&self, what: &str) -> Error {
        let text = self.tail.windows(9).position(|w| w.starts_with(b"HTTP/1.1 ")).map(|at| {
            let line = self.tail.get(at..).unwrap_or_default();
            let line = line.split(|&b| b == b'\r' || b == b'\n').next().unwrap_or_default();
            line.iter().take(80).copied().filter(|b| matches!(b, 32..=126)).collect::<Vec<u8>>()
        });
        let error = match text.as_deref().map(String::from_utf8_lossy) {
            Some(line) => Error::truncated(format!(
                "{what}; the server broke the export off and said {line:?}"
            )),
            None => Error::truncated(what.to_owned()),
        };
        error.with_offset(self.at)
    }
}
