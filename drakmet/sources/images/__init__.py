# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory images of guests, by what they begin with."""

from drakmet.sources.images.source import ImageSource, open_image

__all__ = ["ImageSource", "open_image"]
