"""Our own log lines: structlog events into the stdlib's loggers under "eventrec", whatever is configured."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

ROOT: Final = "eventrec"
"""Name of the logger above all of ours; bridges that record logging events leave it and its children out."""


def get_logger(name: str) -> Any:
    """A logger whose lines read `phrase key=value …`; the keys are the stdlib record's `eventrec` too."""
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, _to_stdlib],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
        cache_logger_on_first_use=True,
    )


def _to_stdlib(_: WrappedLogger, __: str, event: EventDict) -> tuple[tuple[Any, ...], dict[str, Any]]:
    phrase = event.pop("event")
    exc_info = event.pop("exc_info", None)
    shown = " ".join(f"{key}={_shown(value)}" for key, value in event.items())
    # Values go in as arguments, so that a percent sign from an event is never read as a format.
    return ("%s %s" if shown else "%s%s", phrase, shown), {"exc_info": exc_info, "extra": {"eventrec": dict(event)}}


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if text.isprintable() and " " not in text and text else repr(text)


def text_of(exc: BaseException) -> str:
    """What `exc` says; the name of its class where it cannot say anything, since that is foreign code too."""
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - foreign code
        return type(exc).__name__


def described(exc: BaseException) -> str:
    """Class and text of `exc`."""
    return f"{type(exc).__name__}: {text_of(exc)}"
