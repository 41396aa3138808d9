"""Whose exception it is: what a signal handler of the application raises arrives in whatever code runs then."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Final

from eventrec.runtime.native import get_ident

if TYPE_CHECKING:
    from types import CodeType

_SIGNALS: Final = tuple(signal.valid_signals())


def is_from_signal_handler(exc: BaseException) -> bool:
    """Whether `exc` was raised inside a handler that the program set with `signal.signal`."""
    if get_ident() != threading.main_thread().ident:
        return False
    handlers = {_code_of(signal.getsignal(number)) for number in _SIGNALS} - {None}
    traceback = exc.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in handlers:
            return True
        traceback = traceback.tb_next
    return False


def _code_of(handler: Any) -> CodeType | None:
    """Of a function, a bound method, a partial of one, or an object that can be called."""
    handler = getattr(handler, "func", handler)
    handler = getattr(handler, "__func__", handler)
    if not hasattr(handler, "__code__"):
        handler = type(handler).__dict__.get("__call__")
    code: CodeType | None = getattr(handler, "__code__", None)
    return code
