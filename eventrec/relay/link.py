"""What all parts of one relay have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.relay.balancer import Balancer
    from eventrec.relay.options import RelayOptions
    from eventrec.relay.phases import Phases


class Reopen(Protocol):
    """Closes the bus and opens it again, after something that has no word."""

    async def __call__(self, *, is_needed: bool) -> None:
        """Not `is_needed`: only where that failed before."""


@dataclass(frozen=True, slots=True)
class Link:
    """What parts share, as long as the bus has the same shards. `balancers` are those of subscriptions and stages."""

    holder: str
    options: RelayOptions
    phases: Phases
    reopen: Reopen
    on_shards_changed: Callable[[Exception], object]
    balancers: dict[str, Balancer] = field(default_factory=dict)
    closing: anyio.Event = field(default_factory=anyio.Event)
