#!/usr/bin/env python3
"""Split a raw disk into a VHD chain: a base and two differencing children.

    split-vhd-chain.py RAW OUTDIR [--seed N] [--unaligned] [--grown] [--no-digest]
    split-vhd-chain.py --synthetic 20G --data 512M OUTDIR [...]

OUTDIR gets base.vhd, child1.vhd and child2.vhd (the tip). `--synthetic` first makes
OUTDIR/disk.raw, sparse, with that much data in extents spread over the disk. One JSON line on
stdout tells what was made, with the SHA-256 of the raw disk unless --no-digest.

The files are laid out as XenServer's tapdisk writes them: creator `tap`, a batmap, the locators
MacX, W2ku and W2ru, block data on 4 KiB boundaries with the bitmap in the sector before, blocks
in the order of their allocation (here: random), parents marked hidden.

The point of the script is to make wrong readers fail. Blocks are spread over the three layers
by sector, with mixed bitmap bytes such as 0xC9; wherever a younger layer owns a sector, the older
ones hold other bytes; zero sectors override old data; sectors that a child does not own hold
junk. Every byte of the old data differs from the true one, so a reader that ignores or misreads
one bit of one bitmap gives another digest.

It needs nothing but the standard library, shares no code with the crates of this repository,
keeps a few blocks in memory, gives the same bytes for the same seed, and reads its own output back
(by different code) before it reports success.

  --unaligned  put blocks at any sector, with small gaps, as other writers do
  --grown      the base is smaller than its children, as after a resize of a snapshotted disk
"""

import argparse
import array
import hashlib
import json
import os
import random
import struct
import sys
import uuid

SECTOR = 512
BLOCK = 2 << 20
SPB = BLOCK // SECTOR
ALL = (1 << SPB) - 1
ABSENT = 0xFFFFFFFF
ZERO_BLOCK = bytes(BLOCK)
ZERO_SECTOR = bytes(SECTOR)
NAMES = ("base.vhd", "child1.vhd", "child2.vhd")
EPOCH_2000 = 946684800
MADE_AT = 1704067200 - EPOCH_2000  # a fixed day: the output depends on the arguments only

# Which layers hold a block, and how: see `masks`.
DATA_KINDS = {
    "base": (1, 0, 0),
    "base-exact": (1, 0, 0),
    "child1-over-old": (1, 1, 0),
    "child2-over-old": (1, 0, 1),
    "child2-over-two-old": (1, 1, 1),
    "child1": (0, 1, 0),
    "child2-exact": (0, 0, 1),
    "mixed-01": (1, 1, 0),
    "mixed-02": (1, 0, 1),
    "mixed-012": (1, 1, 1),
    "mixed-12": (0, 1, 1),
}
ZERO_KINDS = {"zeros-child1": (1, 1, 0), "zeros-child2": (1, 0, 1), "zeros-mixed": (1, 1, 1)}
KINDS = {**DATA_KINDS, **ZERO_KINDS}


def fail(message):
    sys.exit("split-vhd-chain: " + message)


def size_of(text):
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    try:
        n = int(text[:-1]) * unit[text[-1].upper()] if text[-1:].upper() in unit else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 20G")
    if n <= 0:
        raise argparse.ArgumentTypeError("a size must be positive")
    return n


# ---- reading the raw disk ---------------------------------------------------------------------


def data_blocks(fd, size):
    """Numbers of the blocks that lie, even in part, in allocated extents."""
    at, last = 0, -1
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return  # nothing but holes up to the end
        end = min(os.lseek(fd, at, os.SEEK_HOLE), size)
        for block in range(max(at // BLOCK, last + 1), (end - 1) // BLOCK + 1):
            last = block
            yield block
        at = end


def read_block(fd, block, size):
    """One block of the raw disk, filled up with zeros behind its end."""
    want = min(BLOCK, size - block * BLOCK)
    got = bytearray()
    while len(got) < want:
        piece = os.pread(fd, want - len(got), block * BLOCK + len(got))
        if not piece:
            break  # a last sector that the file does not fill
        got += piece
    return bytes(got) + bytes(BLOCK - len(got)) if len(got) < BLOCK else bytes(got)


# ---- sector masks: an integer of 4096 bits, sector 0 in the highest, as in a VHD bitmap --------


def nonzero_sectors(data):
    mask = 0
    for at in range(0, BLOCK, 64 * SECTOR):  # most data is dense or empty: look at 32 KiB first
        bits = 0
        if data[at : at + 64 * SECTOR] != ZERO_BLOCK[: 64 * SECTOR]:
            for sector in range(at, at + 64 * SECTOR, SECTOR):
                bits = bits << 1 | (data[sector : sector + SECTOR] != ZERO_SECTOR)
        mask = mask << 64 | bits
    return mask


def runs(mask):
    """(first sector, end sector, owned) in order."""
    bits = format(mask, f"0{SPB}b")
    at = 0
    while at < SPB:
        other = bits.find("0" if bits[at] == "1" else "1", at)
        end = SPB if other < 0 else other
        yield at, end, bits[at] == "1"
        at = end


def choose(mask, ones, zeros):
    """Sectors of `ones` where the mask is set, of `zeros` elsewhere."""
    if mask == ALL:
        return ones
    ones, zeros = memoryview(ones), memoryview(zeros)
    return b"".join((ones if own else zeros)[a * SECTOR : b * SECTOR] for a, b, own in runs(mask))


def random_mask(rng):
    style = rng.choice(("bytes", "bytes", "random", "runs", "runs", "few", "edges", "half"))
    if style == "bytes":
        byte = rng.choice((0xC9, 0xC9, 0xA5, 0x80, 0x01, 0xFE, 0x7F, 0x3C))
        return int.from_bytes(bytes([byte]) * (SPB // 8), "big")
    if style == "random":
        return rng.getrandbits(SPB)
    if style == "few":
        return sum(1 << bit for bit in rng.sample(range(SPB), rng.randint(1, 40)))
    if style == "edges":
        return 1 | 1 << SPB - 1 | 1 << rng.randrange(SPB)
    if style == "half":
        return ((1 << SPB // 2) - 1) << (SPB // 2 if rng.random() < 0.5 else 0)
    mask, at = 0, rng.randint(0, 64)
    while at < SPB:
        length = min(rng.choice((1, 3, 7, 8, 9, 64, 200)), SPB - at)
        mask |= ((1 << length) - 1) << at
        at += length + rng.choice((1, 2, 7, 8, 30, 300))
    return mask


def masks(kind, rng, data, sectors):
    """The bitmaps of the three layers. Every sector with data is owned by at least one."""
    inside = ALL ^ ((1 << SPB - sectors) - 1)  # sectors of this block that the disk has
    if kind == "base":
        m = (inside, 0, 0)
    elif kind == "base-exact":
        m = (nonzero_sectors(data), 0, 0)
    elif kind in ("child1-over-old", "zeros-child1"):
        m = (inside, inside, 0)
    elif kind in ("child2-over-old", "zeros-child2"):
        m = (inside, 0, inside)
    elif kind == "child2-over-two-old":
        m = (inside, inside, inside)
    elif kind == "child1":
        m = (0, inside, 0)
    elif kind == "child2-exact":
        m = (0, 0, nonzero_sectors(data))
    elif kind == "zeros-mixed":
        tip = random_mask(rng)
        m = (inside, ALL ^ tip, tip)
    elif kind == "mixed-12":
        tip = random_mask(rng)
        m = (0, nonzero_sectors(data) & ~tip | random_mask(rng), tip)
    else:
        m1 = random_mask(rng) if KINDS[kind][1] else 0
        m2 = random_mask(rng) if KINDS[kind][2] else 0
        m = (nonzero_sectors(data) & ~(m1 | m2) | random_mask(rng), m1, m2)
    return tuple(mask & inside for mask in m)


# ---- writing one layer --------------------------------------------------------------------------


def checksum(data):
    return ~sum(data) & 0xFFFFFFFF


def geometry(size):
    """Cylinders, heads and sectors of the VHD specification, rounded down."""
    total = min(size // SECTOR, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        return total // 255 // 16, 16, 255
    per_track, rest = 17, total // 17
    heads = max((rest + 1023) // 1024, 4)
    if rest >= heads * 1024 or heads > 16:
        per_track, heads, rest = 31, 16, total // 31
    if rest >= heads * 1024:
        per_track, heads, rest = 63, 16, total // 63
    return rest // heads, heads, per_track


def round_up(n, to):
    return -(-n // to) * to


class Writer:
    """A dynamic (no parent) or differencing VHD in tapdisk's layout."""

    def __init__(self, folder, level, size, present, parent, rng, unaligned):
        self.level, self.size, self.parent = level, size, parent
        self.name = NAMES[level]
        self.uuid = uuid.UUID(int=rng.getrandbits(128), version=4).bytes
        self.timestamp = MADE_AT + 3600 * level
        self.entries = round_up(size, BLOCK) // BLOCK
        self.bat = array.array("I", [ABSENT]) * self.entries
        self.batmap = bytearray(round_up(round_up(self.entries, 8) // 8, SECTOR))
        self.bat_at = 1536
        self.batmap_at = self.bat_at + round_up(4 * self.entries, SECTOR)
        self.locators_at = self.batmap_at + SECTOR + len(self.batmap)
        self.end = self.locators_at + (3 * SECTOR if parent else 0)
        self.sectors = self.full = 0
        self.allocate(present, rng, unaligned)
        self.fd = os.open(os.path.join(folder, self.name), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)

    def allocate(self, present, rng, unaligned):
        """Give each present block its place, in random order."""
        order = [block for block in present if block < self.entries]
        rng.shuffle(order)
        self.gaps = []
        for block in order:
            start = self.end
            if unaligned:
                self.end += SECTOR * rng.randint(0, 3)
            else:
                self.end = round_up(self.end + SECTOR, 4096) - SECTOR
                if self.end - start >= SECTOR:
                    self.gaps.append(start)
            self.bat[block] = self.end // SECTOR
            self.end += SECTOR + BLOCK
        if self.end // SECTOR >= ABSENT:
            fail(f"{self.name} would be larger than a VHD can be")

    def put(self, block, mask, data, set_batmap):
        bitmap = mask.to_bytes(SPB // 8, "big")
        at, pieces = self.bat[block] * SECTOR, [bitmap, data]
        while pieces:
            done = os.pwritev(self.fd, pieces, at)
            at += done
            while pieces and done >= len(pieces[0]):
                done -= len(pieces.pop(0))
            if pieces:
                pieces[0] = memoryview(pieces[0])[done:]
        self.sectors += mask.bit_count()
        if mask == ALL and set_batmap:
            self.full += 1
            self.batmap[block >> 3] |= 0x80 >> (block & 7)

    def footer(self):
        head = struct.pack(
            ">8sIIQI4sIIQQHBBI",
            b"conectix", 2, 0x00010000, SECTOR, self.timestamp, b"tap\0", 0x00010003, 0,
            self.size, self.size, *geometry(self.size), 4 if self.parent else 3,
        )  # fmt: skip
        hidden = 0 if self.level == len(NAMES) - 1 else 1
        tail = self.uuid + bytes([0, hidden]) + bytes(426)
        return head + struct.pack(">I", checksum(head + tail)) + tail

    def header(self):
        head = struct.pack(
            ">8sQQIII", b"cxsparse", 2**64 - 1, self.bat_at, 0x00010000, self.entries, BLOCK
        )
        name = self.parent.name.encode("utf-16-be") if self.parent else b""
        tail = self.parent.uuid if self.parent else bytes(16)
        tail += struct.pack(">II", self.parent.timestamp if self.parent else 0, 0)
        tail += name + bytes(512 - len(name))
        for i, (code, text) in enumerate(self.locators()):
            at = self.locators_at + i * SECTOR
            tail += struct.pack(">4sIIIQ", code, SECTOR, len(text), 0, at)
        tail += bytes(1024 - len(head) - 4 - len(tail))
        return head + struct.pack(">I", checksum(head + tail)) + tail

    def locators(self):
        if not self.parent:
            return []
        windows = (".\\" + self.parent.name).encode("utf-16-le")
        unix = ("file://./" + self.parent.name).encode()
        return [(b"MacX", unix), (b"W2ku", windows), (b"W2ru", windows)]

    def batmap_header(self):
        return struct.pack(
            ">8sQIIIB", b"tdbatmap", self.batmap_at + SECTOR, len(self.batmap) // SECTOR,
            0x00010002, checksum(self.batmap), 0,
        ).ljust(SECTOR, b"\0")  # fmt: skip

    def close(self, rng):
        footer = self.footer()
        os.pwrite(self.fd, footer + self.header(), 0)
        bat = array.array("I", self.bat)
        if sys.byteorder == "little":
            bat.byteswap()
        os.pwrite(self.fd, bat.tobytes().ljust(self.batmap_at - self.bat_at, b"\xff"), self.bat_at)
        os.pwrite(self.fd, self.batmap_header() + bytes(self.batmap), self.batmap_at)
        for i, (_, text) in enumerate(self.locators()):
            os.pwrite(self.fd, text.ljust(SECTOR, b"\0"), self.locators_at + i * SECTOR)
        # tapdisk leaves the footers of its earlier lengths where it does not overwrite them
        for gap in rng.sample(self.gaps, min(3, len(self.gaps))):
            os.pwrite(self.fd, footer, gap)
        os.pwrite(self.fd, footer, round_up(self.end, SECTOR))
        os.fsync(self.fd)
        os.close(self.fd)


def split(raw, size, folder, options):
    """Write the three files; returns the writers and how often each kind was used."""
    seed = options.seed
    sizes = [size] * 3
    if options.grown:
        sizes[0] = max(size * 3 // 4 // BLOCK, 1) * BLOCK
        if sizes[0] >= size:
            fail("--grown needs a disk of more than one block (2 MiB)")
    base_blocks = round_up(sizes[0], BLOCK) // BLOCK
    kinds = assign_kinds(raw, size, base_blocks, random.Random(f"{seed}:kinds"))
    layers = []
    for level in range(3):
        present = [block for block, kind in kinds.items() if KINDS[kind][level]]
        rng = random.Random(f"{seed}:layer{level}")
        parent = layers[-1] if layers else None
        layers.append(Writer(folder, level, sizes[level], present, parent, rng, options.unaligned))

    rng = random.Random(f"{seed}:junk")
    keys = rng.sample(range(1, 256), 3)  # distinct: no two layers hold the same wrong bytes
    wrong = [bytes(value ^ key for value in range(256)) for key in keys]
    for block, kind in kinds.items():
        data = read_block(raw, block, size)
        rng = random.Random(f"{seed}:{block}")
        sectors = min(SPB, round_up(size - block * BLOCK, SECTOR) // SECTOR)
        owned = masks(kind, rng, data, sectors)
        younger = 0
        for level in (2, 1, 0):
            if not KINDS[kind][level]:
                continue
            mask = owned[level]
            content = choose(mask & younger, data.translate(wrong[level]), data) if mask & younger else data
            # a child's unowned sectors hold junk; a root's are zeros, by every reader's rule
            if mask != ALL:
                rest = data.translate(wrong[level]) if level and rng.random() < 0.7 else ZERO_BLOCK
                content = choose(mask, content, rest)
            layers[level].put(block, mask, content, set_batmap=rng.random() < 0.9)
            younger |= mask
    for level, layer in enumerate(layers):
        layer.close(random.Random(f"{seed}:gaps{level}"))
    used = {}
    for kind in kinds.values():
        used[kind] = used.get(kind, 0) + 1
    return layers, used


def assign_kinds(raw, size, base_blocks, rng):
    """Every block with data gets a kind, all kinds in turn; some empty blocks hide old data."""
    kinds, empty, deck, young = {}, [], [], []
    known = 0
    for block in data_blocks(raw, size):
        empty.extend(range(known, min(block, known + 4096)))
        known = block + 1
        if read_block(raw, block, size) == ZERO_BLOCK:
            empty.append(block)
            continue
        if block < base_blocks:
            if not deck:
                deck = rng.sample(sorted(DATA_KINDS), len(DATA_KINDS))
            kinds[block] = deck.pop()
        else:
            if not young:
                young = sorted(kind for kind, has in DATA_KINDS.items() if not has[0])
                rng.shuffle(young)
            kinds[block] = young.pop()
    total = round_up(size, BLOCK) // BLOCK
    empty.extend(range(known, min(total, known + 4096)))
    empty = [block for block in empty if block < base_blocks]
    hiding = rng.sample(empty, min(len(empty), 3 + len(empty) // 20, 24))
    for i, block in enumerate(hiding):
        kinds[block] = sorted(ZERO_KINDS)[i % len(ZERO_KINDS)]
    return dict(sorted(kinds.items()))


# ---- reading back, by the specification and not by what `Writer` remembers -----------------------


class Reader:
    def __init__(self, path):
        self.path, self.fd = path, os.open(path, os.O_RDONLY)
        length = os.fstat(self.fd).st_size
        footer = self.at(length - 512, 512)
        self.want(footer == self.at(0, 512), "the two footers differ")
        self.want(footer[:8] == b"conectix", "no footer")
        self.check(footer, 64, "footer")
        self.size, = struct.unpack_from(">Q", footer, 48)
        self.kind, = struct.unpack_from(">I", footer, 60)
        self.uuid = footer[68:84]
        header_at, = struct.unpack_from(">Q", footer, 16)
        header = self.at(header_at, 1024)
        self.want(header[:8] == b"cxsparse", "no dynamic header")
        self.check(header, 36, "header")
        bat_at, _, entries, block = struct.unpack_from(">QIII", header, 16)
        self.want(block == BLOCK and entries >= -(-self.size // BLOCK), "block size or BAT length")
        self.bat = struct.unpack(f">{entries}I", self.at(bat_at, 4 * entries))
        self.parent_uuid = header[40:56]
        self.parents = {}
        for at in range(576, 768, 24):
            code, _, used, _, where = struct.unpack_from(">4sIIIQ", header, at)
            if code != b"\0\0\0\0":
                text = self.at(where, used)
                self.parents[code.decode()] = text.decode("utf-8" if code == b"MacX" else "utf-16-le")
        map_header = self.at(bat_at + -(-4 * entries // 512) * 512, 512)
        self.want(map_header[:8] == b"tdbatmap", "no batmap")
        map_at, map_sectors, _, map_sum = struct.unpack_from(">QIII", map_header, 8)
        self.batmap = self.at(map_at, map_sectors * 512)
        self.want(~sum(self.batmap) & 0xFFFFFFFF == map_sum, "batmap checksum")
        self.spans(length)

    def at(self, offset, length):
        data = os.pread(self.fd, length, offset)
        self.want(len(data) == length, f"ends before {offset + length}")
        return data

    def want(self, held, what):
        if not held:
            fail(f"read back: {self.path}: {what}")

    def check(self, record, at, what):
        stored, = struct.unpack_from(">I", record, at)
        counted = ~(sum(record) - sum(record[at : at + 4])) & 0xFFFFFFFF
        self.want(stored == counted, f"{what} checksum")

    def spans(self, length):
        """No two blocks overlap, and none reaches into the footer."""
        last = 0
        for sector in sorted(entry for entry in self.bat if entry != ABSENT):
            self.want(sector >= last, f"two blocks share sector {sector}")
            last = sector + 1 + SPB
        self.want(last * 512 + 512 <= length, "a block reaches into the footer")

    def owned(self, block):
        """The sectors that this layer owns in a block, as an integer; None if it is absent."""
        if block * BLOCK >= self.size or self.bat[block] == ABSENT:
            return None
        bitmap = int.from_bytes(self.at(self.bat[block] * 512, 512), "big")
        if self.batmap[block // 8] >> (7 - block % 8) & 1:
            self.want(bitmap == ALL, f"the batmap calls block {block} full")
        return bitmap

    def sectors(self, block, first, count):
        return self.at((self.bat[block] + 1 + first) * 512, count * 512)


def read_back(raw, size, folder, digest):
    """Resolve the chain sector by sector and compare it with the raw disk."""
    chain = [Reader(os.path.join(folder, name)) for name in NAMES]
    for parent, child in zip(chain, chain[1:]):
        child.want(child.kind == 4 and child.parent_uuid == parent.uuid, "names another parent")
        name = os.path.basename(parent.path)
        child.want(
            child.parents == {"MacX": "file://./" + name, "W2ku": ".\\" + name, "W2ru": ".\\" + name},
            "parent locators",
        )
    chain[0].want(chain[0].kind == 3 and chain[0].parent_uuid == bytes(16), "is not a root")
    tip = chain[-1]
    tip.want(tip.size == round_up(size, 512), "virtual size")
    sha = hashlib.sha256() if digest else None
    with_data = set(data_blocks(raw, size))
    hidden = 0
    for block in range(-(-size // BLOCK)):
        length = min(BLOCK, size - block * BLOCK)
        truth = read_block(raw, block, size)[:length] if block in with_data else ZERO_BLOCK[:length]
        found, older = resolve(chain, block)
        hidden += older
        if (found[:length] if found else ZERO_BLOCK[:length]) != truth:
            fail(f"read back: block {block} of the chain differs from the raw disk")
        if sha:
            sha.update(truth)
    return sha.hexdigest() if sha else None, hidden


def resolve(chain, block):
    """The content of one block through the chain, and how many owned sectors are overridden."""
    found, wanted, hidden = None, ALL, 0
    for layer in reversed(chain):
        owned = layer.owned(block)
        if owned is None:
            continue
        found = found or bytearray(BLOCK)
        hidden += (owned & ~wanted & ALL).bit_count()
        for first, end, take in runs(owned & wanted):
            if take:
                found[first * 512 : end * 512] = layer.sectors(block, first, end - first)
        wanted &= ~owned
    return found, hidden


# ---- a synthetic disk ---------------------------------------------------------------------------


def synthetic(path, size, data, seed):
    """A sparse raw disk with `data` bytes in extents of 64 KiB to 4 MiB, spread over all of it."""
    rng = random.Random(f"{seed}:synthetic")
    with open(path, "wb") as out:
        out.truncate(size)
        pool = rng.randbytes(8 << 20)
        count = max(data // (1 << 20), 1)
        for i in range(count):
            length = min(rng.choice((64 << 10, 512 << 10, 1 << 20, 1 << 20, 2 << 20)), size)
            start = min(size * i // count + 4096 * rng.randint(0, 256), size - length) // 512 * 512
            at = rng.randrange(len(pool) - length)
            out.seek(start)
            out.write(pool[at : at + length])
            out.seek(start)
            out.write(struct.pack(">QQ", i, start))  # no two extents alike


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="RAW OUTDIR")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unaligned", action="store_true")
    parser.add_argument("--grown", action="store_true")
    parser.add_argument("--no-digest", action="store_true")
    parser.add_argument("--synthetic", type=size_of, metavar="SIZE")
    parser.add_argument("--data", type=size_of, default=256 << 20, metavar="SIZE")
    options = parser.parse_args()
    if len(options.paths) != (1 if options.synthetic else 2):
        parser.error("give RAW and OUTDIR, or --synthetic SIZE and OUTDIR")
    folder = options.paths[-1]
    os.makedirs(folder, exist_ok=True)
    if options.synthetic:
        if options.data > options.synthetic:
            parser.error("--data is larger than --synthetic")
        raw_path = os.path.join(folder, "disk.raw")
        synthetic(raw_path, options.synthetic, options.data, options.seed)
    else:
        raw_path = options.paths[0]
    try:
        raw = os.open(raw_path, os.O_RDONLY)
    except OSError as error:
        fail(f"cannot read {raw_path}: {error.strerror}")
    length = os.fstat(raw).st_size
    size = round_up(length, SECTOR)
    if size == 0 or size > 2040 << 30:
        fail(f"{raw_path}: {length} bytes; a VHD holds 512 B to 2040 GiB")
    layers, used = split(raw, size, folder, options)
    digest, hidden = read_back(raw, size, folder, not options.no_digest)
    if used and not hidden:
        print("split-vhd-chain: note: too little data for a layer to hide another", file=sys.stderr)
    print(json.dumps({
        "raw": raw_path, "bytes": size, "sha256": digest, "seed": options.seed,
        "overridden_sectors": hidden, "kinds": used,
        "layers": [
            {"file": os.path.join(folder, layer.name), "virtual_size": layer.size,
             "blocks": sum(entry != ABSENT for entry in layer.bat), "full_blocks": layer.full,
             "owned_sectors": layer.sectors}
            for layer in layers
        ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
