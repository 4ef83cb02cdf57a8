#!/usr/bin/env python3
"""Checks a dynamic VHD by the rules of XenServer's vhd-util and tapdisk. Standard library only.

usage: check_tap_vhd.py IMAGE.vhd [RAW]

Prints "valid" and exits 0, or prints the first broken rule and exits 1. With RAW, the content
must be that file's bytes, followed by zeros. It shares no code with the crate under test.
"""
import struct
import sys
import time

SECTOR = 512


def rule(ok, text):
    if not ok:
        print("invalid: " + text)
        sys.exit(1)


def ones_complement_sum(data, skip):
    total = sum(data[:skip]) + sum(data[skip + 4:])
    return ~total & 0xFFFFFFFF


def chs(size):
    """The specification's geometry, everything rounded down."""
    sectors = min(size // SECTOR, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        spt, heads = 255, 16
        tracks = sectors // spt
    else:
        spt = 17
        tracks = sectors // spt
        heads = max(4, (tracks + 1023) // 1024)
        if tracks >= heads * 1024 or heads > 16:
            spt, heads = 31, 16
            tracks = sectors // spt
        if tracks >= heads * 1024:
            spt, heads = 63, 16
            tracks = sectors // spt
    return tracks // heads, heads, spt


def check_footer(f):
    rule(f[0:8] == b"conectix", "footer cookie")
    features, version = struct.unpack(">II", f[8:16])
    rule(features & 2, "features: the reserved bit is not set")
    rule(features & ~3 == 0, "features: extra bits")
    rule(version == 0x00010000, "footer version")
    data_offset, stamp = struct.unpack(">QI", f[16:28])
    rule(data_offset == 512, "data offset of a dynamic disk")
    rule(stamp <= time.time() - 946684800 + 1800, "creation time in the future")
    rule(f[28:32] == b"tap\0", "creator")
    rule(struct.unpack(">I", f[32:36])[0] == 0x00010003, "creator version")
    rule(f[36:40] == b"\0\0\0\0", "creator operating system")
    original, current = struct.unpack(">QQ", f[40:56])
    rule(original == current, "original and current size")
    rule(current % (2 << 20) == 0 and current > 0, "size is not a multiple of 2 MiB")
    rule(current <= 2040 << 30, "size over 2040 GiB")
    rule(struct.unpack(">HBB", f[56:60]) == chs(current), "geometry is not the floor geometry")
    rule(struct.unpack(">I", f[60:64])[0] == 3, "disk type")
    rule(struct.unpack(">I", f[64:68])[0] == ones_complement_sum(f, 64), "footer checksum")
    rule(f[68:84] != bytes(16), "null UUID")
    rule(f[84:86] == b"\0\0", "saved or hidden")
    rule(f[86:] == bytes(512 - 86), "reserved bytes of the footer")
    return current


def check_header(h, size):
    rule(h[0:8] == b"cxsparse", "header cookie")
    rule(h[8:16] == b"\xff" * 8, "header data offset")
    bat_offset, version, entries, block = struct.unpack(">QIII", h[16:36])
    rule(version == 0x00010000, "header version")
    rule(struct.unpack(">I", h[36:40])[0] == ones_complement_sum(h, 36), "header checksum")
    rule(h[40:] == bytes(1024 - 40), "parent fields and reserved bytes are not zero")
    rule(block == 2 << 20, "block size")
    rule(entries == size // block, "number of BAT entries")
    rule(bat_offset == 1536, "BAT offset")
    return entries, block


def check_batmap(image, at, entries, size):
    """Checks both parts; gives the map and where it ends."""
    h = image[at:at + SECTOR]
    rule(h[0:8] == b"tdbatmap", "no batmap")
    offset, sectors, version, checksum = struct.unpack(">QIII", h[8:28])
    rule(offset == at + SECTOR, "batmap offset")
    rule(version == 0x00010002, "batmap version")
    # libvhd reads and sums exactly this many sectors, whatever the header says.
    summed = max(1, ((size >> 24) + SECTOR - 1) // SECTOR)
    rule(sectors == summed, "batmap size differs from what libvhd computes")
    rule(h[28:] == bytes(SECTOR - 28), "batmap marker, key and padding are not zero")
    bits = image[offset:offset + sectors * SECTOR]
    rule(len(bits) == sectors * SECTOR, "batmap outside of the file")
    rule(checksum == ~sum(bits) & 0xFFFFFFFF, "batmap checksum")
    return bits, offset + sectors * SECTOR


def main():
    with open(sys.argv[1], "rb") as f:
        image = f.read()
    raw = None
    if len(sys.argv) > 2:
        with open(sys.argv[2], "rb") as f:
            raw = f.read()
    rule(len(image) % SECTOR == 0, "file size")
    first, last = image[:512], image[-512:]
    size = check_footer(last)
    rule(first == last, "the two footers differ")
    entries, block = check_header(image[512:1536], size)

    bat_end = 1536 + (entries * 4 + SECTOR - 1) // SECTOR * SECTOR
    bat = struct.unpack(">%dI" % entries, image[1536:1536 + entries * 4])
    rule(image[1536 + entries * 4:bat_end] == b"\xff" * (bat_end - 1536 - entries * 4), "BAT padding")
    bits, end_of_headers = check_batmap(image, bat_end, entries, size)

    used = 0
    for index in range(len(bits) * 8):
        bit = bits[index // 8] & (0x80 >> index % 8)
        if index >= entries:
            rule(not bit, "batmap bit beyond the disk")
        else:
            rule(not bit or bat[index] != 0xFFFFFFFF, "batmap: unallocated block is full")

    end = end_of_headers
    for sector, index in sorted((s, i) for i, s in enumerate(bat) if s != 0xFFFFFFFF):
        at = sector * SECTOR
        rule(at >= end, "block %d overlaps what is before it" % index)
        rule(image[end:at] == bytes(at - end), "the gap before block %d is not zero" % index)
        rule((at + SECTOR) % 4096 == 0, "data of block %d is not aligned to a page" % index)
        end = at + SECTOR + block
        rule(end <= len(image) - 512, "block %d clobbers the footer" % index)
        rule(image[at:at + SECTOR] == b"\xff" * SECTOR, "bitmap of block %d is not full" % index)
        if index < len(bits) * 8:
            rule(bits[index // 8] & (0x80 >> index % 8), "batmap: block %d is full, but not marked" % index)
        if raw is not None:
            want = raw[index * block:(index + 1) * block].ljust(block, b"\0")
            rule(image[at + SECTOR:end] == want, "content of block %d" % index)
        used += 1
    rule(end == len(image) - 512, "bytes between the last block and the footer")
    if raw is not None:
        rule(size - len(raw) < 2 << 20, "size")
        for index in (i for i, s in enumerate(bat) if s == 0xFFFFFFFF):
            rule(not any(raw[index * block:(index + 1) * block]), "block %d is missing" % index)
    print("valid: %d of %d blocks" % (used, entries))


main()
