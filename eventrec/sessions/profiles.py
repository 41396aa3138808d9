"""Profiles: who the events of a project are about, from what applications tell and what is seen in passing."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from eventrec.records.entry import make_entry
from eventrec.records.schema import Shape
from eventrec.sessions.emitted import AFTER, BEFORE, SESSION_END, SESSION_START
from eventrec.sessions.moments import moment_at, nanoseconds_at
from eventrec.sessions.payloads import encode, flattened
from eventrec.sessions.policy import SessionPolicy
from eventrec.sessions.profile import FORMAT, Profile, decode_profile, encode_profile
from eventrec.sessions.profile_fields import NAMES, ProfileFields, ProfileReader
from eventrec.sessions.session import hashed_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from eventrec.records.entry import Entry
    from eventrec.sessions.fields import EventFields, SessionEvent
    from eventrec.sessions.turn import Turn

PROFILE: Final = "profile"
"""The type of a row."""

UPDATES: Final = frozenset({"identify", "$identify"})
"""Events that say who somebody is, by their types."""

ROWS: Final = frozenset({"session", PROFILE})
"""What stages add that is not an event, by its types."""

_BOUNDARIES: Final = {SESSION_START: BEFORE, SESSION_END: -AFTER}
"""How far the time of what begins and ends a session is from that of the event which it is about."""

_NO_NAMES: Final = ("",) * len(NAMES)


class ProfileRow(msgspec.Struct, gc=False):
    """A row: the whole of a profile."""

    id: str
    project_id: str
    is_external: bool
    first_name: str
    last_name: str
    email: str
    avatar: str
    properties: dict[str, str]
    groups: list[str]
    created_at: datetime
    last_seen_at: datetime
    version: int


class Profiles(SessionPolicy):
    """Profiles within projects, one for each that events name, else for each device. Every record is passed on.

        event                            changes
        an update (`update_types`)       what it says: names, properties, groups; the profile is known from then on
        the first of a profile           what is seen in it: path, place, system, browser, referrer, groups
        `session_start`, `session_end`   likewise, and when the person was last seen
        any other                        likewise, where nothing of the profile has changed for `every_seconds` by the
                                         time of its events; so it changes nothing where it is late
        without project, or without      nothing
        profile and device

    A profile is known once an update, or an event that names another one than its device, has changed it. What is not
    said, and what is empty, leaves what is there; objects are merged, all else is replaced, groups are added. An event
    of a server (its `device` is "server") changes neither place nor system of a profile that has others.

    Each output has one row for every profile that it changes: the whole of it, of the type `profile`, with a version
    that only grows: what ReplacingMergeTree keeps the latest of. Its time is `last_seen_at`; `created_at` is constant.

        profile     id project_id is_external first_name last_name email avatar properties groups created_at
                    last_seen_at version

    The row can be read for `cache_seconds` as `profile-cache:PROJECT:ID` too, from what the stage has published.

    A profile that is known is kept for `keep_seconds` after it was last changed, without end unless that is given; any
    other for `keep_unknown_seconds`. One that comes again after that is another profile of the same id. A name, a
    property or a group is kept up to 2,048 characters, of groups 100, of properties 16 KiB; what finds no room is
    counted.
    """

    name = "profiles"
    kept = "profiles"

    def __init__(
        self,
        *,
        fields: EventFields | None = None,
        profile_fields: ProfileFields | None = None,
        every_seconds: float = 3_600.0,
        keep_seconds: float | None = None,
        keep_unknown_seconds: float = 172_800.0,
        cache_seconds: float = 3_600.0,
        unknown: Literal["keep", "skip"] = "keep",
        updates: Literal["pass", "drop"] = "pass",
        update_types: Collection[str] = UPDATES,
        row_types: Collection[str] = ROWS,
        flat_properties: bool = False,
        profiles_table: str = "profiles",
    ) -> None:
        super().__init__(fields=fields, idle_seconds=keep_unknown_seconds, flat_properties=flat_properties)
        self.every_milliseconds = int(every_seconds * 1_000)
        self._keep_known = keep_seconds
        self._cache = cache_seconds
        self._skips_unknown = unknown == "skip"
        self._drops_updates = updates == "drop"
        self._update_types = frozenset(update_types)
        self._row_types = frozenset(row_types)
        self._profile_reader = ProfileReader(ProfileFields() if profile_fields is None else profile_fields)
        self._shape = Shape(profiles_table, PROFILE)

    # -- rules, for subclasses to change

    def is_update(self, event: SessionEvent) -> bool:
        """It says who somebody is."""
        return event.type in self._update_types

    def is_known(self, event: SessionEvent) -> bool:
        """It names more than a device."""
        return bool(event.profile) and event.profile != event.device

    # -- state

    def keys(self, event: SessionEvent) -> Iterable[str]:
        """The profile's."""
        key = self._key(event)
        return () if key is None else (key,)

    def decode(self, key: str, kept: bytes) -> Profile:
        """A profile."""
        return decode_profile(key, kept)

    def encode(self, value: Any) -> bytes:
        """It as msgpack."""
        return encode_profile(value)

    def _key(self, event: SessionEvent) -> str | None:
        """None: the event is not about a person or a device."""
        who = event.profile or event.device
        if not event.project or not who or event.type in self._row_types:
            return None
        if self._skips_unknown and not self.is_known(event) and not self.is_update(event):
            return None
        return f"u{len(event.project)}:{event.project}:{who}"

    # -- turns

    def take(self, event: SessionEvent, turn: Turn) -> None:
        """The table above; a row for each profile that it changes comes at the end."""
        is_update = self.is_update(event)
        if is_update and self._drops_updates:
            turn.counts["dropped"] += 1
        else:
            turn.pass_on(event.entry, event.id)
        key = self._key(event)
        if key is None:
            if event.type not in self._row_types:
                turn.counts["without_profile"] += 1
            return
        at = event.at + _BOUNDARIES.get(event.type, 0)
        profile: Profile | None = turn.get(key)
        if profile is None:
            profile = Profile(FORMAT, 0, is_known=False, created=at, seen=at)
            turn.counts["created"] += 1
            self._change(key, profile, event, at, turn)
        elif is_update or (
            at > profile.seen and (event.type in _BOUNDARIES or at - profile.seen >= self.every_milliseconds)
        ):
            self._change(key, profile, event, at, turn)
        else:
            turn.counts["seen"] += 1

    def idle(self, key: str, turn: Turn) -> None:
        """It is forgotten, unless it is kept by now."""
        profile: Profile = turn.get(key)
        if profile.is_known and self._keep_known is None:
            turn.put_for(key, profile, seconds=None)
            return
        turn.counts["forgotten"] += 1
        turn.put(key, None)

    def settle(self, turn: Turn) -> None:
        """The rows."""
        changed: dict[str, tuple[SessionEvent, Profile]] = turn.notes.get("changed", {})
        for event, profile in changed.values():
            id_ = event.profile or event.device
            row = self._row(event.project, id_, profile)
            turn.entries.append(row)
            if self._cache:
                turn.publish(f"profile-cache:{event.project}:{id_}", row[2], self._cache)
        turn.counts["rows"] += len(changed)

    def _is_due(self, event: SessionEvent, at: int, profile: Profile) -> bool:
        """It says when the user was last seen, though it tells nothing."""
        wait = 1 if event.type in _BOUNDARIES else self.every_milliseconds
        return at > profile.seen and at - profile.seen >= wait

    def _change(self, key: str, profile: Profile, event: SessionEvent, at: int, turn: Turn) -> None:
        """What an event says becomes part of its profile; nothing where it says nothing new, and too early."""
        read, entry, static = self._profile_reader, event.entry, turn.static_context
        is_update = self.is_update(event)
        names = read.names(entry, static) if is_update else _NO_NAMES
        properties = {**(read.properties(entry, static) if is_update else {}), **_there(read.observed(entry, static))}
        is_known = is_update or self.is_known(event)
        is_changed, cut = profile.merge(names, properties, event.groups or (), is_known=is_known)
        if cut:
            turn.counts["cut"] += cut
        is_new = not profile.version
        if not is_changed and not is_new and is_update and at - profile.seen < self.every_milliseconds:
            turn.counts["seen"] += 1
            return
        profile.note_change(at)
        if not is_new:
            turn.counts["changed"] += 1
        turn.put_for(key, profile, seconds=self._keep_known if profile.is_known else self.idle_seconds)
        turn.notes.setdefault("changed", {})[key] = event, profile

    def _row(self, project: str, id_: str, profile: Profile) -> Entry:
        row = ProfileRow(
            id_,
            project,
            profile.is_known,
            profile.first_name,
            profile.last_name,
            profile.email,
            profile.avatar,
            flattened(profile.properties),
            profile.groups,
            moment_at(profile.created),
            moment_at(profile.seen),
            profile.version,
        )
        parts = (project.encode(), id_.encode(), profile.version.to_bytes(8))
        return make_entry(
            self._shape, nanoseconds_at(profile.seen), encode(row), None, None, hashed_id(b"profile", *parts)
        )


def _there(observed: dict[str, Any]) -> dict[str, Any]:
    """What of it has a value: it stands before what an update says under the same name."""
    return {name: value for name, value in observed.items() if value is not None and value != ""}
