"""Says in the log that a request failed, without anything of the request: what an error says may quote an event."""

from __future__ import annotations

from pathlib import PurePath
from traceback import walk_tb

from eventrec.runtime.logging import get_logger

_logger = get_logger("eventrec.server")


def say_failed(route: str, exc: BaseException) -> None:
    """One line: the error's class, and where it was raised."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    frames = walk_tb(exc.__traceback__)
    places = [f"{'/'.join(PurePath(frame.f_code.co_filename).parts[-2:])}:{line}" for frame, line in frames]
    _logger.error("a request failed", route=route, error=type(exc).__qualname__, at=" ".join(places[-3:]))
