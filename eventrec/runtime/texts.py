"""Texts that UTF-8 can hold: a byte of a file name that is not UTF-8 is a lone surrogate, which nothing encodes."""

from __future__ import annotations

from typing import Any

import msgspec


def encodable(text: str) -> str:
    r"""`text` with its lone surrogates written out, as \udcff."""
    # Of `str` itself, since `text` may be of a class of the application's.
    return str.encode(text, "utf-8", "backslashreplace").decode()


def encoded_json(value: Any) -> bytes:
    """`value` as JSON, in whose texts and keys lone surrogates are written out, at any depth of structs and containers.

    Raises:
        TypeError: Something in it cannot be JSON.
    """
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return msgspec.json.encode(_spelled(value))


def _spelled(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {_spelled(key): _spelled(each) for key, each in value.items()}
    if isinstance(value, msgspec.Struct):
        # As a struct, it keeps the names of its members, and what it leaves out.
        members = {name: _spelled(getattr(value, name)) for name in value.__struct_fields__}
        return msgspec.structs.replace(value, **members)
    if isinstance(value, tuple):
        return tuple(map(_spelled, value))
    return list(map(_spelled, value)) if isinstance(value, list | set | frozenset) else value
