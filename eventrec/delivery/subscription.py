"""A registered handler with its name, filter and settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from eventrec.handler import EventHandler
    from eventrec.options import DeliverySettings


NewDestination: TypeAlias = Literal["pause", "earliest", "latest"]
"""What to do where another destination answers than before: wait for an operator, send again what is kept, or go on."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """`types=None` delivers every type, an empty set none. `start`: where a log that does not know the name begins.

    `address` tells its destination from others, by the URL that it was registered by; empty: by none.
    """

    name: str
    handler: EventHandler
    settings: DeliverySettings
    types: frozenset[str] | None = None
    start: Literal["earliest", "latest"] = "earliest"
    on_new_destination: NewDestination = "pause"
    address: str = ""

    def wants(self, kind: str) -> bool:
        """Whether records of this type are delivered."""
        return self.types is None or kind in self.types
