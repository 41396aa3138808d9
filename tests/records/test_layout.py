"""A layout says, once, how a record becomes a row; what cannot be is refused where it is declared."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec import (
    CONTEXT,
    DEFAULT,
    EVENT,
    GENERATED,
    ID,
    PAYLOAD,
    TIMESTAMP,
    TYPE,
    ColumnSchema,
    ColumnType,
    Layout,
    LayoutColumn,
    LayoutCompression,
    LayoutError,
    LayoutIndex,
    LayoutSource,
    default_layout,
    from_context,
    from_field,
    from_payload,
)

KIND = LayoutColumn("kind", TYPE, "varchar", length=20)
MOMENT = LayoutColumn("moment", TIMESTAMP, "timestamptz", default="now")
WHOLE = LayoutColumn("data", EVENT, "jsonb")
SHOP = LayoutColumn("shop", from_payload("shop"), "varchar", length=8, nullable=False, default="none")


def full() -> Layout:
    return Layout(
        "visits",
        [LayoutColumn("n", GENERATED, "bigint"), MOMENT, KIND, SHOP, WHOLE],
        primary_key=["moment", "n"],
        indexes=[
            LayoutIndex("by_kind", ["kind", "moment"], descending=["moment"], where_not_null=["shop"]),
            LayoutIndex("by_data", ("data",), kind="json"),
        ],
        partition="day",
        retention="90d",
        compression=LayoutCompression("7d", segment_by=["kind"], order_by=["moment"], descending=["moment"]),
    )


def test_equal_layouts_are_one_key_whatever_they_were_made_of() -> None:
    first, second = full(), full()

    assert first == second
    assert hash(first) == hash(second)
    assert first.retention_seconds == 90 * 86_400


def test_layout_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        full().table = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "layout",
    [
        full(),
        default_layout("events"),
        default_layout("events", [ColumnSchema("amount", ColumnType.DECIMAL128, precision=10, scale=2)]),
        Layout('odd "name"', [LayoutColumn("é\n", from_context("a", "b"), "double", default=1.5)]),
    ],
    ids=lambda layout: layout.table,
)
def test_layout_is_the_same_after_its_json(layout: Layout) -> None:
    text = layout.to_json()

    assert Layout.from_json(text) == layout
    assert Layout.from_json(text.encode()).to_json() == text


class Word(str):
    """A text that says in its own way what it looks like, as members of an `Enum` of texts do."""

    __slots__ = ()

    def __str__(self) -> str:
        return "another one"

    __repr__ = __str__


def test_layout_keeps_of_its_texts_what_they_are() -> None:
    def made(text: Any) -> Layout:
        return Layout(
            text("t"),
            [
                LayoutColumn(text("at"), TIMESTAMP, text("timestamptz"), default=text("now")),
                LayoutColumn("name", from_payload(text("name")), "text", default=text("none")),
                LayoutColumn("own", from_field(text("own")), ColumnType.STRING),
            ],
            primary_key=[text("at")],
            indexes=[LayoutIndex(text("by_name"), [text("name")])],
        )

    layout = made(Word)

    assert layout.to_json() == made(str).to_json()
    assert f"{layout.table} {layout.columns[0]}" == "t at timestamptz"
    assert Layout.from_json(layout.to_json()) == layout


def test_json_of_a_layout_is_law() -> None:
    golden = (
        '{"version":1,"table":"t","columns":[{"name":"k","source":"type","type":"varchar","length":9,"nullable":false},'
        '{"name":"a","source":"payload","type":"STRING","path":["a","b"],"default":"x"}],"primary_key":["k"]}'
    )
    columns = [
        LayoutColumn("k", TYPE, "varchar", length=9),
        LayoutColumn("a", from_payload("a", "b"), ColumnType.STRING, default="x"),
    ]

    assert Layout("t", columns, primary_key=("k",)).to_json() == golden


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        '{"version":2,"table":"t","columns":[{"name":"k","source":"type","type":"text"}]}',
        '{"version":1,"table":"t","columns":[{"name":"k","source":"type","type":"tinyblob"}]}',
        '{"version":1,"table":"t","columns":[{"name":"k","source":"who","type":"text"}]}',
        '{"version":1,"table":"t","columns":[{"name":"k","source":"type","type":"text"}],"later":1}',
        '{"version":1,"table":"t","columns":[]}',
        '{"version":1,"table":"\\ud800","columns":[{"name":"k","source":"type","type":"text"}]}',
        "[" * 100_000,
        b"\xff",
    ],
)
def test_text_that_is_not_a_layout_is_one_error_of_ours(text: str | bytes) -> None:
    with pytest.raises(LayoutError):
        Layout.from_json(text)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_layout_or_one_error_of_ours(text: bytes) -> None:
    try:
        layout = Layout.from_json(text)
    except LayoutError:
        return
    assert Layout.from_json(layout.to_json()) == layout


# -- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "a", "source": TYPE, "type": "uuid"}, "TYPE is stored as"),
        ({"name": "a", "source": TYPE, "type": "varchar"}, "a varchar has a length"),
        ({"name": "a", "source": TYPE, "type": "text", "length": 5}, "a varchar has a length"),
        ({"name": "a", "source": TYPE, "type": "varchar", "length": 0}, "1 to"),
        ({"name": "a", "source": TYPE, "type": "varchar", "length": True}, "1 to"),
        ({"name": "a", "source": ID, "type": "varchar", "length": 35}, "36 characters"),
        ({"name": "a", "source": TIMESTAMP, "type": "bigint"}, "TIMESTAMP is stored as timestamptz"),
        ({"name": "a", "source": EVENT, "type": "uuid"}, "EVENT is stored as"),
        ({"name": "a", "source": GENERATED, "type": "text"}, "GENERATED is stored as"),
        ({"name": "a", "source": "type", "type": "text"}, "its source is a LayoutSource"),
        ({"name": "a", "source": TYPE, "type": "tinyblob"}, "a type is a ColumnType or one of"),
        ({"name": "", "source": TYPE, "type": "text"}, "1 to 255 bytes"),
        ({"name": "a\0", "source": TYPE, "type": "text"}, "without NUL"),
        ({"name": "a", "source": from_payload("b"), "type": ColumnType.VECTOR}, "no value of type"),
        ({"name": "a", "source": DEFAULT, "type": "text"}, "has a default"),
        ({"name": "a", "source": TYPE, "type": "text", "default": "x"}, "needs no default"),
        ({"name": "a", "source": from_payload("b"), "type": "bigint", "default": "x"}, "not a value of this type"),
        ({"name": "a", "source": from_payload("b"), "type": "bigint", "default": True}, "not a value of this type"),
        ({"name": "a", "source": from_payload("b"), "type": "smallint", "default": 1 << 15}, "not a value of this"),
        ({"name": "a", "source": from_payload("b"), "type": "double", "default": float("nan")}, "not a value of this"),
        ({"name": "a", "source": from_payload("b"), "type": "double", "default": 10**400}, "not a value of this"),
        ({"name": "a", "source": from_payload("b"), "type": "text", "default": "\0"}, "not a value of this type"),
        ({"name": "a", "source": from_payload("b"), "type": "text", "default": "\ud800"}, "not a value of this type"),
        ({"name": "a", "source": from_payload("b"), "type": "varchar", "length": 2, "default": "xyz"}, "3 characters"),
        ({"name": "a", "source": from_payload("b"), "type": "timestamptz", "default": "now"}, "for TIMESTAMP alone"),
        ({"name": "a", "source": TIMESTAMP, "type": "timestamptz", "default": "yesterday"}, "'now'"),
    ],
)
def test_column_that_cannot_be_is_refused_where_it_is_declared(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(LayoutError, match=said.replace("(", r"\(")):
        LayoutColumn(**arguments)


@pytest.mark.parametrize("path", [(), ("a", 1), ("a\0",)])
def test_path_that_leads_nowhere_is_refused(path: tuple[Any, ...]) -> None:
    with pytest.raises(LayoutError):
        from_payload(*path)


@pytest.mark.parametrize(("kind", "path"), [("type", ("a",)), ("field", ()), ("field", ("a", "b")), ("who", ())])
def test_source_that_is_not_one_is_refused(kind: Any, path: tuple[str, ...]) -> None:
    with pytest.raises(LayoutError):
        LayoutSource(kind, path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"table": ""}, "the table of a layout"),
        ({"table": "eventrec_seen"}, "reserved"),
        ({"table": "SQLite_x"}, "reserved"),
        ({"columns": []}, "1 to 1000 columns"),
        ({"columns": ["kind"]}, "its columns are LayoutColumns"),
        ({"columns": [KIND, KIND]}, "twice"),
        ({"columns": [KIND, LayoutColumn("KIND", from_payload("a"), "text")]}, "only the case differs"),
        ({"columns": [KIND, LayoutColumn("type", TYPE, "text")]}, "have one source, TYPE"),
        ({"columns": [MOMENT, LayoutColumn("at", TIMESTAMP, "timestamptz")]}, "have one source, TIMESTAMP"),
        (
            {"columns": [KIND, LayoutColumn("n", GENERATED, "bigint"), LayoutColumn("m", GENERATED, "bigint")]},
            "have one source, GENERATED",
        ),
        ({"columns": [LayoutColumn("n", GENERATED, "bigint")]}, "no column holds anything"),
        ({"primary_key": ("who",)}, "no column 'who'"),
        ({"primary_key": ("shop2",), "columns": [KIND, LayoutColumn("shop2", from_payload("a"), "text")]}, "nullable"),
        ({"primary_key": "kind"}, "a tuple of names"),
        ({"primary_key": ("kind", "kind")}, "stands there twice"),
        ({"partition": "day", "columns": [KIND]}, "needs a column of the source TIMESTAMP"),
        ({"retention": "1d", "columns": [KIND]}, "needs a column of the source TIMESTAMP"),
        ({"partition": "hour"}, "a day, week or month"),
        ({"partition": "day", "primary_key": ("kind",)}, "must include that column"),
        ({"retention": 0}, "longer than 0"),
        ({"retention": "long"}, "retention"),
        ({"indexes": [LayoutIndex("i", ("who",))]}, "no column 'who'"),
        ({"indexes": [LayoutIndex("i", ("kind",)), LayoutIndex("i", ("moment",))]}, "have one name"),
        ({"compression": LayoutCompression("7d", segment_by=("who",))}, "no column 'who'"),
    ],
)
def test_layout_that_cannot_be_is_refused_where_it_is_declared(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(LayoutError, match=said):
        Layout(**{"table": "visits", "columns": [MOMENT, KIND], **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "", "columns": ("a",)},
        {"name": "i", "columns": ()},
        {"name": "i", "columns": "a"},
        {"name": "i", "columns": ("a",), "descending": ("b",)},
        {"name": "i", "columns": ("a",), "kind": "hash"},
    ],
)
def test_index_that_cannot_be_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(LayoutError):
        LayoutIndex(**arguments)


def test_type_that_is_too_long_for_its_column_is_refused_before_anything_is_recorded() -> None:
    layout = Layout("visits", [KIND])

    layout.check_type("é" * 20)
    with pytest.raises(LayoutError, match=r"holds 20 characters, and the type .* has 21"):
        layout.check_type("é" * 21)


# -- where a value stands ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "column", "path"),
    [
        (ID, None, ()),
        (TYPE, "kind", ()),
        (TIMESTAMP, "moment", ()),
        (PAYLOAD, None, ()),
        (CONTEXT, None, ()),
        (EVENT, "data", ()),
        (from_payload("shop"), "data", ("shop",)),  # in its own column "none" may be the default
        (from_payload("a", "b"), "data", ("a", "b")),
        (from_payload("type"), None, ()),  # there stands the type of the event
        (from_field("amount"), "data", ("amount",)),
        (from_context("host"), None, ()),
    ],
)
def test_value_is_located_in_a_table_of_whole_events(source: LayoutSource, column: str, path: tuple[str, ...]) -> None:
    found = full().locate(source)

    assert (found and (found.column.name, found.path)) == (column and (column, path))


@pytest.mark.parametrize(
    ("source", "column", "path"),
    [
        (ID, "id", ()),
        (TYPE, "type", ()),
        (TIMESTAMP, "timestamp", ()),
        (PAYLOAD, "payload", ()),
        (from_payload("a", "b"), "payload", ("a", "b")),
        (from_payload("type"), "payload", ("type",)),
        (from_context("host"), "context", ("host",)),
        (from_field("amount"), "amount", ()),
        (from_field("other"), None, ()),
        (EVENT, None, ()),
    ],
)
def test_value_is_located_in_a_table_of_ours(source: LayoutSource, column: str, path: tuple[str, ...]) -> None:
    found = default_layout("events", [ColumnSchema("amount", ColumnType.INT64)]).locate(source)

    assert (found and (found.column.name, found.path)) == (column and (column, path))


def test_own_column_is_located_before_json_unless_it_has_a_default() -> None:
    layout = Layout(
        "t",
        [
            LayoutColumn("data", EVENT, "jsonb"),
            LayoutColumn("user", from_payload("user"), "uuid"),
            LayoutColumn("host", from_context("host"), "text", default="unknown"),
        ],
    )

    user, host, kind = (layout.locate(source) for source in (from_payload("user"), from_context("host"), TYPE))

    assert user is not None
    assert (user.column.name, user.path) == ("user", ())
    assert host is not None
    assert host.column.name == "host"  # held nowhere else
    assert kind is not None
    assert (kind.column.name, kind.path) == ("data", ("type",))


def test_a_layout_of_a_later_version_is_refused_by_its_version_whatever_else_it_says() -> None:
    with pytest.raises(LayoutError, match="has version 2; this eventrec reads 1"):
        Layout.from_json('{"version":2,"table":"t","columns":{"k":"text"},"sharding":{"by":"k"}}')
