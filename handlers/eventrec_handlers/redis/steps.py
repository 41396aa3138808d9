"""A stage's step as the arguments of one script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from eventrec.bus import encode_take

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from eventrec.bus import Output

_FALSE: Final = b"\xc2"
_LIST: Final = b"\xdd"
_TEXT: Final = b"\xdb"
"""What msgpack calls them, with 32 bits of length. Redis's decoder knows no other type for bytes."""

_Value: TypeAlias = "str | bytes | int | Literal[False] | Sequence[_Value]"


@dataclass(frozen=True, slots=True)
class PackedStep:
    """What a step changes, for `scripts/commit.lua`.

    Attributes:
        changes: State, deadlines, views and what was seen, as it says.
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
    put: list[str | bytes] = []
    gone: list[str] = []
    for key, value in output.state.items():
        if value is None:
            gone.append(key)
        else:
            put += (key, value)
    due: list[str | int] = []
    never: list[str] = []
    removed = set(gone)
    for key, seconds in output.deadlines.items():
        if seconds is None:
            never.append(key)
        elif key not in removed:
            due += (key, milliseconds(seconds))
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
    changes = _packed((put, gone, due, never, views, lasting))
    return PackedStep(changes, list(published), list(seen), contents)


def _packed(value: _Value) -> bytes:
    """`value` as msgpack; numbers are texts, as everywhere in Redis."""
    if value is False:
        return _FALSE
    if isinstance(value, (str, bytes, int)):
        raw = value if isinstance(value, bytes) else str(value).encode()
        return b"%b%b%b" % (_TEXT, len(raw).to_bytes(4), raw)
    return b"%b%b%b" % (_LIST, len(value).to_bytes(4), b"".join(map(_packed, value)))


def milliseconds(seconds: float) -> int:
    """As Redis counts time."""
    return max(0, round(seconds * 1000))
