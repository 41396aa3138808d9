"""`log`, with all that belongs to it."""

from __future__ import annotations

from eventrec.cli.logs.log import log
from eventrec.cli.logs.maintenance import compress, forget
from eventrec.cli.logs.mirror import mirror
from eventrec.cli.logs.serve import forget_mirror, serve

__all__ = ["log"]

for each in (forget, compress, serve, mirror, forget_mirror):
    log.command(each)
