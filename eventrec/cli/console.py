"""stdout and stderr as rich writes to them: what cannot be written there ends a command, or is lost."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from rich.console import Console

from eventrec.cli.streams import OutputError


class Output(Console):
    """stdout: what cannot be written ends the command."""

    def on_broken_pipe(self) -> None:
        """As every other failure: else rich would end the process."""
        raise BrokenPipeError

    def print(self, *objects: Any, **options: Any) -> None:
        """Raises OutputError, or BrokenPipeError where the reader of stdout is gone."""
        try:
            super().print(*objects, **options)
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise OutputError(exc) from exc


class Errors(Console):
    """stderr: what cannot be written is lost, and the command goes on."""

    def on_broken_pipe(self) -> None:
        """As every other failure: else rich would end the process."""
        raise BrokenPipeError

    def print(self, *objects: Any, **options: Any) -> None:
        """As far as it can be written."""
        with suppress(OSError):
            super().print(*objects, **options)
