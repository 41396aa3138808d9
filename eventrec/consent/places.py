r"""Where an application's choices and its data lie for one user, on each platform.

              the user's choices                   data
    Linux     $XDG_CONFIG_HOME (~/.config)/APP     $XDG_DATA_HOME (~/.local/share)/APP/analytics
    macOS     ~/Library/Application Support/APP    ~/Library/Application Support/APP/analytics
    Windows   %APPDATA%\APP\config                 %LOCALAPPDATA%\APP\data\analytics

The choices are in a file `analytics.json` there. A directory in a variable counts only if it is absolute (XDG Base
Directory Specification).
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eventrec.errors import ConsentError, OptionsError

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE: Final = "analytics.json"

_APP: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""What Windows takes for a device."""


@dataclass(frozen=True, slots=True)
class Places:
    """Of one application, for one user.

    Attributes:
        choices: The file with what the user chose.
        data: The directory of what is recorded and not delivered.
    """

    choices: Path
    data: Path


def check_app(app: object) -> str:
    """`app`, the name of an application.

    Raises:
        OptionsError: It cannot be the name of a directory on every platform.
    """
    if not isinstance(app, str) or _APP.fullmatch(app) is None or _RESERVED.fullmatch(app):
        raise OptionsError(
            f"the name of an application is up to 64 letters, digits, and . _ - inside, got {app!r:.100}"
        )
    return app


def places_of(app: str, environment: Mapping[str, str] = os.environ, *, platform: str = sys.platform) -> Places:
    """The places of the application `app` for the user that `environment` is of.

    Raises:
        ConsentError: The user has no home directory.
        OptionsError: The name of the application is not one.
    """
    check_app(app)
    match platform:
        case "win32":
            roaming = _named(environment, "APPDATA") or _home(environment) / "AppData" / "Roaming"
            local = _named(environment, "LOCALAPPDATA") or _home(environment) / "AppData" / "Local"
            return Places(roaming / app / "config" / FILE, local / app / "data" / "analytics")
        case "darwin":
            support = _home(environment) / "Library" / "Application Support" / app
            return Places(support / FILE, support / "analytics")
        case _:
            config = _named(environment, "XDG_CONFIG_HOME") or _home(environment) / ".config"
            data = _named(environment, "XDG_DATA_HOME") or _home(environment) / ".local" / "share"
            return Places(config / app / FILE, data / app / "analytics")


def _named(environment: Mapping[str, str], name: str) -> Path | None:
    path = Path(environment.get(name, ""))
    return path if path.is_absolute() else None


def _home(environment: Mapping[str, str]) -> Path:
    named = _named(environment, "USERPROFILE" if os.name == "nt" else "HOME")
    if named is not None:
        return named
    try:
        home = Path.home()
    except RuntimeError as exc:
        raise ConsentError("the user has no home directory") from exc
    if not home.is_absolute():
        raise ConsentError("the user has no home directory")
    return home
