"""What a program logs, as events: a handler for `logging`, a processor for structlog.

    logging.getLogger().addHandler(RecordingHandler(recorder))
    structlog.configure(processors=[structlog.stdlib.add_log_level, RecordingProcessor(recorder), ...])

Both record events of type "logged" whose payload has the same members:

    logger      the logger's name; null where it has none
    level       "info", "warning", … in small letters
    message     the text, its arguments filled in; with structlog the event
    fields      what was given beside it (`extra=`, keyword arguments); left out where there is nothing
    exception   the traceback as text; left out where there is none

A field that JSON cannot say is recorded as its `repr`, but of something that is marked for privacy only its class. Our
own loggers, "eventrec" and all below it, are left out: what a recorder says about its troubles must not become more of
them. So is "httpcore2": at the level of DEBUG it says what each delivery over HTTP does, and each such line would be
one more event to deliver.
"""

from __future__ import annotations

import logging
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from eventrec.errors import EncodeError
from eventrec.events.event import DEFAULT_TABLE, Event
from eventrec.events.privacy import Masks
from eventrec.records.json import encode_json
from eventrec.records.marked_values import MarkedValueError, refuse_marked
from eventrec.runtime.logging import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec.recorder import EventRecorder, SyncRecorder

TYPE: Final = "logged"

_OURS: Final = frozenset({ROOT, "httpcore2"})
_NO_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LONGEST_REPR: Final = 1_000


@dataclass(frozen=True, slots=True)
class Logged(Event):
    """One line that was logged."""

    content: Mapping[str, object]
    into: str
    at: int | None = None

    @property
    def type(self) -> str:
        return TYPE

    @property
    def table(self) -> str:
        return self.into

    @property
    def payload(self) -> object:
        return self.content

    @property
    def timestamp(self) -> int | None:
        return self.at


class RecordingHandler(logging.Handler):
    """Records what reaches it, from any thread, without a lock and without waiting."""

    def __init__(
        self, recorder: EventRecorder | SyncRecorder, *, level: int | str = logging.NOTSET, table: str = DEFAULT_TABLE
    ) -> None:
        super().__init__(level)
        self._recorder = recorder
        self._table = table

    def handle(self, record: logging.LogRecord) -> bool:
        """As `logging.Handler.handle`, without its lock: `record()` needs none, and may be interrupted."""
        kept: Any = self.filter(record)
        if kept:
            self.emit(kept if isinstance(kept, logging.LogRecord) else record)
        return bool(kept)

    def emit(self, record: logging.LogRecord) -> None:
        """Record one line; what goes wrong goes to `handleError`."""
        if _is_ours(record.name):
            return
        try:
            fields = {key: value for key, value in vars(record).items() if key not in _NO_FIELDS}
            content = _content(record.name, record.levelname, record.getMessage(), fields, record.exc_info)
            if record.exc_text and "exception" not in content:
                # All that is left of a traceback that came through a socket, or out of a pickle.
                content["exception"] = _plain(record.exc_text)
            if record.stack_info:
                content["stack"] = record.stack_info
            self._recorder.record(Logged(content, self._table, int(record.created * 1_000_000) * 1_000))
        except Exception:  # noqa: BLE001 - logging's own way of not disturbing who logs
            self.handleError(record)


class RecordingProcessor:
    """Records every event of structlog that passes, and passes it on as it is.

    Put it behind the processors that add a level and the logger's name, and before the one that renders.
    """

    def __init__(self, recorder: EventRecorder | SyncRecorder, *, table: str = DEFAULT_TABLE) -> None:
        self._recorder = recorder
        self._table = table

    def __call__(self, logger: Any, method_name: str, event_dict: Any) -> Any:
        """Record a copy; a processor's signature is structlog's."""
        fields = dict(event_dict)
        name = fields.pop("logger", None) or getattr(logger, "name", None)
        if not isinstance(name, str) or not _is_ours(name):
            level = fields.pop("level", method_name)
            formatted = fields.pop("exception", None)
            content = _content(name, str(level), fields.pop("event", ""), fields, fields.pop("exc_info", None))
            if formatted is not None:
                content["exception"] = _plain(formatted)
            self._recorder.record(Logged(content, self._table))
        return event_dict


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in _OURS


def _content(
    name: str | None, level: str, message: object, fields: Mapping[str, object], exc_info: object
) -> dict[str, object]:
    content: dict[str, object] = {
        "logger": None if name is None else str(name),
        "level": level.lower(),
        "message": message if isinstance(message, str) else _plain(message),
    }
    if fields:
        content["fields"] = {str(key): _plain(value) for key, value in fields.items()}
    text = _traceback(exc_info)
    if text is not None:
        content["exception"] = text
    return content


def _traceback(exc_info: object) -> str | None:
    """The traceback of what `exc_info` means in logging and structlog: an exception, a triple of it, or true."""
    match exc_info:
        case BaseException():
            exc: BaseException | None = exc_info
        case (_, BaseException() as second, _):
            exc = second
        case True:
            exc = sys.exception()
        case _:
            exc = None
    return None if exc is None else "".join(traceback.format_exception(exc)).rstrip("\n")


def _plain(value: object) -> object:
    """`value` where JSON can say it, else what it looks like; of what has marked fields only its class."""
    if value is None or type(value) in {str, int, bool}:
        return value
    try:
        encode_json(value)
    except Exception:  # noqa: BLE001 - an object's own code may raise anything
        return _shown(value)
    return value


def _shown(value: object) -> object:
    try:
        refuse_marked(value)
    except MarkedValueError:
        try:
            Masks().unmarked(value)
        except EncodeError:
            return f"a {type(value).__name__} with marked fields"
        return value  # The recorder knows what of it is recorded.
    except Exception:  # noqa: BLE001 - an object's own code, and what is nested too deep
        return f"a {type(value).__name__}"
    try:
        return f"{value!r:.{_LONGEST_REPR}}"
    except Exception:  # noqa: BLE001 - an object's own code
        return f"a {type(value).__name__}"
