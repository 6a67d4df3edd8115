# SPDX-License-Identifier: GPL-2.0-or-later
"""Campaigns that damage what a guest or a stranger can write, and look that nothing breaks over it."""
