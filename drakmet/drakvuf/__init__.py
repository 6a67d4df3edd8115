# SPDX-License-Identifier: GPL-2.0-or-later
"""DRAKVUF: its logs become records, its program runs in the place of our own loop.

Every line of a log becomes a row of its plugin's table (`tables`), complete; where it means the same as a record of
ours, it becomes that as well (`meaning`), so that the same rules judge it.
"""
