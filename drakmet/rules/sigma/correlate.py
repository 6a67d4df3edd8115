# SPDX-License-Identifier: GPL-2.0-or-later
"""Correlations: counts and sequences of what other Sigma rules find."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drakmet.rules.sigma.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable


def resolve(entries: Iterable[Any]) -> None:
    """Find the rules that correlations name."""


def correlated(rule: Any, name: str, where: str, lists: Any, laboratory: Any) -> str:
    """Return the text of a rule file."""
    raise Refused(
        "modifier", f"{name}: correlations are not imported yet ({rule}, {where}, {lists}, {laboratory})"[:100]
    )
