"""Tells what is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec.server.reading.events import EVENTS
from eventrec.server.reading.following import FOLLOWING
from eventrec.server.reading.rollups import ROLLUPS

if TYPE_CHECKING:
    from eventrec.server.routes import Route

READING: Final[tuple[Route, ...]] = (*ROLLUPS, *FOLLOWING, *EVENTS)
"""The routes of this room."""
