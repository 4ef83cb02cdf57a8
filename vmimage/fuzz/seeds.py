#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets into corpus/<target>/. Standard library only.

usage: seeds.py [FOLDER]

The seeds are small images that a reader takes; `cargo test --test fuzz_regressions` says whether
it does. Those of QCOW2 that only qemu-img can write are kept as they are if there is none.
"""
import gzip
import hashlib
import importlib.util
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import io

HERE = os.path.dirname(os.path.abspath(__file__))
PARENT = b"the fuzz parent!"
SECTOR = 512

sys.dont_write_bytecode = True
spec = importlib.util.spec_from_file_location(
    "make_xva", os.path.join(HERE, "..", "tests", "make_xva.py"))
make_xva = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_xva)


# ---- VHD ----------------------------------------------------------------------------------------
def seal(table, at):
    table[at:at + 4] = bytes(4)
    table[at:at + 4] = struct.pack(">I", ~sum(table) & 0xFFFFFFFF)
    return bytes(table)


def footer(kind, size, uuid, creator):
    f = bytearray(SECTOR)
    struct.pack_into(">8sIIQI4sI", f, 0, b"conectix", 2, 0x10000,
                     0xFFFFFFFFFFFFFFFF if kind == 2 else 512, 500000000, *creator)
    struct.pack_into(">QQ", f, 40, size, size)
    struct.pack_into(">I", f, 60, kind)
    f[68:84] = uuid
    return seal(f, 64)


def vhd(kind, size, block, held, uuid=b"base-0123456789a", creator=(b"caml", 1), parent=None,
        batmap=False, spare=0, fill=b"v"):
    """held: block -> the bytes of its bitmap, in the order of the file."""
    tail = footer(kind, size, uuid, creator)
    if kind == 2:
        return fill * size + tail
    entries = -(-size // block) + spare
    bat = bytearray(b"\xff" * (-(-entries * 4 // SECTOR) * SECTOR))
    out = bytearray(tail + bytes(1024) + bat)
    header = bytearray(1024)
    struct.pack_into(">8sQQIII", header, 0, b"cxsparse", 0xFFFFFFFFFFFFFFFF, 1536, 0x10000,
                     entries, block)
    if batmap:
        full = bytearray(SECTOR)
        for index, bits in held.items():
            if bits == b"\xff" * len(bits):
                full[index // 8] |= 0x80 >> index % 8
        head = bytearray(SECTOR)
        struct.pack_into(">8sQIII", head, 0, b"tdbatmap", len(out) + SECTOR, 1, 0x10002,
                         ~sum(full) & 0xFFFFFFFF)
        out += head + full
    if parent:
        header[40:56] = PARENT
        name = parent.encode("utf-16-be")
        header[64:64 + len(name)] = name
        text = (".\\" + parent).encode("utf-16-le")
        struct.pack_into(">4sIIIQ", header, 576, b"W2ru", 1, len(text), 0, len(out))
        out += text.ljust(SECTOR, b"\0")
    bitmap = -(-block // SECTOR // 8 // SECTOR) * SECTOR
    for index, bits in held.items():
        struct.pack_into(">I", bat, 4 * index, len(out) // SECTOR)
        out += bits.ljust(bitmap, b"\0") + fill * block
    out[512:1536] = seal(header, 36)
    out[1536:1536 + len(bat)] = bat
    return bytes(out) + tail


ALL8, SOME8 = b"\xff", b"\xc9"
TAP = (b"tap\0", 0x10003)
VHDS = {
    "fixed": vhd(2, 4096, 0, {}),
    "dynamic": vhd(3, 32768, 4096, {0: ALL8, 3: ALL8, 7: ALL8}),
    "shuffled": vhd(3, 20480, 4096, {4: SOME8, 1: ALL8}, spare=200, creator=(b"win ", 0xA0000)),
    "tap": vhd(3, 24576, 8192, {0: b"\xff\xff", 2: b"\x0f\xf0"}, creator=TAP, batmap=True),
    "large": vhd(3, 1 << 30, 2 << 20, {}),
    "short-footer": vhd(3, 8192, 4096, {1: ALL8})[:-1],
}
CHILD = vhd(4, 2 << 20, 4096, {2: SOME8, 500: ALL8}, uuid=b"the fuzz child!!", parent="parent.vhd",
            fill=b"c")
TAP_CHILD = vhd(4, 2 << 20, 2 << 20, {}, uuid=b"the fuzz child!!", parent="parent.vhd",
                creator=TAP, batmap=True)
BASE = vhd(3, 16384, 4096, {0: ALL8, 2: ALL8}, uuid=PARENT)
TIP = vhd(4, 16384, 4096, {0: SOME8, 1: ALL8}, uuid=b"the fuzz child!!", parent="1.vhd", fill=b"c")


# ---- QCOW2 --------------------------------------------------------------------------------------
def qcow2(version=3, bits=9, clusters=4):
    """Header, refcount table and block, L1, L2 and two clusters of data."""
    size = 1 << bits
    head = bytearray(size)
    struct.pack_into(">4sIQIIQIIQQIIQ", head, 0, b"QFI\xfb", version, 0, 0, bits, clusters * size,
                     0, 1, 3 * size, size, 1, 0, 0)
    if version == 3:
        struct.pack_into(">QQQII", head, 72, 0, 0, 0, 4, 104)
    used, copied = 7, 1 << 63
    counts = struct.pack(">%dH" % used, *[1] * used)
    l2 = struct.pack(">4Q", copied | 5 * size, 0, 1 if version == 3 else 0, copied | 6 * size)
    tables = [struct.pack(">Q", 2 * size), counts, struct.pack(">Q", copied | 4 * size), l2]
    return bytes(head) + b"".join(t.ljust(size, b"\0") for t in tables) + b"q" * 2 * size


def by_qemu():
    """What qemu-img writes with its options; nothing without it."""
    if not shutil.which("qemu-img"):
        print("no qemu-img: its seeds stay as they are")
        return {}
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        raw = os.path.join(folder, "raw")
        with open(raw, "wb") as file:
            file.write(b"qemu" * 1024 + bytes(8192) + bytes(range(256)) * 16)
        for name, options, more in (
                ("v2", "compat=0.10,cluster_size=512", []),
                ("small", "cluster_size=512,refcount_bits=1", []),
                ("wide", "cluster_size=512,refcount_bits=64,lazy_refcounts=on", []),
                ("deflate", "cluster_size=4096", ["-c"]),
                ("zstd", "cluster_size=4096,compression_type=zstd", ["-c"]),
                ("extended", "cluster_size=16384,extended_l2=on", ["-c"])):
            path = os.path.join(folder, name)
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *more, "-o", options,
                            raw, path], check=True)
            if name == "small":
                subprocess.run(["qemu-img", "bitmap", "--add", "-g", "4096", path, "b"], check=True)
            if name == "wide":
                subprocess.run(["qemu-img", "snapshot", "-c", "s", path], check=True)
            with open(path, "rb") as file:
                data = file.read()
            # A snapshot has the time of day, and no byte of a seed should depend on it.
            if name == "wide":
                data = bytearray(data)
                at = struct.unpack_from(">Q", data, 64)[0]
                struct.pack_into(">II", data, at + 16, 1700000000, 0)
            out[name] = bytes(data)
    return out


# ---- archives -----------------------------------------------------------------------------------
def tar(members, form=tarfile.USTAR_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        end = archive.offset
    return out.getvalue()[:end] + bytes(1024)


def chunks(ref, data, kind="xxhash"):
    name = "%s/00000000" % ref
    out = [(name, data)]
    if kind:
        out.append(("%s.%s" % (name, kind), make_xva.digest(kind, data)))
    return out


def plain_xva(form=tarfile.USTAR_FORMAT, kind="xxhash"):
    ova = make_xva.ova([("Ref:3", 3000), ("Ref:4", 700)])
    return tar([("ova.xml", ova)] + chunks("Ref:3", b"q" * 3000, kind) +
               chunks("Ref:4", b"r" * 700, kind), form)


def stored_zstd(data):
    """A frame with raw blocks of at most 4 KiB and a window of as much: no compressor needed."""
    blocks = [data[i:i + 4096] for i in range(0, len(data), 4096)] or [b""]
    out = b"\x28\xb5\x2f\xfd\0" + bytes([2 << 3])
    for i, block in enumerate(blocks):
        last = i == len(blocks) - 1
        # The middle of a run of zeros is a block of one byte that is repeated.
        if len(block) > 1 and block == block[:1] * len(block):
            out += struct.pack("<I", last | 1 << 1 | len(block) << 3)[:3] + block[:1]
        else:
            out += struct.pack("<I", last | len(block) << 3)[:3] + block
    return out


def zip_(data):
    return gzip.compress(data, 6, mtime=0)


def undo():
    """Twelve bytes at 100 were changed, and the file got longer by four."""
    new = b"x" * 12
    body = struct.pack(">8sIIQQ", b"vmimgund", 1, 2, 4092, 4096)
    body += struct.pack(">QII", 100, 12, 12) + b"o" * 12 + new
    body += struct.pack(">QII", 4092, 0, 4) + b"x" * 4
    return body + hashlib.sha256(body).digest()


def seeds():
    """(target, name) -> bytes"""
    out = {}

    def add(targets, name, data):
        for target in targets.split():
            out[target, name] = data

    for name, data in VHDS.items():
        add("vhd_disk convert check repair", name + ".vhd", data)
    for name in ("dynamic", "tap"):
        add("vhd_stream", name + ".vhd", VHDS[name])
        add("decode", name + ".vhd.gz", zip_(VHDS[name]))
    add("decode convert", "dynamic.vhd.zst", stored_zstd(VHDS["dynamic"]))
    add("convert check commit", "child.vhd", CHILD)
    add("check commit", "tap-child.vhd", TAP_CHILD)
    add("vhd_tables", "footer", VHDS["dynamic"][:512])
    add("vhd_tables", "header", CHILD[512:1536])
    add("vhd_tables", "batmap", VHDS["tap"][2048:3072])
    add("vhd_disk", "two", struct.pack(">I", len(TIP)) + TIP + BASE)
    add("vhd_disk", "fixed-base", struct.pack(">I", len(TIP)) + TIP +
        vhd(2, 8192, 0, {}, uuid=PARENT))

    qemu = by_qemu()
    images = {"v3": qcow2(), "v2": qcow2(version=2), "clusters-4k": qcow2(bits=12)}
    images.update({"qemu-" + name: data for name, data in qemu.items()})
    for name, data in images.items():
        add("qcow2", name + ".qcow2", data)
    for name in ("v3", "qemu-deflate", "qemu-wide", "qemu-small", "qemu-zstd"):
        if name in images:
            add("convert check", name + ".qcow2", images[name])

    xvas = {"xxhash": plain_xva(), "sha1": plain_xva(tarfile.GNU_FORMAT, "checksum"),
            "bare": plain_xva(kind=None), "vdi": tar(chunks("vdi", b"d" * 1000, "checksum"))}
    for name, data in xvas.items():
        add("xva", name + ".xva", data)
    add("convert check", "xxhash.xva", xvas["xxhash"])
    add("decode xva convert check", "xxhash.xva.gz", zip_(xvas["xxhash"]))
    add("decode", "vdi.xva.zst", stored_zstd(xvas["vdi"]))
    add("xva", "two-disks.xml", make_xva.ova([("Ref:3", 3000), ("Ref:4", 700)]))

    one, two = tar([("0.vhd", VHDS["dynamic"])]), tar([("0.vhd", TIP), ("1.vhd", BASE)])
    add("tgz", "one.tar", one)
    add("tgz", "shuffled.tar.gz", zip_(tar([("0.vhd", VHDS["shuffled"]), ("swap.vhd", b"")])))
    add("tgz convert check", "chain.tar.gz", zip_(two))
    add("tgz", "chain.tar", two)
    add("decode", "one.tar.gz", zip_(one))
    add("repair", "two-ranges", undo())
    add("convert check", "named.raw", b"\1" + b"raw" * 500)
    return out


def main():
    base = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "corpus")
    total = 0
    for (target, name), data in seeds().items():
        folder = os.path.join(base, target)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, name), "wb") as out:
            out.write(data)
        total += len(data)
    print("%d bytes in %s" % (total, os.path.relpath(base)))


if __name__ == "__main__":
    main()
