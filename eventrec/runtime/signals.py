"""Whose exception it is: what a signal handler of the application raises arrives in whatever code runs then."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Final

from eventrec.runtime.native import get_ident

if TYPE_CHECKING:
    from types import CodeType

_LONGEST_CHAIN: Final = 10

_SIGNALS: Final = tuple(signal.valid_signals())


def error_of_signal_handler(exc: BaseException) -> BaseException | None:
    """What was raised inside a handler that the program set with `signal.signal`: `exc`, or an error behind it."""
    if get_ident() != threading.main_thread().ident:
        return None
    handlers = {_code_of(signal.getsignal(number)) for number in _SIGNALS} - {None}
    error: BaseException | None = exc
    for _ in range(_LONGEST_CHAIN):
        if error is None:
            break
        traceback = error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code in handlers:
                return error
            traceback = traceback.tb_next
        error = error.__cause__ or error.__context__
    return None


def _code_of(handler: Any) -> CodeType | None:
    """Of a function, a bound method, a partial of one, or an object that can be called."""
    handler = getattr(handler, "func", handler)
    handler = getattr(handler, "__func__", handler)
    if not hasattr(handler, "__code__"):
        handler = type(handler).__dict__.get("__call__")
    code: CodeType | None = getattr(handler, "__code__", None)
    return code
