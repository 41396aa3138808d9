"""Our own log lines: structlog events into the stdlib's loggers under "eventrec", whatever is configured."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import structlog

from eventrec.runtime.signals import error_of_signal_handler, pass_on
from eventrec.runtime.texts import encodable

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

ROOT: Final = "eventrec"
"""Name of the logger above all of ours; bridges that record logging events leave it and its children out."""


def get_logger(name: str) -> Any:
    """A logger for handlers: its lines read `phrase key=value …`; the keys are the stdlib record's `eventrec` too.

    Its `name` begins with "eventrec.": so what records the logging as events leaves its lines out, which would come
    back to the handler.
    """
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, _to_stdlib],
        wrapper_class=_ContainedLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )


_LEVELS: Final = {"exception": "ERROR", "warn": "WARNING", "fatal": "CRITICAL"}
"""Of the methods that are not called like theirs."""


class _ContainedLogger(structlog.stdlib.BoundLogger):
    """What handlers and filters of the application's logging throw ends here: a line is lost, and nothing else.

    What a signal handler raised meanwhile goes on to the application.
    """

    def _proxy_to_logger(self, method_name: str, event: str | None = None, *event_args: str, **event_kw: Any) -> Any:
        try:
            return super()._proxy_to_logger(method_name, event, *event_args, **event_kw)
        except BaseException as exc:
            # Foreign code, called from every thread and task of ours.
            if not pass_on(exc):
                if error_of_signal_handler(exc) is not None:
                    raise
                _say_lost(event, exc)
            return None


def _say_lost(event: str | None, exc: BaseException) -> None:
    """Like the standard library's own handlers, on stderr, unless `logging.raiseExceptions` says no."""
    if logging.raiseExceptions and sys.stderr is not None:
        with suppress(Exception):
            sys.stderr.write(f"eventrec: the logging failed at {event!r}: {described(exc)}\n")


def _to_stdlib(logger: WrappedLogger, method: str, event: EventDict) -> tuple[tuple[Any, ...], dict[str, Any]]:
    phrase = event.pop("event")
    if not logger.hasHandlers():
        # Where a program has configured nothing, the standard library shows the bare text of a warning.
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        phrase = f"{now} {_LEVELS.get(method, method.upper())} {logger.name}: {phrase}"
    exc_info = event.pop("exc_info", None)
    event = {key: encodable(value) if isinstance(value, str) else value for key, value in event.items()}
    shown = " ".join(f"{key}={_shown(value)}" for key, value in event.items())
    # Values go in as arguments, so that a percent sign from an event is never read as a format.
    return ("%s %s" if shown else "%s%s", phrase, shown), {"exc_info": exc_info, "extra": {"eventrec": dict(event)}}


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if text.isprintable() and " " not in text and text else repr(text)


MAX_TEXT: Final = 4_000
"""Characters that are kept of an error's text: it stands in dead letters, states and log lines."""


def text_of(value: object) -> str:
    """What `value` says, as text that can be encoded; the name of its class where it cannot say anything.

    An error's text is foreign code: it is cut where it is long, and lone surrogates, which no file takes, are escaped.
    """
    try:
        text = str.__str__(str(value))  # Of `str` itself: its length and its parts are no foreign code.
    except BaseException:  # noqa: BLE001 - foreign code, which must not end what only wants to name it
        text = _class_name(value)
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}… ({len(text):,} characters)"
    return encodable(text)


def _class_name(value: object) -> str:
    # Of `type` itself: a class of a class may have a `__name__` of its own.
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name


def described(exc: BaseException) -> str:
    """Class and text of `exc`."""
    return f"{text_of(_class_name(exc))}: {text_of(exc)}"
