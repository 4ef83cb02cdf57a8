#!/usr/bin/env python3
"""Writes a chain of VHDs and the raw disk that a guest sees of it. Standard library only.

usage: make_chain.py FOLDER SEED SIZE_MIB LAYERS PERCENT PIECE

FOLDER receives 0.vhd (the youngest) to N.vhd (the base) and expected.raw. Each layer holds
about PERCENT of the disk in pieces of PIECE bytes. The disk is kept as one bytearray on which
every layer writes; the VHDs record what was written. It shares no code with the crate under test.
"""
import os
import random
import struct
import sys

BLOCK = 2 << 20


def checked(data, at):
    total = ~sum(data) & 0xFFFFFFFF
    return data[:at] + struct.pack(">I", total) + data[at + 4:]


def footer(kind, size, uuid):
    fields = struct.pack(
        ">8sIIQI4sI4sQQHBBII16sBB", b"conectix", 2, 0x10000, 512, 600000000, b"tap\0", 0x00010003,
        b"\0" * 4, size, size, 100, 4, 17, kind, 0, uuid, 0, 0)
    return checked(fields.ljust(512, b"\0"), 64)


def layer(path, size, uuid, parent, blocks):
    """blocks: index -> (bytearray of data, set of sectors)."""
    count = -(-size // BLOCK)
    bat_len = -(-count * 4 // 512) * 512
    map_len = -(-(-(-count // 8)) // 512) * 512
    at = 1536 + bat_len + 512 + map_len
    locators, texts = b"", b""
    if parent:
        name = ".\\" + parent[1]
        for code, text in ((b"MacX", ("file://./" + parent[1]).encode()),
                           (b"W2ku", name.encode("utf-16-le")), (b"W2ru", name.encode("utf-16-le"))):
            locators += struct.pack(">4sIIIQ", code, 1, len(text), 0, at + len(texts))
            texts += text.ljust(512, b"\0")
    at += len(texts)
    batmap, bat, body = bytearray(map_len), [0xFFFFFFFF] * count, []
    for index in random.sample(sorted(blocks), len(blocks)):
        data, sectors = blocks[index]
        start = -(-(at + 512) // 4096) * 4096 - 512
        bitmap = bytearray(512)
        for s in sectors:
            bitmap[s >> 3] |= 1 << (7 - (s & 7))
        if len(sectors) == 4096:
            batmap[index >> 3] |= 1 << (7 - (index & 7))
        bat[index] = start // 512
        body.append((start, bytes(bitmap), bytes(data)))
        at = start + 512 + BLOCK
    head = struct.pack(
        ">8sQQIII", b"cxsparse", 2**64 - 1, 1536, 0x10000, count, BLOCK).ljust(40, b"\0")
    head += (parent[0] if parent else b"\0" * 16) + b"\0" * 8
    head += (parent[1] if parent else "").encode("utf-16-be").ljust(512, b"\0")
    head = checked((head + locators).ljust(1024, b"\0"), 36)
    foot = footer(4 if parent else 3, size, uuid)
    with open(path, "wb") as out:
        out.write(foot + head)
        out.write(struct.pack(">%dI" % count, *bat).ljust(bat_len, b"\xff"))
        out.write(struct.pack(">8sQIII", b"tdbatmap", 1536 + bat_len + 512, map_len // 512, 0x10002,
                              ~sum(batmap) & 0xFFFFFFFF).ljust(512, b"\0"))
        out.write(bytes(batmap) + texts)
        for start, bitmap, data in body:
            out.seek(start)
            out.write(bitmap + data)
        out.seek(at)
        out.write(foot)


def main():
    folder = sys.argv[1]
    seed, mib, layers, percent, piece = map(int, sys.argv[2:])
    random.seed(seed)
    size = mib << 20
    disk, parent = bytearray(size), None
    for level in range(layers - 1, -1, -1):
        blocks = {}
        for _ in range(size * percent // 100 // piece):
            at = random.randrange(size // piece) * piece
            data = random.randbytes(min(512, piece)) * (piece // min(512, piece))
            disk[at:at + piece] = data
            index, within = divmod(at, BLOCK)
            block, sectors = blocks.setdefault(index, (bytearray(BLOCK), set()))
            block[within:within + piece] = data
            sectors.update(range(within // 512, (within + piece) // 512))
        uuid = random.randbytes(16)
        name = "%d.vhd" % level
        layer(os.path.join(folder, name), size, uuid, parent, blocks)
        parent = (uuid, name)
    with open(os.path.join(folder, "expected.raw"), "wb") as out:
        out.write(disk)


main()
