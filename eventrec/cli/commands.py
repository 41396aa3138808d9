"""Where each command is, and a command line with some of them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from eventrec.cli.root import root

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cyclopts import App

COMMANDS: Final = {
    "demo": "demo.command:demo",
    "tail": "tail:tail",
    "record": "record.command:record",
    "new-handler": "new_handler:new_handler",
    "drain": "logs.drain:drain",
    "deliver": "logs.deliver:deliver",
    "relay": "relay.relay:relay",
    "bus": "relay.bus:bus",
    "log": "logs.group:log",
    "status": "logs.status:status",
    "serve": "serve.serve:serve",
    "token": "serve.token:token",
    "refresh": "refresh.refresh:refresh",
    "query": "query.query:query",
    "resume": "logs.resume:resume",
    "dead": "logs.dead:dead",
    "migrate": "migrate.command:migrate",
    "doctor": "doctor.doctor:doctor",
    "catalogue": "catalogue.catalogue:catalogue",
    "analytics": "analytics.analytics:analytics",
}
"""By its name, the module in this folder and what it is called there."""


def app_of(names: Iterable[str]) -> App:
    """`eventrec` with the commands of these `names`, whose modules are imported, and of no others."""
    app = root()
    for name in names:
        module, _, attribute = COMMANDS[name].partition(":")
        app.command(getattr(import_module(f"eventrec.cli.{module}"), attribute))
    return app
