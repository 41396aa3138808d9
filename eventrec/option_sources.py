"""Where options stand: variables of the environment, and tables of TOML files; and which of these are not options."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

from eventrec.errors import OptionsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import ValidationError

PREFIX: Final = "EVENTREC_"

DISABLED: Final = f"{PREFIX}DISABLED"
FORCE: Final = f"{PREFIX}FORCE"
"""No options: `eventrec.consent.variables` reads them."""

CATALOGUE: Final = f"{PREFIX}CATALOGUE"
TO: Final = f"{PREFIX}TO"
LOG: Final = f"{PREFIX}LOG"
CONFIG: Final = f"{PREFIX}CONFIG"
"""Nor are these: `eventrec.environment` reads them."""

_NO_OPTIONS: Final = frozenset({DISABLED, FORCE, CATALOGUE, TO, LOG, CONFIG})

OF_RECORDERS: Final = frozenset({"to", "log"})
"""Nor are these, in a file of options: likewise."""

_OF_PROJECTS: Final = frozenset({"catalogue", "migrations"})
"""Nor are these, in `[tool.eventrec]` of a project: commands read them."""

SERVER: Final = "server"
"""Nor is this table, in any file: the server reads it."""

OF_SERVER: Final = f"{PREFIX}SERVER_"
"""Nor are variables that begin so."""

_OF_KUBERNETES: Final = re.compile(
    r"EVENTREC_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What it puts into each container of a namespace with a Service called eventrec, or eventrec-something."""

_OF_DOCKER: Final = re.compile(r"(EVENTREC_(?:[A-Z0-9_]+_)?)(?:NAME|ENV_\w+)")


def variables(prefix: str) -> list[str]:
    """The variables of the environment that set options: those that begin with `prefix`, unless they are for others."""
    named = [name for name in os.environ if name.upper().startswith(prefix)]
    return [
        name for name in named if not (name in _NO_OPTIONS or _OF_KUBERNETES.fullmatch(name) or _is_of_docker(name))
    ]


def _is_of_docker(name: str) -> bool:
    """Whether a link of Docker to a container called eventrec made it; its name is one like "/shop/eventrec"."""
    found = _OF_DOCKER.fullmatch(name)
    return found is not None and os.environ.get(f"{found[1]}NAME", "").startswith("/")


def read_table(path: Path) -> Mapping[str, Any]:
    """What a file of options says to a recorder.

    Raises:
        OptionsError: It cannot be read.
    """
    document, is_project = read_document(path), path.name == "pyproject.toml"
    tool = document.get("tool", {}) if is_project else document
    table = tool.get("eventrec", {} if is_project else tool) if isinstance(tool, dict) else None
    if not isinstance(table, dict):
        raise OptionsError(f"options file {path}: eventrec is a table of options, got {type(table).__name__}")
    left_out = _OF_PROJECTS | {SERVER} if is_project else {SERVER}
    return {name: value for name, value in table.items() if name not in left_out}


def read_document(path: Path) -> dict[str, Any]:
    """A file of options.

    Raises:
        OptionsError: It cannot be read.
    """
    import tomllib  # noqa: PLC0415 - likewise, where nothing is loaded

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:  # also of what is TOML, but no number or nesting of Python's
        raise OptionsError(f"options file {path}: {exc}") from exc


def first_errors(exc: ValidationError) -> str:
    """What is wrong with options, and with which, in one line."""
    return "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors()[:5])
