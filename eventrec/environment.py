"""What `EventRecorder.from_env` goes by: destinations, log directory and options, from the environment and TOML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from eventrec.errors import OptionsError
from eventrec.option_sources import CONFIG, DISABLED, LOG, TO, read_table
from eventrec.options import EventRecorderOptions

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

_TO_FIX: Final = (
    f'set {TO} to the URL of a destination, such as "sqlite:///events.db", or {LOG} to a directory from which '
    f'another process delivers; in a file of options "to" and "log" say the same'
)

_TO_FIX_EMPTY: Final = f"unset it where another process delivers from the log, or set {DISABLED}=1 to record nothing"


@dataclass(frozen=True, slots=True)
class RecorderSettings:
    """What a recorder is made of. `to` are URLs of handlers; `log` is the log directory, None where there is none."""

    to: tuple[str, ...]
    log: Path | None
    options: EventRecorderOptions


def read_settings(path: str | os.PathLike[str] | None, environment: Mapping[str, str]) -> RecorderSettings:
    """The settings of the environment over those of the TOML file at `path`, or else at EVENTREC_CONFIG.

        EVENTREC_TO       the URL of a destination; several parted by white space, or as a JSON array
        EVENTREC_LOG      the log directory; without it, events wait in memory
        EVENTREC_CONFIG   a TOML file: `to` (a text or an array of them), `log`, and the options, at the top,
                          under [eventrec], or, in a pyproject.toml, under [tool.eventrec]
        EVENTREC_…        each option, see `EventRecorderOptions.load`

    A relative `log` of a file is relative to the file's directory, one of the environment to the current one.

    Raises:
        OptionsError: The file cannot be read, a name is unknown, or a value is not allowed; or neither a destination
            nor a log directory is named, and the recorder is not switched off.
    """
    given = path or environment.get(CONFIG) or None
    file = None if given is None else Path(given)
    table = {} if file is None else read_table(file)
    options = EventRecorderOptions.load(file)
    to = _urls(environment[TO]) if environment.get(TO, "").strip() else _urls_of_table(table.get("to", []), file)
    log = Path(environment[LOG]) if environment.get(LOG) else _log_of_table(table.get("log"), file)
    return RecorderSettings(to, log, options)


def refuse_nowhere(settings: RecorderSettings, environment: Mapping[str, str]) -> None:
    """Raise OptionsError where what is recorded would reach neither a destination nor a log.

    Or a log alone, and EVENTREC_TO is there and empty: most likely a secret that is missing.
    """
    is_empty = TO in environment and not environment[TO].strip()
    if settings.to or (settings.log is not None and not is_empty):
        return
    why = f"{TO} is empty, so nothing says where events go" if is_empty else "nothing says where events go"
    raise OptionsError(f"{why}: {_TO_FIX if settings.log is None else _TO_FIX_EMPTY}")


def _urls(text: str) -> tuple[str, ...]:
    """The URLs in EVENTREC_TO."""
    if not text.lstrip().startswith("["):
        return tuple(text.split())
    try:
        return tuple(msgspec.json.decode(text, type=list[str]))
    except msgspec.MsgspecError as exc:
        raise OptionsError(f"{TO} is a URL, several parted by white space, or a JSON array of them: {exc}") from exc


def _urls_of_table(given: object, file: Path | None) -> tuple[str, ...]:
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, list) or not all(isinstance(url, str) and url for url in found):
        raise OptionsError(f'"to" in {file} is a URL, or an array of them')
    return tuple(found)


def _log_of_table(given: object, file: Path | None) -> Path | None:
    if given is None or file is None:
        return None
    if not isinstance(given, str) or not given:
        raise OptionsError(f'"log" in {file} is the path of a directory')
    return file.parent / given
