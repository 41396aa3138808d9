"""All that the platform declares, in one object: what `eventrec migrate`, `query` and `catalogue` work with."""

from __future__ import annotations

from typing import Final

from eventrec.analytics import Catalogue
from events import EVENTS
from layout import ANALYTICS_EVENTS
from rollups import ROLLUPS

# What another program derived from the names of two classes, and stored.
OTHER_SPELLINGS: Final = {
    "o_auth_flow_started": "oauth_flow_started",
    "o_auth_flow_completed": "oauth_flow_completed",
}

catalogue = Catalogue(
    name="platform",
    description="What happens on the platform.",
    events=EVENTS,
    layouts=[ANALYTICS_EVENTS],
    rollups=ROLLUPS,
    aliases=OTHER_SPELLINGS,
)
