"""The answer of a rollup as JSON, CSV, or an Arrow stream; each says how far it is complete."""

from __future__ import annotations

import json
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from eventrec.analytics.answer import Role
from eventrec.analytics.fields import Kind
from eventrec.ingest.moments import FIRST, LAST, moment_text
from eventrec.runtime.decoding import decodable
from eventrec.runtime.texts import encoded_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eventrec.analytics import Answer, AnswerColumn, Bucket

Form: TypeAlias = Literal["json", "csv", "arrow"]

MEDIA_TYPES: Final[Mapping[Form, str]] = {
    "json": "application/json",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
}

CSV_TYPE: Final = "text/csv; charset=utf-8; header=present"

MAX_HEADER: Final = 2_000
"""Characters of the remarks that a header holds."""

_MAX_64: Final = 2**63
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes a cell for a formula by: https://owasp.org/www-community/attacks/CSV_Injection"""

_encode: Final = msgspec.json.Encoder().encode


@decodable
class Column(msgspec.Struct, frozen=True):
    """A column of an answer.

    Attributes:
        name: What it is called.
        kind: What its values are. A timestamp is written as RFC 3339 has it.
        role: The start of a bucket, a group, or what is measured.
    """

    name: str
    kind: Kind
    role: Role


@decodable
class RollupAnswer(msgspec.Struct):
    """What a rollup tells.

    Attributes:
        rollup: Its name.
        bucket: How it parts time: "1 hour".
        zone: The zone that buckets are written in.
        columns: What each value of a row is.
        rows: One value for each column.
        complete_to: The time of the newest event that is counted in; null: none is stored, or it is not known.
        pending: How many events wait to be counted in; null: it is not known.
        cursor: Asks for the rows that follow; null: there are none.
        remarks: What a reader should know, a sentence each.
    """

    rollup: str
    bucket: str
    zone: str
    columns: list[Column]
    rows: list[list[Any]]
    complete_to: str | None
    pending: int | None
    cursor: str | None
    remarks: list[str]


def has_arrow() -> bool:
    """Whether pyarrow is installed, which writes Arrow."""
    return find_spec("pyarrow") is not None


def columns_of(columns: Iterable[AnswerColumn]) -> list[Column]:
    """The columns, as an answer holds them."""
    return [Column(each.name, each.kind, each.role) for each in columns]


def body_of(
    answer: Answer, form: Form, *, bucket: Bucket, zone: str, cursor: str | None, is_raw: bool = False
) -> bytes:
    """`answer` in one of the forms. `is_raw` leaves texts of CSV as they are, be they formulas. It may take a while."""
    match form:
        case "csv":
            return _csv(answer, zone, is_raw=is_raw)
        case "arrow":
            return _arrow(answer, zone, cursor)
    try:
        return _encode(_as_json(answer, bucket, zone, cursor, _rows(answer, zone)))
    except (OverflowError, UnicodeEncodeError):
        return encoded_json(_as_json(answer, bucket, zone, cursor, _rows(answer, zone, is_careful=True)))


def _as_json(answer: Answer, bucket: Bucket, zone: str, cursor: str | None, rows: list[list[Any]]) -> RollupAnswer:
    return RollupAnswer(
        rollup=answer.rollup,
        bucket=bucket_name(bucket),
        zone=zone,
        columns=columns_of(answer.columns),
        rows=rows,
        complete_to=None if answer.complete_to is None else moment_text(answer.complete_to),
        pending=answer.pending,
        cursor=cursor,
        remarks=list(answer.remarks),
    )


def bucket_name(bucket: Bucket) -> str:
    """How a rollup parts time, without its zone: "1 hour"."""
    return f"{bucket.every} {bucket.unit}{'s' * (bucket.every != 1)}"


def completeness(answer: Answer, cursor: str | None = None) -> dict[str, str]:
    """What an answer says of itself, in headers: for forms that have no place for it."""
    said: dict[str, str] = {}
    if answer.complete_to is not None:
        said["Eventrec-Complete-To"] = moment_text(answer.complete_to)
    if answer.pending is not None:
        said["Eventrec-Pending"] = str(answer.pending)
    if cursor is not None:
        said["Eventrec-Cursor"] = cursor
    if answer.remarks:
        said["Eventrec-Remarks"] = header_text(answer.remarks)
    return said


def header_text(told: Sequence[str] | Mapping[str, int]) -> str:
    """What is told beside an answer, as JSON, as far as a header takes it."""
    return json.dumps(told)[:MAX_HEADER]


def tag_of(body: bytes, *more: str) -> str:
    """The ETag of an answer: the same for the same bytes."""
    return f'"{blake2b(body + repr(more).encode(), digest_size=16).hexdigest()}"'


def _rows(answer: Answer, zone: str, *, is_careful: bool = False) -> list[list[Any]]:
    """The rows in values of JSON; `is_careful`: also such as hold what the encoder refuses."""
    rows = [list(row) for row in answer.rows]
    for place, column in enumerate(answer.columns):
        written = _written(column, zone, is_careful=is_careful)
        if written is not None:
            for row in rows:
                if row[place] is not None:
                    row[place] = written(row[place])
    return rows


def _written(column: AnswerColumn, zone: str, *, is_careful: bool) -> Callable[[Any], Any] | None:
    """How values of `column` become JSON; None: as they are."""
    if column.kind == "timestamp":
        return _moments(column, zone)
    if is_careful:
        return lambda value: msgspec.Raw(str(value).encode()) if _is_long(value) else _plain(value)
    return None


def _moments(column: AnswerColumn, zone: str) -> Callable[[int], str]:
    """How its moments are written, each once."""
    written_in = zone if column.role == "bucket" else "UTC"
    return cache(lambda moment: moment_text(moment, written_in))


def _plain(value: Any) -> Any:
    """A text without what is not a character."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def _is_long(value: Any) -> bool:
    return isinstance(value, int) and not -_MAX_64 <= value < _MAX_64


# -- CSV: RFC 4180


def _csv(answer: Answer, zone: str, *, is_raw: bool) -> bytes:
    header = ",".join(_cell(column.name, is_raw=is_raw) for column in answer.columns)
    columns = [
        _cells(column, values, zone, is_raw=is_raw)
        for column, values in zip(answer.columns, zip(*answer.rows, strict=True), strict=False)
    ]
    return "\r\n".join([header, *map(",".join, zip(*columns, strict=True)), ""]).encode()


def _cells(column: AnswerColumn, values: Sequence[Any], zone: str, *, is_raw: bool) -> list[str]:
    """A column: null is nothing at all, an empty text `""`."""
    match column.kind:
        case "timestamp":
            written: Callable[[Any], str] = _moments(column, zone)
        case "integer" | "float":
            written = str
        case "boolean":
            written = {True: "true", False: "false"}.__getitem__
        case _:
            written = cache(lambda text: _cell(_plain(text), is_raw=is_raw))
    return ["" if value is None else written(value) for value in values]


def _cell(text: str, *, is_raw: bool) -> str:
    """A text. One that a spreadsheet would compute begins with `'`, unless it `is_raw`."""
    said = f"'{text}" if not is_raw and text.startswith(_FORMULA) else text
    is_plain = said and not any(char in said for char in ',"\r\n') and said.strip() == said
    return said if is_plain else f'"{said.replace(chr(34), 2 * chr(34))}"'


# -- Arrow: https://arrow.apache.org/docs/format/Columnar.html


def _arrow(answer: Answer, zone: str, cursor: str | None) -> bytes:
    import pyarrow as pa  # noqa: PLC0415 - large, and only where it is asked for

    kinds = {"integer": pa.int64(), "float": pa.float64(), "boolean": pa.bool_()}
    columns: list[Sequence[Any]] = list(zip(*answer.rows, strict=True)) or [() for _ in answer.columns]
    fields, arrays = [], []
    for column, values in zip(answer.columns, columns, strict=True):
        kind = kinds.get(column.kind, pa.string())
        if column.kind == "timestamp":
            # What 64 bits do not hold in nanoseconds another program has written, and no finer than to microseconds.
            is_far = not all(value is None or FIRST <= value <= LAST for value in values)
            kind = pa.timestamp("us" if is_far else "ns", tz=zone if column.role == "bucket" else "UTC")
            values = [value and value // 1_000 for value in values] if is_far else values  # noqa: PLW2901
        elif column.kind == "integer" and any(map(_is_long, values)):
            kind = pa.float64()
            values = [None if value is None else float(value) for value in values]  # noqa: PLW2901 - what 64 bits hold not
        elif kind == pa.string():
            values = [None if value is None else str(value).encode(errors="replace").decode() for value in values]  # noqa: PLW2901
        fields.append(pa.field(column.name, kind, metadata={"role": column.role, "kind": column.kind}))
        arrays.append(pa.array(values, kind))
    said = {name.lower().replace("-", "_"): value for name, value in completeness(answer, cursor).items()}
    schema = pa.schema(fields, metadata=said)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_batch(pa.record_batch(arrays, schema=schema))
    made: bytes = sink.getvalue().to_pybytes()
    return made
