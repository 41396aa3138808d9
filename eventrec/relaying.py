"""Buses by URL and stages by name, through the entry points `eventrec.buses` and `eventrec.stages`.

redis://host:6379/0?stream=events       a bus: an entry point is a callable `(url: str) -> Bus`, its name the scheme
sessions?timeout=30m                    a stage: a callable `(options: Mapping[str, str]) -> Stage`
my_app.stages:halve                     a stage, or what makes one: an object of a module that can be imported
"""

from __future__ import annotations

import importlib
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from eventrec.bus.bus import Bus
from eventrec.bus.stage import Stage
from eventrec.errors import EventrecError, HandlerURLError, OptionsError
from eventrec.registry import BUSES, load_point, resolve_url, scheme_of
from eventrec.relay.options import RelayOptions
from eventrec.relay.plan import RelayPlan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STAGES: Final = "eventrec.stages"

OUR_BUSES: Final = {
    "redis": "eventrec_handlers.redis.bus:from_bus_url [redis]",
    "redis+unix": "eventrec_handlers.redis.bus:from_bus_url [redis]",
    "rediss": "eventrec_handlers.redis.bus:from_bus_url [redis]",
}
OUR_STAGES: Final = {
    "profiles": "eventrec.sessions.from_options:profiles",
    "reference-sessions": "eventrec.sessions.from_options:reference_sessions",
    "sessions": "eventrec.sessions.from_options:sessions",
}
"""Entry points of our own, for installations without metadata."""


def plan_of(bus: Bus | str, stages: Sequence[Stage | str], options: RelayOptions | None = None) -> RelayPlan:
    """What a recorder that is a relay needs to know.

    Raises:
        HandlerURLError: As `bus_from_url`.
        OptionsError: As `stage_from_text`; or two stages have one name.
    """
    made = [stage_from_text(each) if isinstance(each, str) else each for each in stages]
    names = [stage.name for stage in made]
    if len(set(names)) < len(names):
        raise OptionsError(f"two stages have one name: {', '.join(names)}")
    options = options or RelayOptions()
    if isinstance(bus, str):
        bus_from_url(bus)  # What is wrong with it is said here.
        return RelayPlan(make=partial(bus_from_url, bus), stages=made, options=options)
    return RelayPlan(given=bus, stages=made, options=options)


def bus_from_url(url: str) -> Bus:
    """The bus that `url` names, not yet open; `env:NAME` as for handlers.

    Raises:
        HandlerURLError: No bus has its scheme, an option is unknown or its value not allowed, a driver is not
            installed, or `env:NAME` names a variable that is not set.
    """
    url = resolve_url(url)
    scheme = scheme_of(url)
    known = _points(BUSES, OUR_BUSES)
    if scheme not in known:
        raise HandlerURLError(f"no bus for the scheme {scheme!r}; known are {', '.join(sorted(known)) or 'none'}")
    make = load_point(known[scheme])
    bus = make(url) if callable(make) else None
    if not isinstance(bus, Bus):
        raise HandlerURLError(f"the entry point {known[scheme].value!r} of the scheme {scheme!r} made no Bus")
    return bus


def is_bus_url(text: str) -> bool:
    """Whether `text` has the scheme of a bus, or is a URL of something else, or a variable that holds one."""
    return "://" in text or text.startswith("env:") or text.partition(":")[0].lower() in _points(BUSES, OUR_BUSES)


def stage_from_text(text: str) -> Stage:
    """The stage that `text` names, with the options behind its "?".

    Raises:
        OptionsError: There is no such stage, an option stands twice, or is not allowed.
    """
    name, _, query = text.partition("?")
    options: dict[str, str] = {}
    for option, value in parse_qsl(query, keep_blank_values=True):
        if option in options:
            raise OptionsError(f"the option {option!r} of the stage {name!r} stands twice")
        options[option] = value
    found = _object(name) if ":" in name else _of_entry_point(name)
    if isinstance(found, Stage) and options:
        raise OptionsError(f"the stage {name!r} is made already, and takes no options")
    if isinstance(found, Stage):
        return found
    stage = _made(name, found, options)
    if not isinstance(stage, Stage):
        raise OptionsError(f"{name!r} is not a stage, and makes none")
    return stage


def _made(name: str, make: object, options: Mapping[str, str]) -> object:
    if not callable(make):
        return None
    try:
        return make(options) if options else make()
    except EventrecError:
        raise
    except Exception as exc:
        raise OptionsError(f"the stage {name!r} cannot be made: {exc}") from exc


def _of_entry_point(name: str) -> object:
    known = _points(STAGES, OUR_STAGES)
    if name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise OptionsError(f"no stage {name!r}; known are {listed}; or give one as module:object")
    try:
        return load_point(known[name])
    except HandlerURLError as exc:
        raise OptionsError(f"the stage {name!r}: {exc}") from exc


def _object(name: str) -> object:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as exc:
        raise OptionsError(f"the stage {name!r} cannot be loaded: {type(exc).__name__}: {exc}") from exc


def _points(group: str, ours: Mapping[str, str]) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in [*entry_points(group=group), *(EntryPoint(name, value, group) for name, value in ours.items())]:
        found.setdefault(point.name.lower(), point)
    return found
