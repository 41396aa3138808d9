"""The command line with all commands: what its help and the documentation are made of."""

from __future__ import annotations

from typing import Final

from eventrec.cli.commands import COMMANDS, app_of

app: Final = app_of(COMMANDS)
