# SPDX-License-Identifier: GPL-2.0-or-later
"""Names for executed pages: which file of which package, in which versions, a page of code belongs to."""

from drakmet.identity.database import Identities
from drakmet.identity.narrowing import Answer, Judgement, Match, Narrowing, Verdict
from drakmet.pages import page_hash

__all__ = ["Answer", "Identities", "Judgement", "Match", "Narrowing", "Verdict", "page_hash"]
