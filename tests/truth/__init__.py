# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundled plugins over a real kernel, against what strace saw of the same run."""
