"""What goes wrong at random: the system, handlers of other people, and log handlers of the application."""

from __future__ import annotations

import asyncio
import builtins
import errno
import logging
import os
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

import anyio
import pytest

from eventrec import (
    Batch,
    BatchTooLargeError,
    DestinationCheckpoints,
    EventHandler,
    FencedError,
    PartialError,
    PauseError,
    PermanentError,
    TransientError,
)
from eventrec.log import descriptors, disk
from eventrec.testing.scripted import numbers


class FailingSystem:
    """`os`, as the modules that speak to the disk see it: a `share` of its calls fails, and some paths always."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.share = 0.0
        self.unreadable: set[str] = set()
        """What may not be opened: a user that is root may read everything."""
        self.failed: Counter[str] = Counter()

    _ERRORS: Final = {
        "open": (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EIO, errno.ENOSPC),
        "mkdir": (errno.ENOSPC, errno.EACCES, errno.EROFS),
        "rename": (errno.EACCES, errno.ENOSPC, errno.EIO),
        "replace": (errno.EACCES, errno.ENOSPC, errno.EIO),
        "unlink": (errno.EACCES, errno.EIO),
        "rmdir": (errno.EACCES, errno.EIO),
        "fsync": (errno.EIO, errno.ENOSPC),
        "fdatasync": (errno.EIO, errno.ENOSPC),
        "ftruncate": (errno.EIO, errno.ENOSPC),
        "scandir": (errno.EMFILE, errno.EACCES, errno.EIO),
        "stat": (errno.EACCES, errno.EIO),
        "fstat": (errno.EIO,),
        "statvfs": (errno.EIO, errno.EACCES),
        "pread": (errno.EIO,),
        "pwrite": (errno.ENOSPC, errno.EIO),
    }

    def __getattr__(self, name: str) -> Any:
        call = getattr(os, name)
        return self.failing(name, call) if name in self._ERRORS else call

    def failing(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*arguments: Any, **options: Any) -> Any:
            if self._rng.random() < self.share:
                if name == "pwrite" and self._rng.random() < 0.3:
                    fd, piece, position = arguments
                    return call(fd, piece[: len(piece) // 2], position)
                number = self._rng.choice(self._ERRORS[name])
                self.failed[errno.errorcode[number]] += 1
                raise OSError(number, os.strerror(number))
            if name == "open" and self.unreadable and self._where(arguments[0], **options) in self.unreadable:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return call(*arguments, **options)

        return attempt

    @staticmethod
    def _where(path: str | Path, *, dir_fd: int | None = None, **_: Any) -> str:
        base = "" if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink()
        return os.path.normpath(os.path.join(base, path))  # noqa: PTH118 - a Path would be slower

    @contextmanager
    def installed(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for module in (disk, descriptors):
                patch.setattr(module, "os", self)
            patch.setattr(descriptors, "_pread", self.failing("pread", os.pread))
            patch.setattr(descriptors, "_pwrite", self.failing("pwrite", os.pwrite))
            yield


# -- handlers that raise


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class StrangeError(BaseException):
    pass


def _classes(of: type[BaseException]) -> Iterator[type[BaseException]]:
    yield of
    for each in of.__subclasses__():
        yield from _classes(each)


ANY_CLASS: Final = sorted({each for each in _classes(BaseException) if hasattr(builtins, each.__name__)}, key=str)


def any_error(rng: random.Random) -> BaseException:
    """An instance of any class that Python has."""
    made: BaseException
    try:
        made = rng.choice(ANY_CLASS)("odd")
    except TypeError:  # It wants more to be told.
        made = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "odd")
    return made


def an_error(rng: random.Random, offsets: list[int]) -> BaseException:
    """One of all kinds that a handler of other people may raise about a batch of `offsets`."""
    some = rng.sample(offsets, rng.randint(0, len(offsets)))
    odd: Any = rng.choice(["5", "text", -1, None, b"\xff", object(), float("nan")])
    kinds: list[Callable[[], BaseException]] = [
        lambda: TransientError("down"),
        lambda: TransientError("busy", retry_after=0.01),
        lambda: TransientError("busy", retry_after=odd),
        lambda: PermanentError("never"),
        lambda: PermanentError("a lone \ud800"),
        lambda: PermanentError("these", records=dict.fromkeys(some, "bad \ud800")),
        lambda: PermanentError("these", records=dict.fromkeys(some, odd)),
        lambda: PermanentError("others", records={odd: "bad"}),
        lambda: PartialError({each: TransientError("later") for each in some}),
        lambda: PartialError({each: PermanentError("never") for each in some}),
        lambda: PartialError(dict.fromkeys(some, odd)),
        lambda: PartialError({odd: PermanentError("never")}),
        lambda: BatchTooLargeError("smaller"),
        lambda: PauseError("no rights"),
        lambda: FencedError("elsewhere"),
        UnspeakableError,
        lambda: StrangeError("base"),
        GeneratorExit,
        lambda: SystemExit(3),
        asyncio.CancelledError,
        lambda: BaseExceptionGroup("both", [KeyError("x"), SystemExit(1)]),
        lambda: ExceptionGroup("both", [TransientError("x"), PermanentError("y")]),
        lambda: rng.choice([KeyError, RuntimeError, AssertionError, MemoryError, RecursionError, TimeoutError])("odd"),
        rng.choice([StopIteration, StopAsyncIteration, EOFError, anyio.ClosedResourceError]),
        lambda: OSError(rng.choice([errno.EMFILE, errno.ENOSPC, errno.EIO, errno.EACCES]), "system"),
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    ]
    return rng.choice(kinds)() if rng.random() < 0.7 else any_error(rng)


class WildHandler(EventHandler):
    """Keeps what it is given, and raises anything from any method while `share` is above 0, also after keeping."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.share = 0.0
        self.is_paused = False
        self.delivered: list[int] = []

    def _strike(self, offsets: list[int] | None = None) -> None:
        if self.is_paused:
            raise PauseError("until later")
        if self._rng.random() < self.share:
            raise an_error(self._rng, offsets or [0])

    async def open(self) -> None:
        self._strike()

    async def prepare(self, batch: Batch) -> None:
        self._strike([record.offset for record in batch.records])

    async def handle(self, batch: Batch) -> None:
        offsets = [record.offset for record in batch.records]
        try:
            self._strike(offsets)
        except PartialError as exc:
            # It does not lie: what it does not name has arrived.
            named = dict(zip(offsets, numbers(batch), strict=True))
            self.delivered += [number for offset, number in named.items() if offset not in exc.errors]
            raise
        await anyio.lowlevel.checkpoint()
        self.keep(batch)
        self._strike(offsets)

    def keep(self, batch: Batch) -> None:
        self.delivered += numbers(batch)

    async def close(self) -> None:
        self._strike()

    @property
    def remarks(self) -> list[str]:
        with suppress(KeyboardInterrupt):  # Asked for in the caller of `status`, where it may be the operator's.
            self._strike()
        return []


class WildTokens(WildHandler):
    """Drops a batch whose token it has seen."""

    dedupes_by_token = True

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._seen: set[str] = set()

    def keep(self, batch: Batch) -> None:
        if batch.token not in self._seen:
            self._seen.add(batch.token)
            super().keep(batch)


class WildCheckpoints(WildHandler, DestinationCheckpoints):
    """Has checkpoints of its own, compared with each batch."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self._next: dict[tuple[UUID, str], int] = {}

    @property
    def checkpoints(self) -> DestinationCheckpoints:
        self._strike()
        return self

    def _odd(self) -> Any:
        """What is not an answer, now and then; else None."""
        if self._rng.random() < self.share / 3:
            return self._rng.choice(["", "\ud800", b"", -1, 1.5, True, 1 << 70, object(), [], float("nan")])
        return None

    async def destination_id(self) -> str:
        self._strike()
        odd = self._odd()
        return "wild" if odd is None else odd

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        self._strike()
        if (odd := self._odd()) is not None:
            return odd  # type: ignore[no-any-return]
        return self._next.setdefault((log_id, subscription), start)

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        self._strike()
        self._next[log_id, subscription] = max(end, self._next.get((log_id, subscription), 0))

    def keep(self, batch: Batch) -> None:
        key = (batch.log_id, batch.subscription)
        if self._next.get(key) != batch.start:
            raise FencedError("elsewhere")
        self._next[key] = batch.end
        super().keep(batch)


class RaisingLogHandler(logging.Handler):
    """A log handler of the application, which raises now and then."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage()[:300])
        if record.exc_info and record.exc_info[1] is not None:
            self.said += traceback.format_exception(record.exc_info[1])
        if self._rng.random() < 0.3:
            raise self._rng.choice([any_error(self._rng), UnspeakableError(), StrangeError()])


class Unruly(NamedTuple):
    """All of it for one run, with the same chance."""

    system: FailingSystem
    handler: WildHandler
    log_handler: RaisingLogHandler


@pytest.fixture
def unruly() -> Callable[[random.Random], Unruly]:
    def make(rng: random.Random) -> Unruly:
        kind = rng.choice([WildHandler, WildTokens, WildCheckpoints])
        return Unruly(FailingSystem(rng), kind(rng), RaisingLogHandler(rng))

    return make
