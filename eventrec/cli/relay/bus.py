"""`bus status | forget`: what is on a bus, for whom, and who serves it; without a relay."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from cyclopts import App, Parameter

from eventrec.bus.bus import STAGE_PREFIX
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.terminal import Terminal, counted
from eventrec.errors import DeliveryError
from eventrec.relaying import bus_from_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from eventrec.bus.bus import Bus, Held, LogBounds, Shard

bus = App(name="bus", help="Look at a bus, and maintain it.")

URL = Annotated[str, Parameter(help="The bus's URL; env:NAME takes it from the environment.")]
Json = Annotated[bool, Parameter(negative="")]


@bus.command
def status(url: URL, /, *, json: Json = False) -> int:
    """Show what a bus holds: of each shard the logs, and of each subscription and stage what is pending, and its relay.

    What a stage has given out is a shard of its own.

    For example:

    ```sh
    eventrec bus status redis://localhost:6379/0
    ```

    Args:
        url: The bus's URL; env:NAME takes it from the environment.
        json: Print JSON for a machine instead: one object with all shards.
    """
    terminal = Terminal()
    with terminal.showing_logging():
        shards = anyio.run(_with_bus, url, _all_shards)
    if json:
        terminal.show_json({"shards": shards})
        return ExitCode.OK
    for shard in shards:
        records = sum(log["end"] - log["oldest"] for log in shard["logs"])
        terminal.show(f"{shard['name']}: {counted(records, 'record')} in {counted(len(shard['logs']), 'log')}")
        for log in shard["logs"]:
            lost = ", may have lost its tail" if log["may_have_lost_tail"] else ""
            state = "live" if log["is_live"] else f"ended{lost}"
            terminal.show(f"  {log['id']}: records {log['oldest']:,} to {log['end']:,}, {state}")
        for name, held in shard["subscriptions"].items():
            by = f"served by {held['holder']}" if held["holder"] else "no relay serves it"
            terminal.show(f"  {name}: pending {held['pending']:,}, {by}")
        if not shard["subscriptions"]:
            terminal.show("  no subscription yet: everything is kept")
    return ExitCode.OK


@bus.command
def forget(
    url: URL,
    name: Annotated[str, Parameter(help="The subscription, or stage:NAME, that was removed.")],
    /,
    *,
    yes: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Keep nothing any more for a subscription, or a stage, that was removed: what it has not delivered is given up.

    A relay that serves it still is told that its lease is lost, and asks for it again: end that first. The exit code is
    2 where no shard knows it.

    For example:

    ```sh
    eventrec bus forget redis://localhost:6379/0 old_warehouse --yes
    ```

    Args:
        url: The bus's URL; env:NAME takes it from the environment.
        name: The subscription, or stage:NAME, that was removed.
        yes: Do not ask. Without a terminal to ask on, it is needed.
        json: Print JSON for a machine instead.
    """
    terminal = Terminal()
    if not yes and not _is_sure(name):
        raise CommandError("nothing is forgotten without --yes", ExitCode.USAGE)

    async def forget_all(of: Bus) -> list[str]:
        return [shard.name for shard in await _shards(of) if await shard.forget(name)]

    with terminal.showing_logging():
        found = anyio.run(_with_bus, url, forget_all)
    if not found:
        raise CommandError(f"no shard knows a subscription {name!r}", ExitCode.USAGE)
    if json:
        terminal.show_json({"forgotten": name, "shards": found})
    else:
        terminal.show(f"{name}: forgotten on {', '.join(found)}")
    return ExitCode.OK


def _is_sure(name: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return input(f"give up what {name!r} has not delivered? [y/N] ").strip().lower() in {"y", "yes"}


async def _with_bus(url: str, ask: Callable[[Bus], Awaitable[Any]]) -> Any:
    """What `ask` answers of the bus.

    Raises:
        CommandError: It is out of reach, or refuses.
    """
    found = bus_from_url(url)
    try:
        async with found:
            return await ask(found)
    except DeliveryError as exc:
        raise CommandError(f"the bus: {exc}", ExitCode.DESTINATION) from exc


async def _shards(of: Bus) -> list[Shard]:
    """All of them, with the outlets of stages that are known."""
    found: list[Shard] = []
    waiting = list(await of.shards())
    while waiting:
        shard = waiting.pop(0)
        found.append(shard)
        known = [each.subscription for each in await shard.subscriptions()]
        stages = [name.removeprefix(STAGE_PREFIX) for name in known if name.startswith(STAGE_PREFIX)]
        waiting[:0] = [shard.outlet(stage) for stage in stages]
    return found


async def _all_shards(of: Bus) -> list[dict[str, Any]]:
    return [_told(shard, await shard.logs(), await shard.subscriptions()) for shard in await _shards(of)]


def _told(shard: Shard, logs: Sequence[LogBounds], subscriptions: Sequence[Held]) -> dict[str, Any]:
    return {
        "name": shard.name,
        "logs": [
            {
                "id": str(log.id),
                "oldest": log.oldest,
                "end": log.end,
                "is_live": log.is_live,
                "may_have_lost_tail": log.may_have_lost_tail,
            }
            for log in logs
        ],
        "subscriptions": {
            held.subscription: {
                "pending": sum(max(0, log.end - max(log.oldest, held.scanned.get(log.id, 0))) for log in logs),
                "holder": held.holder,
                "lease_seconds": round(held.lease_seconds, 3),
            }
            for held in sorted(subscriptions, key=lambda each: each.subscription)
        },
    }
