#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: PTH123
"""Runs in the guest: reads its kernel's text as a program can that looks for somebody else's breakpoints.

    kernel_text.py FUNCTION... < /dev/null

Prints an object of JSON: for each function that the kernel has, the bytes before, at and after its entry.
"""

import json
import struct
import sys

BEFORE, BYTES = 16, 96
PT_LOAD = 1


def segments(core):
    """Return (address, size, offset) of what /proc/kcore has."""
    core.seek(0)
    head = core.read(64)
    offset, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
    found = []
    for number in range(count):
        core.seek(offset + number * size)
        kind, _, at, address, _, length = struct.unpack_from("<IIQQQQ", core.read(size))
        if kind == PT_LOAD:
            found.append((address, length, at))
    return found


def main(names):
    """Read, and print."""
    wanted, found = set(names), {}
    with open("/proc/kallsyms") as symbols:
        places = {
            name: int(address, 16) for address, _, name in (line.split()[:3] for line in symbols) if name in wanted
        }
    with open("/proc/kcore", "rb", buffering=0) as core:
        parts = segments(core)
        for name, address in places.items():
            for begin, length, at in parts:
                if begin <= address < begin + length:
                    core.seek(at + address - BEFORE - begin)
                    found[name] = core.read(BYTES).hex()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
