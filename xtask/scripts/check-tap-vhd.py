#!/usr/bin/env python3
"""Check a dynamic VHD by the rules of XenServer's `vhd-util check`, strictly.

    check-tap-vhd.py FILE          exit 0 and one JSON line, or exit 1 and one line of what is wrong

For machines without `vhd-util`. Written from the format's description, not from the crates.
"""

import json
import os
import struct
import sys
import time

EPOCH_2000 = 946684800


class Unsound(Exception):
    pass


def want(held, what):
    if not held:
        raise Unsound(what)


def sum_of(record, at):
    return ~(sum(record) - sum(record[at : at + 4])) & 0xFFFFFFFF


def geometry(size):
    total = min(size // 512, 65535 * 16 * 255)
    if total >= 65535 * 16 * 63:
        return total // 255 // 16, 16, 255
    spt, cth = 17, total // 17
    heads = max((cth + 1023) // 1024, 4)
    if cth >= heads * 1024 or heads > 16:
        spt, heads, cth = 31, 16, total // 31
    if cth >= heads * 1024:
        spt, heads, cth = 63, 16, total // 63
    return cth // heads, heads, spt


def check(path):
    fd = os.open(path, os.O_RDONLY)
    length = os.fstat(fd).st_size

    def at(offset, count):
        data = os.pread(fd, count, offset)
        want(len(data) == count, f"ends before offset {offset + count}")
        return data

    want(length >= 2048 and length % 512 == 0, f"length {length} is no whole number of sectors")
    footer = at(length - 512, 512)
    want(footer == at(0, 512), "the footer and its copy differ")
    cookie, features, version, header_at, stamp, creator, made_by, _, original, size = struct.unpack_from(
        ">8sIIQI4sI4sQQ", footer
    )
    cylinders, heads, spt, kind, total = struct.unpack_from(">HBBII", footer, 56)
    want(cookie == b"conectix", "bad cookie")
    want(total == sum_of(footer, 64), "footer checksum")
    want(features & 2 and not features & ~3, f"features {features:#x}")
    want(version == 0x00010000, "footer version")
    want(kind == 3, f"type {kind} is not dynamic")
    want(stamp + EPOCH_2000 <= time.time() + 1800, "creation time in the future")
    want(footer[68:84] != bytes(16), "null UUID")
    want(footer[84] in (0, 1) and footer[85] in (0, 1), "saved or hidden flag")
    want(not any(footer[86:]), "reserved bytes of the footer")
    want(size and size % 512 == 0 and original, "sizes")
    want(cylinders * heads * spt * 512 <= size, "geometry too large")
    want((cylinders, heads, spt) == geometry(size), f"geometry {cylinders}/{heads}/{spt}")

    header = at(header_at, 1024)
    cookie, none, bat_at, version, entries, block = struct.unpack_from(">8sQQIII", header)
    want(cookie == b"cxsparse" and none == 2**64 - 1 and version == 0x00010000, "dynamic header")
    want(struct.unpack_from(">I", header, 36)[0] == sum_of(header, 36), "header checksum")
    want(block == 2 << 20, f"block size {block}")
    want(entries * block >= size, "the BAT is too short for the disk")
    want(header[40:56] == bytes(16) and not any(header[56:64]), "a root must not name a parent")
    want(not any(header[768:]), "reserved bytes of the header")
    for i in range(8):
        want(not any(header[576 + 24 * i : 600 + 24 * i]), "a root must not have locators")

    bat_bytes = -(-4 * entries // 512) * 512
    table = at(bat_at, bat_bytes)
    bat = struct.unpack(f">{entries}I", table[: 4 * entries])
    data_start = bat_at + bat_bytes
    batmap = None
    if creator == b"tap\0" and made_by >= 0x00010002:
        head = at(bat_at + bat_bytes, 512)
        cookie, map_at, map_sectors, version, total, marker = struct.unpack_from(">8sQIIIB", head)
        want(cookie == b"tdbatmap", "the creator promises a batmap and there is none")
        want(version == 0x00010002 and marker in (0, 1), "batmap header")
        want(not any(head[29:94]), "the batmap says that the disk is encrypted")
        want(map_sectors * 512 * 8 >= entries, "the batmap is too short")
        batmap = at(map_at, map_sectors * 512)
        want(total == ~sum(batmap) & 0xFFFFFFFF, "batmap checksum")
        data_start = max(data_start, map_at + map_sectors * 512)

    used = sorted((entry, i) for i, entry in enumerate(bat) if entry != 0xFFFFFFFF)
    end = data_start // 512
    for entry, i in used:
        want(entry >= end, f"block {i} at sector {entry} overlaps what ends at {end}")
        end = entry + 1 + block // 512
        bitmap = at(entry * 512, 512)
        if batmap and batmap[i >> 3] << (i & 7) & 0x80:
            want(bitmap == b"\xff" * 512, f"the batmap calls block {i} full and its bitmap does not")
    want(end * 512 + 512 <= length, "the last block reaches into the footer")
    if batmap:
        present = set(i for _, i in used)
        for i in range(len(batmap) * 8):
            if batmap[i >> 3] << (i & 7) & 0x80:
                want(i in present, f"the batmap calls the absent block {i} full")
    aligned = all((entry * 512 + 512) % 4096 == 0 for entry, _ in used)
    return {
        "creator": creator.rstrip(b"\0").decode("latin-1"), "virtual_size": size,
        "blocks": len(used), "batmap": batmap is not None, "aligned": aligned,
    }  # fmt: skip


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        print(json.dumps(check(sys.argv[1])))
    except (Unsound, OSError, struct.error) as why:
        sys.exit(f"check-tap-vhd: {sys.argv[1]}: {why}")


if __name__ == "__main__":
    main()
