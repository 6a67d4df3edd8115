# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen bindings: control, altp2m, monitor ring, event channels, foreign memory, xenstore."""
