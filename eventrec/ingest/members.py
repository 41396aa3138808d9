"""The members of a JSON object as the bytes they are, and what one of them says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

decode_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
"""The members of a JSON object; raises msgspec.DecodeError. Of equal names the last one counts."""

NULL: Final = msgspec.Raw(b"null")
"""What a member is that is not there. A field of a Struct cannot be `Raw | None`: msgspec would decode None alone."""

_text: Final = msgspec.json.Decoder(str).decode
encode_members: Final[Callable[[Mapping[str, msgspec.Raw]], bytes]] = msgspec.json.Encoder().encode
"""A JSON object of these members; their values keep their bytes."""


def text_of(raw: msgspec.Raw | None) -> str | None:
    """The text that `raw` is; None where it is something else."""
    return _text(raw) if raw is not None and bytes(raw)[:1] == b'"' else None


def is_number(raw: msgspec.Raw) -> bool:
    """Whether `raw` is a JSON number."""
    return bytes(raw)[:1] in b"-0123456789"


def integer_of(raw: msgspec.Raw | None) -> int | None:
    """The number that `raw` is, if it is written as an integer that 64 bits with a sign hold; else None."""
    if raw is None or not is_number(raw):
        return None
    written = bytes(raw)
    if len(written) > 20 or not written.removeprefix(b"-").isdigit():  # noqa: PLR2004 - digits of 2^63, and a sign
        return None
    value = int(written)
    return value if -(2**63) <= value < 2**63 else None


def is_null(raw: msgspec.Raw | None) -> bool:
    """Whether `raw` is null, or not there."""
    return raw is None or bytes(raw) == b"null"


def object_without(members: Mapping[str, msgspec.Raw], taken: Collection[str]) -> bytes:
    """A JSON object of `members` but those that are `taken`; their values keep their bytes."""
    return encode_members({name: raw for name, raw in members.items() if name not in taken})


def repeats_names(text: bytes, members: Mapping[str, msgspec.Raw]) -> bool:
    """Whether a name stands several times in the JSON object `text`, of which `members` were decoded.

    Only its own names, not those of objects inside it.
    """
    count = len(members)
    if not any(blanks in text for blanks in _BEFORE_COLON):
        # Each name has one of these behind it, and so have those of the objects inside.
        inside = sum(bytes(raw).count(b'":') for raw in members.values() if bytes(raw)[:1] in {b"{", b"["})
        if text.count(b'":') - inside == count:
            return False
    if encode_members(members) == text:
        return False
    try:
        written: Any = _count_names(text.decode())
    except (ValueError, RecursionError):
        return True
    return bool(written != count)


_BEFORE_COLON: Final = (b'" :', b'"  ', b'" \t', b'" \n', b'" \r', b'"\t', b'"\n', b'"\r')
"""One of these stands in a text where a name has blanks behind it."""
_count_names: Final = json.JSONDecoder(object_pairs_hook=len, parse_int=len, parse_float=len).decode
"""How many names an object has, whatever is in it."""
