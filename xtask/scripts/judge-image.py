#!/usr/bin/env python3
"""Compare an image with the disk that it should hold, byte by byte.

    judge-image.py same FORMAT FILE TRUTH     FORMAT: raw, vhd, qcow2, xva, tgz (0.vhd in it)
    judge-image.py sha256 TRUTH FILE          FILE holds the SHA-256 of the disk in TRUTH
    judge-image.py root TRUTH FILE            FILE holds the content root of the disk in TRUTH

TRUTH is a raw disk, best a sparse one, or a VHD without a parent. Exit status 0 if they agree,
else 1 and one line. Sizes may differ by less than 2 MiB of zeros, as formats round up.

Written from the descriptions of the formats; shares no code with the crates. It reads only what
such writers write: no compression, no snapshots, no backing files. Holes are not read, so a disk
of 2 TiB costs what its data costs.
"""

import bisect
import gzip
import hashlib
import os
import struct
import sys
import tarfile
import tempfile

BLOCK = 2 << 20
PIECE = 1 << 20
ZEROS = bytes(PIECE)


class Unsound(Exception):
    pass


def want(held, what):
    if not held:
        raise Unsound(what)


class Image:
    """A disk: its size, and its data as sorted (guest offset, length, file offset)."""

    def __init__(self, path, size, extents):
        self.fd = os.open(path, os.O_RDONLY)
        self.clip(extents, size)

    def clip(self, extents, size):
        self.size = size
        self.extents = joined(extents, size)
        self.starts = [guest for guest, _, _ in self.extents]

    def pieces(self):
        """Guest offset and bytes, in pieces that do not cross a multiple of 1 MiB."""
        for guest, length, at in self.extents:
            done = 0
            while done < length:
                count = min(length - done, PIECE - (guest + done) % PIECE)
                data = os.pread(self.fd, count, at + done)
                want(len(data) == count, f"the file ends inside the data of guest byte {guest + done}")
                yield guest + done, data
                done += count

    def read(self, guest, length):
        """The bytes of a range, of which only parts may be stored."""
        out = bytearray(length)
        i = bisect.bisect_right(self.starts, guest)
        for i in range(max(0, i - 1), len(self.extents)):
            start, count, at = self.extents[i]
            if start >= guest + length:
                break
            begin, end = max(start, guest), min(start + count, guest + length)
            if begin < end:
                out[begin - guest : end - guest] = os.pread(self.fd, end - begin, at + begin - start)
        return bytes(out)


def joined(extents, size):
    out = []
    for guest, length, at in sorted(extents):
        length = min(length, size - guest)
        if length <= 0:
            continue
        if out and out[-1][0] + out[-1][1] > guest:
            raise Unsound(f"guest byte {guest} is stored twice")
        if out and out[-1][0] + out[-1][1] == guest and out[-1][2] + out[-1][1] == at:
            out[-1] = (out[-1][0], out[-1][1] + length, out[-1][2])
        else:
            out.append((guest, length, at))
    return out


def raw(path):
    extents, at = [], 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            extents.append((at, end - at, at))
            at = end
    return Image(path, size, extents)


def vhd(path):
    extents = []
    with open(path, "rb") as file:
        file.seek(-512, os.SEEK_END)
        footer = file.read(512)
        want(footer[:8] == b"conectix", "no footer at the end")
        sum_ = ~(sum(footer) - sum(footer[64:68])) & 0xFFFFFFFF
        want(footer[64:68] == struct.pack(">I", sum_), "the footer's checksum is wrong")
        size, kind = struct.unpack_from(">Q4xI", footer, 48)
        if kind == 2:
            image = raw(path)
            image.clip(image.extents, size)
            return image
        want(kind == 3, f"a VHD of type {kind}")
        file.seek(0)
        want(file.read(512) == footer, "the footer and its copy differ")
        header = file.read(1024)
        bat_at, _, entries, block_size = struct.unpack_from(">QIII", header, 16)
        want(block_size == BLOCK and entries * BLOCK >= size, "the header does not fit the disk")
        file.seek(bat_at)
        bat = file.read(4 * entries)
        absent = b"\xff" * 4
        at = 0
        while at < len(bat):
            if bat[at : at + 4096] == absent * 1024:
                at += 4096  # most of a large disk
                continue
            for i in range(at // 4, min(at + 4096, len(bat)) // 4):
                (sector,) = struct.unpack_from(">I", bat, 4 * i)
                if sector != 0xFFFFFFFF:
                    file.seek(sector * 512)
                    extents += block_extents(i * BLOCK, file.read(512), sector * 512 + 512)
            at += 4096
    return Image(path, size, extents)


def block_extents(guest, bitmap, at):
    """A sector whose bit is not set is zeros."""
    if bitmap == b"\xff" * 512:
        return [(guest, BLOCK, at)]
    sectors = [s for s in range(4096) if bitmap[s // 8] >> (7 - s % 8) & 1]
    return [(guest + 512 * s, 512, at + 512 * s) for s in sectors]


def qcow2(path):
    extents = []
    with open(path, "rb") as file:
        header = file.read(104)
        want(header[:4] == b"QFI\xfb", "no QCOW2 header")
        backing, bits, size, crypt, l1_size, l1_at = struct.unpack_from(">Q4xIQIIQ", header, 8)
        want(not backing and not crypt, "a backing file or encryption")
        cluster = 1 << bits
        offset = 0x00FFFFFFFFFFFE00
        file.seek(l1_at)
        for i, table in enumerate(struct.unpack(f">{l1_size}Q", file.read(8 * l1_size))):
            if not table & offset:
                continue
            file.seek(table & offset)
            entries = struct.unpack(f">{cluster // 8}Q", file.read(cluster))
            for j, entry in enumerate(entries):
                want(not entry >> 62 & 1, "a compressed cluster")
                if entry & offset and not entry & 1:
                    extents.append(((i * (cluster // 8) + j) * cluster, cluster, entry & offset))
    return Image(path, size, extents)


def xva(path):
    extents, offset, last, first_len = [], 0, None, None
    with tarfile.open(path) as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            if not folder:
                continue
            if "." in name:
                if name.endswith(".checksum"):
                    chunk = tar.fileobj
                    back = chunk.tell()
                    chunk.seek(extents[-1][2])
                    sha1 = hashlib.sha1(chunk.read(extents[-1][1])).hexdigest()
                    chunk.seek(member.offset_data)
                    want(chunk.read(40).decode() == sha1, f"the checksum of {name} is wrong")
                    chunk.seek(back)
                continue
            first_len = first_len or member.size
            number = int(name)
            if last is not None:
                offset += (number - last - 1) * first_len
            extents.append((offset, member.size, member.offset_data))
            offset, last = offset + member.size, number
    want(extents, "no chunks")
    return Image(path, offset, extents)


def tgz(path):
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path)) as inner:
        # Not "r|gz", which reads the first of several gzip members only.
        with gzip.open(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as tar:
            names = []
            for member in tar:
                names.append(member.name)
                source = tar.extractfile(member)
                while data := source.read(PIECE):
                    if data == ZEROS:
                        inner.seek(PIECE, os.SEEK_CUR)
                    else:
                        inner.write(data)
        want(names == ["0.vhd"], f"the archive holds {names}")
        inner.flush()
        return vhd(inner.name)


FORMATS = {"raw": raw, "vhd": vhd, "qcow2": qcow2, "xva": xva, "tgz": tgz}


def truth_of(path):
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 512))
        return vhd(path) if file.read(8) == b"conectix" else raw(path)


def same(image, truth):
    """Each piece of either must be the other's; what only one has must be zeros."""
    difference = image.size - truth.size
    want(0 <= difference < BLOCK, f"a disk of {image.size} bytes instead of {truth.size}")
    for one, other, what in ((image, truth, "wrong"), (truth, image, "missing")):
        for guest, data in one.pieces():
            expected = other.read(guest, len(data))
            if data != expected:
                at = guest + first_difference(data, expected)
                raise Unsound(f"{what} bytes from guest byte {at} on")


def first_difference(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def sha256(disk):
    digest, at = hashlib.sha256(), 0

    def zeros_to(end):
        nonlocal at
        while at < end:
            digest.update(ZEROS[: min(PIECE, end - at)])
            at += min(PIECE, end - at)

    for guest, data in disk.pieces():
        zeros_to(guest)
        digest.update(data)
        at += len(data)
    zeros_to(disk.size)
    return digest.hexdigest()


def content_root(disk):
    """Version 1, as the documentation of `vmimage::content_root` defines it."""

    def tagged(name, *parts):
        digest = hashlib.sha256(f"vmimage content-root 1 {name}".encode().ljust(64, b"\0"))
        for part in parts:
            digest.update(part)
        return digest.digest()

    leaves = {}
    for guest, data in disk.pieces():
        leaf = leaves.setdefault(guest // PIECE, [])
        leaf.append((guest % PIECE, data))
        for done in [i for i in leaves if i < guest // PIECE and isinstance(leaves[i], list)]:
            leaves[done] = leaf_hash(tagged, leaves[done])
    leaves = {i: leaf_hash(tagged, l) if isinstance(l, list) else l for i, l in leaves.items()}
    leaves = {i: leaf for i, leaf in leaves.items() if leaf}
    count = max(leaves, default=-1) + 1
    empty = tagged("leaf", ZEROS)
    width = 1
    while width < max(count, 1):
        leaves = {
            i: tagged("node", leaves.get(2 * i, empty), leaves.get(2 * i + 1, empty))
            for i in sorted({i // 2 for i in leaves})
        }
        empty = tagged("node", empty, empty)
        width *= 2
    return tagged("root", struct.pack(">Q", count), leaves.get(0, empty)).hex()


def leaf_hash(tagged, parts):
    leaf = bytearray(PIECE)
    for at, data in parts:
        leaf[at : at + len(data)] = data
    return tagged("leaf", leaf) if leaf != ZEROS else None


def main():
    try:
        match sys.argv[1:]:
            case ["same", form, path, truth] if form in FORMATS:
                same(FORMATS[form](path), truth_of(truth))
            case [("sha256" | "root") as what, truth, path]:
                said = open(path).read().split()
                true = (sha256 if what == "sha256" else content_root)(truth_of(truth))
                want(said[:1] == [true], f"says {' '.join(said[:1])}, and it is {true}")
            case _:
                sys.exit(__doc__)
    except (Unsound, tarfile.TarError, OSError, struct.error) as error:
        sys.exit(f"judge-image: {error}")


if __name__ == "__main__":
    main()
