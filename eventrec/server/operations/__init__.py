"""Health, metrics, status, dead letters, and the document that describes the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec.server.operations.dead import DEAD_LETTERS
from eventrec.server.operations.document import DOCUMENT
from eventrec.server.operations.health import HEALTH
from eventrec.server.operations.metrics import METRICS
from eventrec.server.operations.resume import RESUME
from eventrec.server.operations.status import STATUS

if TYPE_CHECKING:
    from eventrec.server.routes import Route

OPERATIONS: Final[tuple[Route, ...]] = (*HEALTH, *METRICS, *STATUS, *DEAD_LETTERS, *RESUME, *DOCUMENT)
"""The routes of this room."""
