//! Units: the segments cut into pieces of equal length, which the executors work on.

use super::{Segment, Segments};

/// How many bytes of output one unit holds; only the last one is shorter, and those around the
/// chunks of an XVA differ. Small enough that a
/// unit stays in a core's cache from the read to the write, large enough that calls and queues
/// cost nothing.
pub(crate) const UNIT: usize = 1 << 20;

/// A piece of the output.
#[derive(Debug)]
pub(crate) struct Unit {
    /// Where it lies in the output (before compression).
    pub(crate) offset: u64,
    /// Its length: `UNIT`, or what is left; any multiple of `UNIT` if it is all zeros; that of
    /// the chunk if it is one of an XVA.
    pub(crate) len: u64,
    /// What it is made of, in order; nothing if it is all zeros.
    pub(crate) parts: Vec<Segment>,
}

/// Cuts segments into units.
#[derive(Debug)]
pub(crate) struct Units<'a> {
    segments: Segments<'a>,
    pending: Option<Segment>,
    offset: u64,
}

impl<'a> Units<'a> {
    pub(crate) fn new(segments: Segments<'a>) -> Self {
        Self { segments, pending: None, offset: 0 }
    }
}

impl Iterator for Units<'_> {
    type Item = Unit;

    fn next(&mut self) -> Option<Unit> {
        let mut unit = Unit { offset: self.offset, len: 0, parts: Vec::new() };
        let mut zeros_only = true;
        let whole = UNIT as u64;
        while unit.len < whole {
            let Some(segment) = self.pending.take().or_else(|| self.segments.next()) else {
                break;
            };
            // The checksum of a chunk needs all of it.
            if matches!(segment, Segment::Chunk(_)) && unit.len > 0 {
                self.pending = Some(segment);
                break;
            }
            // Zeros cost nothing, however many they are.
            let room = match segment {
                Segment::Chunk(_) => u64::MAX,
                Segment::Zero(len) if unit.len == 0 && len >= whole => len / whole * whole,
                _ => whole - unit.len,
            };
            let (part, rest) = split(segment, room);
            self.pending = rest;
            unit.len += part.output_len();
            zeros_only &= matches!(part, Segment::Zero(_));
            unit.parts.push(part);
        }
        if zeros_only {
            unit.parts.clear();
        }
        self.offset += unit.len;
        (unit.len > 0).then_some(unit)
    }
}

/// The first `room` bytes of a segment, and the rest.
fn split(segment: Segment, room: u64) -> (Segment, Option<Segment>) {
    if segment.output_len() <= room {
        return (segment, None);
    }
    match segment {
        Segment::Inline(mut bytes) => {
            let first = bytes.split_to(room as usize);
            (Segment::Inline(first), Some(Segment::Inline(bytes)))
        }
        Segment::Chunk(_) => (segment, None),
        Segment::Zero(len) => (Segment::Zero(room), Some(Segment::Zero(len - room))),
        Segment::Guest { offset, len } => (
            Segment::Guest { offset, len: room },
            Some(Segment::Guest { offset: offset + room, len: len - room }),
        ),
    }
}
