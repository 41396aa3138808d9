"""`deliver`: delivery in a process of its own, beside applications that only write.

choose   the subscription of each URL: the one that its handler has by itself, or `--name`
follow   by a recorder that records nothing, with the option `follow`: live logs and orphans, until a signal comes
report   what is left, and for whom
"""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
from cyclopts import Parameter

from eventrec.cli.declared import CatalogueName, declared_layouts, layouts_beside
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.directory import followers_in, names_in, refuse_memory, see_again, see_all
from eventrec.cli.logs.log_directory import check_not_part_of_one
from eventrec.cli.logs.orphans import chosen_name
from eventrec.cli.terminal import Terminal, counted
from eventrec.cli.termination import Interruption
from eventrec.errors import LogError, SubscriptionError
from eventrec.options import EventRecorderOptions
from eventrec.recorder import EventRecorder
from eventrec.registry import handler_from_url
from eventrec.runs.summary import total

if TYPE_CHECKING:
    from collections.abc import Sequence

_ROWS: Final = 4_000
"""A transaction costs a sync of the database, however large it is; bytes are bounded as in an application."""

_SAID_APART: Final = frozenset({"closed with records left", "orphan adopted"})


def deliver(
    directory: Path,
    /,
    *,
    to: Annotated[list[str], Parameter(negative="")],
    name: Annotated[list[str] | None, Parameter(negative="")] = None,
    type_: Annotated[list[str] | None, Parameter(name="--type", negative="")] = None,
    config: Path | None = None,
    dead: Path | None = None,
    catalogue: CatalogueName = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Deliver what other processes write into a log directory, while they write it, until Ctrl-C or SIGTERM.

    The applications then only record: `EventRecorder(log=DIR)`, without a handler. What they leave when they end is
    delivered too. Only what is delivered to every subscription is deleted. Started again after whatever ended it, it
    goes on where it was; of two for one subscription the second waits, and takes over. With several destinations it
    delivers to all or to none: where another process delivers to one of them, it waits for that one, and says so.

    From its first start on the logs are kept for its subscriptions, within the disk bound, also while it does not run.
    That ends with `eventrec log forget DIR NAME`.

    Nothing waits for a batch to fill: what comes while one is written makes the next one. That, and other options of a
    recorder, may be set in the environment (`EVENTREC_FLUSH_INTERVAL`, `EVENTREC_BATCH_ROWS`) and in `--config`. The
    bounds on the disk are the applications'. The exit code is 0 once it ended in good order, whatever is left.

    For example:

    ```sh
    eventrec deliver var/events --to sqlite:///events.db
    ```

    Args:
        directory: A log directory; it is made where it is not there yet.
        to: A destination's URL; env:NAME takes it from the environment. Give it once for each destination.
        name: The subscription's name; with several destinations, once for each of them, in their order. Default: the
            one in the logs that a handler of this URL has by itself.
        type_: Deliver events of this type only, to every destination; give it once for each type.
        config: A TOML file with options of a recorder.
        dead: A file of JSON lines for a copy of what a destination refuses; the log directory keeps it in any case.
        catalogue: module:object, a catalogue whose layouts say how tables are made. Default: EVENTREC_CATALOGUE, else
            `catalogue` in [tool.eventrec] of pyproject.toml. Where none is named, what the destination, then the log
            directory, knows of layouts.
        json: Print what is left as JSON for a machine instead.
    """
    terminal = Terminal()
    with terminal.showing_logging(without=_SAID_APART, shows_holds=True):
        subscriptions = chosen_subscriptions(directory, to, name)
        options = _options(config, dead)
        layouts = declared_layouts(catalogue)
        layouts_beside(directory, layouts)  # which refuses what cannot be read
        try:
            recorder = EventRecorder(log=directory, options=options, layouts=layouts, environment={})
            for subscription, url in subscriptions.items():
                rows = None if "batch_rows" in options.model_fields_set else _rows(url)
                recorder.register(url, name=subscription, types=type_, batch_rows=rows)
        except SubscriptionError as exc:
            raise CommandError(f"--name or --type: {exc}", ExitCode.USAGE) from exc
        anyio.run(_follow, recorder, directory, list(subscriptions), terminal)
        return report_left(directory, list(subscriptions), terminal, json=json)


def chosen_subscriptions(directory: Path, urls: Sequence[str], names: Sequence[str] | None) -> dict[str, str]:
    """The URLs by the name of their subscriptions.

    Raises:
        CommandError: They are not as many, or two have one name; or what is there is not a log directory.
    """
    for url in urls:
        refuse_memory(url)
    if names is not None and len(names) != len(urls):
        raise CommandError(f"--name: {len(names)} for {len(urls)} --to: give one for each", ExitCode.USAGE)
    if directory.exists():
        known = sorted({*names_in(see_all(directory)), *followers_in(directory)})
    else:
        check_not_part_of_one(directory)
        known = []
    chosen = list(names) if names is not None else [chosen_name(url, None, known) for url in urls]
    if len(set(chosen)) < len(chosen):
        raise CommandError("--name is needed: two destinations would have one name", ExitCode.USAGE)
    return dict(zip(chosen, urls, strict=True))


def _options(config: Path | None, dead: Path | None) -> EventRecorderOptions:
    """Those of the environment and `config`, and what this command needs where they do not say otherwise."""
    given = EventRecorderOptions.load(config)
    ours: dict[str, Any] = {"flush_interval": 0.0, "max_log_bytes": sys.maxsize, "keep_free": 0}
    ours = {name: value for name, value in ours.items() if name not in given.model_fields_set}
    # Switching off is about applications that record; this was asked to deliver.
    must: dict[str, Any] = {"follow": True, "enabled": True} | ({} if dead is None else {"dead_letters": dead})
    return given.model_copy(update=ours | must)


def _rows(url: str) -> int | None:
    """Rows of a batch at most, as large as pays; None: as in an application.

    A database takes a transaction of any size. A larger request may be refused, and parted again each time.
    """
    return None if handler_from_url(url).checkpoints is None else _ROWS


async def _follow(recorder: EventRecorder, directory: Path, names: Sequence[str], terminal: Terminal) -> None:
    """Until a signal comes, and then for as long as closing may take.

    Raises:
        CommandError: The directory refuses the recorder's own, empty log.
    """
    interruption = Interruption(terminal, "what is not delivered stays")
    try:
        async with recorder, anyio.create_task_group() as tasks:
            terminal.say(f"eventrec: delivering {directory} to {', '.join(names)}, until Ctrl-C or SIGTERM")
            tasks.start_soon(interruption.watch, tasks.cancel_scope)
            await anyio.sleep_forever()
    except LogError as exc:
        raise CommandError(str(exc), ExitCode.FILE) from exc


def report_left(directory: Path, names: Sequence[str], terminal: Terminal, *, json: bool) -> int:
    """Print what is left for `names`; the exit code."""
    logs = see_again(directory)
    pending = {name: total(logs)["pending"].get(name, 0) for name in names}
    if json:
        terminal.show_json({"logs": len(logs), "pending": pending, "exit_code": int(ExitCode.OK)})
    else:
        left = ", ".join(f"{name!r}: {count:,}" for name, count in pending.items())
        terminal.show(f"{counted(len(logs), 'log')} left, pending for {left}")
    return ExitCode.OK
