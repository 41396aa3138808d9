"""Payloads to JSON bytes, strictly: what JSON cannot express is refused, never changed.

msgspec writes NaN and infinity as null, bytes as base64, and a key True as "1"; each would be a silent change, so they
are looked for.
Integers of any size are legal JSON and kept exactly, as long as the interpreter turns them into digits.
"""

from __future__ import annotations

import enum
import json
import math
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn
from uuid import UUID

import msgspec

from eventrec.errors import EncodeError
from eventrec.records.marked_values import refuse_marked, refuse_marked_class
from eventrec.records.times import refuse_inexact_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


_check_json: Final = msgspec.json.Decoder(msgspec.Raw).decode


def encode_json(value: object) -> bytes:
    """Return `value` as JSON bytes in UTF-8. A `msgspec.Raw` is JSON text already, and is taken as it is.

    Raises:
        MarkedValueError: Somewhere in `value` is an instance whose class marks fields for privacy.
        EncodeError: Somewhere in `value` there is NaN, infinity, bytes, a cycle, a lone surrogate, an integer of more
            digits than the interpreter converts, a key that is a bool, two keys that are one key in JSON, a time whose
            UTC offset has seconds, a `msgspec.Raw` that is not JSON, or an object that is not a JSON value.
    """
    try:
        # Looked at before it is encoded: Python's own recursion has a limit, while the encoder's takes from the stack.
        if type(value) is not dict or not is_plain_object(value):
            refuse_non_json(value)
        encoded = encode_plain(value)
    except EncodeError:
        raise
    except Exception as exc:
        # Hooks and properties of the caller's objects run in here and may raise anything.
        raise not_json(exc) from exc
    return encoded


def encode_struct_json(value: msgspec.Struct) -> bytes:
    """The same for a Struct, which has no keys to look at; raises EncodeError like `encode_json`."""
    try:
        _refuse_parts(msgspec.structs.astuple(value))
        encoded = encode_plain(value)
    except EncodeError:
        raise
    except Exception as exc:
        raise not_json(exc) from exc
    return encoded


def not_json(exc: Exception) -> EncodeError:
    """The error for a value that made an encoder, or a hook or property of the caller's, raise `exc`."""
    return EncodeError(f"not a JSON value: {type(exc).__name__}: {exc}")


def is_plain(value: object) -> bool:
    """Whether `value` is of builtin types alone, at any depth, and holds nothing that JSON cannot say.

    False decides nothing: `refuse_non_json` does.
    """
    kind = type(value)
    return kind in _PLAIN or _is_plain(kind, value)


def is_plain_object(value: dict[Any, object]) -> bool:
    """The same of an object, all of whose keys are text: nearly every payload is plain, so this is measured.

    The loop costs as much as encoding; a set of all types, or a search for the null that stands for NaN, costs more.
    """
    for key, part in value.items():
        kind = part.__class__
        if kind is not str and kind is not int:
            if kind is float:
                if not _is_finite(part):
                    return False
            elif kind not in _PLAIN and not _is_plain(kind, part):
                return False
        if key.__class__ is not str:
            return False
    return True


def _is_plain(kind: type, part: Any) -> bool:
    if kind is float:
        return _is_finite(part)
    if kind is dict:
        return is_plain_object(part)
    if kind is not list:
        return False
    for inner in part:
        kind = inner.__class__
        if kind is not str and kind not in _PLAIN and not _is_plain(kind, inner):
            return False
    return True


def refuse_constants(payload: bytes) -> None:
    """Raise EncodeError if NaN or infinity stands in the JSON text `payload` as a value, which no JSON reader takes."""
    # A single byte, as a number, is found several times faster than a word, and mostly it is not there.
    n, i = MAY_BE_INFINITE
    if (n in payload and b"NaN" in payload) or (i in payload and b"Infinity" in payload):
        try:
            _skip(payload)
        except msgspec.DecodeError as exc:
            raise EncodeError(f"not a JSON value: NaN or infinity ({exc})") from exc


def refuse_repeated_keys(payload: bytes) -> None:
    """Raise EncodeError if a key stands twice in an object of the JSON text `payload`: readers have one value."""

    def checked(pairs: list[tuple[str, object]]) -> None:
        if (apart := len({key for key, _ in pairs})) != len(pairs):
            raise EncodeError(f"not a JSON value: {len(pairs)} keys, of which JSON can tell {apart} apart")

    json.loads(payload, object_pairs_hook=checked)


def refuse_bad_text(text: bytes) -> None:
    """Raise EncodeError if `text` is not one JSON value in UTF-8, whole and valid to its last byte."""
    try:
        # Passing over a value, msgspec does not look into its texts.
        if not text.isascii():
            text.decode()
        _skip(text)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as exc:
        raise EncodeError(f"not JSON text: {exc}") from exc


def as_builtin(value: Any) -> object:
    """The builtin under a subclass of str, int or float, such as a NumPy float: what `json.dumps` writes too."""
    for kind, builtin in _BUILTIN:
        if isinstance(value, kind):
            return builtin(value)
    raise TypeError(f"a value of kind {type(value).__name__}")


_BUILTIN: Final[tuple[tuple[type, Callable[[Any], object]], ...]] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)
encode_plain: Final = msgspec.json.Encoder(enc_hook=as_builtin).encode
"""A value, once it is known to be plain, as JSON bytes; raises whatever msgspec does."""
MAY_BE_INFINITE: Final = (ord("N"), ord("I"))
"""One of these bytes is in JSON text in which NaN or infinity stands."""
_skip: Final = msgspec.json.Decoder(msgspec.Raw).decode

_PLAIN: Final = frozenset({str, int, bool, type(None), msgspec.UnsetType})
_BYTES: Final = (bytes, bytearray, memoryview)
_NOT_KEYS: Final = (*_BYTES, bool)
KEPT_TYPES: Final = (*_BYTES, datetime, time)
"""What msgspec would turn into text of another meaning: looked at as they are."""
_is_finite: Final[Callable[[Any], bool]] = math.isfinite
_join: Final = "".join


def refuse_non_json(value: object) -> None:
    """Raise EncodeError if NaN, infinity, bytes, or keys that are one key in JSON are anywhere in `value`.

    Raises:
        MarkedValueError: There is an instance of a class that marks fields.
    """
    kind: Any = type(value)
    _refusal_of_class(kind)(value)


@lru_cache(maxsize=4_096)  # asked of every value that is not plain
def _refusal_of_class(kind: type) -> Callable[[Any], None]:
    """What looks at an instance of `kind`; MarkedValueError where msgspec would write its marked fields."""
    if issubclass(kind, (tuple, msgspec.Struct)):
        refuse_marked_class(kind)
    return next(refuse for bases, refuse in _REFUSALS if issubclass(kind, bases))


def _refuse_object(value: dict[Any, object]) -> None:
    _refuse_keys(value)
    _refuse_parts(value.values())


def _refuse_infinite(value: float) -> None:
    if not math.isfinite(value):
        raise EncodeError(f"not a JSON value: {float(value)!r}")


def _refuse_bytes(value: object) -> NoReturn:
    raise EncodeError(f"not a JSON value: {type(value).__name__} (encode it as text first)")


def _refuse_made(value: Any) -> None:
    """A dataclass, attrs class, UUID, …: look at what msgspec makes of it."""
    if value.__class__ not in _SINGLE:
        refuse_marked(value)
    _refuse_parts((msgspec.to_builtins(value, builtin_types=KEPT_TYPES, enc_hook=as_builtin),))


def _refuse_member(value: enum.Enum) -> None:
    refuse_marked(value)
    refuse_non_json(value.value)


_SINGLE: Final = frozenset({UUID, Decimal, date})
"""Frequent classes in which nothing else is."""


def _refuse_parts(parts: Iterable[object]) -> None:
    for part in parts:
        kind: Any = type(part)
        if kind not in _PLAIN and not _is_plain(kind, part):
            _refusal_of_class(kind)(part)


def _refuse_keys(value: dict[Any, object]) -> None:
    try:
        _join(value)
    except TypeError:
        pass
    else:
        return
    for key in value:
        said = key.value if isinstance(key, enum.Enum) else key
        if isinstance(said, _NOT_KEYS) or (isinstance(said, float) and not math.isfinite(said)):
            raise EncodeError(f"not a JSON value: a key of kind {type(key).__name__}: {key!r:.40}")
        if isinstance(said, (datetime, time)):
            refuse_inexact_time(said)
    written = msgspec.json.decode(encode_plain(dict.fromkeys(value)))
    if len(written) != len(value):
        raise EncodeError(f"not a JSON value: {len(value)} keys, of which JSON can tell {len(written)} apart")


_REFUSALS: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], None]], ...]] = (
    (dict, _refuse_object),
    ((list, tuple, set, frozenset), _refuse_parts),
    (float, _refuse_infinite),
    ((str, int, type(None), msgspec.UnsetType), lambda _: None),
    (msgspec.Raw, lambda value: refuse_bad_text(bytes(value))),
    (msgspec.Struct, lambda value: _refuse_parts(msgspec.structs.astuple(value))),
    (_BYTES, _refuse_bytes),
    ((datetime, time), refuse_inexact_time),
    (enum.Enum, _refuse_member),
    (object, _refuse_made),
)
"""The first one that fits is right: a member of a StrEnum is a text."""


def json_or_text(encoded: bytes) -> msgspec.Raw | str:
    """`encoded` as the JSON that it is; as a text where it is not JSON: a received payload is stored as it came."""
    try:
        encoded.decode()
        _check_json(encoded)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return encoded.decode(errors="backslashreplace")
    return msgspec.Raw(encoded)
