"""What is known around an event: fields of the running task, and the static ones of the process."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

import msgspec

from eventrec.records.json import encode_json

if TYPE_CHECKING:
    from collections.abc import Iterator


class ContextFields:
    """The fields that `recorder.context(…)` adds to every event recorded inside it, per task and thread."""

    def __init__(self) -> None:
        self._fields: ContextVar[dict[str, object] | None] = ContextVar("eventrec.events.fields", default=None)
        self._encoded: ContextVar[bytes | None] = ContextVar("eventrec.encoded", default=None)
        self.encoded = self._encoded.get
        """The current fields as the bytes of a JSON object; None where there are none."""

    @contextmanager
    def bound(self, fields: dict[str, object]) -> Iterator[None]:
        """Add `fields` inside the block; an inner value hides an outer one of the same name.

        Raises:
            EncodeError: A value is not a JSON value.
        """
        merged = {**(self._fields.get() or {}), **fields}
        encoded = encode_json(merged) if merged else None
        before = self._fields.set(merged)
        before_encoded = self._encoded.set(encoded)
        try:
            yield
        finally:
            self._encoded.reset(before_encoded)
            self._fields.reset(before)


def encoded_fields(**fields: object) -> bytes | None:
    """The fields that are not None, as the bytes of a JSON object; None where there are none."""
    given = {name: value for name, value in fields.items() if value is not None}
    return encode_json(given) if given else None


def merged_context(static: bytes | None, of_call: bytes | None) -> bytes | None:
    """One JSON object of the static fields and those of the call; the call's hide the static ones."""
    if static is None or of_call is None:
        return of_call or static
    return msgspec.json.encode({**_fields_of(static), **_fields_of(of_call)})


# Values stay the bytes they are: integers of any size pass, and nothing is decoded that need not be.
_fields_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
