"""A batch as one request of OTLP's logs: what of an event goes where.

    type                    the record's event name
    timestamp               its time and observed time, to the nanosecond; before 1970, and at its first instant, which
                            OTLP cannot say: attribute `eventrec.time_unix_nano`
    payload                 its body: object, list, text, number …; where OTLP cannot say it exactly (an integer of more
                            than 64 bit, a number no double is equal to, more than 24 levels, half a surrogate pair),
                            or where the user asks for it, the JSON text, with the attribute `eventrec.body` = "json"
    payload's `level`       its severity, where it is a text that names one, as those of logged events do; else INFO
    id                      attribute `log.record.uid`; the same at every attempt
    table                   attribute `eventrec.table`
    extra columns           attributes of their names; None is left out; integers beyond 63 bit are texts, JSON, lists
                            and structs are values, the rest is in the plain form of `eventrec.records.normalizers`
    context's `service`,
      `host`, `environment` the resource's `service.name`, `host.name`, `deployment.environment.name`
    context's `trace_id`,
      `span_id`             the record's, where they are 32 and 16 hexadecimal digits
    context, the rest       attributes of their names

An attribute whose name is taken gets `column.` or `context.` before it. An event of several rows is as many records,
which differ in `log.record.uid` and their columns. The records keep the order of the log.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, get_args

from eventrec.otlp_names import INFO, JSON_BODY, RESOURCE, SEVERITIES, TABLE, TIME, UID, UNKNOWN_SERVICE
from eventrec_handlers._rows import BASE, columns_in, fault_of, in_slices, refuse
from eventrec_handlers.otlp.encodings import Group, Said
from eventrec_handlers.otlp.values import column_value, context_members, json_value
from eventrec_handlers.otlp.wire import InexactError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventrec import Batch, RowInsertRequest
    from eventrec_handlers.otlp.encodings import Encoding

OTLPBody: TypeAlias = Literal["map", "json"]
BODIES: Final[tuple[OTLPBody, ...]] = get_args(OTLPBody)

_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}", re.IGNORECASE)
_SPAN_ID: Final = re.compile(r"(?!0{16})[0-9a-f]{16}", re.IGNORECASE)


class Request(NamedTuple):
    """A request's body, and how many log records it holds."""

    body: bytes
    size: int


Resource: TypeAlias = "tuple[tuple[str, str], ...]"


class _Context(NamedTuple):
    """What a context says, in its places."""

    resource: Resource
    attributes: Any
    trace_id: bytes
    span_id: bytes


class Requests:
    """Makes requests of batches: in `encoding`, payloads as `body` says, of eventrec in `version`."""

    def __init__(self, encoding: Encoding, *, body: OTLPBody, version: str) -> None:
        self._encoding = encoding
        self._wants_text = body == "json"
        self._version = version
        self._context_of = lru_cache(maxsize=256)(self._read_context)

    async def request_of(self, batch: Batch) -> Request:
        """The request that delivers `batch`.

        Raises:
            PermanentError: Payloads are not JSON; names each of those records.
        """
        refused: dict[int, str] = {}
        rows = await in_slices(row for each in batch.row_inserts() for row in self._records(each, refused))
        refuse(refused, batch, what="log records")
        rows.sort(key=lambda row: row[0])  # they come shape by shape; rows of one record keep their order
        groups = (
            Group(dict(resource), [record for _, _, record in part])
            for resource, part in groupby(rows, key=lambda row: row[1])
        )
        return Request(self._encoding.request(groups, version=self._version), len(rows))

    def _records(self, request: RowInsertRequest, refused: dict[int, str]) -> Iterator[tuple[int, Resource, Any]]:
        """Offset, resource and log record of each row; why others cannot be one goes into `refused`."""
        attributes_of = self._encoding.attributes
        has_context, extra = columns_in(request)
        names = _free_names([column.name for column in extra], _FIXED, "column.")
        taken = _FIXED | frozenset(names)
        of_table = attributes_of([(TABLE, request.table)])
        for offset, row in zip(request.offsets, request.rows, strict=True):
            id_, event, timestamp, payload = row[:BASE]
            try:
                value, body, is_text = self._body_of(payload)
            except ValueError as exc:
                refused.setdefault(offset, f"{exc}")
                continue
            context = self._context_of(row[BASE] if has_context else None, taken)
            attributes = attributes_of([(UID, id_)]) + of_table + context.attributes
            if extra:
                attributes += attributes_of(
                    (name, column_value(column.type, held))
                    for name, column, held in zip(names, extra, row[BASE + has_context :], strict=True)
                    if held is not None
                )
            if is_text:
                attributes += attributes_of([(JSON_BODY, "json")])
            if timestamp <= 0:
                attributes += attributes_of([(TIME, timestamp)])
            severity, level = _severity_of(value)
            said = Said(max(timestamp, 0), event, severity, level, context.trace_id, context.span_id)
            yield offset, context.resource, self._encoding.record(said, body, attributes)

    def _body_of(self, payload: bytes) -> tuple[Any, Any, bool]:
        """What `payload` says, the body for it, and whether that is its text.

        Raises:
            ValueError: It is not JSON.
        """
        try:
            value = json_value(payload)
            return value, self._encoding.value(payload.decode() if self._wants_text else value), self._wants_text
        except InexactError:
            why = fault_of(payload)
            if why is not None:
                raise ValueError(why) from None
            return None, self._encoding.value(payload.decode()), True

    def _read_context(self, context: bytes | None, taken: frozenset[str]) -> _Context:
        members = {} if context is None else context_members(context)
        resource = {RESOURCE["service"]: UNKNOWN_SERVICE}
        for name, known in RESOURCE.items():
            if isinstance(members.get(name), str):
                resource[known] = members.pop(name)
        trace_id = _hexadecimal(members, "trace_id", _TRACE_ID)
        span_id = _hexadecimal(members, "span_id", _SPAN_ID)
        named = zip(_free_names(list(members), taken, "context."), members.values(), strict=True)
        attributes = self._encoding.attributes((name, value) for name, value in named if value is not None)
        return _Context(tuple(resource.items()), attributes, trace_id, span_id)


def _severity_of(value: Any) -> tuple[int, str]:
    """Number and text of the severity that a payload names."""
    level = value.get("level") if type(value) is dict else None
    number = SEVERITIES.get(level.lower()) if type(level) is str else None
    return (INFO, "") if number is None else (number, str(level))


def _hexadecimal(members: dict[str, Any], name: str, form: re.Pattern[str]) -> bytes:
    """The member `name`, taken out, where it has that form."""
    value = members.get(name)
    if not isinstance(value, str) or form.fullmatch(value) is None:
        return b""
    return bytes.fromhex(members.pop(name))


_FIXED: Final = frozenset({UID, TABLE, TIME, JSON_BODY})


def _free_names(names: list[str], taken: frozenset[str], prefix: str) -> list[str]:
    """`names`, each behind as many `prefix` as it takes to be different from `taken` and from the others."""
    free: list[str] = []
    others = taken | frozenset(names)
    for name in names:
        found = name
        while found in taken or (found != name and (found in others or found in free)):
            found = prefix + found
        free.append(found)
    return free
