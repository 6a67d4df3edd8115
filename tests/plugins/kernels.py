# SPDX-License-Identifier: GPL-2.0-or-later
"""Three of Debian's kernels, as far as plugins look into them (`make_profiles`)."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from drakmet.guest.kernel import Kernel
from drakmet.guest.profile import Profile

if TYPE_CHECKING:
    from tests.guest.images import Image

VERSIONS = ("5.10", "6.1", "6.12")


def path_of(version: str) -> Path:
    return Path(__file__).parent.parent / "data" / f"kernel-{version}.json.gz"


@cache
def profile(version: str) -> Profile:
    return Profile.from_json(json.loads(gzip.decompress(path_of(version).read_bytes())))


def on_image(guest_image: Image, of: Profile) -> Kernel:
    """Return the kernel of a guest's image with other types than those that the image holds."""
    found = guest_image.kernel
    assert of.build_id == found.build_id
    return Kernel(of, guest_image.memory, found.base, found.slide, found.levels)
