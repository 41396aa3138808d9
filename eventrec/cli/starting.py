"""How a command starts: without the garbage collector, which finds nothing in what is imported and takes its time."""

from __future__ import annotations

import gc
import importlib
import sys
from typing import Any


class Start:
    """From `begin` to `end` nothing is collected; what was made by then is never looked at again, not even at the end.

    Only for a process that is ours: neither does anything in an application that calls a command.
    """

    def __init__(self) -> None:
        self._is_begun = False

    def begin(self) -> None:
        """The process starts."""
        if gc.isenabled():
            self._is_begun = True
            gc.disable()
        _load_structlog()

    def end(self) -> None:
        """All that the command needs is imported. May be called again."""
        if self._is_begun:
            self._is_begun = False
            gc.freeze()
            gc.enable()


def _load_structlog() -> None:
    """Without rich, which it loads for tracebacks that no command shows: that takes three times as long as the rest."""
    if {"rich", "structlog"} & sys.modules.keys():
        return
    hidden: dict[str, Any] = {"rich": None}
    sys.modules.update(hidden)
    try:
        importlib.import_module("structlog")
    finally:
        del sys.modules["rich"]


start = Start()
