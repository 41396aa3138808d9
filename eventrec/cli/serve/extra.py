"""The server's room, which needs packages that the command line can do without."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from eventrec.cli.exit_codes import CommandError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXTRA: Final = frozenset({"httptools", "starlette", "uvicorn"})


@contextmanager
def needing_server() -> Iterator[None]:
    """For what imports it.

    Raises:
        CommandError: One of its packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        raise CommandError(f"this needs {missing}: pip install 'eventrec[server]'", ExitCode.MISSING) from exc
