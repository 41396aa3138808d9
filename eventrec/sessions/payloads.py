"""Payloads with other members than they came with: the rest of them stays as it is, byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

encode: Final = msgspec.json.Encoder().encode
members_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def with_members(payload: bytes, members: Mapping[str, bytes]) -> bytes:
    """The JSON object `payload` with these members (JSON), which stand for those of the same names.

    Raises:
        ValueError: It is not an object, or cannot be read; RecursionError where it is nested too deep.
    """
    text = payload.strip()
    if b"\\u" in text or any(b'"%b"' % name.encode() in text for name in members):
        return encode({**members_of(text), **{name: msgspec.Raw(value) for name, value in members.items()}})
    # No name of theirs stands anywhere in it, so no member has one: appended without a look at the rest.
    if text[:1] != b"{" or text[-1:] != b"}":
        raise ValueError("not a JSON object")
    head = text[:-1].rstrip()
    added = b",".join(b'"%b":%b' % (name.encode(), value) for name, value in members.items())
    return b"%b%b%b}" % (head, b"" if head == b"{" else b",", added)


def with_session(payload: bytes, member: bytes, old: bytes, new: bytes) -> bytes:
    """The JSON object `payload`, of which `member` has the value `old`, with `new` instead; all of them JSON texts.

    An `old` that is the empty text may also not be there.

    Raises:
        ValueError: As `with_members`.
    """
    count = payload.count(member)
    if not count and payload[:1] == b"{" and payload[-1:] == b"}" and payload[-2:-1] != b"{" and b"\\u" not in payload:
        return b"%b,%b:%b}" % (payload[:-1], member, new)
    if count == 1 and old != _EMPTY and b"\\u" not in payload:
        written = b"%b:%b" % (member, old)
        # The member that was read has a value, and is the only one of its name anywhere: it is this one.
        if payload.count(written) == 1:
            return payload.replace(written, b"%b:%b" % (member, new))
    return with_members(payload, {member[1:-1].decode(): new})


_EMPTY: Final = b'""'


def with_flat_properties(payload: bytes) -> bytes:
    """The JSON object `payload` with flat `properties`, see `flattened`; itself where there is nothing to do."""
    if b'"properties"' not in payload and b"\\u" not in payload:
        return payload
    try:
        members = members_of(payload)
        properties = members.get("properties")
        value = None if properties is None else _value_of(properties)
    except _UNREADABLE:
        return payload
    if not isinstance(value, dict | list) or (isinstance(value, dict) and all(map(_is_text, value.values()))):
        return payload
    members["properties"] = msgspec.Raw(encode(flattened(value)))
    return encode(members)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


_value_of: Final = msgspec.json.Decoder().decode
_UNREADABLE: Final = (ValueError, RecursionError)


def flattened(value: Any, prefix: str = "") -> dict[str, str]:
    """The values of nested objects and arrays as texts, by their paths with dots: `{"a": {"b": [1]}}` is `a.b.0`.

    Null is left out; true and false are written as in JSON.
    """
    flat: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = [(prefix, value)]
    while waiting:
        path, found = waiting.pop()
        match found:
            case dict():
                waiting += [(f"{path}.{name}" if path else str(name), inner) for name, inner in reversed(found.items())]
            case list() | tuple():
                numbered = [(f"{path}.{i}" if path else str(i), inner) for i, inner in enumerate(found)]
                waiting += reversed(numbered)
            case None:
                pass
            case str():
                flat[path] = found
            case _:
                flat[path] = encode(found).decode()
    return flat
