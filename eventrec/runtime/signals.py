"""Whose exception it is: what a signal handler of the application raises arrives in whatever code runs then."""

from __future__ import annotations

import asyncio
import dis
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

from eventrec.runtime.native import get_ident

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, TracebackType

_LONGEST_CHAIN: Final = 10

_SIGNALS: Final = tuple(signal.valid_signals())

_RAISING: Final = {"RAISE_VARARGS", "RERAISE"}
"""Instructions that raise what the code itself says."""

_PASSED_ON: Final = "raised by a signal handler of the application, and passed on to its event loop"


def error_of_signal_handler(exc: BaseException) -> BaseException | None:
    """What was raised inside a handler that the program set with `signal.signal`: `exc`, or an error behind it.

    Ctrl-C, where the program has set none, is Python's own handler.
    """
    if get_ident() != threading.main_thread().ident:
        return None
    errors = [error for error in _chain(exc) if not isinstance(error, asyncio.CancelledError)]
    # A cancellation alone, which comes often, costs no look at the handlers.
    handlers = {_code_of(signal.getsignal(number)) for number in _SIGNALS} - {None} if errors else set()
    for error in errors:
        last, traceback = None, error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code in handlers:
                return error
            last, traceback = traceback, traceback.tb_next
        if last is not None and isinstance(error, KeyboardInterrupt) and _is_interrupted(last):
            return error
    return None


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """`exc`, and what is behind it, to a depth."""
    error: BaseException | None = exc
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def pass_on(exc: BaseException) -> bool:
    """Have the application's loop raise it, once, where it is such an error: for what contains errors of others.

    trio has one place for it, the main task, and one error that may come there: KeyboardInterrupt, in place of what
    ends a program. False: it is not such an error, or nothing here raises it.
    """
    error = error_of_signal_handler(exc)
    if error is None:
        return False
    if _PASSED_ON not in getattr(error, "__notes__", ()):
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            if not (isinstance(error, (SystemExit, KeyboardInterrupt)) and _interrupt_trio()):
                return False
        else:
            loop.call_soon(_raise, error)
        error.add_note(_PASSED_ON)
    return True


def _interrupt_trio() -> bool:
    """Have trio raise KeyboardInterrupt in its main task, where it runs here and the program leaves Ctrl-C to it."""
    trio = sys.modules.get("trio")
    if trio is None or not getattr(signal.getsignal(signal.SIGINT), "__module__", "").startswith("trio."):
        return False

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    trio.lowlevel.enable_ki_protection(interrupt)()  # Without that it would be raised right here.
    return True


def _raise(error: BaseException) -> None:
    raise error


def _is_interrupted(traceback: TracebackType) -> bool:
    """Whether no code raised it, and Python's handler of Ctrl-C is in place: it came in between two instructions."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    instruction = traceback.tb_frame.f_code.co_code[traceback.tb_lasti]
    return dis.opname[instruction] not in _RAISING


def _code_of(handler: Any) -> CodeType | None:
    """Of a function, a bound method, a partial of one, or an object that can be called."""
    handler = getattr(handler, "func", handler)
    handler = getattr(handler, "__func__", handler)
    if not hasattr(handler, "__code__"):
        handler = type(handler).__dict__.get("__call__")
    code: CodeType | None = getattr(handler, "__code__", None)
    return code
