"""The dead letters that wait in a log directory, and which subscriptions it knows at all."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Final

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.directory import followers_in, listed, names_in, see_again
from eventrec.cli.logs.log_directory import check_log_directory
from eventrec.cli.terminal import Terminal
from eventrec.delivery.letters.kept import kept_letters, sweep_letters, unreadable_logs
from eventrec.runs.directory import DEAD

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from uuid import UUID

    from eventrec.cli.logs.directory import SeenLog
    from eventrec.delivery.letters.kept import KeptLetter

_SAID_APART: Final = frozenset({"dead letters unreadable", "log damaged"})
"""What the library logs at every look: commands say it once, by `say_unreadable`."""


def waiting_letters(directory: Path, name: str | None = None) -> list[KeptLetter]:
    """The letters that wait, oldest first; only those of the subscription `name`, if given.

    Raises:
        CommandError: It is not a log directory, or knows other subscriptions, but none of that name.
        LogError: They cannot be read.
        OSError: Likewise.
    """
    check_log_directory(directory)
    waiting = letters_left(directory)
    if name is None:
        return waiting
    found = [kept for kept in waiting if kept.letter.subscription == name]
    if not found:
        known = known_names(directory, waiting)
        if known:
            refuse_unknown(directory, name, known)
    return found


def letters_left(directory: Path) -> list[KeptLetter]:
    """As `waiting_letters`, of a log directory that was one before: what was ours in it may all be settled by now.

    Raises:
        LogError: They cannot be read.
        OSError: Likewise.
    """
    with Terminal().showing_logging(without=_SAID_APART):
        return [kept for kept in kept_letters(directory / DEAD) if kept.is_waiting]


def set_aside_before(directory: Path, name: str, logs: Iterable[SeenLog]) -> dict[UUID, list[int]]:
    """The records of `logs` that `name` has still to pass, and that wait as its dead letters already, by log.

    They are not sent again: a process was killed between the letter and its checkpoint.

    Raises:
        LogError: The letters cannot be read.
        OSError: Likewise.
    """
    # Of a log whose tail a power cut took, that may be past its end.
    passed = {log.id: log.scanned(name) for log in logs}
    found: dict[UUID, list[int]] = {}
    with Terminal().showing_logging(without=_SAID_APART):
        for kept in kept_letters(directory / DEAD):
            letter = kept.letter
            is_open = letter.log_id in passed and letter.offset >= passed[letter.log_id]
            if kept.is_waiting and letter.subscription == name and is_open:
                found.setdefault(letter.log_id, []).append(letter.offset)
    return found


def unreadable_letters(directory: Path) -> dict[str, str]:
    """What is wrong with each log of dead letters in `directory` that cannot be read whole, by the log's path.

    Raises:
        OSError: The directory cannot be read.
    """
    place = directory / DEAD
    if os.path.lexists(place) and not place.is_dir():
        return {str(place): "it is not a directory"}
    with Terminal().showing_logging(without=_SAID_APART):
        return {str(place / str(id_)): why for id_, why in unreadable_logs(place).items()}


def say_unreadable(directory: Path, terminal: Terminal) -> ExitCode:
    """Name on stderr each log of dead letters that cannot be read whole; the exit code that follows from it."""
    found = unreadable_letters(directory)
    for path, why in found.items():
        terminal.say(f"eventrec: {path}: not all dead letters in it can be read: {why}; it is kept", style="red")
    return ExitCode.INCOMPLETE if found else ExitCode.OK


def sweep_settled(directory: Path) -> None:
    """Delete the logs of dead letters in `directory` that are read whole and settled. Raises OSError."""
    with Terminal().showing_logging(without=_SAID_APART):
        sweep_letters(directory / DEAD)


def count_by_subscription(letters: list[KeptLetter]) -> dict[str, int]:
    """How many of `letters` each subscription has."""
    return dict(sorted(Counter(kept.letter.subscription for kept in letters).items()))


def known_names(directory: Path, letters: list[KeptLetter]) -> list[str]:
    """The subscriptions that have a checkpoint in a log of `directory`, or are followed there, or have `letters`."""
    followed = followers_in(directory)
    return sorted({*names_in(see_again(directory)), *followed, *(kept.letter.subscription for kept in letters)})


def refuse_unknown(directory: Path, name: str, known: list[str]) -> None:
    """Raise CommandError where `name` is none of the `known` subscriptions of `directory`."""
    if name not in known:
        raise CommandError(
            f"no log in {directory} knows a subscription {name!r}; there are: {listed(known)}", ExitCode.USAGE
        )
