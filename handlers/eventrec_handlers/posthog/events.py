"""A record as one event of PostHog's: bytes of JSON, without decoding more of a payload than its first level.

type of the record    kind                   event         properties                        `$set`
`$identify`           Identify               `$identify`   context                           payload and columns
`$set`                SetPersonProperties    `$set`        `{"$set": payload and columns}`
any other             Append                 the type      context, payload and columns

distinct_id   the context's field of that name (or another one that is named), text or a whole number; else the
              handler's own; else the event belongs to no person: its uuid stands for one, and
              `$process_person_profile` is false. Identify and SetPersonProperties must have one.
session_id    the context's field of that name is a property of Append and Identify, whatever else is called so
context       its other fields are properties of Append and Identify, where the event has none of that name
posthog_kind  in the context: the kind, in spite of the type; it is not sent
payload       the members of an object are properties; anything else is the property `payload`; of a person's
              properties it is an object, or null where there are none
columns       properties by their names, in the forms of JSON Lines files, where the payload has none of that name;
              those without a value are left out
table         a property, where it is not "events" and the event has no property of that name
timestamp     RFC 3339 with nanoseconds, UTC
uuid          the id of the row, where its version and variant are those of a UUID (RFC 9562), since PostHog drops an
              event whose uuid is not one; else UUIDv5 of the id in `NAMESPACE`

A record of several rows is several events.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

import msgspec

from eventrec_handlers._rows import BASE, columns_in, columns_of, second_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventrec import ColumnSchema, RowInsertRequest

NAMESPACE: Final = UUID("0d2f8f0a-93a5-5c5e-a4f1-3f2c7f0c6f2b")
"""Of uuids derived from ids. A constant: changing it would give old records new uuids."""

APPEND: Final = "Append"
IDENTIFY: Final = "Identify"
SET: Final = "SetPersonProperties"

PROFILE: Final = "$process_person_profile"
"""The property by which an event says whether its distinct id is a person's."""

_KIND_OF_TYPE: Final = {"$identify": IDENTIFY, "$set": SET}
_NAMES: Final = {IDENTIFY: b'"$identify"', SET: b'"$set"'}
_EVENTS_TABLE: Final = "events"
_SESSION: Final = "session_id"
_KIND: Final = "posthog_kind"
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_INTEGER: Final = re.compile(rb"-?[0-9]{1,40}")

_encode: Final = msgspec.json.Encoder().encode
_members_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_check: Final = msgspec.json.Decoder(msgspec.Raw).decode
_text: Final = msgspec.json.Decoder(str).decode


class UnsendableError(Exception):
    """A record cannot be an event: says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Persons:
    """Where it stands whose an event is: in the context's `field`, else it is `default`'s."""

    field: str = "distinct_id"
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Sendable:
    """A row as an event. All but `offset`, `timestamp` and `uuid` are JSON text.

    `properties` are the members of an object, without its braces, with a comma between them; so is `person`: what is
    set on the person. `is_personless`: the distinct id is not a person's, and that has to be said.
    """

    offset: int
    timestamp: int
    kind: str
    name: bytes
    uuid: str
    distinct_id: bytes
    is_personless: bool
    properties: bytes
    person: bytes


@dataclass(frozen=True, slots=True)
class _Around:
    """What a context says."""

    distinct_id: bytes | None = None
    session: bytes | None = None
    kind: str | None = None
    others: Mapping[str, bytes] = field(default_factory=dict)
    """By name: the member as it is written."""


def sendables(request: RowInsertRequest, persons: Persons, refused: dict[int, str]) -> Iterator[Sendable]:
    """The events of `request`; why a record cannot be one goes into `refused`, by its offset."""
    has_context, extra = columns_in(request)
    shape = _Shape(request, persons, extra)
    known: dict[bytes | None, _Around] = {}
    for offset, row in zip(request.offsets, request.rows, strict=True):
        context = row[BASE] if has_context else None
        try:
            around = known.get(context)
            if around is None:
                around = known[context] = _around(context, persons)
            yield shape.sendable(offset, row, around, row[BASE + has_context :])
        except UnsendableError as exc:
            refused.setdefault(offset, str(exc))


class _Shape:
    """What the rows of a request share."""

    def __init__(self, request: RowInsertRequest, persons: Persons, extra: tuple[ColumnSchema, ...]) -> None:
        self._kind = _KIND_OF_TYPE.get(request.type, APPEND)
        self._name = _encode(request.type)
        self._extra = extra
        self._default = None if persons.default is None else _encode(persons.default)
        self._table = b"" if request.table == _EVENTS_TABLE else b'"table":' + _encode(request.table)

    def sendable(self, offset: int, row: tuple[Any, ...], around: _Around, values: tuple[Any, ...]) -> Sendable:
        kind = around.kind or self._kind
        uuid = uuid_of(row[0])
        distinct_id = around.distinct_id or self._default
        if distinct_id is None and kind != APPEND:
            raise UnsendableError(
                f"{_NAMES[kind].decode()} says something of a person, and not of which: no distinct id"
            )
        members, own = _own(row[3], is_person=kind != APPEND)
        parts = [own] if own else []
        if self._extra:
            parts += self._columns(members, values)
        properties, person = self._around(around, members, parts, kind)
        return Sendable(
            offset=offset,
            timestamp=row[2],
            kind=kind,
            name=_NAMES.get(kind, self._name),
            uuid=uuid,
            distinct_id=distinct_id or b'"%b"' % uuid.encode(),
            is_personless=distinct_id is None and not _says_profile(around, members),
            properties=properties,
            person=person,
        )

    def _columns(self, members: dict[str, msgspec.Raw], values: tuple[Any, ...]) -> Iterator[bytes]:
        for name, value in columns_of(self._extra, values).items():
            if value is None or name in members:
                continue
            json = _encode(value)
            members[name] = msgspec.Raw(json)
            yield _encode(name) + b":" + json

    def _around(
        self, around: _Around, members: dict[str, msgspec.Raw], parts: list[bytes], kind: str
    ) -> tuple[bytes, bytes]:
        """The properties of the event, and those of the person."""
        person = b""
        if kind != APPEND:
            person, parts, members = b",".join(parts), [], {}
            if kind == SET:
                return b"", person
        if around.session is not None and _SESSION in members:
            kept = {name: value for name, value in members.items() if name != _SESSION}
            parts = [_encode(kept)[1:-1]] if kept else []
        parts += [member for name, member in around.others.items() if name not in members]
        if self._table and "table" not in members and "table" not in around.others:
            parts.append(self._table)
        if around.session is not None:
            parts.append(b'"session_id":' + around.session)
        return b",".join(parts), person


def _says_profile(around: _Around, members: Mapping[str, object]) -> bool:
    return PROFILE in members or PROFILE in around.others


def uuid_of(id_: str) -> str:
    """A valid UUID for `id_`, always the same."""
    return id_ if _UUID.fullmatch(id_) is not None else str(uuid5(NAMESPACE, id_))


def rfc3339(nanoseconds: int) -> str:
    """The moment, so many nanoseconds after the epoch, UTC."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{second_text(seconds)}.{rest:09d}Z" if rest else f"{second_text(seconds)}Z"


def _own(payload: bytes, *, is_person: bool) -> tuple[dict[str, msgspec.Raw], bytes]:
    """The members of a payload, and the same as bytes without braces.

    Raises:
        UnsendableError: It is not JSON, since nothing has looked at a received one before; or it must say something of
            a person, and is not an object.
    """
    try:
        payload.decode()
        text = payload.strip(b" \t\r\n")
        if text[:1] != b"{":
            _check(text)
            if is_person:
                return _no_properties(text)
            return {"payload": msgspec.Raw(text)}, b'"payload":' + text
        return _members_of(text), text[1:-1].strip(b" \t\r\n")
    except RecursionError as exc:
        raise UnsendableError("its payload is nested too deeply") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise UnsendableError(f"its payload is not JSON: {exc}") from exc


def _no_properties(text: bytes) -> tuple[dict[str, msgspec.Raw], bytes]:
    if text != b"null":
        raise UnsendableError("its payload must be an object: the properties of a person")
    return {}, b""


def _around(context: bytes | None, persons: Persons) -> _Around:
    """What `context` says.

    Raises:
        UnsendableError: It is not an object, or who it names cannot be a person.
    """
    if context is None:
        return _Around()
    try:
        context.decode()
        fields = _members_of(context)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UnsendableError(f"its context is not a JSON object: {exc}") from exc
    said = {name: bytes(raw) for name, raw in fields.items()}
    kind = said.pop(_KIND, b"")
    session = said.pop(_SESSION, b"null")
    return _Around(
        distinct_id=_person(said.pop(persons.field, b"null"), persons.field),
        session=None if session == b"null" else session,
        kind=next((each for each in (APPEND, IDENTIFY, SET) if kind == b'"%b"' % each.encode()), None),
        others={name: _encode(name) + b":" + value for name, value in said.items()},
    )


def _person(raw: bytes, name: str) -> bytes | None:
    """A distinct id as JSON text; None where there is none."""
    if raw == b"null":
        return None
    if _INTEGER.fullmatch(raw) is not None:
        return b'"%b"' % raw
    if raw[:1] != b'"' or not _text(raw).strip():
        raise UnsendableError(f"the field {name!r:.60} of its context must be a text or a whole number to be a person")
    return raw
