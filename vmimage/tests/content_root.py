#!/usr/bin/env python3
"""The content root of a raw image, computed the plain way. Standard library only.

usage: content_root.py RAW

An independent model of the definition in the documentation of vmimage::content_root.
"""
import hashlib
import sys

LEAF = 1048576


def tagged(name, data):
    tag = ("vmimage content-root 1 " + name).encode().ljust(64, b"\0")
    return hashlib.sha256(tag + data).digest()


with open(sys.argv[1], "rb") as f:
    data = f.read()
leaves = [data[at:at + LEAF].ljust(LEAF, b"\0") for at in range(0, len(data), LEAF)]
while leaves and not any(leaves[-1]):
    leaves.pop()
n = len(leaves)
width = 1
while width < n:
    width *= 2
leaves += [bytes(LEAF)] * (width - n)
level = [tagged("leaf", leaf) for leaf in leaves]
while len(level) > 1:
    level = [tagged("node", a + b) for a, b in zip(level[::2], level[1::2])]
print(tagged("root", n.to_bytes(8, "big") + level[0]).hex())
