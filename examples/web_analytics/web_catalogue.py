"""All that the site declares, in one object: what relay, server and `eventrec query` work with."""

from __future__ import annotations

from typing import Final

from eventrec.analytics import Catalogue
from web_events import EVENTS, MADE
from web_rollups import ROLLUPS
from web_tables import LAYOUTS

catalogue: Final = Catalogue(
    name="web", description="Visits of a web site.", events=[*EVENTS, *MADE], layouts=LAYOUTS, rollups=ROLLUPS
)
