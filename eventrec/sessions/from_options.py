"""The stages of sessions and profiles by options, all text: what a command line or the query of a URL says.

    sessions              gap, idle (durations), late=own|pass, ids=derived|given, boundaries=pass|drop, view_type,
                          session_member, sessions_table (empty: none), events_table, flat_properties=true|false, name
    reference-sessions    idle, inherits=always|missing, view_type, end_type, duration_member, flat_properties, name
    profiles              every, keep, keep_unknown, cache (durations; cache=0: none), unknown=keep|skip,
                          updates=pass|drop, profiles_table, flat_properties, name

and for all of them, where a thing is read: `project=payload:properties.shop`, `device=context:device`,
`time=column:seen`, by the names of `EventFields`; for profiles also by those of `ProfileFields`. A name within a path
that has a dot itself cannot be given so.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from eventrec.durations import duration_seconds
from eventrec.errors import OptionsError
from eventrec.records.layout_columns import LayoutSource, from_context, from_field, from_payload
from eventrec.sessions.fields import EventFields
from eventrec.sessions.life_cycle import Sessions
from eventrec.sessions.policy import SessionStage
from eventrec.sessions.profile_fields import ProfileFields
from eventrec.sessions.profiles import Profiles
from eventrec.sessions.reference import ReferenceSessions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_FIELDS: Final = tuple(field.name for field in fields(EventFields) if field.name != "carried")
_PROFILE_FIELDS: Final = tuple(field.name for field in fields(ProfileFields) if field.name != "observed")
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "late": ("own", "pass"),
    "ids": ("derived", "given"),
    "boundaries": ("pass", "drop"),
    "inherits": ("always", "missing"),
    "flat_properties": ("true", "false"),
    "unknown": ("keep", "skip"),
    "updates": ("pass", "drop"),
}
_DURATIONS: Final = {
    "gap": "gap_seconds",
    "idle": "idle_seconds",
    "every": "every_seconds",
    "keep": "keep_seconds",
    "keep_unknown": "keep_unknown_seconds",
    "cache": "cache_seconds",
}
_MAY_BE_NONE: Final = ("session_member", "sessions_table")


def sessions(options: Mapping[str, str] | None = None, /, **more: str) -> SessionStage:
    """The stage of `Sessions`.

    Raises:
        OptionsError: An option is unknown, or its value is not one.
    """
    names = (
        "gap",
        "idle",
        "late",
        "ids",
        "boundaries",
        "view_type",
        "session_member",
        "events_table",
        "flat_properties",
    )
    return _stage(Sessions, {**(options or {}), **more}, (*names, "sessions_table"))


def reference_sessions(options: Mapping[str, str] | None = None, /, **more: str) -> SessionStage:
    """The stage of `ReferenceSessions`.

    Raises:
        OptionsError: As `sessions`.
    """
    names = ("idle", "inherits", "view_type", "end_type", "duration_member", "flat_properties")
    return _stage(ReferenceSessions, {**(options or {}), **more}, names)


def profiles(options: Mapping[str, str] | None = None, /, **more: str) -> SessionStage:
    """The stage of `Profiles`.

    Raises:
        OptionsError: As `sessions`.
    """
    names = ("every", "keep", "keep_unknown", "cache", "unknown", "updates", "profiles_table", "flat_properties")
    given = {**(options or {}), **more}
    sources: dict[str, Any] = {name: _source(name, given.pop(name)) for name in _PROFILE_FIELDS if name in given}

    def policy(**arguments: Any) -> Profiles:
        return Profiles(profile_fields=ProfileFields(**sources), **arguments)

    return _stage(policy, given, names, of="profiles", more=_PROFILE_FIELDS)


def _stage(
    policy: Callable[..., Any],
    options: Mapping[str, str],
    names: Sequence[str],
    *,
    of: str = "sessions",
    more: Sequence[str] = (),
) -> SessionStage:
    arguments: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    name = None
    for option, value in options.items():
        if option == "name":
            name = value
        elif option in _FIELDS:
            sources[option] = _source(option, value)
        elif option not in names:
            known = ", ".join(sorted({*names, *_FIELDS, *more, "name"}))
            raise OptionsError(f"a stage of {of} has no option {option!r}; it has {known}")
        elif (option, value) == ("cache", "0"):
            arguments["cache_seconds"] = 0.0
        elif option in _DURATIONS:
            arguments[_DURATIONS[option]] = _positive(option, value)
        elif option in _CHOICES and value not in _CHOICES[option]:
            raise OptionsError(f"the option {option!r} is one of {', '.join(_CHOICES[option])}, got {value!r:.60}")
        elif option == "flat_properties":
            arguments[option] = value == "true"
        elif not value and option not in _MAY_BE_NONE:
            raise OptionsError(f"the option {option!r} is empty")
        else:
            arguments[option] = value or None
    return SessionStage(policy(fields=EventFields(**sources), **arguments), name=name)


def _positive(option: str, value: str) -> float:
    try:
        seconds = duration_seconds(value)
    except OptionsError as exc:
        raise OptionsError(f"the option {option!r}: {exc}") from exc
    if not 0 < seconds < 1e9:  # noqa: PLR2004 - thirty years
        raise OptionsError(f"the option {option!r} is a time longer than 0, got {value!r:.60}")
    return seconds


def _source(option: str, value: str) -> LayoutSource:
    kind, _, path = value.partition(":")
    match kind:
        case "payload" if path:
            return from_payload(*path.split("."))
        case "context" if path:
            return from_context(*path.split("."))
        case "column" if path:
            return from_field(path)
    raise OptionsError(f"the option {option!r} is payload:PATH, context:PATH or column:NAME, got {value!r:.60}")
