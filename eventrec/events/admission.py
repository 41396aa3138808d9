"""Which events of a type are taken: a sample of them, and so many in a time. Decided before an event is encoded.

No lock: any number of threads may ask at once, also a signal handler in between.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping
from enum import Enum
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from uuid import UUID

from eventrec.rules import RateLimit, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Refusal: TypeAlias = Literal["sampled", "rate_limited"]


class Admission:
    """Decides by type; `sample` and `rate_limits` are the options of these names.

    `now` is monotonic, in seconds; `chance` draws from 0 to 1, for samples without a key.
    """

    def __init__(
        self,
        sample: Mapping[str, Sampling | float] | None = None,
        rate_limits: Mapping[str, RateLimit | str] | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._samples = {kind: said for kind, said in (sample or {}).items() if isinstance(said, Sampling)}
        limits = rate_limits or {}
        self._windows = {kind: Windows(said, now) for kind, said in limits.items() if isinstance(said, RateLimit)}
        self._chance = chance
        self.types = frozenset({*self._samples, *self._windows})
        """Types of which not every event is taken."""

    def refusal(self, kind: str, find: Callable[[str], object]) -> Refusal | None:
        """Why the next event of type `kind` is not taken; None: it is. `find` gives its field of a name, or None."""
        sampling = self._samples.get(kind)
        if sampling is not None and not self._is_in(sampling, find):
            return "sampled"
        windows = self._windows.get(kind)
        return "rate_limited" if windows is not None and not windows.has_room() else None

    def _is_in(self, sampling: Sampling, find: Callable[[str], object]) -> bool:
        if sampling.key is None:
            return self._chance() < sampling.rate
        key = _key_bytes(find(sampling.key))
        return key is None or is_sampled(key, sampling.rate)


def is_sampled(key: bytes, rate: float) -> bool:
    """Whether `key` is among the share `rate` of all keys; what is among a share is among each larger one."""
    drawn = int.from_bytes(hashlib.sha256(key).digest()[:8])
    return drawn < rate * 2**64


def _key_bytes(value: Any) -> bytes | None:
    """What stands for a key; None where there is none. 5 and "5" are one."""
    if isinstance(value, Enum):
        value = value.value
    found: bytes | None = None
    match value:
        case str():
            found = str.encode(value, "utf-8", "surrogatepass")
        case bool():
            found = b"true" if value else b"false"
        case int():
            exact = int.__int__(value)
            # More digits than the interpreter converts are told apart in another way.
            found = b"%d" % exact if exact.bit_length() <= _DIGITS else hex(exact).encode()
        case float():
            found = repr(float.__float__(value)).encode()
        case UUID():
            found = str(UUID(int=value.int)).encode()
        case bytes():
            found = bytes(value)
    return found


_DIGITS: Final = 1_024


class Windows:
    """Lets so many through in each period, exactly, whatever number of threads ask.

    A period's counter is found with `setdefault` and counted with `next`, each one step of the interpreter.
    """

    def __init__(self, limit: RateLimit, now: Callable[[], float]) -> None:
        self._limit = limit
        self._now = now
        self._latest: int | None = None
        self._counters: dict[int, Iterator[int]] = {}

    def has_room(self) -> bool:
        """Whether one more fits into the present period; it is counted as being in it."""
        number = int(self._now() // self._limit.period)
        if self._latest is not None and number < self._latest:
            number = self._latest  # Read before another thread began a new one.
        counter = self._counters.get(number)
        if counter is None:
            counter = self._counters.setdefault(number, count(1))
            self._latest = number
            for ended in [kept for kept in list(self._counters) if kept < number - 1]:
                self._counters.pop(ended, None)
        return next(counter) <= self._limit.count


def field_of(source: object, path: str) -> object:
    """The field `path` of an instance or a mapping, "user.id" being the field `id` of its field `user`; None: none."""
    found: Any = source
    for name in path.split("."):
        found = found.get(name, None) if isinstance(found, Mapping) else getattr(found, name, None)
    return found
