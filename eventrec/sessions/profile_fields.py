"""How a record is read for profiles: where what it says of a person stands, and what is seen of them in passing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from eventrec.records.layout_columns import from_payload
from eventrec.sessions.picker import Picker, Sources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec.records.entry import Entry

NAMES: Final = ("first_name", "last_name", "email", "avatar")

OBSERVED: Final[Mapping[str, Sources]] = {
    name: from_payload(name)
    for name in (
        "path",
        "country",
        "city",
        "region",
        "longitude",
        "latitude",
        "os",
        "os_version",
        "browser",
        "browser_version",
        "device",
        "brand",
        "model",
        "referrer",
        "referrer_name",
        "referrer_type",
    )
}
"""What of any event becomes properties of its profile, by their names."""


@dataclass(frozen=True, slots=True)
class ProfileFields:
    """Where the parts of a profile stand in an event. The names and `properties` count in an update alone.

    Of several places the first one counts that has a value. `$set` is where clients of PostHog put them.

    Attributes:
        properties: An object of any depth.
        observed: What any event says, by the names of the properties that it becomes.

    Raises:
        OptionsError: A source cannot be picked, or two contradict each other.
    """

    first_name: Sources = (from_payload("first_name"), from_payload("$set", "first_name"))
    last_name: Sources = (from_payload("last_name"), from_payload("$set", "last_name"))
    email: Sources = (from_payload("email"), from_payload("$set", "email"))
    avatar: Sources = (from_payload("avatar"), from_payload("$set", "avatar"))
    properties: Sources = (from_payload("properties"), from_payload("$set"))
    observed: Mapping[str, Sources] = field(default_factory=lambda: OBSERVED)

    def __post_init__(self) -> None:
        ProfileReader(self)


class ProfileReader:
    """Reads by `fields`. What cannot be read is not there.

    Raises:
        OptionsError: As `ProfileFields`.
    """

    def __init__(self, fields: ProfileFields) -> None:
        self._observed_names = tuple(fields.observed)
        observed = [(name, source, _SCALAR) for name, source in fields.observed.items()]
        self._observed = Picker(observed, is_strict=False)
        # Each by itself, so that one that cannot be read takes none of the others along.
        self._names = [Picker([(name, getattr(fields, name), str | None)], is_strict=False) for name in NAMES]
        self._properties = Picker([("properties", fields.properties, Any)], is_strict=False)

    def observed(self, entry: Entry, static: bytes | None) -> dict[str, Any]:
        """What any event says: texts, numbers, true and false, by name."""
        found = self._observed.pick(entry, static)
        return dict(zip(self._observed_names, found, strict=True))

    def names(self, entry: Entry, static: bytes | None) -> list[str]:
        """What an update calls the person, in the order of `NAMES`; empty where it says nothing."""
        return [picker.pick(entry, static)[0] or "" for picker in self._names]

    def properties(self, entry: Entry, static: bytes | None) -> dict[str, Any]:
        """What an update says beside."""
        (found,) = self._properties.pick(entry, static)
        return found if isinstance(found, dict) else {}


_SCALAR: Final[Any] = str | float | bool | None
