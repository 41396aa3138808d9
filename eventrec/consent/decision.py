"""Whether a user's application may record, and whether it may send: decided once, when it starts.

the application says `enabled=False`                         off
EVENTREC_DISABLED, DO_NOT_TRACK, CI                          off, and no file is read or made
the choices cannot be read, or there is no place for them    off
there are none                                               the first run: disclosed, then they are made, with a yes
they were made in a first run that has not ended             the first run, too
they cannot be made, or the disclosure fails                 off: it is the first run again the next time
the user said no                                             off, but for EVENTREC_FORCE
else                                                         on
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from eventrec.consent.choices import ChoicesFile
from eventrec.consent.locks import hold
from eventrec.consent.variables import is_forced, why_off
from eventrec.errors import ConsentError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec.consent.choices import Choices
    from eventrec.consent.places import Places


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided.

    Attributes:
        why_off: Why nothing may be recorded; None: it may.
        is_first_run: It may be recorded, but nothing may be sent: the user has been told just now, by this process or
            by one that is still running.
        choices: The user's, where they were read.
        held: The descriptor that says to other processes that this one is in its first run, until it is closed.
    """

    why_off: str | None
    is_first_run: bool = False
    choices: Choices | None = None
    held: int | None = None

    @property
    def is_on(self) -> bool:
        """Whether anything may be recorded."""
        return self.why_off is None


def decide(
    app: str,
    places: Callable[[], Places],
    environment: Mapping[str, str],
    *,
    enabled: bool = True,
    disclose: Callable[[Places], object] | None,
    holds: bool = False,
) -> Decision:
    """Decide for `app` by the table above; `disclose` tells the user, and may raise. None: only look, and make nothing.

    `holds`: other processes are to know of a first run as long as it lasts, see `Decision.held`.

    Raises nothing that is an Exception.
    """
    why = "the application has switched it off" if not enabled else why_off(environment, app)
    if why is not None:
        return Decision(why)
    forced = is_forced(environment, app)
    held: list[int | None] = []
    try:
        found = places()
        file = ChoicesFile(found.choices)
        choices = file.load()
        says_no = _says_no(choices, is_forced=forced)
        is_first_run = choices is None or not choices.is_told
        if not says_no and disclose is not None:
            if is_first_run:
                then = (lambda: held.append(hold(file.path))) if holds else (lambda: None)
                choices = file.tell(partial(disclose, found), then=then)
            else:
                is_first_run = file.is_in_first_run()
            says_no = _says_no(choices, is_forced=forced)  # Another process may have been there meanwhile.
    except ConsentError as exc:
        return Decision(str(exc))
    if says_no:
        return Decision("the user has opted out", choices=choices, held=next(iter(held), None))
    return Decision(None, is_first_run=is_first_run, choices=choices, held=next(iter(held), None))


def _says_no(choices: Choices | None, *, is_forced: bool) -> bool:
    return choices is not None and not choices.enabled and not is_forced
