"""A stage's step as the arguments of one script."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from eventrec.bus import encode_take

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from eventrec.bus import Output

_FALSE: Final = b"\xc2"
_LIST: Final = 0xDD
_TEXT: Final = 0xDB
"""What msgpack calls them, with 32 bits of length. Redis's decoder knows no other type for bytes."""

_HEAD: Final = struct.Struct(">BI").pack

_Value: TypeAlias = "str | bytes | int | Literal[False] | Sequence[_Value]"


@dataclass(frozen=True, slots=True)
class PackedStep:
    """What a step changes, for `scripts/commit.lua`.

    Attributes:
        changes: State, deadlines, views, what was seen, and tallies, as it says.
        views: Their keys within the stage, in order.
        indexes: Likewise, of what was seen.
        contents: Count, content, and so on: what goes out.
    """

    changes: bytes
    views: list[str]
    indexes: list[str]
    contents: list[bytes | int]


def pack_step(output: Output, *, log_id: UUID, written: int) -> PackedStep:
    """`output` in the form that the script takes; `log_id` is the outlet's log, `written` nanoseconds."""
    put: list[bytes] = []
    gone: list[bytes] = []
    packed: dict[str, bytes] = {}
    for key, value in output.state.items():
        text = packed[key] = _packed_text(key.encode())
        if value is None:
            gone.append(text)
        else:
            put += (text, _packed_text(value))
    due: dict[float, list[bytes]] = {}
    never: list[bytes] = []
    for key, seconds in output.deadlines.items():
        text = packed.get(key) or _packed_text(key.encode())
        if seconds is None:
            never.append(text)
        elif output.state.get(key, b"") is not None:
            due.setdefault(seconds, []).append(text)
    published = {each.key: each for each in output.published}
    views: list[bytes | int | Literal[False]] = []
    for each in published.values():
        is_kept = each.value is not None and each.seconds > 0
        views += (each.value if is_kept and each.value is not None else False, max(1, milliseconds(each.seconds)))
    seen: dict[str, tuple[float, dict[str, None]]] = {}
    for one in output.seen:
        seconds, members = seen.get(one.index, (one.seconds, {}))
        members[one.member] = None
        seen[one.index] = min(seconds, one.seconds), members
    lasting = [(max(1, milliseconds(seconds)), list(members)) for seconds, members in seen.values()]
    contents: list[bytes | int] = []
    for content, count in encode_take(output.entries, log_id, written=written, static_context=output.static_context):
        contents += (count, content)
    deadlines = [part for seconds, keys in due.items() for part in (_packed(milliseconds(seconds)), _packed_list(keys))]
    lists = [_packed_list(each) for each in (put, gone, deadlines, never)]
    tallies = [part for name, change in output.tallies.items() if change for part in (name, change)]
    changes = _packed_list([*lists, _packed(views), _packed(lasting), _packed(tallies)])
    return PackedStep(changes, list(published), list(seen), contents)


def _packed(value: _Value) -> bytes:
    """`value` as msgpack; numbers are texts, as everywhere in Redis."""
    if value is False:
        return _FALSE
    if isinstance(value, (str, bytes, int)):
        return _packed_text(value if isinstance(value, bytes) else str(value).encode())
    return _packed_list([_packed(each) for each in value])


def _packed_text(raw: bytes) -> bytes:
    return _HEAD(_TEXT, len(raw)) + raw


def _packed_list(packed: Sequence[bytes]) -> bytes:
    """A list of what is packed."""
    return _HEAD(_LIST, len(packed)) + b"".join(packed)


def milliseconds(seconds: float) -> int:
    """As Redis counts time."""
    return max(0, round(seconds * 1000))
