"""`dead list | show | replay | skip | purge`: the records that destinations refused for good."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID  # noqa: TC003 - cyclopts reads annotations

import anyio
from cyclopts import App, Parameter

from eventrec.cli.declared import CatalogueName, declared_layouts, layouts_beside
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.directory import refuse_memory, see_again
from eventrec.cli.logs.letters import (
    count_by_subscription,
    known_names,
    letters_left,
    refuse_unknown,
    say_unreadable,
    sweep_settled,
    unreadable_letters,
    waiting_letters,
)
from eventrec.cli.terminal import Terminal, counted
from eventrec.cli.termination import Interruption
from eventrec.cli.waiting import WaitingNotice, end_of_wait
from eventrec.delivery.letters.kept import purge
from eventrec.delivery.letters.log import LetterLog
from eventrec.delivery.letters.shown import shown_letter
from eventrec.delivery.replay import Replayed, replay
from eventrec.durations import seconds
from eventrec.errors import LogLockedError
from eventrec.options import EventRecorderOptions
from eventrec.records.entry import SHAPE
from eventrec.records.layout import layouts_by_table
from eventrec.registry import default_name, handler_from_url, resolve_url
from eventrec.runs.directory import DEAD
from eventrec.runs.requests import OperatorRequest, save_request
from eventrec.runs.run import new_run_id

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence

    from eventrec.delivery.letters.kept import KeptLetter
    from eventrec.handler import EventHandler

dead = App(name="dead", help="Look at, replay or give up the records that destinations refused for good.")

Directory = Annotated[Path, Parameter(help="A log directory.")]
Json = Annotated[bool, Parameter(negative="")]

_SHOWN_OFFSETS: Final = 10
_SHOWN_LOGS: Final = 3


@dead.command(name="list")
def list_(directory: Directory, /, *, name: str | None = None, json: Json = False) -> int:
    """Count the dead letters that wait, by subscription, type and reason, with the offsets that `dead show` asks for.

    For example:

    ```sh
    eventrec dead list var/events
    ```

    Args:
        directory: A log directory.
        name: Only those of this subscription.
        json: Print JSON for a machine instead: one object a letter, payload and all.
    """
    terminal = Terminal()
    letters = waiting_letters(directory, name)
    if json:
        for kept in letters:
            terminal.show_json(shown_letter(kept))
        return say_unreadable(directory, terminal)
    offsets: dict[tuple[str, str, str], list[int]] = {}
    for kept in letters:
        key = kept.letter.subscription, kept.letter.entry[SHAPE].type, kept.letter.reason[:200]
        offsets.setdefault(key, []).append(kept.letter.offset)
    for (subscription, kind, reason), found in sorted(offsets.items(), key=lambda each: -len(each[1])):
        terminal.show(f"{subscription}: {len(found):,} of type {kind}: {reason} (at {_listed_offsets(found)})")
    terminal.show(counted(len(letters), "dead letter waits", "dead letters wait"))
    return say_unreadable(directory, terminal)


def _listed_offsets(offsets: list[int]) -> str:
    shown = ", ".join(map(str, offsets[:_SHOWN_OFFSETS]))
    more = f" and {len(offsets) - _SHOWN_OFFSETS:,} more" if len(offsets) > _SHOWN_OFFSETS else ""
    return f"{'offset' if len(offsets) == 1 else 'offsets'} {shown}{more}"


@dead.command
def show(directory: Directory, offset: int, /, *, log: UUID | None = None, name: str | None = None) -> int:
    """Show the dead letters of one record: why, when, and the record, as JSON lines.

    For example:

    ```sh
    eventrec dead show var/events 4120
    ```

    Args:
        directory: A log directory.
        offset: The record's offset in its log.
        log: The id of that log, where several have such a record.
        name: Only that of this subscription.
    """
    terminal = Terminal()
    found = [
        kept
        for kept in waiting_letters(directory, name)
        if kept.letter.offset == offset and log in (None, kept.letter.log_id)
    ]
    if not found:
        raise CommandError(f"no dead letter about record {offset}", ExitCode.FILE)
    for kept in found:
        terminal.show_json(shown_letter(kept))
    return ExitCode.OK


@dead.command(name="replay")
def replay_(
    directory: Directory,
    /,
    *,
    to: str,
    name: str | None = None,
    timeout: float | None = None,
    catalogue: CatalogueName = None,
) -> int:
    """Deliver dead letters after all, each with its own time and id. What is refused again is a dead letter again.

    For example:

    ```sh
    eventrec dead replay var/events --to sqlite:///events.db
    ```

    Args:
        directory: A log directory; processes may be recording into it.
        to: The destination's URL; env:NAME takes it from the environment.
        name: The subscription whose letters these are. Default: the only one that has any.
        timeout: Seconds after which it gives up; the exit code is then 1.
        catalogue: module:object, a catalogue whose layouts say how tables are made. Default: EVENTREC_CATALOGUE, else
            `catalogue` in [tool.eventrec] of pyproject.toml. Where none is named, what the destination, then the log
            directory, knows of layouts.
    """
    terminal = Terminal()
    if timeout is not None and not timeout >= 0:
        raise CommandError("--timeout is not negative", ExitCode.USAGE)
    letters = waiting_letters(directory, name)
    chosen = _chosen(letters, name, to)
    if not any(kept.letter.subscription == chosen for kept in letters):
        terminal.show("no dead letter waits")
        return say_unreadable(directory, terminal)
    with terminal.showing_logging():
        handler = handler_from_url(resolve_url(to))
        refuse_memory(to)
        declared = declared_layouts(catalogue)
        handler.use_layouts(layouts_by_table(declared))
        handler.assume_layouts(layouts_beside(directory, declared))
        replayed, interrupted_by = anyio.run(_replay, directory / DEAD, handler, chosen, timeout, terminal)
    sweep_settled(directory)
    is_whole = say_unreadable(directory, terminal) is ExitCode.OK
    left = count_by_subscription(letters_left(directory)).get(chosen, 0)
    waits = f"{left:,} {'waits' if left == 1 else 'wait'}"
    terminal.show(f"{replayed.delivered:,} delivered, {replayed.dead:,} refused again, {waits}")
    if interrupted_by is not None:
        return ExitCode(128 + interrupted_by)
    if not replayed.is_done and replayed.state.startswith(("paused", "holding")):
        raise CommandError(f"the destination takes no more, {replayed.state}", ExitCode.DESTINATION)
    return ExitCode.OK if replayed.is_done and not left and is_whole else ExitCode.INCOMPLETE


async def _replay(
    directory: Path, handler: EventHandler, name: str, seconds: float | None, terminal: Terminal
) -> tuple[Replayed, signal.Signals | None]:
    """What became of the letters, and the signal that ended it before its time."""
    options = EventRecorderOptions()
    letters = LetterLog(directory, new_run_id, max_bytes=options.max_dead_bytes)
    latest = Replayed()
    interruption = Interruption(terminal, "what is not delivered stays")

    def note(progress: Replayed) -> None:
        nonlocal latest
        latest = progress

    notice = WaitingNotice(
        terminal,
        moved=lambda: latest.delivered + latest.dead,
        state=lambda: latest.state,
        ends=end_of_wait(seconds),
    )
    settings = options.resolve(has_log=True).delivery
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(notice.watch)
            try:
                with anyio.move_on_after(seconds) as limit:
                    tasks.start_soon(interruption.watch, limit)
                    await replay(directory, handler, name=name, settings=settings, letters=letters, on_progress=note)
            except LogLockedError as exc:
                raise CommandError("these letters are being replayed by another process", ExitCode.FILE) from exc
            finally:
                tasks.cancel_scope.cancel()
    finally:
        letters.close()
    if limit.cancelled_caught:
        latest.is_done = False
    return latest, interruption.number


def _chosen(letters: Sequence[KeptLetter], given: str | None, to: str) -> str:
    names = sorted({kept.letter.subscription for kept in letters})
    if given is not None:
        return given
    if len(names) > 1:
        raise CommandError(f"--name is needed: there are letters of {', '.join(names)}", ExitCode.USAGE)
    return names[0] if names else default_name(to)


@dead.command
def skip(directory: Directory, name: str, offset: int, /, *, log: UUID | None = None) -> int:
    """Set aside the record at which a subscription holds: it becomes a dead letter, and delivery goes on after it.

    The process that delivers does so within seconds, or the next one when it starts.

    For example:

    ```sh
    eventrec dead skip var/events postgres 4120
    ```

    Args:
        directory: A log directory.
        name: The subscription.
        offset: The record's offset.
        log: The id of its log. Default: any log in which that subscription is stuck at this offset.
    """
    if offset < 0:
        raise CommandError("an offset is not negative", ExitCode.USAGE)
    refuse_unknown(directory, name, known_names(directory, waiting_letters(directory)))
    _check_offset(directory, name, offset, log)
    save_request(directory, OperatorRequest(subscription=name, asked=time.time(), skip=offset, log=log))
    Terminal().show(f"{name}: record {offset} will be skipped where it holds")
    return ExitCode.OK


def _check_offset(directory: Path, name: str, offset: int, log: UUID | None) -> None:
    """Raise CommandError where no log has such a record that the subscription has not passed."""
    logs = [each for each in see_again(directory) if log in (None, each.id) and each.state != "unknown"]
    if log is not None and not logs and not (directory / str(log)).exists():
        raise CommandError(f"there is no log {log} in {directory}", ExitCode.USAGE)
    waiting = {each.id: (each.end - each.pending(name), each.end) for each in logs if each.pending(name)}
    if not logs or any(first <= offset < end for first, end in waiting.values()):
        return
    ranges = [f"{first:,} to {end - 1:,} ({id_})" for id_, (first, end) in sorted(waiting.items())]
    more = f" and {len(ranges) - _SHOWN_LOGS:,} logs more" if len(ranges) > _SHOWN_LOGS else ""
    waits = f"records {', '.join(ranges[:_SHOWN_LOGS])}{more} wait for it" if ranges else "no record waits for it"
    raise CommandError(f"{name!r} does not wait for a record {offset}: {waits}", ExitCode.USAGE)


@dead.command(name="purge")
def purge_(
    directory: Directory,
    /,
    *,
    name: str | None = None,
    older_than: str | None = None,
    yes: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Give up dead letters for good.

    For example:

    ```sh
    eventrec dead purge var/events --older-than 30d --yes
    ```

    Args:
        directory: A log directory.
        name: Only those of this subscription.
        older_than: Only those older than this: "30d", "12h". A younger one keeps those behind it.
        yes: Do it; without, the command only says how many there are.
    """
    terminal = Terminal()
    try:
        age = seconds(older_than) if older_than is not None else 0.0
    except ValueError as exc:
        raise CommandError(f"--older-than: {exc}", ExitCode.USAGE) from exc
    if isinstance(age, float) and not 0 <= age < math.inf:
        raise CommandError("--older-than is a finite age, and not negative", ExitCode.USAGE)
    before = time.time() - (age if isinstance(age, float) else 0.0)
    below: dict[tuple[UUID, str], int] = {}
    young: set[tuple[UUID, str]] = set()
    count = 0
    letters = waiting_letters(directory, name)
    unreadable = {Path(path).name for path in unreadable_letters(directory)}
    for kept in letters:
        # Giving up what is behind letters that cannot be read now would give those up too, once they can be.
        if str(kept.run) in unreadable:
            continue
        place = (kept.run, kept.letter.subscription)
        if kept.letter.seconds >= before:
            young.add(place)
        elif place not in young:
            below[place] = kept.number + 1
            count += 1
    if not yes:
        terminal.show(f"{counted(count, 'dead letter')} would be given up: say --yes")
        code = say_unreadable(directory, terminal)
        return ExitCode.INCOMPLETE if count else code
    try:
        for (run, subscription), number in below.items():
            purge(directory / DEAD, run, subscription, below=number)
    except LogLockedError as exc:
        raise CommandError("dead letters are being replayed", ExitCode.FILE) from exc
    sweep_settled(directory)
    terminal.show(f"{counted(count, 'dead letter')} given up")
    return say_unreadable(directory, terminal)
