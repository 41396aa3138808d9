"""What a handler tells GreptimeDB about tables that it makes, and what it may be told itself."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from eventrec import HandlerURLError

if TYPE_CHECKING:
    from typing import Self

    from eventrec import Duration, HandlerURL
    from eventrec_handlers.greptimedb.columns import JsonForm

GreptimeDBCompression: TypeAlias = Literal["none", "gzip"]
"""Of requests. GreptimeDB also takes zstd, which gRPC for Python does not know."""

JSON_FORMS: Final[tuple[JsonForm, ...]] = ("binary", "text")
COMPRESSIONS: Final[tuple[GreptimeDBCompression, ...]] = ("none", "gzip")
TIMEOUT: Final = 30.0
CONNECT_TIMEOUT: Final = 5.0
MAX_REQUEST_BYTES: Final = 64 << 20
TIME_WINDOW: Final = "1day"
"""Of compaction, as GreptimeDB's own recorder has it."""

HINTS_HEADER: Final = "x-greptime-hints"

_UNITS: Final = (
    "nsec|ns|usec|us|msec|ms|seconds|second|sec|s|minutes|minute|min|m|hours|hour|hrs|hr|h|days|day|d|weeks|week|w"
    "|months|month|M|years|year|y"
)
_SPAN: Final = re.compile(rf"(?:[0-9]+ *(?:{_UNITS}) *)+")
_WORDS: Final = ("forever", "instant")
"""What a table's ttl may be as well."""

_STEPS: Final = (
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventHandlerOptions:
    """What GreptimeDB is told when a table is made; one that exists stays as it is.

    Attributes:
        ttl: How long rows stay, by their timestamp: seconds, a timedelta, or text such as "90d", "2months 29days",
            "forever". None: as the recorder says, else as the database does.
        append_mode: Rows are added, and a repeat stands there twice under one id. False: the id is a part of the
            primary key, so that a repeat overwrites; each row is a series of its own then, which costs.
        time_window: Of compaction, as text. None: the database decides.

    Raises:
        ValueError: One of them is not a time, or would not arrive as one: it holds a comma.
    """

    ttl: Duration | None = None
    append_mode: bool = True
    time_window: str | None = TIME_WINDOW

    def __post_init__(self) -> None:
        if self.ttl is not None:
            _time("ttl", self.ttl, words=_WORDS)
        if self.time_window is not None:
            _time("time_window", self.time_window)

    def to_hints(self) -> dict[str, str]:
        """Name to value, in the order in which they are sent."""
        hints = {} if self.ttl is None else {"ttl": _time("ttl", self.ttl, words=_WORDS)}
        hints["append_mode"] = "true" if self.append_mode else "false"
        if self.time_window is not None:
            hints["compaction.twcs.time_window"] = _time("time_window", self.time_window)
        return hints

    def with_ttl(self, seconds: float) -> Self:
        """The same with the recorder's ttl, where there is none of its own."""
        return self if self.ttl is not None else replace(self, ttl=seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """The keyword arguments of `GreptimeDBHandler` about calls; it says what they mean.

    Raises:
        ValueError: One of them is not allowed.
    """

    json: JsonForm = "binary"
    compression: GreptimeDBCompression = "none"
    timeout: float = TIMEOUT
    connect_timeout: float = CONNECT_TIMEOUT
    max_request_bytes: int = MAX_REQUEST_BYTES
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    def __post_init__(self) -> None:
        if self.json not in JSON_FORMS:
            raise ValueError(f"json must be one of {', '.join(JSON_FORMS)}, got {self.json!r}")
        if self.compression not in COMPRESSIONS:
            raise ValueError(f"compression must be one of {', '.join(COMPRESSIONS)}, got {self.compression!r}")
        for name in ("timeout", "connect_timeout", "max_request_bytes"):
            if not 0 < getattr(self, name) < 1 << 31:
                raise ValueError(f"{name} must be more than 0 and less than {1 << 31}, got {getattr(self, name)!r}")
        if (self.tls_ca or self.tls_cert or self.tls_key) and not self.tls:
            raise ValueError("tls_ca, tls_cert and tls_key need tls=true")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key belong together")


NAMES: Final = tuple(field.name for options in (EventHandlerOptions, CallOptions) for field in fields(options))
"""The options as a URL names them."""


def options_of(url: HandlerURL) -> tuple[EventHandlerOptions, CallOptions]:
    """The options in the query string of `url`.

    Raises:
        HandlerURLError: A value is not allowed.
    """
    try:
        return (
            EventHandlerOptions(
                ttl=url.text("ttl"),
                append_mode=url.boolean("append_mode", default=True),
                time_window=url.text("time_window", default=TIME_WINDOW) or None,
            ),
            CallOptions(
                json=url.choice("json", JSON_FORMS, default="binary"),
                compression=url.choice("compression", COMPRESSIONS, default="none"),
                timeout=url.seconds("timeout", default=TIMEOUT),
                connect_timeout=url.seconds("connect_timeout", default=CONNECT_TIMEOUT),
                max_request_bytes=url.integer("max_request_bytes", default=MAX_REQUEST_BYTES, low=1),
                tls=url.boolean("tls", default=False),
                tls_ca=url.text("tls_ca"),
                tls_cert=url.text("tls_cert"),
                tls_key=url.text("tls_key"),
            ),
        )
    except ValueError as exc:
        raise HandlerURLError(f"a {url.scheme} URL: {exc}") from None


def hints_header(hints: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The one header that carries all hints."""
    return ((HINTS_HEADER, ",".join(f"{name}={value}" for name, value in hints.items())),)


def _time(name: str, value: Duration, *, words: tuple[str, ...] = ()) -> str:
    """A span of time as GreptimeDB reads it; text stays as it is."""
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"[0-9]+", text):
            return _spelled(name, float(text))
        if text not in words and _SPAN.fullmatch(text) is None:
            comma = "; a comma would end the hint" if "," in text else ""
            raise ValueError(f'{name} must be seconds or text such as "90d", got {value!r:.60}{comma}')
        return text
    if isinstance(value, bool) or not isinstance(value, (int, float, timedelta)):
        raise ValueError(f"{name} must be seconds, a timedelta or text, got {value!r:.60}")  # noqa: TRY004 - like others
    return _spelled(name, value.total_seconds() if isinstance(value, timedelta) else float(value))


def _spelled(name: str, seconds: float) -> str:
    """Seconds as days, hours, minutes …: months are left out, for GreptimeDB's have 30.44 days."""
    if not 0 < seconds < 1e11:  # noqa: PLR2004 - three thousand years
        raise ValueError(f"{name} must be more than 0 and less than 1e11 seconds, got {seconds:g}")
    rest = max(1, round(seconds * 1e9))
    parts = []
    for unit, size in _STEPS:
        number, rest = divmod(rest, size)
        if number:
            parts.append(f"{number}{unit}")
    return " ".join(parts)
