# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's vCPUs, its views and its event ring, moved one step at a time in any order that is asked for."""
