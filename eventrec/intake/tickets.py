"""Records that a caller waits for: what the writer tells of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.records.entry import Entry


@dataclass(slots=True, eq=False)
class Ticket:
    """A record that a caller waits for.

    Attributes:
        offset: Its number, once it is appended.
        is_offered: It lies in the intake, or did.
        is_lost: It was dropped before it was appended.
    """

    entry: Entry
    offset: int | None = None
    is_offered: bool = False
    is_lost: bool = False


class Tickets:
    """Those that have no offset yet. `expect` and `dismiss` are for any thread, the rest for the writer's."""

    def __init__(self) -> None:
        self._waiting: dict[int, Ticket] = {}

    def expect(self, *tickets: Ticket) -> None:
        """Tell each of `tickets` its offset once its record is appended. Call it before the record is offered."""
        for ticket in tickets:
            self._waiting[id(ticket.entry)] = ticket

    def dismiss(self, *tickets: Ticket) -> None:
        """Their records were not taken after all."""
        for ticket in tickets:
            self._waiting.pop(id(ticket.entry), None)

    def offered(self) -> list[Ticket]:
        """Those whose records the intake has, or has given away."""
        return [ticket for ticket in list(self._waiting.values()) if ticket.is_offered]

    def number(self, entries: Sequence[Entry], first: int) -> None:
        """`entries` were taken, and get the offsets from `first` on."""
        if not self._waiting:
            return
        for offset, entry in enumerate(entries, first):
            ticket = self._waiting.pop(id(entry), None)
            if ticket is not None:
                ticket.offset = offset

    def lose(self, tickets: list[Ticket]) -> bool:
        """The intake was emptied since `tickets` were `offered`: newer records pushed out what has no offset."""
        lost = [ticket for ticket in tickets if ticket.offset is None and id(ticket.entry) in self._waiting]
        for ticket in lost:
            self.dismiss(ticket)
            ticket.is_lost = True
        return bool(lost)
