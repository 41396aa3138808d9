"""One profile: what is kept of a person, and how an event changes it. All of it is bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventrec.errors import PauseError
from eventrec.sessions.payloads import encode
from eventrec.sessions.session import short, union

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT: Final = 1

MAX_PROPERTIES_BYTES: Final = 16_384
"""Of the properties of one profile, as JSON."""

MAX_DEPTH: Final = 16
"""Objects and arrays inside one another."""

OF_PLACES: Final = frozenset(
    {
        "city",
        "country",
        "region",
        "longitude",
        "latitude",
        "os",
        "osVersion",
        "os_version",
        "browser",
        "browser_version",
        "device",
        "isServer",
    }
)
"""What an event of a server says of itself, not of the person."""

SERVER: Final = "server"


class Profile(msgspec.Struct, array_like=True, gc=False):
    """What is kept of a person, in an array: its members never change their places. Times in milliseconds.

    Attributes:
        version: Grows with each change, by one at least; never below `seen`, so that a profile which was forgotten and
            begins again is newer still.
        is_known: It was told who this is: more than a device.
        created: The time of its first event; it never changes.
        seen: The latest time that counted.
        properties: Objects of texts, arrays and objects.
    """

    format: int
    version: int
    is_known: bool
    created: int
    seen: int
    first_name: str = ""
    last_name: str = ""
    email: str = ""
    avatar: str = ""
    properties: dict[str, Any] = {}
    groups: list[str] = []

    def merge(
        self, names: Sequence[str], properties: Mapping[str, Any], groups: Sequence[str], *, is_known: bool
    ) -> tuple[bool, int]:
        """What an event says, over what is there: whether that changed anything, and how much found no room.

        A name that is empty, and a property that is null or empty, change nothing. Objects are merged by their members,
        arrays and all else replaced, groups added.
        """
        before = (self.first_name, self.last_name, self.email, self.avatar, self.is_known)
        first, last, email, avatar = map(short, names)
        self.first_name = first or self.first_name
        self.last_name = last or self.last_name
        self.email = email or self.email
        self.avatar = avatar or self.avatar
        self.is_known = self.is_known or is_known
        is_changed = before != (self.first_name, self.last_name, self.email, self.avatar, self.is_known)
        more, cut = texts_of(properties)
        if more.get("device") == SERVER and self.version and self.properties.get("device") != SERVER:
            more = {name: value for name, value in more.items() if name not in OF_PLACES}
        after, left_out = within_bound(self.properties, more)
        if after != self.properties:
            self.properties, is_changed = after, True
        joined = union(self.groups, [*groups]) if groups else self.groups
        if joined != self.groups:
            self.groups, is_changed = joined, True
        return is_changed, cut + left_out

    def note_change(self, at: int) -> None:
        """Something of it is another now, by an event of this time."""
        self.seen = max(self.seen, at)
        self.version = max(self.version + 1, self.seen)


def merged(kept: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`more` over `kept`: objects by their members, all else replaced; an empty text replaces no other one."""
    result = dict(kept)
    for name, value in more.items():
        there = result.get(name)
        if isinstance(value, dict) and isinstance(there, dict):
            result[name] = merged(there, value)
        elif value != "" or not isinstance(there, str):
            result[name] = value
    return result


def within_bound(kept: dict[str, Any], more: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """`more` over `kept`, as much of it as there is room for; and how many members found none."""
    after = merged(kept, more)
    if after == kept or len(encode(after)) <= MAX_PROPERTIES_BYTES:
        return after, 0
    after, left_out = kept, 0
    for name, value in more.items():
        one = merged(after, {name: value})
        if len(encode(one)) <= MAX_PROPERTIES_BYTES:
            after = one
        else:
            left_out += 1
    return after, left_out


def texts_of(properties: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The members with all values as texts, without those that are null or empty; and how many cannot be kept so."""
    texts: dict[str, Any] = {}
    cut = 0
    for name, value in properties.items():
        if value is None or value in ("", [], {}):
            continue
        try:
            texts[name] = _text(value, MAX_DEPTH)
        except ValueError:
            cut += 1
    return texts, cut


def _text(value: Any, depth: int) -> Any:
    """A text, or an array or object of such; what is null in an object is not there.

    Raises:
        ValueError: It is too deep, or a number of too many digits.
    """
    match value:
        case str():
            return short(value)
        case dict() | list() if depth <= 1:
            raise ValueError("it is too deep")
        case dict():
            return {name: _text(inner, depth - 1) for name, inner in value.items() if inner is not None}
        case list():
            return [_text(inner, depth - 1) for inner in value]
        case _:
            return encode(value).decode()


def decode_profile(key: str, kept: bytes) -> Profile:
    """What is kept under `key`.

    Raises:
        PauseError: It is not a profile, or of another format.
    """
    try:
        profile = _decode(kept)
    except Exception as exc:
        raise PauseError(f"what is kept under {key!r:.80} is not a profile: {exc}") from exc
    if profile.format != FORMAT:
        raise PauseError(f"what is kept under {key!r:.80} has format {profile.format}; this eventrec reads {FORMAT}")
    return profile


encode_profile: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Profile).decode
