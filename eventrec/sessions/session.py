"""One session: what is kept of it while it is open, and how an event changes it."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from eventrec.sessions.fields import SessionEvent

MAX_TEXT: Final = 2_048
"""Characters that a session keeps of a path, an origin or a referrer."""

MAX_GROUPS: Final = 100
MAX_TOTAL: Final = 1e15
"""Revenue of one session at most, either way: what a float still adds a cent to."""


class Session(msgspec.Struct, array_like=True, gc=False):
    """What is kept of an open session, in an array: its members never change their places. Times in milliseconds.

    Attributes:
        id: 16 bytes of a UUID.
        given: The id that its first event brought, if that is what it is called by; else empty.
        profile: The one that is known; empty: the device stands for it.
        created: The earliest time of its events, `ended` the latest.
        version: How many events it has had: the version of its row.
        views: Of a path, `events` all the others.
        entered: The time of the earliest event with a path; `left` of the latest; 0 where there is none yet.
        referrer: What its first event says: itself, name, type.
        carried: What else it says, in the order of the policy's `fields.carried`.
    """

    id: bytes
    profile: str
    created: int
    ended: int
    version: int = 0
    views: int = 0
    events: int = 0
    revenue: float = 0.0
    entry_path: str = ""
    entry_origin: str = ""
    entered: int = 0
    exit_path: str = ""
    exit_origin: str = ""
    left: int = 0
    given: str = ""
    groups: list[str] = []
    referrer: list[str] = []
    carried: list[Any] = []

    @property
    def duration(self) -> int:
        """Milliseconds from its first event to its last."""
        return self.ended - self.created

    @property
    def is_bounce(self) -> bool:
        """It has not more than one view."""
        return self.views <= 1

    @property
    def text_id(self) -> str:
        """Its id as text."""
        return self.given or uuid_text(self.id)

    def add(self, event: SessionEvent, *, is_view: bool) -> None:
        """The next event of it: by when it arrives, not by its time."""
        at = event.at
        self.version += 1
        if is_view and event.path:
            self.views += 1
        else:
            self.events += 1
        if at > self.ended:
            self.ended = at
        elif at < self.created:
            self.created = at
        if event.path:
            self._note_place(event.path, event.origin, at)
        if event.revenue:
            total = self.revenue + event.revenue
            self.revenue = min(max(total, -MAX_TOTAL), MAX_TOTAL)
        profile = event.profile
        if profile and profile != self.profile and profile != event.device:  # noqa: PLR1714 - a set costs more
            self.profile = profile
        if event.groups and len(self.groups) < MAX_GROUPS:
            self.groups = union(self.groups, event.groups)

    def _note_place(self, path: str, origin: str, at: int) -> None:
        if len(path) > MAX_TEXT or len(origin) > MAX_TEXT:
            path, origin = short(path), short(origin)
        if not self.entry_path or at < self.entered:
            self.entry_path, self.entry_origin, self.entered = path, origin, at
        if not self.exit_path or at >= self.left:
            self.exit_path, self.exit_origin, self.left = path, origin, at


def opened(event: SessionEvent, *, given: str, carried: list[Any]) -> Session:
    """The session that begins with `event`, which is yet to be added."""
    referrer: list[str] = []
    if event.referrer or event.referrer_name or event.referrer_type:
        referrer = [short(event.referrer), short(event.referrer_name), short(event.referrer_type)]
    return Session(
        hashed_id(event.id, b"session"),
        "" if event.profile == event.device else event.profile,
        event.at,
        event.at,
        given=given,
        referrer=referrer,
        carried=carried,
    )


def short(text: str) -> str:
    """As much of `text` as a session keeps."""
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT]


def union(kept: list[str], more: list[str]) -> list[str]:
    """Each once, in the order in which they came; not more than `MAX_GROUPS`, none longer than a text may be."""
    return list(dict.fromkeys([*kept, *map(short, more)]))[:MAX_GROUPS]


def hashed_id(*parts: bytes) -> bytes:
    """A UUIDv8 that follows from `parts`: 16 bytes."""
    digest = blake2b(b"".join([b"%b%b" % (len(part).to_bytes(4), part) for part in parts]), digest_size=16).digest()
    made = bytearray(digest)
    made[6] = made[6] & 0x0F | 0x80
    made[8] = made[8] & 0x3F | 0x80
    return bytes(made)


def uuid_text(id_: bytes) -> str:
    """16 bytes as the text of a UUID."""
    digits = id_.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
