//! Disks whose map is known only when their last byte has arrived.

use crate::exec::fill::is_zero;
use crate::{BlockMap, Error, ErrorKind, GRANULE, Result, Source, TargetFormat};

/// A disk that arrives in ascending order and whose map is not known ahead: an XVA archive out
/// of a pipe. See [`scan_to_file`](crate::scan_to_file) for the formats that can be written
/// nevertheless, and [`ScanSource`] for the others.
pub trait Scan: Send {
    /// The guest-visible size in bytes; `None` where only the end of the stream tells. After
    /// [`next_piece`](Self::next_piece) has returned `None` it is always known.
    fn virtual_size(&self) -> Option<u64>;

    /// Puts the next piece of data into `buf`, whatever was in it, and gives its guest offset.
    /// Pieces ascend and do not overlap, what lies between them is zeros, and none is longer
    /// than 4 MiB. `None` at the end, when everything was proved to be whole.
    ///
    /// # Errors
    /// Truncated or corrupt input, I/O failures.
    fn next_piece(&mut self, buf: &mut Vec<u8>) -> Result<Option<u64>>;
}

impl<T: Scan + ?Sized> Scan for Box<T> {
    fn virtual_size(&self) -> Option<u64> {
        (**self).virtual_size()
    }

    fn next_piece(&mut self, buf: &mut Vec<u8>) -> Result<Option<u64>> {
        (**self).next_piece(buf)
    }
}

/// A [`Scan`] as a [`Source`]: either with a map that an earlier pass over the same input has
/// made, or with one that says that everything may be data, for formats that store zeros anyway.
pub struct ScanSource<'a> {
    scan: Box<dyn Scan + 'a>,
    map: BlockMap,
    /// The piece that arrived last, and where it belongs.
    piece: Vec<u8>,
    at: u64,
    /// The end of what was read, in guest bytes.
    guest: u64,
    ended: bool,
}

impl std::fmt::Debug for ScanSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScanSource").field("map", &self.map).finish_non_exhaustive()
    }
}

impl<'a> ScanSource<'a> {
    /// A source that takes every byte for data.
    ///
    /// # Errors
    /// `Usage` if the scan does not know its size.
    pub fn new(scan: impl Scan + 'a) -> Result<Self> {
        let size = known_size(&scan)?;
        let mut map = BlockMap::empty(size);
        map.insert(0..size);
        Ok(Self::with_map(scan, map))
    }

    /// A source for a stream of `format`, if the format can begin before its map is known.
    ///
    /// # Errors
    /// `Usage` for formats that begin with tables or lengths, and if the scan does not know its
    /// size.
    pub fn for_format(scan: impl Scan + 'a, format: TargetFormat) -> Result<Self> {
        match format {
            TargetFormat::Raw | TargetFormat::VhdFixed => Self::new(scan),
            _ => Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "this stream does not tell which parts of its disk hold data before they \
                     come, and {format} begins with a table of them: write to a file, or raw"
                ),
            )),
        }
    }

    /// A source with the map that [`scan_map`] made of the same input.
    pub fn with_map(scan: impl Scan + 'a, map: BlockMap) -> Self {
        Self { scan: Box::new(scan), map, piece: Vec::new(), at: 0, guest: 0, ended: false }
    }

    /// Gets the next piece; afterwards there is one, or the scan has ended.
    fn advance(&mut self) -> Result<()> {
        let from = self.at.saturating_add(self.piece.len() as u64);
        match self.scan.next_piece(&mut self.piece)? {
            Some(at) => {
                self.at = checked_piece(at, &self.piece, from, self.map.virtual_size())?;
            }
            None => {
                self.piece.clear();
                self.ended = true;
            }
        }
        Ok(())
    }
}

impl Source for ScanSource<'_> {
    fn block_map(&self) -> &BlockMap {
        &self.map
    }

    fn read_exact_at(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        let Some(end) = end.filter(|end| offset >= self.guest && *end <= self.map.virtual_size())
        else {
            let message = "a stream is read forwards and within the disk only";
            return Err(Error::new(ErrorKind::Usage, message).with_offset(offset));
        };
        self.guest = end;
        buf.fill(0);
        loop {
            let until = self.at + self.piece.len() as u64;
            let (from, to) = (offset.max(self.at), end.min(until));
            if from < to {
                let part = &self.piece[(from - self.at) as usize..(to - self.at) as usize];
                buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
            }
            if self.ended || until >= end || self.at >= end {
                return Ok(());
            }
            self.advance()?;
        }
    }

    fn finish(&mut self) -> Result<()> {
        while !self.ended {
            self.advance()?;
        }
        Ok(())
    }
}

/// Reads `scan` to its end and makes the map of it, without granules of zeros.
///
/// # Errors
/// Those of the scan; `Usage` if it does not know its size.
pub fn scan_map(scan: &mut dyn Scan) -> Result<BlockMap> {
    let mut map = BlockMap::empty(known_size(scan)?);
    let (mut piece, mut end) = (Vec::new(), 0);
    while let Some(at) = scan.next_piece(&mut piece)? {
        checked_piece(at, &piece, end, map.virtual_size())?;
        end = at + piece.len() as u64;
        for (start, granule) in granules(at, &piece) {
            if !is_zero(granule) {
                map.insert(start..start + granule.len() as u64);
            }
        }
    }
    map.set_zeros_left_out();
    Ok(map)
}

/// The size, which most formats need before their first byte.
pub(crate) fn known_size(scan: &dyn Scan) -> Result<u64> {
    scan.virtual_size().ok_or_else(|| {
        Error::new(
            ErrorKind::Usage,
            "the stream does not tell the size of its disk before its end: convert it to raw first",
        )
    })
}

/// Refuses a piece that breaks the rules of [`Scan`].
pub(crate) fn checked_piece(at: u64, piece: &[u8], from: u64, size: u64) -> Result<u64> {
    let end = at.checked_add(piece.len() as u64);
    if at < from || end.is_none_or(|end| end > size) {
        let message = "data of the stream lies out of order or past the end of the disk";
        return Err(Error::corrupt(message).with_offset(at));
    }
    Ok(at)
}

/// A piece at guest offset `at`, cut where granules end.
pub(crate) fn granules(at: u64, piece: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut rest = piece;
    let mut at = at;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let n = ((GRANULE - at % GRANULE) as usize).min(rest.len());
        let (granule, tail) = rest.split_at(n);
        let start = at;
        (rest, at) = (tail, at + n as u64);
        Some((start, granule))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces in memory.
    pub(crate) struct Pieces(pub(crate) Vec<(u64, Vec<u8>)>, pub(crate) Option<u64>);

    impl Scan for Pieces {
        fn virtual_size(&self) -> Option<u64> {
            self.1
        }

        fn next_piece(&mut self, buf: &mut Vec<u8>) -> Result<Option<u64>> {
            if self.0.is_empty() {
                return Ok(None);
            }
            let (at, piece) = self.0.remove(0);
            *buf = piece;
            Ok(Some(at))
        }
    }

    fn sample() -> Vec<(u64, Vec<u8>)> {
        vec![(100, vec![1; 50]), (150, vec![2; 70_000]), (200_000, vec![0; 100_000])]
    }

    #[test]
    fn a_scan_reads_as_the_disk_that_it_is() {
        let mut disk = vec![0; 400_000];
        for (at, piece) in sample() {
            disk[at as usize..at as usize + piece.len()].copy_from_slice(&piece);
        }
        let mut map = scan_map(&mut Pieces(sample(), Some(400_000))).unwrap();
        assert!(map.runs().eq(std::iter::once(0..2 * GRANULE)));
        map.insert(0..400_000);
        for step in [1, 7, 4096, 65_536, 400_000] {
            let mut source = ScanSource::with_map(Pieces(sample(), Some(400_000)), map.clone());
            let mut read = Vec::new();
            for at in (0..400_000).step_by(step) {
                let mut buf = vec![9; step.min(400_000 - at)];
                source.read_exact_at(&mut buf, at as u64).unwrap();
                read.extend(buf);
            }
            source.finish().unwrap();
            assert!(read == disk, "{step}");
            assert!(source.read_exact_at(&mut [0], 5).is_err());
        }
        let mut source = ScanSource::new(Pieces(sample(), Some(400_000))).unwrap();
        let mut late = [9; 10];
        source.read_exact_at(&mut late, 220).unwrap();
        assert_eq!(late, [2; 10]);
        source.finish().unwrap();
    }

    #[test]
    fn pieces_out_of_order_and_unknown_sizes_are_refused() {
        let bad = vec![(100, vec![1; 50]), (149, vec![1; 5])];
        let error = scan_map(&mut Pieces(bad, Some(400))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let error = scan_map(&mut Pieces(vec![(390, vec![1; 50])], Some(400))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(ScanSource::new(Pieces(Vec::new(), None)).is_err());
    }
}
