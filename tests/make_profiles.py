# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes tests/data/profile-*.json.gz: of real kernels' profiles, what the bundled plugins' traps ask of them.

    python tests/make_profiles.py PROFILE...

A profile is what drakmet keeps of a kernel in its cache (~/.cache/drakmet/profiles) once it was found in a guest. To
be run again when a trap asks for something new.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

from drakmet.guest.fetch import compile_field
from drakmet.guest.profile import Profile
from drakmet.plugins import load_plugins

DATA = Path(__file__).parent / "data"


def main() -> None:
    for path in sys.argv[1:]:
        profile = Profile.load(Path(path))
        for plugin in load_plugins().plugins:
            for trap in plugin.traps:
                function = next(name for name in trap.functions if profile.symbols.get(name) is not None)
                for expression in (*trap.fetch.values(), *(trap.returns or {}).values()):
                    compile_field(expression, function, profile.types)
        text = json.dumps(profile.subset(), separators=(",", ":"), sort_keys=True).encode()
        target = DATA / f"profile-{profile.release}.json.gz"
        target.write_bytes(gzip.compress(text, 9, mtime=0))
        print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
