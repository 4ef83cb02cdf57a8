#!/usr/bin/env python3
"""Reads an XVA by Python's own tar, XML-RPC and hashes, and writes its disks as raw files.

usage: check_xva.py ARCHIVE FOLDER

Each disk becomes FOLDER/<number>.raw in the order of the archive. Prints "valid" and exits 0, or
prints the first broken rule and exits 1. It shares no code with the crate under test.
"""
import hashlib
import sys
import tarfile
import xmlrpc.client

from make_xva import xxh64

CHUNK = 1 << 20


def rule(ok, text):
    if not ok:
        print("invalid: " + text)
        sys.exit(1)


def records(text):
    """The objects of ova.xml by class and id."""
    value = b"<methodResponse><params><param>" + text[text.index(b"<value>"):]
    (ova,), _ = xmlrpc.client.loads(value + b"</param></params></methodResponse>")
    rule(int(ova["version"]["export_vsn"]) == 2, "export_vsn")
    objects = {}
    for entry in ova["objects"]:
        objects.setdefault(entry["class"], {})[entry["id"]] = entry["snapshot"]
    return objects


def machine(objects):
    """The references of the disks and their sizes, by way of the machine's drives."""
    (vm,) = objects["VM"].values()
    rule(vm["power_state"].lower() == "halted" and not vm["is_a_template"], "the machine")
    disks = {}
    for drive in vm["VBDs"]:
        vbd = objects["VBD"][drive]
        rule(objects["VM"][vbd["VM"]] is vm and not vbd["empty"], "a drive")
        disks[vbd["VDI"]] = int(objects["VDI"][vbd["VDI"]]["virtual_size"])
        rule(objects["VDI"][vbd["VDI"]]["SR"] in objects["SR"], "a disk without a repository")
    return disks


def check_sum(member, data, archive):
    kind, stored = member.name.rsplit(".", 1)[1], archive.extractfile(member).read().decode()
    if kind == "xxhash":
        rule(stored == "%016X" % xxh64(data), member.name)
    else:
        rule(kind == "checksum" and stored == hashlib.sha1(data).hexdigest(), member.name)


def main():
    raw = open(sys.argv[1], "rb").read()
    rule(raw.endswith(bytes(1024)), "two blocks of zeros at the end")
    archive = tarfile.open(sys.argv[1])
    members = archive.getmembers()
    rule(members[0].name == "ova.xml", "ova.xml comes first")
    disks = machine(records(archive.extractfile(members[0]).read()))
    chunks, sums = members[1::2], members[2::2]
    rule(len(chunks) == len(sums), "a checksum for each chunk")
    order = []
    for member, text in zip(chunks, sums):
        ref, number = member.name.split("/")
        rule(text.name.startswith(member.name + "."), "the checksum behind its chunk")
        if not order or order[-1][0] != ref:
            order.append((ref, []))
        order[-1][1].append((int(number), member))
        check_sum(text, archive.extractfile(member).read(), archive)
    refs = [ref for ref, _ in order]
    rule(refs == sorted(disks), "disks in the order of their references")
    for place, (ref, parts) in enumerate(order):
        numbers = [number for number, _ in parts]
        last = (disks[ref] + CHUNK - 1) // CHUNK - 1
        rule(numbers == sorted(set(numbers)), "chunks in order")
        rule(numbers[0] == 0 and numbers[-1] == last, "the first and the last chunk are there")
        with open("%s/%d.raw" % (sys.argv[2], place), "wb") as out:
            out.truncate(disks[ref])
            for number, member in parts:
                out.seek(number * CHUNK)
                out.write(archive.extractfile(member).read())
    print("valid")


main()
