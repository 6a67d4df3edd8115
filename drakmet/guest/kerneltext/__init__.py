# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of a guest's kernel and modules against their files: every byte that differs is explained, or is modified.

What may differ, and how, is said by the patch tables of the *files* (`tables`): a hostile kernel writes its own memory
as it likes, and nothing of that is taken for an explanation. Each explanation is of the value that is found and not of
the place alone (`values`, `alternatives`).
"""

from drakmet.guest.kerneltext.compare import Comparison, Difference, compare
from drakmet.guest.kerneltext.reference import Reference

__all__ = ["Comparison", "Difference", "Reference", "compare"]
