# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a guest comes from: a running domain, or a recording of one."""

from drakmet.sources.base import About, Source, give_profiles, isf_profiles, open_source

__all__ = ["About", "Source", "give_profiles", "isf_profiles", "open_source"]
