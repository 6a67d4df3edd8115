# SPDX-License-Identifier: GPL-2.0-or-later
"""Known holes in the versions that run: what changelogs and advisory files say of them. What none says is not known."""
