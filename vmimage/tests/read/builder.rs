//! VHD layers written byte by byte from the specification, and what a guest sees of them. None of
//! the crate's code is used here: this is the other opinion.

use std::collections::BTreeMap;

pub(crate) const SECTOR: usize = 512;

/// A small generator of pseudo-random numbers (xorshift64*).
#[derive(Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.next() >> 32) as u8).collect()
    }
}

/// A stored block: one bool and 512 bytes for each of its sectors.
#[derive(Clone)]
pub(crate) struct Block {
    pub(crate) held: Vec<bool>,
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) kind: Kind,
    pub(crate) size: usize,
    pub(crate) block_size: usize,
    pub(crate) blocks: BTreeMap<usize, Block>,
    pub(crate) uuid: [u8; 16],
    pub(crate) parent_uuid: [u8; 16],
    pub(crate) parent_name: String,
    pub(crate) locators: Vec<([u8; 4], Vec<u8>)>,
    pub(crate) creator: ([u8; 4], u32),
    /// BAT entries beyond those that the disk needs.
    pub(crate) spare_entries: usize,
    /// The blocks' order in the file.
    pub(crate) order: Vec<usize>,
    /// Blocks begin so that their data is aligned to this.
    pub(crate) align: usize,
    /// Bytes between the last block and the footer.
    pub(crate) gap: usize,
    pub(crate) hidden: u8,
}

pub(crate) fn sum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(0_u32, |s, &b| s.wrapping_add(u32::from(b)))
}

fn be(out: &mut [u8], at: usize, value: u64, len: usize) {
    out[at..at + len].copy_from_slice(&value.to_be_bytes()[8 - len..]);
}

/// Renews the checksum of a footer (at 64) or a header (at 36).
pub(crate) fn seal(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let s = sum(bytes);
    be(bytes, at, u64::from(s), 4);
}

pub(crate) fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

impl Layer {
    pub(crate) fn new(kind: Kind, size: usize, block_size: usize) -> Self {
        Self {
            kind,
            size,
            block_size,
            blocks: BTreeMap::new(),
            uuid: *b"base-0123456789a",
            parent_uuid: [0; 16],
            parent_name: String::new(),
            locators: Vec::new(),
            creator: (*b"caml", 1),
            spare_entries: 0,
            order: Vec::new(),
            align: SECTOR,
            gap: 0,
            hidden: 0,
        }
    }

    /// A layer with random blocks; bitmaps are empty, full, byte-mixed or random.
    pub(crate) fn random(rng: &mut Rng, kind: Kind, size: usize, block_size: usize) -> Self {
        let mut layer = Self::new(kind, size, block_size);
        rng.bytes(16).iter().zip(&mut layer.uuid).for_each(|(a, b)| *b = *a);
        let sectors = block_size / SECTOR;
        for index in 0..size.div_ceil(block_size) {
            if kind == Kind::Fixed || !rng.one_in(3) {
                let held = match rng.below(4) {
                    0 => vec![true; sectors],
                    1 => (0..sectors).map(|s| 0xC9 & (0x80 >> (s % 8)) != 0).collect(),
                    2 => vec![false; sectors],
                    _ => (0..sectors).map(|_| rng.one_in(2)).collect(),
                };
                layer.blocks.insert(index, Block { held, data: rng.bytes(block_size) });
            }
        }
        layer.order = layer.blocks.keys().copied().collect();
        for i in (1..layer.order.len()).rev() {
            layer.order.swap(i, rng.below(i + 1));
        }
        layer.spare_entries = *rng.pick(&[0, 0, 1, 200]);
        layer.align = *rng.pick(&[SECTOR, 4096]);
        layer.gap = *rng.pick(&[0, 0, SECTOR, 3 * SECTOR]);
        layer.creator = *rng.pick(&[
            (*b"caml", 1),
            (*b"win ", 0x000A_0000),
            (*b"tap\0", 0x0001_0003),
            (*b"tap\0", 0x0001_0001),
        ]);
        layer
    }

    /// Blocks in ascending order with nothing between them, as XAPI sends them.
    pub(crate) fn like_xapi(mut self) -> Self {
        self.order = self.blocks.keys().copied().collect();
        self.creator = (*b"caml", 1);
        (self.align, self.gap, self.spare_entries) = (SECTOR, 0, 0);
        self
    }

    pub(crate) fn footer(&self) -> Vec<u8> {
        let mut f = vec![0_u8; 512];
        f[..8].copy_from_slice(b"conectix");
        be(&mut f, 8, 2, 4);
        be(&mut f, 12, 0x0001_0000, 4);
        be(&mut f, 16, if self.kind == Kind::Fixed { u64::MAX } else { 512 }, 8);
        be(&mut f, 24, 500_000_000, 4);
        f[28..32].copy_from_slice(&self.creator.0);
        be(&mut f, 32, u64::from(self.creator.1), 4);
        be(&mut f, 40, self.size as u64, 8);
        be(&mut f, 48, self.size as u64, 8);
        // A geometry that is small enough for any disk.
        be(&mut f, 60, [2, 3, 4][self.kind as usize], 4);
        f[68..84].copy_from_slice(&self.uuid);
        f[85] = self.hidden;
        seal(&mut f, 64);
        f
    }

    fn is_tap(&self) -> bool {
        &self.creator.0 == b"tap\0"
    }

    /// The bytes of the file.
    pub(crate) fn build(&self) -> Vec<u8> {
        let footer = self.footer();
        if self.kind == Kind::Fixed {
            let mut out = self.view(&[]);
            out.extend(footer);
            return out;
        }
        let needed = self.size.div_ceil(self.block_size);
        let entries = needed + self.spare_entries;
        let bat_len = (entries * 4).next_multiple_of(SECTOR);
        let bitmap_len = (self.block_size / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
        let mut out = footer.clone();
        out.resize(1536 + bat_len, 0);
        if self.is_tap() {
            self.push_batmap(&mut out, needed);
        }
        let mut header = vec![0_u8; 1024];
        header[..8].copy_from_slice(b"cxsparse");
        header[8..16].fill(0xff);
        be(&mut header, 16, 1536, 8);
        be(&mut header, 24, 0x0001_0000, 4);
        be(&mut header, 28, entries as u64, 4);
        be(&mut header, 32, self.block_size as u64, 4);
        header[40..56].copy_from_slice(&self.parent_uuid);
        for (i, unit) in self.parent_name.encode_utf16().enumerate() {
            header[64 + 2 * i..66 + 2 * i].copy_from_slice(&unit.to_be_bytes());
        }
        for (i, (code, text)) in self.locators.iter().enumerate() {
            let at = 576 + 24 * i;
            header[at..at + 4].copy_from_slice(code);
            be(&mut header, at + 4, 1, 4);
            be(&mut header, at + 8, text.len() as u64, 4);
            be(&mut header, at + 16, out.len() as u64, 8);
            out.extend(text);
            out.resize(out.len().next_multiple_of(SECTOR), 0);
        }
        seal(&mut header, 36);
        out[512..1536].copy_from_slice(&header);
        out[1536..1536 + bat_len].fill(0xff);
        for &index in &self.order {
            let block = &self.blocks[&index];
            let data = (out.len() + bitmap_len).next_multiple_of(self.align);
            out.resize(data - bitmap_len, 0xEE);
            be(&mut out, 1536 + 4 * index, ((data - bitmap_len) / SECTOR) as u64, 4);
            let mut bitmap = vec![0_u8; bitmap_len];
            for (s, _) in block.held.iter().enumerate().filter(|(_, held)| **held) {
                bitmap[s / 8] |= 0x80 >> (s % 8);
            }
            out.extend(bitmap);
            out.extend(&block.data);
        }
        out.resize(out.len() + self.gap, 0xEE);
        out.extend(footer);
        out
    }

    fn push_batmap(&self, out: &mut Vec<u8>, blocks: usize) {
        let at = out.len();
        let len = blocks.div_ceil(8).next_multiple_of(SECTOR);
        let mut map = vec![0_u8; len];
        for (index, block) in &self.blocks {
            if block.held.iter().all(|h| *h) {
                map[index / 8] |= 0x80 >> (index % 8);
            }
        }
        let version = if self.creator.1 == 0x0001_0001 { 0x0001_0001 } else { 0x0001_0002 };
        let mut header = vec![0_u8; SECTOR];
        header[..8].copy_from_slice(b"tdbatmap");
        be(&mut header, 8, (at + SECTOR) as u64, 8);
        be(&mut header, 16, (len / SECTOR) as u64, 4);
        be(&mut header, 20, version, 4);
        let total = map.iter().fold(0_u32, |s, &b| {
            s.wrapping_add(if version == 0x0001_0001 { b as i8 as u32 } else { u32::from(b) })
        });
        be(&mut header, 24, u64::from(!total), 4);
        out.extend(header);
        out.extend(map);
    }

    /// What a guest sees of this layer over `parent` (what a guest sees of that).
    pub(crate) fn view(&self, parent: &[u8]) -> Vec<u8> {
        let mut out = vec![0_u8; self.size];
        if self.kind == Kind::Differencing {
            let n = parent.len().min(self.size);
            out[..n].copy_from_slice(&parent[..n]);
        }
        for (index, block) in &self.blocks {
            for (s, held) in block.held.iter().enumerate() {
                let at = index * self.block_size + s * SECTOR;
                if *held && at < self.size {
                    let n = SECTOR.min(self.size - at);
                    let from = s * SECTOR;
                    out[at..at + n].copy_from_slice(&block.data[from..from + n]);
                }
            }
        }
        out
    }
}

/// A random chain, the youngest layer first, and what the guest sees.
pub(crate) fn random_chain(seed: u64) -> (Vec<Layer>, Vec<u8>) {
    let mut rng = Rng::new(seed);
    let depth = 1 + rng.below(5);
    let sizes = [4096, 4096, 8192, 32768, 512 << 10];
    let mut layers: Vec<Layer> = Vec::new();
    let mut view = Vec::new();
    let usual = *rng.pick(&sizes);
    for level in 0..depth {
        let block_size = if rng.one_in(3) { *rng.pick(&sizes) } else { usual };
        let longest = if usual > 65536 { 3000 } else { 300 };
        let size = (1 + rng.below(longest)) * SECTOR;
        let kind = match level {
            0 if rng.one_in(4) => Kind::Fixed,
            0 => Kind::Dynamic,
            _ => Kind::Differencing,
        };
        let mut layer = Layer::random(&mut rng, kind, size, block_size);
        if let Some(parent) = layers.first() {
            layer.parent_uuid = parent.uuid;
        }
        view = layer.view(&view);
        layers.insert(0, layer);
    }
    (layers, view)
}
