from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec import ColumnSchema, ColumnType, PermanentError
from eventrec_handlers._sql import (
    Refusals,
    TablePlan,
    converted,
    fitting,
    fold_ascii,
    json_text,
    plan_table,
    quoted,
    text,
)

pytestmark = pytest.mark.handlers

BASE = (("id", "TEXT"), ("payload", "TEXT"))
REQUIRED = ("id", "payload")


def plan(
    existing: dict[str, str] | None, *extra: tuple[str, str], strict: bool = False, max_columns: int = 10
) -> TablePlan:
    return plan_table(
        existing,
        (*BASE, *extra),
        required=REQUIRED,
        schema="strict" if strict else "evolve",
        max_columns=max_columns,
        fold=fold_ascii,
    )


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_quoted_name_is_taken_literally(name: str) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE t ({quoted(name)} TEXT)")

        ((_, found, *_),) = connection.execute("PRAGMA table_info(t)").fetchall()

    assert found == name


def test_fold_changes_ascii_letters_alone() -> None:
    assert fold_ascii("ÄöÜ İ ẞ UserId") == "ÄöÜ İ ẞ userid"


def test_a_name_that_is_too_long_is_cut_and_told_apart() -> None:
    longest = [fitting("ä" * 40 + last, "_by_bucket", 63) for last in "ab"]

    assert fitting("orders", "_by_bucket", 63) == "orders_by_bucket"
    assert len(set(longest)) == 2
    assert all(
        len(name.encode()) <= 63 and name.startswith("ä" * 20) and name.endswith("_by_bucket") for name in longest
    )


def test_missing_table_is_created_with_every_column() -> None:
    assert plan(None, ("a", "INTEGER")) == TablePlan(create=(*BASE, ("a", "INTEGER")))


def test_table_that_has_the_columns_is_ready_whatever_the_order_case_and_space_of_types() -> None:
    found = plan({"a": "text  json", "payload": "Text", "id": "TEXT", "z": "BLOB"}, ("a", "TEXT JSON"))

    assert found.is_ready
    assert found == TablePlan()


def test_missing_columns_are_added_in_order() -> None:
    assert plan(dict(BASE), ("b", "REAL"), ("a", "TEXT")) == TablePlan(add=(("b", "REAL"), ("a", "TEXT")))


def test_other_type_is_refused_with_what_the_table_declares() -> None:
    found = plan({**dict(BASE), "a": "TEXT", "b": ""}, ("a", "INTEGER"), ("b", "TEXT"))

    assert found.is_ready
    assert found.refused == {"a": "the table declares it TEXT", "b": "the table declares it without a type"}


def test_name_that_differs_by_case_alone_is_refused() -> None:
    existing = plan({**dict(BASE), "userId": "TEXT"}, ("userid", "TEXT"))
    declared = plan(None, ("a", "TEXT"), ("A", "TEXT"))
    of_base = plan(None, ("ID", "TEXT"))

    assert existing.refused == {"userid": "only the case of its name differs from that of column 'userId'"}
    assert declared.create == (*BASE, ("a", "TEXT"))
    assert list(declared.refused) == ["A"]
    assert list(of_base.refused) == ["ID"]


def test_too_many_columns_are_added_not_even_in_part() -> None:
    extra = [(f"c{i}", "TEXT") for i in range(9)]

    to_new, to_old, none_missing = plan(None, *extra), plan(dict(BASE), *extra), plan(dict(BASE), max_columns=2)

    assert to_new.create == BASE
    assert not to_old.add
    assert to_old.refused == {name: "the table would have 11 columns, and max_columns is 10" for name, _ in extra}
    assert none_missing.is_ready


def test_strict_schema_adds_nothing() -> None:
    assert plan(None, strict=True).refused_table == "there is no such table, and schema is 'strict'"
    assert plan(dict(BASE), ("a", "TEXT"), strict=True) == TablePlan(
        refused={"a": "the table has no such column, and schema is 'strict'"}
    )


def test_table_of_another_program_is_left_alone() -> None:
    assert plan({"payload": "TEXT", "name": "TEXT"}).refused_table == "it is not one of ours: it lacks 'id'"


def test_conversion_names_each_value_that_fails() -> None:
    values, failed = converted(["a", None, "b\0", "\ud800", "é"], text)

    assert values == ["a", None, None, None, "é"]
    assert failed == {
        2: ("b\0", "it holds a NUL character"),
        3: ("\ud800", "it holds a lone surrogate, which no UTF-8 text can"),
    }


def test_json_bytes_must_be_text() -> None:
    assert json_text(b'"\\u0000\xc3\xa9"') == '"\\u0000é"'
    with pytest.raises(ValueError, match="not UTF-8 at byte 1"):
        json_text(b'"\xff"')
    with pytest.raises(ValueError, match="NUL"):
        json_text(b'"\0"')


def test_refusals_are_one_error_with_the_first_reason_of_each_record() -> None:
    refusals = Refusals()
    refusals.raise_if_any(9)
    column = ColumnSchema("total", ColumnType.STRING)

    refusals.add_value(7, "orders", column, "x", declared="TEXT", why="the table declares it INTEGER")
    refusals.add(7, "and more")
    refusals.add(8, "another")

    with pytest.raises(PermanentError, match="2 of 9 records cannot be stored; at offset 7: column") as caught:
        refusals.raise_if_any(9)
    assert caught.value.records == {
        7: "column 'total' of table 'orders' cannot take a value of kind str (STRING as TEXT): "
        "the table declares it INTEGER",
        8: "another",
    }
