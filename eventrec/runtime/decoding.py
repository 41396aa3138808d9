"""Decoders of structs, made by one thread at a time.

msgspec finds out what a class is made of when it is decoded first. Where two threads do that at once, one reads what
the other has half made, and the process ends with a segmentation fault.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from eventrec.runtime.native import allocate_lock

_S = TypeVar("_S", bound=msgspec.Struct)
_C = TypeVar("_C", bound=type[msgspec.Struct])

_PATIENCE: Final = 1.0
"""Seconds, far more than it takes: in the child of a fork the lock may be held by a thread that is not there."""

_making: Final = allocate_lock()


def decodable(cls: _C) -> _C:
    """`cls`, which any thread may decode from here on. For every struct of ours that is decoded."""
    decoder_of(cls)
    return cls


def decoder_of(cls: type[_S]) -> msgspec.json.Decoder[_S]:
    """A decoder of `cls`, from any thread."""
    is_held = _making.acquire(timeout=_PATIENCE)
    try:
        return msgspec.json.Decoder(cls)
    finally:
        if is_held:
            _making.release()
