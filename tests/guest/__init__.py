# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the guest view; a package, because its tests share images, scenes and truth."""
