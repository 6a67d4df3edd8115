# SPDX-License-Identifier: GPL-2.0-or-later
"""Plugins: how they are found, the bundled ones on hits made by hand, and what helps to write one's own."""
