# SPDX-License-Identifier: GPL-2.0-or-later
"""Names for executed pages: which file of which package, in which versions, a page of code belongs to."""

from drakmet.identity.database import Identities, Judgement, Match, Verdict
from drakmet.pages import page_hash

__all__ = ["Identities", "Judgement", "Match", "Verdict", "page_hash"]
