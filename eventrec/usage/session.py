"""One life of a program: its session id, and the number of each event in it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from uuid import UUID, uuid4

from eventrec.runtime.process import ProcessIdentity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Kind: TypeAlias = Literal["Append", "Identify", "SetPersonProperties"]
"""What an event says: that something happened; who somebody is; what is true of a person."""

EVENT_ID: Final = "event_id"


class UsageSession:
    """Numbers the events of one process, under one id. From any thread; the child of a fork is a session of its own.

    `defaults` are properties that every event carries; `new_id` makes ids.
    """

    def __init__(self, *, defaults: Mapping[str, Any] | None = None, new_id: Callable[[], UUID] = uuid4) -> None:
        self._defaults = dict(defaults or {})
        self._new_id = new_id
        self._process = ProcessIdentity()
        self._begin()

    def __repr__(self) -> str:
        return f"<UsageSession {self.id}>"

    @property
    def id(self) -> UUID:
        """Of this process."""
        self._process.detect_fork(self._begin)
        return self._id

    def next_event_id(self) -> int:
        """The number of the next event: 1, 2, 3, each given once."""
        self._process.detect_fork(self._begin)
        return next(self._numbers)

    def properties(self, properties: Mapping[str, Any], kind: Kind = "Append") -> dict[str, Any]:
        """`properties` as the event is to carry them.

        An Append takes the defaults whose names it does not have itself, and then its number as `event_id`; the other
        kinds take neither, and are not numbered.
        """
        if kind != "Append":
            return dict(properties)
        return {**self._defaults, **properties, EVENT_ID: self.next_event_id()}

    def _begin(self) -> None:
        self._id = self._new_id()
        self._numbers = itertools.count(1)
