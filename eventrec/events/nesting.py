"""What pydantic's serializer must not be given: values nested deeper than the stack, and what it would change.

It writes times to the microsecond, and two keys that are one key in JSON both, of which a reader has one.

The same look tells whether there may be markers: it is measured, and a second one costs as much again.
"""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import sys
from collections import deque
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

import msgspec
from pydantic import BaseModel
from pydantic_core import to_json

from eventrec.errors import EncodeError
from eventrec.records.marked import is_marked
from eventrec.records.times import refuse_inexact_time

if TYPE_CHECKING:
    from collections.abc import Iterable

SAFE_LEVELS: Final = 8
"""What fits the smallest stack that Python gives a thread, 32 KiB."""

MAX_LEVELS: Final = 250
"""Where pydantic's serializer gives up by itself."""

_LEVEL_BYTES: Final = 2_048
"""Of the stack for a level: pydantic takes 900; the other half is for what called `record`."""

_LEAVES: Final = frozenset({str, int, float, bool, type(None), bytes, UUID, Decimal, date})
_join: Final = "".join
_BUILTIN: Final = frozenset({dict, list, tuple, set, frozenset, deque, datetime, time, timedelta})


class Seen(NamedTuple):
    """What a look at values found. False is certain, True is to be looked into.

    Attributes:
        may_have_marks: Something in them may be marked for privacy.
        may_repeat: Some keys in them are one key in JSON, if they are written as they stand.
    """

    may_have_marks: bool
    may_repeat: bool


def refuse_unserializable(values: Iterable[object], *, with_times: bool = True) -> Seen:
    """Raise EncodeError where one of `values` would overrun the stack in pydantic's serializer, or change in it.

    That serializer takes 900 bytes of stack a level, and ends the process where there are none left. It writes times
    to the microsecond, and their offsets to the minute; `with_times=False` lets these pass.
    """
    first = [value for value in values if value.__class__ not in _LEAVES]
    level: Iterable[object] = (first,) if first else ()
    depth, limit, has_marks, repeats = 0, SAFE_LEVELS, False, False
    while level:
        if depth == SAFE_LEVELS:
            limit = levels_on_this_stack()
        if depth > limit:
            raise EncodeError(f"not a JSON value: nested deeper than {limit} levels, for which this stack is too small")
        depth += 1
        # By identity: a value that stands in many places, or in itself, is looked at once a level.
        below: dict[int, object] = {}
        for part in level:
            repeats = repeats or _has_equal_keys(part)
            for child in _children(part):
                kind: Any = child.__class__
                if kind in _LEAVES:
                    continue
                if kind not in _BUILTIN and _may_be_marked(kind):
                    has_marks = True
                if isinstance(child, (datetime, time, timedelta)):
                    if with_times:
                        refuse_inexact_time(child)
                    continue
                below[id(child)] = child
        level = below.values()
    return Seen(has_marks, repeats)


def refuse_repeats(values: Iterable[object]) -> None:
    """Raise EncodeError where keys in one of `values` are one key in JSON."""
    if refuse_unserializable(values, with_times=False).may_repeat:
        raise EncodeError("not a JSON value: a dict has more keys than JSON can tell apart")


def _has_equal_keys(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    try:
        _join(value)
    except TypeError:
        pass
    else:
        return False
    try:
        return len(msgspec.json.decode(to_json(dict.fromkeys(value)))) != len(value)
    except Exception:  # noqa: BLE001 - hooks of the caller's run in here; the serializer meets them too, and says so
        return False


def _children(part: Any) -> Iterable[object]:
    found: Iterable[object] = ()
    match part:
        case dict():
            found = chain(part, part.values())
        case list() | tuple() | set() | frozenset() | deque():
            found = part
        case BaseModel():
            found = chain(part.__dict__.values(), (part.__pydantic_extra__ or {}).values())
        case enum.Enum():
            found = (part.value,)
        case msgspec.Struct():
            found = msgspec.structs.astuple(part)
        case _ if dataclasses.is_dataclass(part) and not isinstance(part, type):
            found = [getattr(part, each.name, None) for each in dataclasses.fields(part)]
    return found


@lru_cache(maxsize=4_096)
def _may_be_marked(kind: Any) -> bool:
    """Whether something may be marked in an instance of `kind` that `_children` does not give of it."""
    if issubclass(kind, (*_BUILTIN, enum.Enum)):
        return True
    if issubclass(kind, BaseModel):
        return is_marked(kind) or bool(kind.model_computed_fields)
    return is_marked(kind) if issubclass(kind, msgspec.Struct) or dataclasses.is_dataclass(kind) else True


def levels_on_this_stack() -> int:
    """Levels that pydantic's serializer may go on the stack of this thread."""
    size = _stack_bytes()
    return MAX_LEVELS if size is None else max(SAFE_LEVELS, min(MAX_LEVELS, size // _LEVEL_BYTES - SAFE_LEVELS))


def _stack_bytes() -> int | None:
    """The size of this thread's stack; None where the system does not say."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        itself = library.pthread_self
        itself.restype = ctypes.c_void_p
        attributes, address, size = ctypes.create_string_buffer(256), ctypes.c_void_p(), ctypes.c_size_t()
        if library.pthread_getattr_np(ctypes.c_void_p(itself()), attributes):
            return None
        library.pthread_attr_getstack(attributes, ctypes.byref(address), ctypes.byref(size))
        library.pthread_attr_destroy(attributes)
    except (OSError, AttributeError):
        return None
    return size.value
