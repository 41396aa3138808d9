"""Takes events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec.server.ingest import otlp, posthog, segment
from eventrec.server.ingest.batch import BATCH

if TYPE_CHECKING:
    from eventrec.server.routes import Route

INGEST: Final[tuple[Route, ...]] = (*BATCH, *posthog.ROUTES, *segment.ROUTES, *otlp.ROUTES)
"""The routes of this room."""
