"""The elements of a JSON array, and the members of each: as the bytes they are, in bounds."""

from __future__ import annotations

import re
from hashlib import sha1
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from eventrec.ingest.members import decode_members
from eventrec.ingest.received import EventTooLargeError, LineError
from eventrec.records.entry import OVERHEAD_BYTES, entry_size

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from eventrec.events.event import ReceivedEvent

_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]', re.DOTALL)
_array: Final[Callable[[bytes | msgspec.Raw], list[msgspec.Raw]]] = msgspec.json.Decoder(list[msgspec.Raw]).decode

TOO_MUCH: Final = "the events of the request are too large together"
"""Why an event is not taken, where those before it were all that one request may hold."""


class BodyError(ValueError):
    """A body as a whole cannot be read: says why. Nothing of its values is in it."""


class BodyTooLargeError(BodyError):
    """A body has, or unpacks to, more than is allowed."""


def elements_of(array: bytes | msgspec.Raw, *, limit: int) -> list[bytes]:
    """The elements of the JSON array `array`, of which there may be `limit`.

    What it takes is in proportion to `limit` and to the bytes of `array`, whatever stands in it.

    Raises:
        BodyError: It is not JSON, or not an array; or it has an element that is not an object, where that was looked
            at before they were known to be few.
        BodyTooLargeError: It has more than `limit`.
    """
    text = bytes(array)
    try:
        if text.count(b",") >= limit:
            _count(text, limit)
        return [bytes(each) for each in _array(text)]
    except RecursionError as exc:
        raise BodyError("nested too deeply") from exc
    except msgspec.ValidationError as exc:
        raise BodyError("an array of objects is expected") from exc
    except msgspec.DecodeError as exc:
        raise BodyError(f"not JSON: {exc}") from exc


def members_of(element: bytes, *, max_bytes: int, max_depth: int) -> dict[str, msgspec.Raw]:
    """The members of an element, which is to become an event of `max_bytes`.

    Raises:
        EventTooLargeError: It is so large that no event of that size can be in it.
        LineError: It is not a JSON object in UTF-8, or nested deeper than `max_depth`.
    """
    if len(element) > 2 * max_bytes:
        raise EventTooLargeError(len(element) + OVERHEAD_BYTES, max_bytes)
    try:
        if not element.isascii():
            element.decode()
        members = decode_members(element)
    except UnicodeDecodeError as exc:
        raise LineError(f"not UTF-8: {exc.reason} at byte {exc.start}") from exc
    except RecursionError as exc:
        raise LineError("nested too deeply") from exc
    except msgspec.ValidationError as exc:
        raise LineError("not a JSON object") from exc
    except msgspec.DecodeError as exc:
        raise LineError(f"not JSON: {exc}") from exc
    if is_deeper(element, max_depth):
        raise LineError(f"nested deeper than {max_depth} levels")
    return members


def is_deeper(text: bytes, limit: int) -> bool:
    """Whether the JSON `text` is nested deeper than `limit` levels."""
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    depth = 0
    for match in _TOKEN.finditer(text):
        match text[match.start()]:
            case 0x5B | 0x7B:
                depth += 1
                if depth > limit:
                    return True
            case 0x5D | 0x7D:
                depth -= 1
    return False


def stable_id(namespace: UUID, *parts: bytes) -> bytes:
    """A UUIDv5 of `parts`, which are told apart: the same for the same ones."""
    digest = sha1(namespace.bytes, usedforsecurity=False)
    for part in parts:
        digest.update(b"%d\0" % len(part))
        digest.update(part)
    return UUID(bytes=digest.digest()[:16], version=5).bytes


def id_of_bytes(namespace: UUID, text: bytes, equal: Counter[bytes]) -> bytes:
    """The stable id of `text`, of which `equal` has counted how many came before; it is counted too."""
    id_ = stable_id(namespace, b"bytes", text)
    equal[id_] += 1
    return id_ if equal[id_] == 1 else stable_id(namespace, id_, b"%d" % equal[id_])


def _count(text: bytes, limit: int) -> None:
    """Raise BodyTooLargeError where `text` has more than `limit` elements: before a list of them is made."""
    seen = count()

    class _Element(msgspec.Struct):
        """Skips what an element holds, and is counted."""

        def __post_init__(self) -> None:
            if next(seen) >= limit:
                raise _EnoughError

    elements: Any = list[_Element]
    try:
        msgspec.json.decode(text, type=elements)
    except _EnoughError as exc:
        raise BodyTooLargeError(f"more than {limit:,} elements") from exc


class _EnoughError(Exception):
    """There are more elements than are allowed."""


class Total:
    """What the events of one request may have together: `max_total_bytes`, each of them `max_event_bytes`."""

    def __init__(self, max_event_bytes: int, max_total_bytes: int) -> None:
        self._longest = max_event_bytes
        self._left = max_total_bytes

    @property
    def is_spent(self) -> bool:
        """Whether no further one is taken."""
        return self._left < 0

    def counted(self, event: ReceivedEvent) -> ReceivedEvent | LineError:
        """`event`, counted in; or why it is refused."""
        size = entry_size(event.payload, event.context)
        self._left -= size
        if size > self._longest:
            return EventTooLargeError(size, self._longest)
        return LineError(TOO_MUCH) if self.is_spent else event
