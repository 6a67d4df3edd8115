# SPDX-License-Identifier: GPL-2.0-or-later
"""The SQL of any condition finds what the condition, read without SQL, is true of."""

import json
import re
import sqlite3
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from drakmet.rules.sigma.events import Maker
from drakmet.rules.sigma.fields import Kind, source_of
from drakmet.rules.sigma.match import fits
from drakmet.rules.sigma.sample import sample
from drakmet.rules.sigma.sql import Writer
from drakmet.rules.sigma.translate import translated
from drakmet.rules.sigma.tree import And, Atom, Node, Not, Null, Number, Or, Present, Same, Text, Wild
from drakmet.store import functions
from drakmet.text import escape

SOURCE, _ = source_of("linux", "process_creation", None)
TEXTS = ("Image", "ParentImage", "CurrentDirectory", "CommandLine")

letters = st.text(alphabet="aAbB\\%_^*[]?' /éÉ→", max_size=4)
patterns = st.lists(letters | st.sampled_from(Wild), min_size=1, max_size=4).map(tuple)
others = st.one_of(
    st.just(Null()),
    st.just(Present()),
    st.builds(Same, st.sampled_from(TEXTS[:3]), st.booleans(), st.booleans()),
)
numbers = st.builds(Number, st.sampled_from(["=", "<", "<=", ">", ">="]), st.integers(-2, 2))


def trees(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    tests = st.builds(Text, of, st.booleans()) | others
    atoms = st.one_of(st.builds(Atom, st.sampled_from(TEXTS), tests), st.builds(Atom, st.just("ProcessId"), numbers))
    return st.recursive(
        atoms,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=4).map(lambda of: And(tuple(of))),
            st.lists(inner, min_size=1, max_size=4).map(lambda of: Or(tuple(of))),
            st.builds(Not, inner),
        ),
        max_leaves=8,
    )


events = st.fixed_dictionaries(
    {**dict.fromkeys(TEXTS, st.none() | letters), "ProcessId": st.none() | st.integers(-2, 2)}
)


def stored(event: dict[str, Any]) -> sqlite3.Connection:
    """Return a database in which the event is the only one."""
    connection = sqlite3.connect(":memory:")
    functions.register(connection)
    connection.execute("CREATE TABLE process (id, exe, pid, ppid, uid)")
    connection.execute("CREATE TABLE process_start (id, process, path, cwd, argv, pid, uid)")
    values = {
        name: value if value is None or isinstance(value, int) else escape(value) for name, value in event.items()
    }
    command = event["CommandLine"]
    argv = None if command is None else json.dumps([escape(word) for word in command.split(" ")])
    connection.execute("INSERT INTO process VALUES (1, ?, 1, 1, 0)", (values["ParentImage"],))
    row = (values["Image"], values["CurrentDirectory"], argv, event["ProcessId"])
    connection.execute("INSERT INTO process_start VALUES (1, 1, ?, ?, ?, ?, 0)", row)
    return connection


def found(node: Node, event: dict[str, Any]) -> bool:
    sql = Writer(SOURCE.fields, windows=False).write(node)
    connection = stored(event)
    try:
        query = f"SELECT s.id FROM process_start AS s LEFT JOIN process AS p ON p.id = s.process WHERE {sql}"  # noqa: S608
        return connection.execute(query).fetchone() is not None
    finally:
        connection.close()


# The same examples each time, so that no load and no luck decides.
steady = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@settings(steady, max_examples=120)
@given(tree=trees(patterns), event=events)
def test_sql_and_condition_agree_on_any_event(tree: Node, event: dict[str, Any]) -> None:
    # A backslash is two characters of guest text, and ? is one: that is told in sigma.md.
    assume("\\" not in str(event) or Wild.ONE not in _parts(tree))
    assert found(tree, event) is fits(tree, event)


@settings(steady, max_examples=60)
@given(tree=trees(st.lists(letters | st.just(Wild.ANY), min_size=1, max_size=4).map(tuple)))
def test_sql_and_condition_agree_on_events_made_of_the_condition(tree: Node) -> None:
    maker = Maker(SOURCE.fields, windows=False)
    fitting = maker.fitting(tree, 3)
    for event in [*fitting, *maker.near(tree, fitting, 5)]:
        whole = dict.fromkeys((*TEXTS, "ProcessId")) | event
        assert found(tree, whole) is fits(tree, whole)


def _parts(tree: Node) -> list[Any]:
    if isinstance(tree, Atom):
        return list(tree.test.parts) if isinstance(tree.test, Text) else []
    if isinstance(tree, Not):
        return _parts(tree.of)
    return [part for one in tree.of for part in _parts(one)] if isinstance(tree, And | Or) else []


def test_what_is_true_of_every_event_or_of_none_is_simplified() -> None:
    constant = Atom("Initiated", Text(("true",)))
    network, _ = source_of("windows", "network_connection", None)
    port = Atom("DestinationPort", Text(("22",)))
    assert translated(And((constant, port)), network).node == Atom("DestinationPort", Number("=", 22))
    assert all(field.kind in Kind for field in network.fields.values())


@pytest.mark.parametrize(
    "pattern",
    [
        r"a{3,}b?c+",
        r"^\{[0-9a-f]{8}-x\}$",
        r"[^a-z\d](one|two)\1*\s",
        r".{1000,}",
        r"(?:ab){2}\w\W\S\D",
        r"x|y",
        r"é\.\\",
    ],
)
def test_a_text_is_made_for_a_regular_expression(pattern: str) -> None:
    text = sample(pattern)
    assert text is not None
    assert re.search(pattern, text)


def test_a_regular_expression_makes_no_endless_text() -> None:
    assert sample("(((a{5000}){5000}){5000}){5000}") is None
    assert sample("(") is None
