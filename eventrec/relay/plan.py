"""What a recorder that is a relay was told: which bus, through which stages, and how."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eventrec.errors import RecorderStateError
from eventrec.relay.options import RelayOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventrec.bus.bus import Bus
    from eventrec.bus.stage import Stage


@dataclass(frozen=True, slots=True)
class RelayPlan:
    """`make` makes the bus for each life of the recorder; or there is `given`, for the process that it was made in."""

    make: Callable[[], Bus] | None = None
    given: Bus | None = None
    stages: Sequence[Stage] = ()
    options: RelayOptions = field(default_factory=RelayOptions)
    process: int = field(default_factory=os.getpid)

    def bus(self) -> Bus:
        """For one life.

        Raises:
            RecorderStateError: It was given as an object to a process that forked this one.
        """
        if self.make is not None:
            return self.make()
        if self.given is None or self.process != os.getpid():
            raise RecorderStateError(
                "the bus belongs to the process that forked this one: give it by its URL", state="forked"
            )
        return self.given
