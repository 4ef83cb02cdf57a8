//! VHD files put together field by field, each field where the caller wants it: a recipe says how
//! a writer lays its files out. None of the crate's code is used here.

use std::collections::BTreeMap;

use crate::builder::{Block, Rng, SECTOR, seal};

pub(crate) const MIB: usize = 1 << 20;
pub(crate) const FIXED: u32 = 2;
pub(crate) const DYNAMIC: u32 = 3;
pub(crate) const DIFFERENCING: u32 = 4;

/// Cylinders, heads, sectors per track.
pub(crate) type Chs = (u16, u8, u8);

/// How the file ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tail {
    /// With the footer behind the last block.
    Whole,
    /// With 511 bytes of it, as old Virtual PC does.
    Short,
    /// With the footer at the end of a volume that is so much longer and was used before: there
    /// are old footers in between.
    Volume(usize),
}

/// A locator, and where its text lies.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) code: [u8; 4],
    /// The field as the writer fills it: sectors or bytes.
    pub(crate) space: u32,
    pub(crate) at: usize,
    pub(crate) text: Vec<u8>,
}

/// How a writer lays out a file.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    pub(crate) app: [u8; 4],
    pub(crate) version: u32,
    pub(crate) os: [u8; 4],
    pub(crate) kind: u32,
    pub(crate) features: u32,
    pub(crate) size: usize,
    pub(crate) original: usize,
    pub(crate) chs: Chs,
    pub(crate) uuid: [u8; 16],
    pub(crate) hidden: u8,
    pub(crate) block_size: usize,
    pub(crate) header_at: usize,
    pub(crate) bat_at: usize,
    /// BAT entries beyond those that the disk needs.
    pub(crate) spare_entries: usize,
    /// The batmap's version, and its sectors where they are not as few as fit.
    pub(crate) batmap: Option<(u32, Option<usize>)>,
    pub(crate) parent_uuid: [u8; 16],
    pub(crate) parent_time: u32,
    pub(crate) parent_name: String,
    pub(crate) texts: Vec<Text>,
    /// No block begins before this.
    pub(crate) blocks_at: usize,
    /// What the data of blocks is aligned to.
    pub(crate) align: usize,
    pub(crate) shuffled: bool,
    /// Whether the writer sets all bits of a block, whatever was written.
    pub(crate) full_bits: bool,
    /// What lies where nothing was written.
    pub(crate) fill: u8,
    /// Whether gaps between blocks hold the footer that once was the last one.
    pub(crate) stale: bool,
    pub(crate) tail: Tail,
    /// Whether the checksums of the footers are wrong.
    pub(crate) bad_sums: bool,
    /// Whether the hidden byte was set after the checksum was made.
    pub(crate) hidden_later: bool,
    /// What is expected of `check`, in order.
    pub(crate) codes: &'static [&'static str],
}

/// A file and where its blocks are.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) recipe: Recipe,
    pub(crate) blocks: BTreeMap<usize, Block>,
    /// Where the data of a block begin in the file.
    pub(crate) places: BTreeMap<usize, usize>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn be(out: &mut [u8], at: usize, value: u64, len: usize) {
    out[at..at + len].copy_from_slice(&value.to_be_bytes()[8 - len..]);
}

/// The specification's geometry, all divisions rounded down.
pub(crate) fn floor_chs(size: usize) -> Chs {
    let total = (size / SECTOR).min(65535 * 16 * 255);
    let (mut spt, mut heads) = (255, 16);
    if total < 65535 * 16 * 63 {
        spt = 17;
        heads = (total / spt).div_ceil(1024).max(4);
        if total / spt >= heads * 1024 || heads > 16 {
            (spt, heads) = (31, 16);
        }
        if total / spt >= heads * 1024 {
            (spt, heads) = (63, 16);
        }
    }
    ((total / spt / heads) as u16, heads as u8, spt as u8)
}

/// The same with one cylinder more where the disk does not end with one, as vhd-lib counts.
pub(crate) fn ceil_chs(size: usize) -> Chs {
    let (c, h, s) = floor_chs(size);
    let rest = usize::from(c) * usize::from(h) * usize::from(s) * SECTOR < size;
    (c + u16::from(rest), h, s)
}

impl Recipe {
    /// A dynamic disk as the specification draws it: header at 512, BAT behind it, then blocks.
    pub(crate) fn new(name: &'static str, app: &[u8; 4], version: u32, size: usize) -> Self {
        Self {
            name,
            app: *app,
            version,
            os: *b"Wi2k",
            kind: DYNAMIC,
            features: 2,
            size,
            original: size,
            chs: floor_chs(size),
            uuid: *b"\xc3base-\xff-01234567",
            hidden: 0,
            block_size: 2 * MIB,
            header_at: 512,
            bat_at: 1536,
            spare_entries: 0,
            batmap: None,
            parent_uuid: [0; 16],
            parent_time: 0,
            parent_name: String::new(),
            texts: Vec::new(),
            blocks_at: 0,
            align: SECTOR,
            shuffled: false,
            full_bits: true,
            fill: 0,
            stale: false,
            tail: Tail::Whole,
            bad_sums: false,
            hidden_later: false,
            codes: &[],
        }
    }

    pub(crate) fn geometry_bytes(&self) -> u64 {
        u64::from(self.chs.0) * u64::from(self.chs.1) * u64::from(self.chs.2) * 512
    }

    pub(crate) fn needed(&self) -> usize {
        self.size.div_ceil(self.block_size)
    }

    pub(crate) fn entries(&self) -> usize {
        self.needed() + self.spare_entries
    }

    pub(crate) fn bat_end(&self) -> usize {
        self.bat_at + (4 * self.entries()).next_multiple_of(SECTOR)
    }

    pub(crate) fn bitmap_len(&self) -> usize {
        (self.block_size / SECTOR).div_ceil(8).next_multiple_of(SECTOR)
    }

    pub(crate) fn footer(&self) -> Vec<u8> {
        let mut f = vec![0_u8; 512];
        f[..8].copy_from_slice(b"conectix");
        be(&mut f, 8, u64::from(self.features), 4);
        be(&mut f, 12, 0x0001_0000, 4);
        let data_offset = if self.kind == FIXED { u64::MAX } else { self.header_at as u64 };
        be(&mut f, 16, data_offset, 8);
        be(&mut f, 24, 600_000_000, 4);
        f[28..32].copy_from_slice(&self.app);
        be(&mut f, 32, u64::from(self.version), 4);
        f[36..40].copy_from_slice(&self.os);
        be(&mut f, 40, self.original as u64, 8);
        be(&mut f, 48, self.size as u64, 8);
        be(&mut f, 56, u64::from(self.chs.0), 2);
        (f[58], f[59]) = (self.chs.1, self.chs.2);
        be(&mut f, 60, u64::from(self.kind), 4);
        f[68..84].copy_from_slice(&self.uuid);
        f[85] = if self.hidden_later { 0 } else { self.hidden };
        seal(&mut f, 64);
        f[85] = self.hidden;
        if self.bad_sums {
            f[66] ^= 0x55;
        }
        f
    }

    pub(crate) fn header(&self) -> Vec<u8> {
        let mut h = vec![0_u8; 1024];
        h[..8].copy_from_slice(b"cxsparse");
        h[8..16].fill(0xff);
        be(&mut h, 16, self.bat_at as u64, 8);
        be(&mut h, 24, 0x0001_0000, 4);
        be(&mut h, 28, self.entries() as u64, 4);
        be(&mut h, 32, self.block_size as u64, 4);
        h[40..56].copy_from_slice(&self.parent_uuid);
        be(&mut h, 56, u64::from(self.parent_time), 4);
        for (i, unit) in self.parent_name.encode_utf16().enumerate() {
            be(&mut h, 64 + 2 * i, u64::from(unit), 2);
        }
        for (i, text) in self.texts.iter().enumerate() {
            let at = 576 + 24 * i;
            h[at..at + 4].copy_from_slice(&text.code);
            be(&mut h, at + 4, u64::from(text.space), 4);
            be(&mut h, at + 8, text.text.len() as u64, 4);
            be(&mut h, at + 16, text.at as u64, 8);
        }
        seal(&mut h, 36);
        h
    }

    /// The batmap's two parts for `blocks`, the map at `at`.
    fn batmap(&self, blocks: &BTreeMap<usize, Block>, at: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        let (version, sectors) = self.batmap?;
        // blktap rounds size / 16 MiB down before it counts sectors.
        let sectors = sectors.unwrap_or_else(|| (self.size >> 24).div_ceil(SECTOR).max(1));
        let mut map = vec![0_u8; sectors * SECTOR];
        for (index, _) in blocks.iter().filter(|(_, b)| b.held.iter().all(|held| *held)) {
            if let Some(byte) = map.get_mut(index / 8) {
                *byte |= 0x80 >> (index % 8);
            }
        }
        let total = map.iter().fold(0_u32, |sum, &b| {
            sum.wrapping_add(if version == 0x0001_0001 { b as i8 as u32 } else { u32::from(b) })
        });
        let mut head = vec![0_u8; SECTOR];
        head[..8].copy_from_slice(b"tdbatmap");
        be(&mut head, 8, at as u64, 8);
        be(&mut head, 16, sectors as u64, 4);
        be(&mut head, 20, u64::from(version), 4);
        be(&mut head, 24, u64::from(!total), 4);
        Some((head, map))
    }

    /// Random blocks as this writer leaves them.
    pub(crate) fn random_blocks(&self, rng: &mut Rng) -> BTreeMap<usize, Block> {
        let sectors = self.block_size / SECTOR;
        let mut out = BTreeMap::new();
        for index in 0..self.needed() {
            // The last block is always there, with mixed bytes in its bitmap: it may reach past the
            // end of the disk. The first one is full, so that a batmap has its highest bit.
            let last = index + 1 == self.needed();
            if self.kind != FIXED && index > 0 && !last && rng.one_in(3) {
                continue;
            }
            let held = match (last, index) {
                (true, _) => 1,
                (_, 0) => 0,
                _ => rng.below(4),
            };
            let held = match held {
                _ if self.full_bits || self.kind == FIXED => vec![true; sectors],
                0 => vec![true; sectors],
                1 => (0..sectors).map(|s| 0xC9 & (0x80 >> (s % 8)) != 0).collect(),
                2 => (0..sectors).map(|s| s / 100 % 2 == 0).collect(),
                _ => (0..sectors).map(|_| rng.one_in(2)).collect(),
            };
            out.insert(index, Block { held, data: rng.bytes(self.block_size) });
        }
        out
    }

    pub(crate) fn make(&self, rng: &mut Rng) -> Made {
        let blocks = self.random_blocks(rng);
        self.make_of(blocks, rng)
    }

    /// The file with these blocks.
    pub(crate) fn make_of(&self, blocks: BTreeMap<usize, Block>, rng: &mut Rng) -> Made {
        let mut made =
            Made { recipe: self.clone(), blocks, places: BTreeMap::new(), bytes: vec![] };
        if self.kind == FIXED {
            made.bytes = made.view(&[]);
            made.places = (0..self.needed()).map(|i| (i, i * self.block_size)).collect();
        } else {
            self.lay_out(&mut made, rng);
        }
        let footer = self.footer();
        if let Tail::Volume(slack) = self.tail {
            // What an earlier, smaller disk on the volume left behind.
            let mut old = self.clone();
            (old.size, old.uuid, old.bad_sums) = (self.size / 2 / 512 * 512, [0x77; 16], false);
            while !made.bytes.len().is_multiple_of(4096) {
                made.bytes.push(0xEE);
            }
            for _ in 0..slack / 4096 {
                made.bytes.extend(old.footer());
                made.bytes.extend(rng.bytes(4096 - 512));
            }
        }
        let end = if self.tail == Tail::Short { 511 } else { 512 };
        made.bytes.extend(&footer[..end]);
        made
    }

    fn lay_out(&self, made: &mut Made, rng: &mut Rng) {
        let out = &mut made.bytes;
        out.extend(self.footer());
        let put = |out: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            out.resize(out.len().max(at + bytes.len()), self.fill);
            out[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(out, self.header_at, &self.header());
        put(out, self.bat_at, &vec![0xff; self.bat_end() - self.bat_at]);
        if let Some((head, map)) = self.batmap(&made.blocks, self.bat_end() + SECTOR) {
            put(out, self.bat_end(), &head);
            put(out, self.bat_end() + SECTOR, &map);
        }
        for text in &self.texts {
            let mut room = text.text.clone();
            room.resize(room.len().next_multiple_of(SECTOR), 0);
            put(out, text.at, &room);
        }
        out.resize(out.len().max(self.blocks_at).next_multiple_of(SECTOR), self.fill);
        let mut order: Vec<usize> = made.blocks.keys().copied().collect();
        if self.shuffled {
            for i in (1..order.len()).rev() {
                order.swap(i, rng.below(i + 1));
            }
        }
        for index in order {
            let block = &made.blocks[&index];
            let old_end = out.len();
            let data = (old_end + self.bitmap_len()).next_multiple_of(self.align);
            out.resize(data - self.bitmap_len(), self.fill);
            if self.stale && out.len() - old_end >= SECTOR {
                out[old_end..old_end + SECTOR].copy_from_slice(&self.footer());
            }
            let entry = self.bat_at + 4 * index;
            be(out, entry, ((data - self.bitmap_len()) / SECTOR) as u64, 4);
            let mut bitmap = vec![0_u8; self.bitmap_len()];
            if self.full_bits {
                bitmap.fill(0xff);
            }
            for (s, _) in block.held.iter().enumerate().filter(|(_, held)| **held) {
                bitmap[s / 8] |= 0x80 >> (s % 8);
            }
            out.extend(bitmap);
            out.extend(&block.data);
            made.places.insert(index, data);
        }
    }
}

impl Made {
    /// What a guest sees of this layer over `parent` (what a guest sees of that).
    pub(crate) fn view(&self, parent: &[u8]) -> Vec<u8> {
        let mut out = vec![0_u8; self.recipe.size];
        if self.recipe.kind == DIFFERENCING {
            let n = parent.len().min(out.len());
            out[..n].copy_from_slice(&parent[..n]);
        }
        for (index, block) in &self.blocks {
            for (s, _) in block.held.iter().enumerate().filter(|(_, held)| **held) {
                let at = index * self.recipe.block_size + s * SECTOR;
                if at < out.len() {
                    out[at..at + SECTOR].copy_from_slice(&block.data[s * SECTOR..][..SECTOR]);
                }
            }
        }
        out
    }

    /// Where this layer has the sector at guest byte `at` (below its end), if it has it.
    pub(crate) fn place(&self, at: usize) -> Option<usize> {
        let (index, within) = (at / self.recipe.block_size, at % self.recipe.block_size);
        let held = self.blocks.get(&index)?.held[within / SECTOR];
        held.then(|| self.places[&index] + within)
    }
}
