"""A lock of processes that migrate a database: a table that one of them can make, and that tells whether it lives.

ClickHouse has no locks. Of two processes that make one table without IF NOT EXISTS, one is refused; renaming likewise.
The owner adds a row every few seconds. A process that waits takes it over where the last row is older than `LEASE`, or
at once where the owner was a process of this machine that is gone.
"""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eventrec_handlers._thread import WorkThread
from eventrec_handlers.clickhouse.errors import UNKNOWN_TABLE, Failure
from eventrec_handlers.clickhouse.sql import literal, quoted

if TYPE_CHECKING:
    from eventrec_handlers.clickhouse.node import Node

LEASE: Final = 30.0
"""Seconds without a word after which an owner is taken for dead, by the server's clock."""

TABLE: Final = "eventrec_migrating"
OWNER: Final = f"SELECT any(comment) FROM system.tables WHERE database = currentDatabase() AND name = '{TABLE}'"  # noqa: S608 - a constant
"""The statement for who has it."""

_EXISTS: Final = 57


class Lease:
    """The lock, as one process sees it."""

    def __init__(self) -> None:
        self.owner = ""
        """What tells this process from all others; known once it is asked for."""
        self._thread = WorkThread("eventrec-clickhouse-lease")

    def __repr__(self) -> str:
        return f"<Lease of {self.owner!r}>"

    async def acquire(self, node: Node) -> bool:
        """Whether it is ours now; False: another process has it.

        Raises:
            Failure: The node fails, or refuses us.
        """
        self.owner = self.owner or await self._thread.run(_owner)
        try:
            await node.run(
                f"CREATE TABLE {TABLE} (beat DateTime64(6, 'UTC') DEFAULT now64(6))"
                f" ENGINE = MergeTree ORDER BY beat COMMENT {literal(self.owner)}"
            )
        except Failure as exc:
            if exc.code != _EXISTS:
                raise
        else:
            return True
        await self._take_over(node)
        return False

    async def renew(self, node: Node) -> None:
        """Say that we are alive."""
        await node.run(f"INSERT INTO {TABLE} VALUES (now64(6))")  # noqa: S608 - a constant

    async def is_ours(self, node: Node) -> bool:
        """Whether no other process has taken it over."""
        return await _comment(node) == self.owner

    async def release(self, node: Node) -> None:
        """Let go of it, if it is ours."""
        if await self.is_ours(node):
            await node.run(f"DROP TABLE IF EXISTS {TABLE}")

    def close(self) -> None:
        """End what looks for processes. May be called again."""
        self._thread.end()

    async def _take_over(self, node: Node) -> None:
        """Take the table of a dead owner away: the next one who asks may have it."""
        owner = await _comment(node)
        if owner is None or not (await self._thread.run(lambda: _is_gone(owner)) or await _is_silent(node)):
            return
        aside = f"{TABLE}_{secrets.token_hex(4)}"
        with suppress(Failure):  # of two who rename it, one does
            await node.run(f"RENAME TABLE {TABLE} TO {quoted(aside)}")
            if await _comment(node, aside) != owner:  # it has another owner by now
                await node.run(f"RENAME TABLE {quoted(aside)} TO {TABLE}")
            await node.run(f"DROP TABLE IF EXISTS {quoted(aside)}")


async def _comment(node: Node, table: str = TABLE) -> str | None:
    rows = await node.query(
        f"SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = {literal(table)}"  # noqa: S608 - a literal
    )
    return str(rows[0][0]) if rows else None


async def _is_silent(node: Node) -> bool:
    try:
        ((silent,),) = await node.query(
            "SELECT dateDiff('second', greatest(max(beat), (SELECT max(metadata_modification_time) FROM system.tables"  # noqa: S608 - constants
            f" WHERE database = currentDatabase() AND name = '{TABLE}')), now64(6)) FROM {TABLE}"
        )
    except Failure as exc:
        if exc.code == UNKNOWN_TABLE:
            return False
        raise
    return float(silent) > LEASE


def _owner() -> str:
    return f"{_place()} {os.getpid()} {_started(os.getpid())} {secrets.token_hex(8)}"


def _place() -> str:
    """What tells the processes that we can look for from all others."""
    try:
        space = Path("/proc/self/ns/pid").readlink()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{socket.gethostname()} ?"
    return f"{boot} {space}"


def _started(pid: int) -> str:
    """When a process began, as the kernel counts it; "": it is gone, or nothing tells."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return said.rpartition(")")[2].split()[19]


def _is_gone(owner: str) -> bool:
    """Whether the owner was a process of this machine that is not there any more."""
    match owner.rsplit(" ", 3):
        case [place, pid, started, _] if place == _place() and not place.endswith("?") and pid.isdigit():
            return _started(int(pid)) != started
    return False
