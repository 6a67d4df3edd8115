# SPDX-License-Identifier: GPL-2.0-or-later
"""The core loop: attach, arm, wait, dispatch, answer, detach."""

from drakmet.monitor.filters import Filters
from drakmet.monitor.session import Monitor
from drakmet.monitor.statistics import Statistics

__all__ = ["Filters", "Monitor", "Statistics"]
