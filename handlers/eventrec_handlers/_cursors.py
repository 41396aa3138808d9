"""Cursors of readers as text: JSON of a struct, read back as the kind that is expected."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)


class CursorText:
    """The cursors of the reader called `reader`, which are of these kinds, told apart by their tags.

    For the module of a reader: decoders are made before there are threads, since where two of them decode a class
    first, at once, msgspec ends the process.
    """

    def __init__(self, reader: str, *kinds: type[msgspec.Struct]) -> None:
        self._reader = reader
        self._decoders: dict[type[msgspec.Struct], msgspec.json.Decoder[Any]] = {
            kind: msgspec.json.Decoder(kind) for kind in kinds
        }

    def __repr__(self) -> str:
        return f"<CursorText of {self._reader}>"

    def encoded(self, cursor: msgspec.Struct) -> str:
        """It as text."""
        return msgspec.json.encode(cursor).decode()

    def decoded(self, cursor: str, kind: type[T]) -> T:
        """What `encoded` has made a text of.

        Raises:
            ValueError: It is not that, or of another kind.
        """
        try:
            found: T = self._decoders[kind].decode(cursor)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as exc:
            raise ValueError(f"not a cursor of a {self._reader}: {exc}") from exc
        return found
