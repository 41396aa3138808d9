"""Columns that an answer packs: exact, whatever a value looks like."""

from __future__ import annotations

import math
import struct
from typing import Any

import asyncpg
import pytest

from eventrec.analytics import AnswerColumn
from eventrec_handlers.postgres.rollups.packing import LooksLikeMarkError, as_array, packed, unpacked

pytestmark = pytest.mark.handlers

ODD_FLOAT = struct.unpack(">d", bytes.fromhex("7ff8dead00000001"))[0]
KINDS = {"text": "text", "uuid": "uuid", "integer": "bigint", "float": "float8", "boolean": "boolean"}
CASES: list[tuple[Any, list[Any]]] = [
    ("text", ["a", None, "", "ä\U0001f600", "\x03", "a b", None]),
    ("text", [None, None]),
    ("text", [""]),
    ("text", []),
    ("uuid", ["00000000-0000-0000-0000-00000000000a", None]),
    ("integer", [0, None, 2**63 - 1, -(2**63) + 1, -1, None]),
    ("integer", [128, 32768 * 256]),
    ("float", [0.1, None, -0.0, math.inf, -math.inf, 5e-324, 1.7976931348623157e308]),
    ("float", [None]),
    ("boolean", [True, None, False]),
]
LOOK_LIKE_MARKS: list[tuple[Any, list[Any]]] = [
    ("text", ["\x02", None, "a"]),
    ("text", ["\x02"]),
    ("text", ["a\x01b", "c"]),
    ("text", ["a\x01b", None]),
    ("integer", [-(2**63), None]),
    ("integer", [-(2**63)]),
    ("float", [ODD_FLOAT, None]),
]


@pytest.fixture
def ask(database: Any) -> Any:
    """What the server gives of a column of these values."""

    def asked(column: AnswerColumn, values: list[Any], how: Any) -> Any:
        aggregate, known = how(column, is_numeric=False)
        connection: asyncpg.Connection = database.session()
        try:
            return database.run(
                connection.fetchrow(
                    f"SELECT count(*), {aggregate}, {known} FROM"
                    f" unnest($1::{KINDS[column.kind]}[]) WITH ORDINALITY AS given (v, n)",
                    values,
                )
            )
        finally:
            database.run(connection.close())

    return asked


@pytest.mark.parametrize(("kind", "values"), CASES)
def test_what_is_packed_comes_back(kind: Any, values: list[Any], ask: Any) -> None:
    column = AnswerColumn("v", kind, "measure")

    rows, value, known = ask(column, values, packed)

    assert repr(list(unpacked(column, value, rows, known))) == repr(values)


@pytest.mark.parametrize(("kind", "values"), LOOK_LIKE_MARKS)
def test_a_value_that_looks_like_a_mark_is_not_taken_for_one_and_comes_back_from_an_array(
    kind: Any, values: list[Any], ask: Any
) -> None:
    column = AnswerColumn("v", kind, "group")

    rows, value, known = ask(column, values, packed)
    with pytest.raises(LooksLikeMarkError):
        unpacked(column, value, rows, known)
    rows, value, known = ask(column, values, as_array)

    assert repr(list(unpacked(column, value, rows, known))) == repr(values)
