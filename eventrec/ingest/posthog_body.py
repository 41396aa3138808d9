"""What a client of PostHog sends, up to its events: pure functions of values.

    body                                          what it is
    `{"api_key":…,"batch":[…],"sent_at":…}`       a batch
    `{"api_key":…,"event":…,"sent_at":…}`         one event
    `[{"event":…,"properties":{"token":…}},…]`    a batch, as browsers send it
    `data=…` (form-encoded)                       one of these, mostly in Base64, as old clients send it

    the project's key    `api_key`, `token` or `$token` of the body, else of the query; else of the events or of their
                         properties, where all say the same one
    when it was sent     `sent_at` of the body, else of the query, else `_` there, in milliseconds
    compression          gzip: found by its first bytes, whatever is said of it, and unpacked by the caller; Base64:
                         where the query or the form says `compression=base64`, or where form data are not JSON. lz64
                         is not read

`historical_migration` is understood, and not kept: the handler for PostHog says by the age of events what they are.

Sources: posthog-python 7.91 (`request.py`), posthog-js (`request.ts`), the server's `rust/capture`.
"""

from __future__ import annotations

from base64 import b64decode
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

import msgspec

from eventrec.ingest.client_clock import moment
from eventrec.ingest.elements import BodyError, elements_of
from eventrec.ingest.members import NULL, is_null, text_of
from eventrec.ingest.timestamps import nanoseconds
from eventrec.runtime.decoding import decodable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventrec.ingest.timestamps import Unit

FORM: Final = "application/x-www-form-urlencoded"

_FORM_FIELDS: Final = 20
_DATA: Final = b"data="
_JSON: Final = frozenset({b"{", b"["})


@dataclass(frozen=True, slots=True, kw_only=True)
class PostHogBody:
    """A body, of which the events are not looked at yet.

    Attributes:
        key: The project's key, which counts as a token; None: there is none.
        elements: Its events, each the JSON that it is written as.
        sent_at: When the client says that it sent them, in nanoseconds since the epoch.
    """

    key: str | None = field(repr=False)
    elements: list[bytes] = field(repr=False)
    sent_at: int | None = None


class UnreadCompressionError(ValueError):
    """A compression that is not read."""


class _Properties(msgspec.Struct):
    token: msgspec.Raw = NULL
    api_key: msgspec.Raw = NULL


@decodable
class _Keys(msgspec.Struct):
    api_key: msgspec.Raw = NULL
    token: msgspec.Raw = NULL
    dollar_token: msgspec.Raw = msgspec.field(default=NULL, name="$token")


class _Envelope(_Keys):
    batch: msgspec.Raw = NULL
    sent_at: msgspec.Raw = NULL


class _OfEvent(_Keys):
    properties: msgspec.Raw = NULL


_envelope: Final = msgspec.json.Decoder(_Envelope).decode
_of_event: Final = msgspec.json.Decoder(_OfEvent).decode
_of_properties: Final = msgspec.json.Decoder(_Properties).decode


def is_gzip(text: bytes) -> bool:
    """Whether `text` is packed with gzip: some clients say so in the query alone, or not at all."""
    return text[:2] == b"\x1f\x8b"


def unwrapped(text: bytes, *, query: Mapping[str, str], media_type: str = "") -> bytes:
    """What a form holds, or Base64 stands for; `text` itself where it is neither. It may be gzip.

    `query` is that of the request; `media_type` has no parameters, and is in lower case.

    Raises:
        BodyError: It is a form without data, or not Base64.
        UnreadCompressionError: It is compressed in a way that is not read.
    """
    compression = query.get("compression", "")
    is_form = text[:5] == _DATA or (media_type == FORM and text.lstrip()[:1] not in _JSON)
    if is_form:
        text, said = _data_of(text)
        compression = said or compression
    if compression.startswith("lz"):
        raise UnreadCompressionError("lz-string is not read: gzip and Base64 are")
    text = text.strip()
    return _of_base64(text) if text[:1] not in _JSON and (is_form or compression == "base64") else text


def posthog_body(text: bytes, *, query: Mapping[str, str], max_elements: int) -> PostHogBody:
    """What `text` is, which is not packed in anything, with the `query` of its request.

    Raises:
        BodyError: It is not one of those in the table.
        BodyTooLargeError: It has more than `max_elements` events.
    """
    text = text.strip()
    if text[:1] == b"[":
        envelope, elements = _Envelope(), elements_of(text, limit=max_elements)
    elif text[:1] == b"{":
        envelope = _decoded(text)
        elements = [text] if is_null(envelope.batch) else elements_of(envelope.batch, limit=max_elements)
    else:
        raise BodyError("not JSON: an object or an array is expected")
    key = _key_of(envelope) or query.get("api_key") or query.get("token") or _key_in(elements)
    return PostHogBody(key=key, elements=elements, sent_at=_sent_at(envelope, query))


def _decoded(text: bytes) -> _Envelope:
    try:
        return _envelope(text)
    except RecursionError as exc:
        raise BodyError("nested too deeply") from exc
    except msgspec.DecodeError as exc:
        raise BodyError(f"not JSON: {exc}") from exc


# -- what it is packed in


def _data_of(form: bytes) -> tuple[bytes, str]:
    """What a form holds as `data`, and what it says of its compression."""
    try:
        fields = parse_qs(form, max_num_fields=_FORM_FIELDS)
    except ValueError as exc:
        raise BodyError("a form that cannot be read") from exc
    if b"data" not in fields:
        raise BodyError("the form has no field 'data'")
    return fields[b"data"][0], fields.get(b"compression", [b""])[0].decode(errors="replace")


def _of_base64(text: bytes) -> bytes:
    # A form that was encoded too little has spaces for its plus signs, and no padding.
    packed = text.replace(b" ", b"+")
    try:
        return b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except ValueError as exc:
        raise BodyError("neither JSON nor Base64") from exc


# -- what it says of itself


def _key_of(keys: _Keys) -> str | None:
    return next(filter(None, map(_text, (keys.api_key, keys.token, keys.dollar_token))), None)


def _text(raw: msgspec.Raw) -> str | None:
    try:
        return text_of(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BodyError("the project's key is not Unicode") from exc


def _key_in(elements: list[bytes]) -> str | None:
    """The key that all of `elements` say, or do not say."""
    found = {key for element in elements for key in _keys_in(element)}
    if len(found) > 1:
        raise BodyError("its events are of several projects")
    return next(iter(found), None)


def _keys_in(element: bytes) -> Iterator[str]:
    try:
        said = _of_event(element)
        own = _key_of(said)
        if own is None and bytes(said.properties)[:1] == b"{":
            inner = _of_properties(said.properties)
            own = _text(inner.token) or _text(inner.api_key)
    except (msgspec.DecodeError, RecursionError):
        return
    if own:
        yield own


def _sent_at(envelope: _Envelope, query: Mapping[str, str]) -> int | None:
    said = moment(envelope.sent_at)
    if said is not None:
        return said
    units: tuple[tuple[str, Unit], ...] = (("sent_at", "auto"), ("_", "ms"))
    for name, unit in units:
        if name in query:
            with suppress(ValueError):
                return nanoseconds(query[name], unit)
    return None
