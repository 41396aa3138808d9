"""JSON to the binary form in which GreptimeDB keeps it: that of the crate `jsonb`, big-endian.

container   header, entries, bytes      header: tag | count; scalar 0x2…, object 0x4…, array 0x8…
entry       type | length of its bytes  null 0x0…, string 0x1…, number 0x2…, false 0x3…, true 0x4…, container 0x5…
object      header, key entries, value entries, keys, values; keys in the order of their bytes
number      00 zero; 40 negative or 50 other integer and 1, 2, 4 or 8 bytes; 60 and a double; 10 NaN; 20 and 30 ±∞
"""

from __future__ import annotations

import math
from functools import cache
from itertools import repeat
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_SCALAR: Final = 0x2000_0000
_OBJECT: Final = 0x4000_0000
_ARRAY: Final = 0x8000_0000

_NULL: Final = 0x0000_0000
_STRING: Final = 0x1000_0000
_NUMBER: Final = 0x2000_0000
_FALSE: Final = 0x3000_0000
_TRUE: Final = 0x4000_0000
_CONTAINER: Final = 0x5000_0000

MAX_BYTES: Final = (1 << 28) - 1
"""What the length in an entry can say."""

_MAX_PLANS: Final = 1_000
_MAX_PLAN_BYTES: Final = 4_096

_decode: Final = msgspec.json.Decoder().decode
_pack_head: Final = Struct(">I").pack
_pack_scalar: Final = Struct(">II").pack
_pack_double: Final = Struct(">Bd").pack
_DOUBLE: Final = 0x60
_SMALL: Final = tuple(bytes((0x50, number)) if number else b"\0" for number in range(256))
_SMALL_NUMBERS: Final = len(_SMALL)
_LARGER: Final = tuple((1 << bits, Struct(form).pack) for bits, form in ((16, ">BH"), (32, ">BI"), (64, ">BQ")))
_NEGATIVE: Final = tuple(
    (-(1 << bits), Struct(form).pack) for bits, form in ((7, ">Bb"), (15, ">Bh"), (31, ">Bi"), (63, ">Bq"))
)


class JsonbEncoder:
    """Encodes JSON values, in any thread. What it knows of the objects that it has met is bounded."""

    def __init__(self) -> None:
        self._plans: dict[tuple[str, ...], tuple[bytes, bytes, tuple[str, ...]]] = {}

    def encode_text(self, text: bytes) -> bytes:
        """The JSON text `text`, in UTF-8, as JSONB.

        Raises:
            ValueError: It is not JSON, or holds what JSONB cannot: a number beyond a double, an integer beyond 64 bits
                that no double is equal to, nesting beyond the interpreter's depth, or 256 MiB.
        """
        try:
            return self.encode(_decode(text))
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise ValueError(f"it is not a JSON value that can be stored: {exc}") from exc
        except RecursionError:
            raise ValueError("it is nested too deep") from None

    def encode_texts(self, texts: Sequence[bytes]) -> list[bytes] | None:
        """Several at once, where all are objects with the same keys in the same order: in half of the time.

        None where they are not, or where one of them cannot be stored: then each is for `encode_text`.
        """
        try:
            values = list(map(_decode, texts))
            if set(map(type, values)) != {dict}:
                return None
            alike = set(map(tuple, values))
            if len(alike) != 1:
                return None
            (names,) = alike
            head, keys, order = self._plans.get(names) or self._plan(names)
            given = dict(zip(names, zip(*map(dict.values, values), strict=True), strict=True)) if names else {}
            columns = [self._parts(given[name]) for name in order]
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        packed = map(_packer(len(order)), *(entries for entries, _ in columns)) if columns else repeat(b"", len(values))
        parts = zip(repeat(head), packed, repeat(keys), *(data for _, data in columns), strict=False)
        encoded = list(map(b"".join, parts))
        return encoded if max(map(len, encoded)) <= MAX_BYTES else None

    def _parts(self, values: Sequence[Any]) -> tuple[list[int], list[bytes]]:
        """The entries of values that stand at the same place, and their bytes."""
        kinds = set(map(type, values))
        kind = kinds.pop() if len(kinds) == 1 else None
        if kind is str:
            data = list(map(str.encode, values))
            return [_STRING | len(part) for part in data], data
        if kind is int:
            data = [_SMALL[part] if 0 <= part < _SMALL_NUMBERS else _integer(part) for part in values]
            return [_NUMBER | len(part) for part in data], data
        if kind is float and all(map(math.isfinite, values)):
            data = list(map(_pack_double, repeat(_DOUBLE), values))
            return [_NUMBER | len(data[0])] * len(data), data
        if kind is dict or kind is list:
            data = list(map(self._container, values))
            return [_CONTAINER | len(part) for part in data], data
        pairs = [
            (_CONTAINER, self._container(part)) if part.__class__ is dict or part.__class__ is list else _scalar(part)
            for part in values
        ]
        return [entry | len(part) for entry, part in pairs], [part for _, part in pairs]

    def encode(self, value: object) -> bytes:
        """The JSON value `value` as JSONB; NaN and infinities have forms of their own there.

        Raises:
            ValueError: As `encode_text`, and for a value that is not JSON's.
        """
        if value.__class__ is dict or value.__class__ is list:
            encoded = self._container(value)
        else:
            entry, data = _scalar(value)
            encoded = _pack_scalar(_SCALAR, entry | len(data)) + data
        # Where the whole is no longer than that, no part is.
        if len(encoded) > MAX_BYTES:
            raise ValueError(f"it has {len(encoded)} bytes, and no value has more than {MAX_BYTES}")
        return encoded

    def _container(self, value: Any) -> bytes:
        values: Iterable[Any]
        if value.__class__ is dict:
            names = tuple(value)
            head, keys, order = self._plans.get(names) or self._plan(names)
            values = value.values() if order is names else map(value.__getitem__, order)
        else:
            head, keys, values = _pack_head(_ARRAY | len(value)), b"", value
        entries: list[int] = []
        parts = [head, b"", keys]
        # The frequent kinds are written out: a call for each value would cost as much as the rest.
        for part in values:
            kind = part.__class__
            if kind is str:
                data = part.encode()
                entries.append(_STRING | len(data))
            elif kind is int:
                data = _SMALL[part] if 0 <= part < _SMALL_NUMBERS else _integer(part)
                entries.append(_NUMBER | len(data))
            elif kind is dict or kind is list:
                data = self._container(part)
                entries.append(_CONTAINER | len(data))
            else:
                entry, data = _scalar(part)
                entries.append(entry | len(data))
            parts.append(data)
        parts[1] = _packer(len(entries))(*entries)
        return b"".join(parts)

    def _plan(self, names: tuple[str, ...]) -> tuple[bytes, bytes, tuple[str, ...]]:
        """Header and key entries of an object with these `names`, its keys, and their order: `names` itself, if so."""
        order = tuple(sorted(names))  # code points sort as their UTF-8 does
        encoded = [name.encode() for name in order]
        entries = [_STRING | len(key) for key in encoded]
        head = _pack_head(_OBJECT | len(names)) + _packer(len(entries))(*entries)
        plan = (head, b"".join(encoded), names if order == names else order)
        if len(head) + len(plan[1]) <= _MAX_PLAN_BYTES:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            self._plans[names] = plan
        return plan


def _scalar(value: object) -> tuple[int, bytes]:
    """The type of the entry, and the bytes, of what is not a container."""
    kind = value.__class__
    if kind is float:
        return _NUMBER, _double(value)  # type: ignore[arg-type]
    if value is None:
        return _NULL, b""
    if value is True:
        return _TRUE, b""
    if value is False:
        return _FALSE, b""
    if kind is str:
        return _STRING, value.encode()  # type: ignore[attr-defined]
    if kind is int:
        return _NUMBER, _integer(value)  # type: ignore[arg-type]
    raise ValueError(f"a value of kind {kind.__name__} is not JSON's")


def _integer(value: int) -> bytes:
    """A number that is not negative takes the unsigned form; each the shortest that holds it."""
    if value < 0:
        for low, pack in _NEGATIVE:
            if value >= low:
                return pack(0x40, value)
    elif value < _SMALL_NUMBERS:
        return _SMALL[value]
    else:
        for beyond, pack in _LARGER:
            if value < beyond:
                return pack(0x50, value)
    try:
        exact = float(value)
    except OverflowError:
        exact = math.inf
    if exact != value:
        raise ValueError("an integer in it needs more than 64 bits, and no double is equal to it")
    return _double(exact)


def _double(value: float) -> bytes:
    if math.isfinite(value):
        return _pack_double(_DOUBLE, value)
    return b"\x10" if math.isnan(value) else b"\x20" if value > 0 else b"\x30"


def _packer(count: int) -> Callable[..., bytes]:
    """What packs `count` entries."""
    return _small_packer(count) if count <= _MAX_PACKERS else Struct(f">{count}I").pack


_MAX_PACKERS: Final = 256


@cache
def _small_packer(count: int) -> Callable[..., bytes]:
    return Struct(f">{count}I").pack
