#!/usr/bin/env python3
"""Writes XVA archives and the disks that an importer makes of them. Standard library only.

usage: make_xva.py FOLDER

FOLDER receives pairs NAME.xva and NAME-REF.raw, and a line "NAME REF SIZE" for each disk in
list.txt. Layout and offsets follow ocaml/xapi/stream_vdi.ml of XAPI; the archives are written by
Python's tarfile and the checksums by hashlib and by XXH64 as its specification says. It shares no
code with the crate under test.
"""
import hashlib
import io
import os
import random
import struct
import sys
import tarfile

MIB = 1 << 20
M64 = (1 << 64) - 1
P1, P2, P3, P4, P5 = (
    0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5)


def rotl(x, n):
    return ((x << n) | (x >> (64 - n))) & M64


def lane(acc, value):
    return rotl((acc + value * P2) & M64, 31) * P1 & M64


def xxh64(data):
    if len(data) >= 32:
        v = [(P1 + P2) & M64, P2, 0, -P1 & M64]
        whole = len(data) // 32 * 32
        a, b, c, d = v
        for w, x, y, z in struct.iter_unpack("<4Q", data[:whole]):
            a, b, c, d = lane(a, w), lane(b, x), lane(c, y), lane(d, z)
        h = (rotl(a, 1) + rotl(b, 7) + rotl(c, 12) + rotl(d, 18)) & M64
        for acc in (a, b, c, d):
            h = ((h ^ lane(0, acc)) * P1 + P4) & M64
    else:
        whole, h = 0, P5
    h = (h + len(data)) & M64
    rest = data[whole:]
    while len(rest) >= 8:
        h = (rotl(h ^ lane(0, struct.unpack("<Q", rest[:8])[0]), 27) * P1 + P4) & M64
        rest = rest[8:]
    if len(rest) >= 4:
        h = (rotl(h ^ struct.unpack("<I", rest[:4])[0] * P1 & M64, 23) * P2 + P3) & M64
        rest = rest[4:]
    for byte in rest:
        h = rotl(h ^ byte * P5 & M64, 11) * P1 & M64
    h = (h ^ h >> 33) * P2 & M64
    h = (h ^ h >> 29) * P3 & M64
    return h ^ h >> 32


assert xxh64(b"") == 0xEF46DB3751D8E999 and xxh64(b"abc") == 0x44BC2CF5AD770999
assert xxh64(b"The quick brown fox jumps over the lazy dog") == 0x0B242D361FDA71BC

CACHE = {}


def digest(kind, data):
    if (kind, data) not in CACHE:
        CACHE[kind, data] = ("%016X" % xxh64(data) if kind == "xxhash" else
                             hashlib.sha1(data).hexdigest()).encode()
    return CACHE[kind, data]


def value(v):
    if isinstance(v, bool):
        return "<value><boolean>%d</boolean></value>" % v
    if isinstance(v, dict):
        return "<value><struct>%s</struct></value>" % "".join(
            "<member><name>%s</name>%s</member>" % (k, value(x)) for k, x in v.items())
    if isinstance(v, list):
        return "<value><array><data>%s</data></array></value>" % "".join(map(value, v))
    text = str(v).replace("&", "&amp;").replace("<", "&lt;")
    return "<value>%s</value>" % text if text else "<value/>"


def ova(disks):
    objects = [{"class": "VM", "id": "Ref:0", "snapshot": {
        "name_label": "web <01> & co", "memory_static_max": 2 << 30, "VCPUs_max": 2,
        "HVM_boot_policy": "BIOS order", "HVM_boot_params": {"firmware": "uefi", "order": "cd"},
        "domain_type": "hvm", "platform": {"secureboot": "false"}, "is_a_snapshot": False,
        "VBDs": ["Ref:%d" % (100 + i) for i in range(len(disks))],
        "other_config": {"deep": {"er": ["1", {"x": "y"}]}}}}]
    for i, (ref, size) in enumerate(disks):
        objects.append({"class": "VBD", "id": "Ref:%d" % (100 + i), "snapshot": {
            "VM": "Ref:0", "VDI": ref, "userdevice": i, "bootable": i == 0, "mode": "RW",
            "type": "Disk", "empty": False}})
        objects.append({"class": "VDI", "id": ref, "snapshot": {
            "name_label": "disk %d" % i, "virtual_size": size, "SR": "Ref:200", "type": "user"}})
    objects.append({"class": "VBD", "id": "Ref:190", "snapshot": {
        "VM": "Ref:0", "VDI": "OpaqueRef:NULL", "userdevice": 3, "type": "CD", "empty": True}})
    objects.append({"class": "SR", "id": "Ref:200", "snapshot": {"content_type": "user"}})
    version = {"hostname": "h", "date": "2024-01-01", "product_version": "8.3.0",
               "product_brand": "XCP-ng", "build_number": "b", "xapi_major": 1, "xapi_minor": 20,
               "export_vsn": 2}
    return ("<?xml version='1.0'?>\n" + value({"version": version, "objects": objects})).encode()


class Archive:
    def __init__(self, folder, name, form=tarfile.USTAR_FORMAT):
        self.folder, self.name = folder, name
        self.out = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.out, mode="w", format=form)

    def member(self, name, data, headers=None):
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.pax_headers = headers or {}
        self.tar.addfile(info, io.BytesIO(data))

    def chunk(self, ref, number, data, kind, headers=None):
        name = "%s/%08d" % (ref, number)
        self.member(name, data, headers)
        if kind:
            self.member("%s.%s" % (name, kind), digest(kind, data), headers)

    def disk(self, ref, size, chunks, kind="xxhash", keep_alive=(), pad=False, headers=None):
        """chunks: index -> bytes. keep_alive: chunk indices before which nothing is sent once."""
        number = 0
        for index in range(-(-size // MIB)):
            if index in keep_alive:
                self.chunk(ref, number, b"", kind, headers)
                number += 1
            last = index == (size - 1) // MIB
            if index in chunks or index == 0 or last:
                length = MIB if pad else min(MIB, size - index * MIB)
                data = chunks.get(index, b"").ljust(length, b"\0")[:length]
                self.chunk(ref, number, data, kind, headers)
            number += 1

    def bytes(self, padded):
        blocks = self.out.tell()
        self.tar.close()
        all_bytes = self.out.getvalue()
        # tarfile rounds the length up to 10 KiB, XAPI does not.
        return all_bytes if padded else all_bytes[:blocks] + b"\0" * 1024

    def save(self, padded=False):
        with open(os.path.join(self.folder, self.name + ".xva"), "wb") as out:
            out.write(self.bytes(padded))


def model(folder, listing, name, ref, size, chunks):
    with open(os.path.join(folder, "%s-%s.raw" % (name, ref)), "wb") as out:
        out.truncate(size)
        for index, data in chunks.items():
            out.seek(index * MIB)
            out.write(data[:size - index * MIB])
    listing.append("%s %s %d" % (name, ref, size))


def main():
    folder = sys.argv[1]
    random.seed(5)
    listing = []
    some = [random.randbytes(MIB) for _ in range(3)]
    a = {0: some[0], 3: some[1], 4: b"x" * 1000}
    b = {1: some[2], 6: b"y" * 700000}
    size_a, size_b = 9 * MIB, 6 * MIB + 700416

    for name, kind, form, padded, headers in (
            ("xxhash", "xxhash", tarfile.USTAR_FORMAT, False, None),
            ("sha1", "checksum", tarfile.GNU_FORMAT, True, None),
            ("pax", "xxhash", tarfile.PAX_FORMAT, True, {"comment": "a" * 600})):
        x = Archive(folder, name, form)
        # Ref:10 comes before Ref:9: by the text.
        x.member("ova.xml", ova([("Ref:9", size_a), ("Ref:10", size_b)]))
        x.disk("Ref:10", size_b, b, kind, headers=headers)
        x.disk("Ref:9", size_a, a, kind, keep_alive=(1, 3, 8), headers=headers)
        if name == "sha1":
            x.member("checksum.xml", b"<an old table of checksums/>")
        x.save(padded)
        model(folder, listing, name, "Ref:9", size_a, a)
        model(folder, listing, name, "Ref:10", size_b, b)

    # The export of one VDI: nothing but chunks.
    x = Archive(folder, "vdi")
    x.disk("vdi", size_b, b, "checksum")
    x.save()
    model(folder, listing, "vdi", "vdi", size_b, b)

    # The last chunk filled up, as Xen Orchestra writes it.
    x = Archive(folder, "padded")
    x.member("ova.xml", ova([("Ref:5", size_b)]))
    x.disk("Ref:5", size_b, b, pad=True)
    x.save()
    model(folder, listing, "padded", "Ref:5", size_b, b)

    # A first disk of less than a chunk, and one of 20 GiB.
    far = {0: some[0], 9000: some[1], 20479: some[2]}
    x = Archive(folder, "far")
    x.member("ova.xml", ova([("Ref:1", 4096), ("Ref:2", 20 << 30)]))
    x.disk("Ref:1", 4096, {0: b"z" * 4096})
    x.disk("Ref:2", 20 << 30, far)
    x.save()
    model(folder, listing, "far", "Ref:1", 4096, {0: b"z" * 4096})
    model(folder, listing, "far", "Ref:2", 20 << 30, far)

    # For damage: small, so that it can be cut at many places.
    x = Archive(folder, "small")
    x.member("ova.xml", ova([("Ref:3", 5000), ("Ref:4", 3000)]))
    x.disk("Ref:3", 5000, {0: b"q" * 5000})
    x.disk("Ref:4", 3000, {0: b"r" * 3000})
    x.save()
    model(folder, listing, "small", "Ref:3", 5000, {0: b"q" * 5000})
    model(folder, listing, "small", "Ref:4", 3000, {0: b"r" * 3000})

    with open(os.path.join(folder, "list.txt"), "w") as out:
        out.write("\n".join(listing) + "\n")


if __name__ == "__main__":
    main()
