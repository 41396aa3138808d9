"""Threads and locks of the system, also where gevent has put its own in their place.

A greenlet runs only when the program lets it, and no thread of the system can wait for a lock of gevent's. gevent keeps
what it replaced, and is asked only where the program has loaded it.
"""

from __future__ import annotations

import _thread
import sys
from _thread import RLock
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RLock", "Signal", "allocate_lock", "get_ident", "start_new_thread", "threads_are_greenlets"]


def _original(name: str) -> Any:
    monkey = sys.modules.get("gevent.monkey")
    return getattr(_thread, name) if monkey is None else monkey.get_original("_thread", name)


get_ident: Final[Callable[[], int]] = _original("get_ident")
"""Looked up once: every `record()` calls it."""


def allocate_lock() -> _thread.LockType:
    """A lock for threads of the system."""
    lock: _thread.LockType = _original("allocate_lock")()
    return lock


class Signal:
    """Wakes one waiting thread; stays set until a thread waits. Setting it never waits, in a signal handler neither."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def set(self) -> None:
        """Let the next `wait`, or the one that is on, return."""
        try:
            self._lock.release()
        except RecursionError:
            raise
        except RuntimeError:  # It is set already.
            pass

    def wait(self, timeout: float | None = None) -> bool:
        """False: it was not set within `timeout` seconds."""
        return self._lock.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), _thread.TIMEOUT_MAX))


def start_new_thread(function: Callable[..., object], *arguments: object) -> None:
    """Run `function` in a daemon thread of the system.

    Raises:
        RuntimeError: There are too many threads, the interpreter ends, or uWSGI is about to fork behind Python's back.
    """
    if sys.is_finalizing():
        # Up to Python 3.11 such a thread starts, and never runs.
        raise RuntimeError("the interpreter ends")
    if _is_forked_unprepared():
        raise RuntimeError(
            "uWSGI is about to fork without telling Python, and a thread would leave its workers hanging: "
            "set py-call-uwsgi-fork-hooks or lazy-apps"
        )
    _original("start_new_thread")(function, arguments)


def _is_forked_unprepared() -> bool:
    """Whether this is uWSGI before its workers are forked, and the fork will copy a locked interpreter into them."""
    uwsgi = sys.modules.get("uwsgi")
    if uwsgi is None or not hasattr(uwsgi, "opt") or uwsgi.worker_id() or uwsgi.mule_id():
        return False
    has_hooks = "py-call-uwsgi-fork-hooks" in uwsgi.opt
    return not has_hooks and ("master" in uwsgi.opt or uwsgi.numproc > 1)


def threads_are_greenlets() -> bool:
    """Whether `threading` makes greenlets: where gevent has patched it."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))
