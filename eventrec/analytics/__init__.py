"""From events to answers: what an application declares about its events, and what follows from it."""

from __future__ import annotations

from eventrec.analytics.catalogue import Catalogue, CataloguedEvent
from eventrec.analytics.loading import load_catalogue
from eventrec.analytics.versions import Upgrade

__all__ = [
    "Catalogue",
    "CataloguedEvent",
    "Upgrade",
    "load_catalogue",
]
