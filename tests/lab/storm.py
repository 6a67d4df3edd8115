#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: PTH101, PTH123, S103, S311, S606 - it is as near to the system calls as Python gets
"""Runs in the guest: programs without end, on every CPU at once, each with arguments that no other has.

    storm.py SEED TIMES

Prints one line of JSON an exec: process id, file, and the arguments as the program gets them, in hexadecimal.
"""

import json
import os
import random
import sys

ENVIRONMENT = {b"PATH": b"/usr/bin", b"FILL": b"e" * 900}
SCRIPTS = {b"/tmp/storm-%d-a.sh": (b"/bin/sh",), b"/tmp/storm-%d-b": (b"/usr/bin/env", b"sh")}


def arguments(source, length):
    """Return arguments of random bytes; most are few and short, some many, some long."""
    kind = source.random()
    if kind < 0.8:
        sizes = [source.randrange(0, 40) for _ in range(source.randrange(1, 8))]
    elif kind < 0.9:
        sizes = [source.randrange(0, 30) for _ in range(source.randrange(100, 400))]
    else:
        sizes = [source.randrange(3000, length) for _ in range(source.randrange(1, 4))]
    return [source.randbytes(size).replace(b"\0", b"\1") for size in sizes]


def main(seed, times):
    """Start programs one after the other, by fork and by vfork."""
    source = random.Random(seed)
    scripts = {}
    for name, interpreter in SCRIPTS.items():
        path = name % seed
        with open(path, "wb") as out:
            out.write(b"#!" + b" ".join(interpreter) + b"\nexit 0\n")
        os.chmod(path, 0o755)
        scripts[path] = interpreter
    files = [b"/usr/bin/true", b"/usr/bin/true", b"/usr/bin/true", *scripts]
    told = []
    for number in range(times):
        path = source.choice(files)
        rest = [b"%d-%d" % (seed, number), *arguments(source, 20000)]
        argv = [path, *rest]
        if source.random() < 0.5:
            pid = os.posix_spawn(path, argv, ENVIRONMENT)
        else:
            pid = os.fork()
            if pid == 0:
                try:
                    os.execve(path, argv, ENVIRONMENT)
                finally:
                    os._exit(127)
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
        # A script's second interpreter (env starts sh) is an exec of the same process.
        got = [argv] if path not in scripts else [[*scripts[path], *argv]]
        if path in scripts and len(scripts[path]) == 2:
            got.append([b"sh", *argv])
        told += [{"pid": pid, "argv": [part.hex() for part in one]} for one in got]
    for line in told:
        print(json.dumps(line))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
