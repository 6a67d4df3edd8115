# SPDX-License-Identifier: GPL-2.0-or-later
"""drakmet watches Xen guests from outside."""

__version__ = "0.1.0"
