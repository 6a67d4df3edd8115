# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong with a fleet as a whole; what is wrong with one host is a row."""

from drakmet.errors import DrakmetError


class FleetError(DrakmetError):
    """A fleet cannot be scanned, or a run of it cannot be read."""
