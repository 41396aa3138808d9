"""A record given back as the model or struct that it was made of: payload, columns and timestamp in one instance.

Exact but for what the record does not hold: what a serializer masked stays masked, what a class excludes is missing,
and a datetime is given to the microsecond.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from pydantic_core import to_json

from eventrec.errors import DecodeError
from eventrec.events.fields import annotated_types
from eventrec.records.column_types import MOMENTS, ColumnType
from eventrec.runtime.decoding import decoder_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import BaseModel

    from eventrec.events.plans import ClassPlan
    from eventrec.records.entry import Record

M = TypeVar("M", bound="BaseModel")
S = TypeVar("S", bound=msgspec.Struct)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_members_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def decode_model(cls: type[M], plan: ClassPlan, record: Record) -> M:
    """The instance of `cls`, a pydantic model class, that `record` was made of.

    Raises:
        DecodeError: `record` is of another type, has not one row, or does not fit the fields of `cls`.
    """
    given = _marked_values(cls, plan, record)
    try:
        said = {name: value for name, value in _members_of(record.payload).items() if name not in _computed(cls)}
        try:
            # As JSON, like the payload: a strict class takes a text for a UUID from there alone.
            bytes_mode = cls.model_config.get("val_json_bytes", "utf8")
            columns = {
                name: msgspec.Raw(to_json(value, bytes_mode=bytes_mode, timedelta_mode="iso8601"))
                for name, value in given.items()
            }
            merged = msgspec.json.encode({**said, **columns})
        except ValueError:  # Bytes that are not text.
            plain = {name: msgspec.json.decode(value) for name, value in said.items()}
            return cls.model_validate({**plain, **given}, by_alias=True, by_name=True)
        return cls.model_validate_json(merged, by_alias=True, by_name=True)
    except (ValueError, RecursionError, msgspec.MsgspecError) as exc:
        raise _refusal(cls, record, exc) from exc


def decode_struct(cls: type[S], plan: ClassPlan, record: Record) -> S:
    """The instance of `cls`, a struct class, that `record` was made of.

    Raises:
        DecodeError: As `decode_model`.
    """
    given = _marked_values(cls, plan, record)
    encoded = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    try:
        payload = record.payload
        if given:
            columns = {encoded[name]: value for name, value in given.items()}
            payload = msgspec.json.encode({**_members_of(payload), **columns})
        return decoder_of(cls).decode(payload)
    except (ValueError, TypeError, RecursionError, msgspec.MsgspecError) as exc:
        raise _refusal(cls, record, exc) from exc


def _marked_values(cls: type[BaseModel | msgspec.Struct], plan: ClassPlan, record: Record) -> Mapping[str, object]:
    """What left the payload, by field: the columns, and the timestamp."""
    if record.type != plan.type:
        raise DecodeError(f"{_called(record)} is of type {record.type!r}: {cls.__name__} is {plan.type!r}")
    if len(record.rows) != 1:
        raise DecodeError(f"{_called(record)} has {len(record.rows)} rows: {cls.__name__} makes one")
    types = annotated_types(cls)
    stored = dict(zip((column.name for column in record.columns), record.rows[0], strict=True))
    given: dict[str, object] = {}
    for field, column in zip(plan.fields.column_fields, plan.fields.columns, strict=True):
        if column.name in stored:
            given[field] = _restored(column.type, stored[column.name], types[field])
    field_of_time = plan.fields.timestamp_field
    if field_of_time is not None:
        given[field_of_time] = _restored(ColumnType.TIMESTAMP_NANOSECOND, record.timestamp, types[field_of_time])
    return given


def _restored(kind: ColumnType, kept: Any, types: frozenset[object]) -> object:
    """The kept form of a value as the application may have given it, to a field of one of `types`."""
    restore = _RESTORED.get(kind)
    if kept is None or restore is None or (isinstance(kept, int) and int in types):
        return kept
    try:
        return restore(kept)
    except OverflowError:  # Beyond what Python's own classes can say.
        return kept


def _moment(unit: int) -> Callable[[int], datetime]:
    return lambda kept: _EPOCH + timedelta(microseconds=kept * unit // 1_000)


def _time(unit: int) -> Callable[[int], time]:
    return lambda kept: (_EPOCH + timedelta(microseconds=kept * unit // 1_000)).time()


def _span(kept: list[int]) -> object:
    months, days, nanoseconds = kept
    return kept if months else timedelta(days=days, microseconds=nanoseconds // 1_000)


_RESTORED: Final[Mapping[ColumnType, Callable[[Any], object]]] = {
    ColumnType.DATE: lambda kept: date(1970, 1, 1) + timedelta(days=kept),
    **{kind: _moment(unit) for kind, unit in MOMENTS.items()},
    ColumnType.TIME_SECOND: _time(1_000_000_000),
    ColumnType.TIME_MILLISECOND: _time(1_000_000),
    ColumnType.TIME_MICROSECOND: _time(1_000),
    ColumnType.TIME_NANOSECOND: _time(1),
    ColumnType.INTERVAL_DAY_TIME: lambda kept: timedelta(milliseconds=kept),
    ColumnType.INTERVAL_MONTH_DAY_NANO: _span,
    ColumnType.DECIMAL128: Decimal,
    ColumnType.JSON: msgspec.json.decode,
    ColumnType.LIST: msgspec.json.decode,
    ColumnType.STRUCT: msgspec.json.decode,
}


def _computed(cls: type[BaseModel]) -> set[str]:
    """Members of the payload that are computed: no field takes them back."""
    return {alias for name, field in cls.model_computed_fields.items() for alias in (name, field.alias) if alias}


def _refusal(cls: type, record: Record, exc: Exception) -> DecodeError:
    return DecodeError(f"{_called(record)} of type {record.type!r} does not fit {cls.__name__}: {exc}")


def _called(record: Record) -> str:
    """One that a destination gave back has no offset."""
    return f"record {record.offset}" if record.offset >= 0 else f"event {record.id}"
