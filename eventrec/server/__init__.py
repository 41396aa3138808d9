"""Takes events over HTTP, and tells what is stored; needs `eventrec[server]`.

    app = application(EventRecorder("postgresql://…", log="var/events"), to="postgresql://…")

routes        the table of all routes: `routes.py`
ingest        from a body to written events, for clients of ours, of PostHog, Segment and OTLP
reading       rollups, events, a live tail
operations    health, metrics, status, dead letters
dashboard     the page

An application adds its own with `application(…, routes=[Route(…)])`; their endpoints put questions to `Server.pool`.
"""

from eventrec.ingest.moments import moment_of
from eventrec.server.access import Access
from eventrec.server.application import application, running
from eventrec.server.measures import ServerMeasures
from eventrec.server.options import ServerOptions
from eventrec.server.reading.answering import completeness
from eventrec.server.reading.pool import Pool
from eventrec.server.refusals import ElementError, RefusedError, json_response
from eventrec.server.routes import JSON, Endpoint, Query, Route
from eventrec.server.scopes import Scope
from eventrec.server.serving import Server
from eventrec.server.tokens import Token, Tokens

__all__ = [
    "JSON",
    "Access",
    "ElementError",
    "Endpoint",
    "Pool",
    "Query",
    "RefusedError",
    "Route",
    "Scope",
    "Server",
    "ServerMeasures",
    "ServerOptions",
    "Token",
    "Tokens",
    "application",
    "completeness",
    "json_response",
    "moment_of",
    "running",
]
