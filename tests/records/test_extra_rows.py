from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.records.extra_rows import decode_columns, decode_each_rows, encode_kept_rows

KEPT = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.lists(st.integers(0, 2**31), max_size=3),
)
WIDTHS = st.shared(st.integers(1, 20))


@given(
    rows=WIDTHS.flatmap(lambda width: st.lists(st.lists(KEPT, min_size=width, max_size=width), max_size=5)),
    width=WIDTHS,
)
def test_columns_are_those_of_the_rows(rows: list[list[Any]], width: int) -> None:
    encoded = [encode_kept_rows([row]) for row in rows]

    columns = decode_columns(encoded, width)

    each = decode_each_rows(encoded)
    assert (columns is None) == (width > 15)
    if columns is not None:
        assert [list(values) for values in zip(*columns, strict=True)] == [list(row) for (row,) in each]


@pytest.mark.parametrize("other", [[[1]], [[1, 2, 3]], [[1, 2], [3, 4]], [], [[]]])
def test_what_is_not_one_row_of_that_width_is_left_to_the_general_way(other: list[list[int]]) -> None:
    assert decode_columns([encode_kept_rows([[1, 2]]), encode_kept_rows(other)], 2) is None
