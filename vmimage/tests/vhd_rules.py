#!/usr/bin/env python3
"""Judges many VHDs of one length by the rules of XenServer's vhd-util. Standard library only.

usage: vhd_rules.py FILE LENGTH

FILE holds images of LENGTH bytes, one behind the other. Prints a line for each: "valid", or the
rules that it breaks. The rules are those of `vhd-util check`; it shares no code with the crate
under test.
"""
import struct
import sys
import time

SECTOR = 512
ABSENT = 0xFFFFFFFF


def sum_of(data, at):
    return ~(sum(data[:at]) + sum(data[at + 4:])) & 0xFFFFFFFF


def u(data, at, n):
    return int.from_bytes(data[at:at + n], "big")


def footer_rules(f, say):
    if f[:8] != b"conectix":
        return say("footer cookie")
    sums = [sum_of(f, 64)]
    if f[28:32] == b"tap\0" and u(f, 32, 4) in (1, 0x10001):
        # Old versions hid a file without a new checksum.
        sums.append(sum_of(f[:85] + b"\0" + f[86:], 64))
    if u(f, 64, 4) not in sums:
        say("footer checksum")
    if not u(f, 8, 4) & 2 or u(f, 8, 4) & ~3:
        say("features")
    if u(f, 12, 4) != 0x10000:
        say("footer version")
    if u(f, 60, 4) not in (2, 3, 4):
        say("disk type")
    if u(f, 24, 4) > time.time() - 946684800 + 1800:
        say("creation time in the future")
    if u(f, 56, 2) * f[58] * f[59] * SECTOR > u(f, 48, 8):
        say("geometry too large")
    if f[68:84] == bytes(16):
        say("null UUID")
    if f[84] > 1 or f[85] > 1:
        say("saved or hidden")
    if any(f[86:]):
        say("reserved bytes of the footer")


def header_rules(h, size, say):
    if h[:8] != b"cxsparse":
        return say("header cookie")
    if u(h, 36, 4) != sum_of(h, 36):
        say("header checksum")
    if u(h, 24, 4) != 0x10000:
        say("header version")
    if u(h, 8, 8) != 2**64 - 1:
        say("header data offset")
    block = u(h, 32, 4)
    if block == 0 or u(h, 28, 4) < -(-size // block):
        say("too few BAT entries")
    if any(h[60:64]) or any(h[768:]):
        say("reserved bytes of the header")


def batmap_rules(image, size, at, say):
    """Gives where the tables end."""
    b = image[at:at + SECTOR]
    if b[:8] != b"tdbatmap":
        say("no batmap")
        return at
    offset, sectors = u(b, 8, 8), u(b, 16, 4)
    want = max(1, -(-(size >> 24) // SECTOR))
    if offset < at + SECTOR or offset + sectors * SECTOR > len(image):
        say("batmap place")
        return at
    if sectors < want:
        say("batmap size")
    if u(b, 20, 4) not in (0x10001, 0x10002):
        say("batmap version")
    if u(b, 24, 4) != ~sum(image[offset:offset + want * SECTOR]) & 0xFFFFFFFF:
        say("batmap checksum")
    return offset + sectors * SECTOR


def judge(image):
    broken = []
    say = broken.append
    footer = image[-SECTOR:]
    footer_rules(footer, say)
    if broken and broken[0] == "footer cookie":
        return broken
    kind, size = u(footer, 60, 4), u(footer, 48, 8)
    if kind == 2:
        return broken
    if image[:SECTOR] != footer:
        say("the footers differ")
    at = u(footer, 16, 8)
    if at + 1024 > len(image):
        return broken + ["header outside of the file"]
    header = image[at:at + 1024]
    header_rules(header, size, say)
    table, entries, block = u(header, 16, 8), u(header, 28, 4), u(header, 32, 4)
    bat_end = table + -(-entries * 4 // SECTOR) * SECTOR
    if table % SECTOR or bat_end > len(image) or not block or entries > 1 << 20:
        return broken + ["BAT outside of the file"]
    tables_end = bat_end
    if footer[28:32] == b"tap\0" and u(footer, 32, 4) > 1:
        tables_end = batmap_rules(image, size, bat_end, say)
    length = -(-block // SECTOR // 8 // SECTOR) * SECTOR + block
    starts = sorted(s * SECTOR for s in struct.unpack(">%dI" % entries, image[table:table + 4 * entries])
                    if s != ABSENT)
    if any(s < tables_end for s in starts):
        say("a block clobbers the headers")
    if any(s + length > len(image) - SECTOR for s in starts):
        say("a block clobbers the footer or is outside")
    if any(b - a < length for a, b in zip(starts, starts[1:])):
        say("blocks overlap")
    return broken


def main():
    length = int(sys.argv[2])
    with open(sys.argv[1], "rb") as f:
        while image := f.read(length):
            print(", ".join(judge(image)) or "valid")


main()
