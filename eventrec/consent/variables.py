"""The environment variables that have a say in whether anything is recorded.

    EVENTREC_DISABLED   off, for every recorder: any value but an empty one, 0, false, no, off
    EVENTREC_FORCE      1, true, yes, on: DO_NOT_TRACK, CI and the user's opt-out do not count; so does
                        FORCE_MY_APP_ANALYTICS, for the application my-app alone
    DO_NOT_TRACK        off, for `Analytics`: as EVENTREC_DISABLED
    CI                  off, for `Analytics`, whatever its value

A value that is not known counts as the answer that records nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from eventrec.option_sources import DISABLED, FORCE

if TYPE_CHECKING:
    from collections.abc import Mapping

_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"", "0", "false", "no", "off"})

_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9]")

DO_NOT_TRACK: Final = "DO_NOT_TRACK"
CI: Final = "CI"


def is_disabled(environment: Mapping[str, str]) -> bool:
    """Whether EVENTREC_DISABLED switches every recorder of this process off."""
    return _is_set(environment, DISABLED)


def is_forced(environment: Mapping[str, str], app: str) -> bool:
    """Whether a variable overrules what a user and the surroundings say of `app`."""
    own = f"FORCE_{_NOT_IN_A_NAME.sub('_', app).upper()}_ANALYTICS"
    return any(environment.get(name, "").strip().lower() in _YES for name in (FORCE, own))


def why_off(environment: Mapping[str, str], app: str) -> str | None:
    """The variable that keeps `app` from recording how it is used, `is set` behind it; None: none does."""
    if is_disabled(environment):
        return f"{DISABLED} is set"
    if is_forced(environment, app):
        return None
    if _is_set(environment, DO_NOT_TRACK):
        return f"{DO_NOT_TRACK} is set"
    return f"{CI} is set" if CI in environment else None


def _is_set(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").strip().lower() not in _NO
