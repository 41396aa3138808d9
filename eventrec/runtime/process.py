"""The process that a recorder lives in: the forks that copy it, and its end."""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from eventrec.runtime.native import RLock

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable
    from ctypes import c_bool

_MADV_WIPEONFORK: Final = 18
"""From Linux 4.14 on: the kernel gives the child of a fork zeros for this memory."""

_AFTER_ALL_OTHERS: Final = -100
_BEFORE_FORK_SECONDS: Final = 1.0

Owner = TypeVar("Owner")


class ProcessIdentity:
    """Tells whether this is still the process it was made in.

    `is_here` costs no more than an attribute, and turns false in the child of a fork, also where the fork was made by C
    code that runs no hooks of Python's. Where the system cannot do that (it is not Linux) it stays true: hooks, and
    calls of `detect_fork`, are what notices then.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._locks: dict[int, RLock] = {}
        self._flag = _flag_wiped_on_fork()
        self.is_here: object = True if self._flag is None else self._flag

    def detect_fork(self, moved: Callable[[], object]) -> None:
        """In a forked child call `moved`, once; on return it is done, whichever thread did it. Else do nothing."""
        pid = os.getpid()
        if self._pid == pid and self.is_here:
            return
        # A lock for each process: one that another thread held while it was forked is never released here.
        with self._locks.setdefault(pid, RLock()):
            if self._pid != pid:
                self._pid = pid
                try:
                    moved()
                finally:
                    if self._flag is not None:
                        self._flag.value = True


def _flag_wiped_on_fork() -> c_bool | None:
    if sys.platform != "linux":
        return None
    try:
        import ctypes  # noqa: PLC0415 - a Python may be built without it
        import mmap  # noqa: PLC0415

        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
        flag = ctypes.c_bool.from_buffer(page)
    except (ImportError, OSError, ValueError):
        return None
    flag.value = True
    return flag


def around_forks(
    owner: Owner, *, wait_for: Callable[[Owner], LockType | None], moved: Callable[[Owner], object]
) -> None:
    """Before each fork hold the lock `wait_for`, waiting for it a second at most; then call `moved` in the child.

    The hooks cannot be taken back, so they do not keep `owner` alive.
    """
    reference = weakref.ref(owner)
    held: list[LockType] = []

    def before() -> None:
        alive = reference()
        lock = wait_for(alive) if alive is not None else None
        if lock is not None and lock.acquire(timeout=_BEFORE_FORK_SECONDS):
            held.append(lock)

    def in_parent() -> None:
        if held:
            held.pop().release()

    def in_child() -> None:
        held.clear()
        alive = reference()
        if alive is not None:
            moved(alive)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def never_finalize(inherited: object) -> None:
    """Never finalize `inherited`, at the end of the process neither: what it would close is its parent's too."""
    with suppress(ImportError):
        import ctypes  # noqa: PLC0415 - a Python may be built without it

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


def refuse_copy(what: object) -> NoReturn:
    """For `__reduce_ex__` of what has files and threads in this process, which no copy of it could have.

    Raises:
        TypeError: Always.
    """
    kind = type(what).__name__
    raise TypeError(
        f"{kind} is not copied or pickled: it has a log and threads of its own, make one where it is needed"
    )


def register_exit(method: Callable[[], object]) -> Callable[[], None]:
    """Call a bound `method` at the end of the process, if its object lives then.

    Returns what `unregister_exit` takes.
    """

    def end() -> None:
        alive = reference()
        if alive is not None:
            alive()

    reference = weakref.WeakMethod(method, lambda _: atexit.unregister(end))
    atexit.register(end)
    return end


def register_exit_of_child(end: Callable[[], None]) -> None:
    """Also where it is a child that multiprocessing forked, which skips `atexit`. To be called in that child."""
    multiprocessing, util = sys.modules.get("multiprocessing"), sys.modules.get("multiprocessing.util")
    if multiprocessing is not None and util is not None and multiprocessing.parent_process() is not None:
        util.Finalize(None, end, exitpriority=_AFTER_ALL_OTHERS)


def unregister_exit(end: Callable[[], None]) -> None:
    """Forget what `register_exit` was told."""
    atexit.unregister(end)
