"""Which rooms the server has: their routes, in the order in which a path is looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.server.dashboard import DASHBOARD
from eventrec.server.ingest import INGEST
from eventrec.server.operations import OPERATIONS
from eventrec.server.reading import READING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventrec.server.routes import Route
    from eventrec.server.serving import Server


def routes_of(server: Server, own: Iterable[Route] = ()) -> list[Route]:
    """All routes of `server`, then the application's `own`.

    Those for events only where it takes some, those for reading only where it has something to read, the page only
    where it is wanted.

    Raises:
        ValueError: One of its own is there already.
    """
    page = DASHBOARD if server.options.dashboard else ()
    ingest = INGEST if server.takes_events else ()
    ours = [*ingest, *OPERATIONS, *(READING if server.pool is not None else ()), *page]
    known = {(route.method, route.path) for route in ours}
    for route in own:
        if (route.method, route.path) in known:
            raise ValueError(f"there is a route {route.method} {route.path} already")
        known.add((route.method, route.path))
        ours.append(route)
    return ours
