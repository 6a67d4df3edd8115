# SPDX-License-Identifier: GPL-2.0-or-later
"""A record class is a table."""

from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.errors import PluginError
from drakmet.records import CORE_RECORDS, Address, EventRecord, Record, columns, to_signed, to_unsigned


class PageTouched(EventRecord):
    """A page was touched."""

    where: Annotated[Address, "its address"]
    names: Annotated[list[str], "what lies there"]
    dirty: Annotated[bool | None, "whether it was written"] = None


class Odd(Record):
    """A record that no table can hold."""

    parts: Annotated[dict[str, int], "no"]


def test_the_table_is_named_like_the_class() -> None:
    assert PageTouched.table == "page_touched"
    assert EventRecord.table == "event_record"


def test_columns_come_from_the_annotations() -> None:
    where, names, dirty = columns(PageTouched)[-3:]
    assert (where.sql_type, where.is_address, where.nullable, where.doc) == ("INTEGER", True, False, "its address")
    assert (names.sql_type, names.is_json) == ("TEXT", True)
    assert (dirty.sql_type, dirty.is_bool, dirty.nullable) == ("INTEGER", True, True)


def test_a_type_no_column_can_hold_is_refused_by_name() -> None:
    with pytest.raises(PluginError, match=r"Odd\.parts"):
        columns(Odd)


@pytest.mark.parametrize("record", CORE_RECORDS, ids=lambda record: record.table)
def test_every_core_column_is_documented(record: type[Record]) -> None:
    assert record.__doc__
    assert [column.name for column in columns(record) if not column.doc] == []


@given(st.integers(0, 2**64 - 1))
def test_addresses_fit_sqlite_and_come_back(address: int) -> None:
    assert -(2**63) <= to_signed(address) < 2**63
    assert to_unsigned(to_signed(address)) == address
