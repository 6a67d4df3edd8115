# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest survives its monitor: a small process that frees it (`handle.Guardian`), and freeing one by hand (`rescue`).

Nothing is imported here: the process has to start quickly.
"""
