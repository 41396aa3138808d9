"""The recorder of a framework's application: opened in each process that uses it, however that process was made.

Frameworks without a lifespan fork their workers before an application is loaded or after, restart them, and load the
application for commands too. So nothing is opened when the application is set up. The first request or task of a
process opens the recorder there, with delivery in a thread of its own; the end of the process closes it.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from eventrec.errors import EventrecError, OptionsError, RecorderStateError
from eventrec.option_sources import first_errors
from eventrec.options import EventRecorderOptions
from eventrec.recorder import EventRecorder
from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.status import Status

_logger = get_logger("eventrec.bridges")

_AGAIN_SECONDS: Final = 10.0
"""After a failed `open` the next try comes no sooner: a request must not pay for it each time."""


class ProcessRecorder:
    """Opens `recorder` in each process that calls `ensure_open`, and only there. From any thread."""

    def __init__(self, recorder: EventRecorder, *, now: Callable[[], float] = time.monotonic) -> None:
        self.recorder: Final = recorder
        self._now = now
        self._delivering = recorder.sync()
        self._settled_in: int | None = None
        """The process that has opened it, or closed it for good."""
        self._closed_in: int | None = None
        self._opening_in: int | None = None
        """The process in which a thread of ours opens it."""
        self._next_try = 0.0
        self._said = ""

    def __repr__(self) -> str:
        return f"<ProcessRecorder of {self.recorder!r}>"

    def ensure_open(self) -> None:
        """Open it if this process has not done so. Never raises: what goes wrong is said in the logging, and counted.

        On an event loop, which must not wait for the disk, a thread opens it, and this returns before. A recorder that
        cannot be opened must not stop an application. Where it has a log, and a thread can be started, what is recorded
        meanwhile is written all the same. It is tried again after ten seconds.
        """
        pid = os.getpid()
        if pid == self._settled_in or self._now() < self._next_try:
            return
        if not _is_on_loop():
            self._open(pid)
        elif pid != self._opening_in:
            self._opening_in = pid
            try:
                threading.Thread(target=self._open, args=(pid,), name="eventrec opening", daemon=True).start()
            except RuntimeError as exc:
                self._opening_in = None
                self._note_failure(exc, pid)

    def start(self) -> None:
        """As `ensure_open`, also where this process has closed it: a server, or a worker, starts in it once more."""
        if self._closed_in == os.getpid():
            self._settled_in = self._closed_in = None
        self.ensure_open()

    def _open(self, pid: int) -> None:
        try:
            with suppress(RecorderStateError):  # Another thread opens it, or the application has.
                self._delivering.open()
            if pid == self._closed_in:  # Meanwhile, and for good.
                self._delivering.close()
        except (EventrecError, OSError, RuntimeError) as exc:
            self._note_failure(exc, pid)
        else:
            self._settled_in = pid
        finally:
            self._opening_in = None

    def _note_failure(self, exc: Exception, pid: int) -> None:
        """It is tried again later."""
        self._next_try = self._now() + _AGAIN_SECONDS
        error = f"{type(exc).__name__}: {exc}"
        if error != self._said:
            self._said = error
            _logger.warning("the recorder is not open, and nothing is delivered from here", error=error, pid=pid)

    def close(self) -> Status:
        """Deliver what can be delivered within the recorder's `close_timeout`; only `start` opens it again here."""
        self._settled_in = self._closed_in = os.getpid()
        return self._delivering.close()


def _is_on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def recorder_of(settings: object, *, name: str) -> EventRecorder:
    """The recorder that an application's settings say.

    `settings` is one; or a mapping with `to` (a URL or a sequence of them), `log` (a directory) and options, as in a
    file of options; or None: see `EventRecorder.from_env`. `name` is what the application calls them.

    Raises:
        OptionsError: It is something else; a name is unknown, or a value is not allowed; or neither a destination nor
            a log directory is named.
        HandlerURLError: A URL names an unknown scheme or option, or its driver is not installed.
    """
    match settings:
        case EventRecorder():
            return settings
        case None:
            return EventRecorder.from_env()
        case Mapping():
            return _recorder_of_mapping({**settings}, name)
        case _:
            raise OptionsError(f"{name} is an EventRecorder, or a mapping, got {type(settings).__name__}")


def _recorder_of_mapping(given: dict[str, Any], name: str) -> EventRecorder:
    to, log = given.pop("to", ()), given.pop("log", None)
    if isinstance(to, str):
        to = (to,)
    if not isinstance(log, str | Path | None):
        raise OptionsError(f'"log" in {name} is the path of a directory, got {type(log).__name__}')
    unknown = sorted(given.keys() - EventRecorderOptions.model_fields.keys())
    if unknown:
        known = ", ".join(["to", "log", *sorted(EventRecorderOptions.model_fields)])
        raise OptionsError(f"unknown option {unknown[0]!r} in {name}; known are {known}")
    try:
        options = EventRecorderOptions(**given)
    except ValidationError as exc:
        raise OptionsError(f"options in {name}: {first_errors(exc)}") from exc
    if not to and log is None and options.enabled:
        raise OptionsError(f'nothing says where events go: give {name} "to", the URL of a destination, or "log"')
    return EventRecorder(*to, log=log, options=options)
