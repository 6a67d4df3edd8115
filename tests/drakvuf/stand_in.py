#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""In the place of the program drakvuf, for tests of how it is run: prints a real log, then waits to be ended.

STAND_IN_LOG is the log, STAND_IN_CODE the exit code, STAND_IN_WAIT "yes" to wait for SIGINT, "long" to ignore it,
"never" to ignore SIGTERM as well; STAND_IN_ARGUMENTS is where to write the arguments.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    wait = os.environ.get("STAND_IN_WAIT", "")
    ended = []
    if wait == "never":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN if wait in ("long", "never") else lambda *_: ended.append(1))
    if kept := os.environ.get("STAND_IN_ARGUMENTS"):
        Path(kept).write_text(json.dumps([*sys.argv[1:], f"tty={os.isatty(1)}"]))
    print("Failed to initialize a plugin", file=sys.stderr, flush=True)
    log = os.environ.get("STAND_IN_LOG")
    sys.stdout.buffer.write(gzip.decompress(Path(log).read_bytes()) if log else b"")
    sys.stdout.buffer.flush()
    for _ in range(600 if wait else 0):
        if ended:
            sys.stdout.buffer.write(b'{"Plugin":"regmon","TimeStamp":"1.000000","Key":"last"}\n')
            break
        time.sleep(0.05)
    sys.stdout.flush()
    sys.exit(int(os.environ.get("STAND_IN_CODE", "0")))


if __name__ == "__main__":
    main()
