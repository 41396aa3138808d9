"""Handlers by URL, `scheme://user:password@host:port/path?option=value`, through the entry points `eventrec.handlers`.

An entry point is a callable `(url: str) -> EventHandler`, its name the scheme; `env:NAME` stands for a URL that is kept
in an environment variable. Nothing here shows a password, nor any part of what a variable holds.
"""

from __future__ import annotations

import math
import os
import re
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from eventrec.durations import duration_seconds
from eventrec.errors import HandlerURLError, OptionsError
from eventrec.handler import EventHandler

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from eventrec.analytics.migration_target import MigrationTarget
    from eventrec.analytics.store import RollupStore
    from eventrec.reading import EventReader

GROUP: Final = "eventrec.handlers"
BUSES: Final = "eventrec.buses"

OUR_SCHEMES: Final = {
    "clickhouse": "eventrec_handlers.clickhouse:from_url [clickhouse]",
    "clickhouses": "eventrec_handlers.clickhouse:from_url [clickhouse]",
    "greptimedb": "eventrec_handlers.greptimedb:from_url [greptimedb]",
    "http": "eventrec_handlers.http:from_url [http]",
    "https": "eventrec_handlers.http:from_url [http]",
    "jsonl": "eventrec_handlers.jsonl:from_url",
    "memory": "eventrec_handlers.memory:from_url",
    "otlp": "eventrec_handlers.otlp:from_url [otlp]",
    "otlp+http": "eventrec_handlers.otlp:from_url [otlp]",
    "otlp+https": "eventrec_handlers.otlp:from_url [otlp]",
    "postgres": "eventrec_handlers.postgres:from_url [postgres]",
    "postgresql": "eventrec_handlers.postgres:from_url [postgres]",
    "posthog": "eventrec_handlers.posthog:from_url [posthog]",
    "redis": "eventrec_handlers.redis:from_url [redis]",
    "redis+unix": "eventrec_handlers.redis:from_url [redis]",
    "rediss": "eventrec_handlers.redis:from_url [redis]",
    "sqlite": "eventrec_handlers.sqlite:from_url",
    "timescale": "eventrec_handlers.timescale:from_url [timescale]",
}
"""Entry points of our own, for installations without metadata: bundled, frozen, or stripped of their `*.dist-info`."""

PARTS: Final = ("user", "password", "host", "port", "path")
T = TypeVar("T", bound=str)

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)
_SECRET: Final = re.compile(r"pass|secret|token|key|credential", re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\0-\x1f\x7f]")
_TRUE: Final = ("true", "1", "yes", "on")
_FALSE: Final = ("false", "0", "no", "off")
_ENV: Final = "env"


def handler_from_url(url: str) -> EventHandler:
    """The handler that `url` asks for, not yet open.

    Raises:
        HandlerURLError: The scheme or an option is unknown, a value is not allowed, a driver is not installed, or
            `env:NAME` names a variable that is not set.
    """
    url = resolve_url(url)
    scheme = scheme_of(url)
    points = _entry_points()
    known = _by_scheme(points)
    if scheme not in known:
        raise HandlerURLError(f"no handler for the scheme {scheme!r}; known are {_listed(known)}")
    _refuse_conflict(scheme, points)
    make = load_point(known[scheme])
    handler = make(url) if callable(make) else None
    if not isinstance(handler, EventHandler):
        raise HandlerURLError(f"the entry point {known[scheme].value!r} of the scheme {scheme!r} made no EventHandler")
    return handler


def reader_from_url(url: str) -> EventReader:
    """The reader of the destination that `url` names, not yet open.

    Raises:
        HandlerURLError: As `handler_from_url`; or the handler has no reader.
    """
    reader = handler_from_url(url).reader()
    if reader is None:
        scheme = scheme_of(resolve_url(url))
        raise HandlerURLError(f"the handler for {scheme!r} cannot tell what it has stored: it has no reader")
    return reader


def rollup_store_from_url(url: str) -> RollupStore:
    """What answers rollups from the destination that `url` names, not yet open.

    Raises:
        HandlerURLError: As `handler_from_url`; or the handler answers none.
    """
    store = handler_from_url(url).rollups()
    if store is None:
        scheme = scheme_of(resolve_url(url))
        raise HandlerURLError(f"the handler for {scheme!r} cannot tell what it has stored: it answers no rollups")
    return store


def migration_target_from_url(url: str) -> MigrationTarget:
    """What migrates the destination that `url` names, not yet open.

    Raises:
        HandlerURLError: As `handler_from_url`; or nothing migrates it.
    """
    target = handler_from_url(url).migrations()
    if target is None:
        scheme = scheme_of(resolve_url(url))
        raise HandlerURLError(f"the handler for {scheme!r} has no migrations")
    return target


def default_name(url: str) -> str:
    """What a subscription to `url` is called by itself: the scheme; of two for one handler, the first by letter.

    So that `postgres://` and `postgresql://` have one checkpoint. A variable's URL is looked at, not shown.

    Raises:
        HandlerURLError: As `handler_from_url`, but for what is wrong behind the scheme.
    """
    scheme = scheme_of(resolve_url(url))
    known = _by_scheme(_entry_points())
    if scheme not in known:
        return scheme
    return min(other for other, point in known.items() if point.value == known[scheme].value)


def resolve_url(url: str) -> str:
    """`url` itself, or what the environment variable NAME holds where it is `env:NAME`.

    Raises:
        HandlerURLError: The variable is not set, or holds no URL of a known scheme. What it holds is not shown.
    """
    scheme, _, name = url.partition(":")
    if scheme.lower() != _ENV:
        return url
    held = os.environ.get(name)
    if not held:
        raise HandlerURLError(f"the environment variable {name!r} that env:{name} names is {_unset(held)}")
    known = {*_by_scheme(_entry_points()), *(point.name.lower() for point in entry_points(group=BUSES))}
    if held.partition(":")[0].lower() not in known or ":" not in held:
        raise HandlerURLError(
            f"what the environment variable {name!r} holds does not start with a known scheme: {_listed(known)}"
        )
    return held


def scheme_of(url: str) -> str:
    """The scheme of `url`, in lower case.

    Raises:
        HandlerURLError: It has none. The URL is not shown.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or _SCHEME.fullmatch(scheme) is None:
        raise HandlerURLError("a handler URL starts with a scheme and a colon, for example sqlite:///events.db")
    return scheme.lower()


def address_of(url: str) -> str:
    """What tells the destination of `url` from another one of its kind: 16 digits made of its scheme, host and path.

    User, password and options are left out: they change while the destination does not. Empty where that is not a URL
    of such parts. No part of it can be read from this.
    """
    try:
        name, given = default_name(url), HandlerURL(resolve_url(url))
    except HandlerURLError:
        return ""
    port = "" if given.port is None else f":{given.port}"
    return sha256(f"{name}://{given.host or ''}{port}/{given.path}".encode(errors="replace")).hexdigest()[:16]


class HandlerURL:
    """A handler URL taken apart, every part decoded.

    `path` comes without the slash that ends the authority: `sqlite:///a.db` has the path "a.db", `sqlite:////a.db` the
    path "/a.db". A handler first says what it takes (`accept`), then asks for its options, each converted and checked.

    Raises:
        HandlerURLError: It is not a URL, names an option twice, or holds what must be written percent-encoded.
    """

    __slots__ = ("host", "options", "password", "path", "port", "scheme", "user")

    scheme: str
    user: str | None
    password: str | None
    host: str | None
    port: int | None
    path: str
    options: Mapping[str, str]

    def __init__(self, url: str) -> None:
        self.scheme = scheme_of(url)
        if _CONTROL.search(unquote(url)):
            raise HandlerURLError(f"a {self.scheme} URL holds a control character")
        try:
            split = urlsplit(url)
            port = split.port
        except ValueError:
            # Without the cause: it quotes what stands where a port should, which may be half of a password.
            raise HandlerURLError(f"in a {self.scheme} URL, {_ENCODE}") from None
        behind = f"{split.path}?{split.query}"
        if split.fragment or ("@" not in split.netloc and ":" in split.netloc and "@" in behind):
            raise HandlerURLError(f"in a {self.scheme} URL, {_ENCODE}")
        self.user = _decoded(split.username)
        self.password = _decoded(split.password)
        self.host = _decoded(split.hostname)
        self.port = port
        has_authority = url.partition(":")[2].startswith("//")
        self.path = unquote(split.path.removeprefix("/") if has_authority else split.path)
        self.options = self._parsed(split.query)

    def __repr__(self) -> str:
        user = "" if self.user is None else self.user + ("" if self.password is None else ":***") + "@"
        port = "" if self.port is None else f":{self.port}"
        options = "&".join(f"{name}={self._shown(name)}" for name in self.options)
        return f"HandlerURL('{self.scheme}://{user}{self.host or ''}{port}/{self.path}{options and '?' + options}')"

    def accept(self, *options: str, parts: Collection[str] = ()) -> None:
        """Refuse every option but `options`, and every part of the URL (`PARTS`) but `parts`.

        Raises:
            HandlerURLError: Names what is not taken, and what is.
        """
        for name in self.options:
            if name not in options:
                raise HandlerURLError(f"unknown option {name!r} in a {self.scheme} URL; allowed are {_listed(options)}")
        for part in PARTS:
            if part not in parts and getattr(self, part) not in (None, ""):
                raise HandlerURLError(f"a {self.scheme} URL has no {part}; it may have: {_listed(parts)}")

    def text(self, name: str, *, default: str | None = None) -> str | None:
        """The option as it stands."""
        return self.options.get(name, default)

    def integer(self, name: str, *, default: int, low: int = 0, high: int = 2**63 - 1) -> int:
        """The option as a whole number from `low` to `high`."""
        value = self.options.get(name)
        if value is None:
            return default
        if re.fullmatch(r"[+-]?[0-9]{1,19}", value) is None or not low <= int(value) <= high:
            raise self._refused(name, f"a whole number from {low} to {high}")
        return int(value)

    def boolean(self, name: str, *, default: bool) -> bool:
        """The option as true or false, 1 or 0, yes or no, on or off."""
        value = self.options.get(name)
        if value is None:
            return default
        if value.lower() not in _TRUE + _FALSE:
            raise self._refused(name, f"one of {', '.join(_TRUE + _FALSE)}")
        return value.lower() in _TRUE

    def seconds(self, name: str, *, default: float) -> float:
        """The option as a duration in seconds: "5", "250ms", "1h 30m"."""
        value = self.options.get(name)
        if value is None:
            return default
        try:
            duration = duration_seconds(value)
        except OptionsError:
            duration = math.inf
        if not math.isfinite(duration):
            raise self._refused(name, "a duration: seconds, or text such as 5s, 250ms, 1h 30m")
        return duration

    def choice(self, name: str, allowed: Sequence[T], *, default: T) -> T:
        """The option as one of `allowed`."""
        value = self.options.get(name)
        if value is None:
            return default
        for choice in allowed:
            if choice == value:
                return choice
        raise self._refused(name, f"one of {_listed(allowed)}")

    def _parsed(self, query: str) -> Mapping[str, str]:
        options: dict[str, str] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name in options:
                raise HandlerURLError(f"the option {name!r} stands twice in a {self.scheme} URL")
            options[name] = value
        return options

    def _refused(self, name: str, expected: str) -> HandlerURLError:
        return HandlerURLError(
            f"the option {name!r} of a {self.scheme} URL must be {expected}, got {self._shown(name)!r}"
        )

    def _shown(self, name: str) -> str:
        return "***" if _SECRET.search(name) else self.options[name]


_ENCODE: Final = "the port must be a number, and : / ? # [ ] @ inside a part be percent-encoded (@ as %40)"


def _decoded(part: str | None) -> str | None:
    return None if part is None else unquote(part)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _unset(held: str | None) -> str:
    return "not set" if held is None else "empty"


def _entry_points() -> list[EntryPoint]:
    """The installed handlers, and ours. Looked up at each call: a package may have been installed since."""
    ours = [EntryPoint(scheme, value, GROUP) for scheme, value in OUR_SCHEMES.items()]
    return [*entry_points(group=GROUP), *ours]


def _by_scheme(points: Iterable[EntryPoint]) -> dict[str, EntryPoint]:
    """Of several for one scheme the first; `_refuse_conflict` says so to those who use that scheme."""
    found: dict[str, EntryPoint] = {}
    for point in points:
        found.setdefault(point.name.lower(), point)
    return found


def _refuse_conflict(scheme: str, points: Iterable[EntryPoint]) -> None:
    """Other schemes are not concerned.

    Raises:
        HandlerURLError: Two packages claim this one.
    """
    values = sorted({point.value for point in points if point.name.lower() == scheme})
    if len(values) > 1:
        raise HandlerURLError(f"two packages handle the scheme {scheme!r}: {' and '.join(values)}; uninstall one")


def known_schemes() -> list[str]:
    """The schemes that URLs may have here, and the word `env`, which stands for another URL."""
    return sorted({*_by_scheme(_entry_points()), _ENV})


def load_point(point: EntryPoint) -> object:
    """What an entry point names.

    Raises:
        HandlerURLError: It, or its driver, is not installed.
    """
    try:
        loaded: object = point.load()
    except ImportError as exc:
        advice = f": pip install '{_requirement(point)}'" if point.extras or _has_extra(point) else ""
        raise HandlerURLError(f"the handler for {point.name!r} cannot be imported ({exc}){advice}") from exc
    except AttributeError as exc:
        raise HandlerURLError(f"the entry point {point.value!r} of the scheme {point.name!r} does not exist") from exc
    return loaded


def _requirement(point: EntryPoint) -> str:
    """What to ask pip for: the extra that the entry point names, else the one that is called like the scheme."""
    package = point.dist.name if point.dist is not None else "eventrec"
    return f"{package}[{','.join(point.extras) or point.name}]"


def _has_extra(point: EntryPoint) -> bool:
    return point.dist is not None and point.name in (point.dist.metadata.get_all("Provides-Extra") or ())
