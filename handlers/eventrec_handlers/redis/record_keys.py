"""What of a record decides where it goes: a field of its payload or of its context, else its type.

    device_id, user.id     a field of the payload, at any depth; names are parted by dots
    context:user_id        a field of the context: of the call's, else of the static one
    type                   the type

A record that has no such field goes by its type. The value counts as JSON: a text is taken as its characters, whichever
way it is written; 1 and 1.0 and "1" are three keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from eventrec.bus import SHAPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.bus import Entry

TYPE: Final = "type"

_CONTEXT: Final = "context:"
_ERRORS: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError, UnicodeEncodeError)


def field_reader(path: str) -> Callable[[bytes], object]:
    """What reads the field at `path` out of a JSON object; None: there is none, or null. It decodes nothing else.

    Raises:
        ValueError: It is not a path.
    """
    names = path.split(".")
    if not all(names):
        raise ValueError(f"a path is names of fields, parted by dots, got {path!r}")
    kind: object = object
    for name in reversed(names):
        kind = msgspec.defstruct("Part", [("value", kind, None)], rename={"value": name})
    decode = msgspec.json.Decoder(kind).decode
    depth = len(names)

    def read(text: bytes) -> object:
        try:
            value: object = decode(text)
        except _ERRORS:  # the payload is not an object, or a part of the path is not one
            return None
        for _ in range(depth):
            value = getattr(value, "value", None)
        return value

    return read


class RecordKey:
    """The key of a record by `path`, as bytes."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._is_context = path.startswith(_CONTEXT)
        self._read = None if path == TYPE else field_reader(path.removeprefix(_CONTEXT))

    def __repr__(self) -> str:
        return f"<RecordKey {self.path!r}>"

    def of(self, entry: Entry, static_context: bytes | None = None) -> bytes:
        """The key; the type of the record where it has none."""
        value = text_of(self.value(entry, static_context))
        return (entry[SHAPE].type if value is None else value).encode("utf-8", "surrogatepass")

    def value(self, entry: Entry, static_context: bytes | None = None) -> object:
        """The value; None where it has none."""
        if self._read is None:
            return None
        _, _, payload, context, *_ = entry
        if not self._is_context:
            return self._read(payload)
        value = None if context is None else self._read(context)
        return self._read(static_context) if value is None and static_context is not None else value


def text_of(value: object) -> str | None:
    """A value as text: itself, or JSON; None for None."""
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
