"""Whether a payload is a plain object: asked by code made for the keys that the events of one class have.

To look at each key and value costs as much as to encode them, and most classes give the same keys each time. So the
keys of a payload, and the types behind them, become code. Of a class with two keys it is:

    def is_like_before(given):
        try:
            return (
                len(given) == 2
                and type(given['order_id']) is str
                and type(number := given['amount']) is float and number - number == 0.0
            )
        except KeyError:
            return False

A payload of other keys is looked at in the general way, and learned in its turn, a few times.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from eventrec.events.shortcuts import compiled
from eventrec.records.json import is_plain, is_plain_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_LESSONS: Final = 4
"""How often the payloads of one class are learned: where their keys go on changing, that costs and gains nothing."""

MAX_KEYS: Final = 32
MAX_KEY: Final = 100
"""Characters."""


class PlainPayloads:
    """What is known about the payloads of `cls`."""

    __slots__ = ("_cls", "_lessons_left", "is_like_before")

    def __init__(self, cls: type) -> None:
        self._cls = cls
        self._lessons_left = MAX_LESSONS
        self.is_like_before: Callable[[dict[Any, Any]], bool] = _is_nothing
        """Whether a payload has the keys of one that was learned, and is plain. False decides nothing: see `is_plain`.
        """

    def is_plain(self, given: dict[Any, Any]) -> bool:
        """Whether it is plain, see `is_plain_object`; it is learned for the next one."""
        if not is_plain_object(given):
            return False
        if self._lessons_left > 0:  # of two threads each may take the last
            self._lessons_left -= 1
            # Where memory or the stack is too short for a lesson, the next payload is looked at in the general way too.
            with suppress(MemoryError, RecursionError):
                self._learn(given)
        return True

    def _learn(self, given: dict[Any, Any]) -> None:
        is_short = len(given) <= MAX_KEYS and all(type(key) is str and len(key) <= MAX_KEY for key in given)
        self.is_like_before = _learned(self._cls, given) if self._lessons_left and is_short else _is_nothing


def _is_nothing(_: dict[Any, Any]) -> bool:
    return False


def _learned(cls: type, payload: dict[str, Any]) -> Callable[[dict[Any, Any]], bool]:
    return compiled("is_like_before", "\n".join(_lines(payload)), of=cls, names={"is_plain": is_plain})


def _lines(payload: dict[str, Any]) -> Iterator[str]:
    yield "def is_like_before(given):"
    yield "    try:"
    yield "        return ("
    yield f"            len(given) == {len(payload)}"
    for key, value in payload.items():
        yield f"            and {_is_alike(f'given[{key!r}]', type(value))}"
    yield "        )"
    yield "    except KeyError:"
    yield "        return False"


def _is_alike(value: str, kind: type) -> str:
    if kind is float:  # what is not finite differs from itself by something that is not zero
        return f"type(number := {value}) is float and number - number == 0.0"
    if kind in {str, int, bool}:
        return f"type({value}) is {kind.__name__}"
    return f"is_plain({value})"
