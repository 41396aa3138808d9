"""`query`: asks a destination for a rollup of the catalogue, and shows the answer."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations
from typing import TYPE_CHECKING, Annotated, Final

import anyio
from cyclopts import Parameter

from eventrec.analytics import Question, plan_of
from eventrec.cli.declared import load_declared
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.query.showing import answer_json, show_chart, show_table
from eventrec.cli.query.undelivered import undelivered, with_waiting
from eventrec.cli.root import Json  # noqa: TC001 - cyclopts reads annotations
from eventrec.cli.terminal import Terminal
from eventrec.errors import HandlerURLError
from eventrec.ingest.moments import moment_of
from eventrec.ingest.timestamps import nanoseconds
from eventrec.records.layout import layouts_by_table
from eventrec.registry import handler_from_url

if TYPE_CHECKING:
    from eventrec.analytics import Answer, Catalogue, RollupPlan, RollupStore

_SINCE_1970: Final = re.compile(r"\d{9,}(\.\d*)?", re.ASCII)
"""Seconds since then, or milliseconds and finer by their size; what is shorter may be meant for a date."""


def query(
    name: str,
    /,
    *,
    to: str,
    catalogue: Annotated[str | None, Parameter(negative="")] = None,
    start: Annotated[str | None, Parameter(name="--from", negative="", allow_leading_hyphen=True)] = None,
    end: Annotated[str | None, Parameter(name="--to-time", negative="", allow_leading_hyphen=True)] = None,
    group: Annotated[str | None, Parameter(negative="")] = None,
    limit: Annotated[int | None, Parameter(negative="")] = None,
    newest_first: Annotated[bool, Parameter(negative="")] = False,
    log: Annotated[Path | None, Parameter(name="--log", negative="")] = None,
    subscription: Annotated[str | None, Parameter(name="--name", negative="")] = None,
    empty: Annotated[bool, Parameter(negative="")] = False,
    chart: Annotated[bool, Parameter(negative="")] = False,
    measure: Annotated[str | None, Parameter(negative="")] = None,
    json: Json = False,
) -> int:
    """Show what a rollup tells of the events of a destination, as a table, a chart or JSON.

    The answer is whole, also where nothing has refreshed the rollup, and says up to which event it goes.

    For example:

    ```sh
    eventrec query orders_per_hour --to sqlite:///shop.db --from 2026-01-31 --group currency --chart
    ```

    Args:
        name: The rollup, by its name in the catalogue.
        to: The destination's URL; env:NAME takes it from the environment.
        catalogue: Where the rollup is declared, module:object. Default: EVENTREC_CATALOGUE, else `catalogue` in
            [tool.eventrec] of pyproject.toml.
        start: Buckets that begin at this time or later, as 2026-01-31T10:00:00Z, or 2026-01-31, or -7d for a week ago.
            A time without a zone is in the rollup's.
        end: Buckets that begin before this time.
        group: By which of its groups, parted by commas; the others are added up. "" for none. Default: by all.
        limit: At most so many rows.
        newest_first: From the latest bucket to the earliest.
        log: A log directory: also say how many of its events wait for the destination, and are not in the answer.
        subscription: The subscription that they wait for. Default: the one in the logs that a handler of this URL has
            by itself.
        empty: Also buckets without events.
        chart: Draw a bar for each row instead.
        measure: What the bars show. Default: the first measure that is a number.
        json: Print JSON for a machine instead: one object.
    """
    terminal = Terminal()
    with terminal.showing_logging():
        known = load_declared(catalogue)
        plan = _plan(known, name)
        question = _question(plan, start, end, group, limit=limit, newest_first=newest_first, empty=empty)
        store = _store(to, known)
        # Before the answer: what is delivered in between is told twice, and nothing is left out.
        waiting = None if log is None else undelivered(log, to, subscription, question)
        answer = anyio.run(_ask, store, question)
        if answer.complete_to is None and not answer.rows:
            answer = replace(answer, remarks=(*answer.remarks, _why_empty(plan)))
        if waiting is not None and log is not None:
            answer = with_waiting(answer, waiting, log)
    if json:
        terminal.show_json(answer_json(answer, plan.bucket))
    elif chart:
        show_chart(answer, plan.bucket, terminal, measure=measure)
    else:
        show_table(answer, plan.bucket, terminal)
    return ExitCode.OK


def _why_empty(plan: RollupPlan) -> str:
    """What an operator who asks for the first time may have got wrong, where nothing is stored."""
    kinds = "any type" if plan.types is None else f"type {' or '.join(plan.types)}"
    return (
        f"table {plan.table!r} of this destination has no event of {kinds}: see whether --to is where they are"
        " recorded, and whether their class names that table"
    )


async def _ask(store: RollupStore, question: Question) -> Answer:
    async with store:
        try:
            return await store.answer(question)
        except ValueError as exc:
            raise CommandError(str(exc), ExitCode.USAGE) from exc


def _plan(catalogue: Catalogue, name: str) -> RollupPlan:
    plans = {plan.name: plan for plan in map(plan_of, catalogue.rollups)}
    if name not in plans:
        listed = ", ".join(plans) or "none"
        raise CommandError(f"the catalogue has no rollup {name!r}; it has {listed}", ExitCode.USAGE)
    return plans[name]


def _store(url: str, catalogue: Catalogue) -> RollupStore:
    handler = handler_from_url(url)
    handler.use_layouts(layouts_by_table(catalogue.layouts))
    store = handler.rollups()
    if store is None:
        raise HandlerURLError("the handler of this URL answers no rollups: it cannot tell what it has stored")
    return store


def _question(
    plan: RollupPlan,
    start: str | None,
    end: str | None,
    group: str | None,
    *,
    limit: int | None,
    newest_first: bool,
    empty: bool,
) -> Question:
    try:
        return Question(
            plan,
            start=None if start is None else _moment("--from", start, plan.bucket.zone),
            end=None if end is None else _moment("--to-time", end, plan.bucket.zone),
            groups=None if group is None else tuple(part.strip() for part in group.split(",") if part.strip()),
            limit=limit,
            newest_first=newest_first,
            empty_buckets=empty,
        )
    except ValueError as exc:
        raise CommandError(str(exc), ExitCode.USAGE) from exc


def _moment(option: str, said: str, zone: str) -> int:
    """The moment that an operator says: in the zone of the rollup, where it says none."""
    try:
        is_number = _SINCE_1970.fullmatch(said.strip()) is not None
        return nanoseconds(said) if is_number else moment_of(said, zone, now=time.time_ns())
    except ValueError as exc:
        raise ValueError(f"{option}: {exc}") from exc
