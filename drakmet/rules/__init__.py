# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules: TOML files with SQL over the records, judged while a guest is watched and over stored files."""

from drakmet.rules.evaluate import Evaluator, judge
from drakmet.rules.format import Rule, RuleFile
from drakmet.rules.load import RuleSet, bundled, load_rules
from drakmet.rules.outcome import Outcome, State

__all__ = ["Evaluator", "Outcome", "Rule", "RuleFile", "RuleSet", "State", "bundled", "judge", "load_rules"]
