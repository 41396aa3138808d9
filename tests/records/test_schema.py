import enum
from typing import Any

import pytest

from eventrec.errors import InvalidEventError
from eventrec.records.column_types import ColumnType, SemanticType
from eventrec.records.schema import (
    BASE_COLUMNS,
    BASE_NAMES,
    CONTEXT_COLUMN,
    MAX_COLUMNS,
    ColumnSchema,
    Shape,
    check_name,
)

A = ColumnSchema("a", ColumnType.STRING)
B = ColumnSchema("b", ColumnType.INT64)


@pytest.mark.parametrize("name", ["a", "ä" * 127, "x" * 255, "two words", "\N{SNOWMAN}", '"; DROP TABLE events; --'])
def test_names_are_texts_of_1_to_255_bytes(name: str) -> None:
    check_name("type", name)


@pytest.mark.parametrize("name", ["", "x" * 256, "ä" * 128, "a\0b"])
def test_names_of_another_length_or_with_nul_are_refused(name: str) -> None:
    with pytest.raises(InvalidEventError, match=f"type must be 1 to 255 bytes without NUL, got {len(name.encode())}"):
        check_name("type", name)


def test_name_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(InvalidEventError, match=r"type 'a\\ud800' is not valid Unicode"):
        check_name("type", "a\ud800")


@pytest.mark.parametrize("name", [None, 1, b"a", ["a"]])
def test_name_that_is_no_text_is_refused(name: object) -> None:
    with pytest.raises(InvalidEventError, match=f"table must be text, got {type(name).__name__}"):
        check_name("table", name)


def test_base_columns_are_id_type_timestamp_payload_and_where_configured_context() -> None:
    named = [(str(column), column.semantic.name) for column in (*BASE_COLUMNS, CONTEXT_COLUMN)]

    assert named == [
        ("id STRING", "FIELD"),
        ("type STRING", "TAG"),
        ("timestamp TIMESTAMP_NANOSECOND", "TIMESTAMP"),
        ("payload JSON", "FIELD"),
        ("context JSON", "FIELD"),
    ]


@pytest.mark.parametrize("name", sorted(BASE_NAMES))
def test_extra_column_cannot_have_the_name_of_a_base_column(name: str) -> None:
    with pytest.raises(InvalidEventError, match=f"extra column '{name}' has the name of a base column"):
        Shape("events", "a", (ColumnSchema(name, ColumnType.STRING),))


def test_extra_column_cannot_be_declared_twice() -> None:
    with pytest.raises(InvalidEventError, match="extra column 'a' is declared twice"):
        Shape("events", "a", (A, B, ColumnSchema("a", ColumnType.INT64)))


def test_extra_columns_are_bounded() -> None:
    columns = tuple(ColumnSchema(f"c{number}", ColumnType.INT8) for number in range(MAX_COLUMNS + 1))

    assert len(Shape("events", "a", columns[:-1]).columns) == 1_000
    with pytest.raises(InvalidEventError, match="at most 1000 extra columns are allowed, got 1001"):
        Shape("events", "a", columns)


def test_extra_column_must_be_a_column_schema() -> None:
    columns: Any = ("a",)

    with pytest.raises(InvalidEventError, match="an extra column must be a ColumnSchema, got str"):
        Shape("events", "a", columns)


@pytest.mark.parametrize(("column_type", "shown"), [("STRING", "'STRING'"), (12, "12"), (None, "None")])
def test_type_of_a_column_must_be_a_column_type(column_type: Any, shown: str) -> None:
    with pytest.raises(InvalidEventError, match=f"column 'a': a type is a ColumnType, got {shown}"):
        ColumnSchema("a", column_type)


@pytest.mark.parametrize("semantic", ["TAG", 0, 9, None])
def test_semantic_of_a_column_must_be_a_semantic_type(semantic: Any) -> None:
    with pytest.raises(InvalidEventError, match=f"column 'a': semantic is a SemanticType, got {semantic!r}"):
        ColumnSchema("a", ColumnType.STRING, semantic)


@pytest.mark.parametrize("given", [2.0, 1.5, True, "2", SemanticType.TIMESTAMP], ids=repr)
@pytest.mark.parametrize(
    ("column_type", "parameter"),
    [(ColumnType.DECIMAL128, "precision"), (ColumnType.DECIMAL128, "scale"), (ColumnType.VECTOR, "dimensions")],
)
def test_parameters_are_whole_numbers(column_type: ColumnType, parameter: str, given: Any) -> None:
    with pytest.raises(InvalidEventError, match="column 'a': a parameter is a whole number, got "):
        ColumnSchema("a", column_type, **{parameter: given})


@pytest.mark.parametrize(
    ("column_type", "parameters", "why"),
    [
        (ColumnType.INT64, {"precision": 3}, "precision and scale are for DECIMAL128, not INT64"),
        (ColumnType.VECTOR, {"scale": 3}, "precision and scale are for DECIMAL128, not VECTOR"),
        (ColumnType.DECIMAL128, {"dimensions": 3}, "dimensions are for VECTOR, not DECIMAL128"),
        (ColumnType.VECTOR, {"dimensions": 0}, "a VECTOR has dimensions, got 0"),
        (ColumnType.DECIMAL128, {"precision": 0}, "precision is 1 to 38"),
        (ColumnType.DECIMAL128, {"precision": 39}, "precision is 1 to 38"),
        (ColumnType.DECIMAL128, {"precision": 3, "scale": 4}, "scale 0 to precision, got 3 and 4"),
        (ColumnType.DECIMAL128, {"scale": -1}, "scale 0 to precision, got None and -1"),
    ],
)
def test_parameters_must_fit_the_type(column_type: ColumnType, parameters: dict[str, int], why: str) -> None:
    with pytest.raises(InvalidEventError, match=f"column 'a': .*{why}"):
        ColumnSchema("a", column_type, **parameters)  # type: ignore[arg-type]


def test_shapes_are_equal_by_value() -> None:
    one, same = Shape("t", "e", (A, B)), Shape("t", "e", (ColumnSchema("a", ColumnType.STRING), B))
    others = [Shape("u", "e", (A, B)), Shape("t", "f", (A, B)), Shape("t", "e", (B, A)), Shape("t", "e", (A,))]
    tagged = Shape("t", "e", (ColumnSchema("a", ColumnType.STRING, SemanticType.TAG), B))

    assert one == same
    assert not one != same  # noqa: SIM202 - the other operator
    assert hash(one) == hash(same)
    assert all(one != other for other in (*others, tagged, "t"))


def test_shape_keeps_what_a_str_subclass_is_not_what_it_looks_like() -> None:
    class Kind(str, enum.Enum):  # noqa: UP042 - the old spelling, which looks like `Kind.OPENED`
        OPENED = "opened"

    shape = Shape(Kind.OPENED, Kind.OPENED)

    assert (f"{shape.table} {shape.type}", type(shape.type)) == ("opened opened", str)


def test_column_keeps_of_its_name_what_a_str_subclass_is() -> None:
    class Name(str):
        __slots__ = ()

    column = ColumnSchema(Name("a"), ColumnType.STRING)

    assert (column, type(column.name)) == (A, str)


def test_shape_says_itself() -> None:
    assert repr(Shape("t", "e", (A, B))) == "Shape('t', 'e', ['a STRING', 'b INT64'])"
