"""The nodes of a ClickHouse: calls go to them in turn; one that is out of reach is left out for a while."""

from __future__ import annotations

import time
import zlib
from typing import TYPE_CHECKING, Final, TypeVar

from eventrec_handlers.clickhouse.errors import Failure
from eventrec_handlers.clickhouse.node import Node

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from eventrec_handlers.clickhouse.options import Options
    from eventrec_handlers.clickhouse.target import Target

T = TypeVar("T")

ABSENCE: Final = 5.0
"""Seconds for which a node is left out after it could not be reached."""


class Nodes:
    """All of them. `clock` is in seconds."""

    def __init__(self, target: Target, options: Options, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._all = [Node(target, address, options) for address in target.addresses]
        self._clock = clock
        self._turn = 0
        self.is_open = False

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._all)

    @property
    def is_sending(self) -> bool:
        """Whether inserts are under way that are not sent yet."""
        return any(node.to_encode for node in self._all)

    async def close(self) -> None:
        """Disconnect from each. May be called again."""
        self.is_open = False
        for node in self._all:
            await node.close()

    def order_for(self, token: str) -> list[Node]:
        """In which order nodes are tried for an insert: for one token always the same, but for those left out."""
        return self._ordered(zlib.crc32(token.encode()))

    async def call(self, job: Callable[[Node], Awaitable[T]]) -> T:
        """What `job` gives with the next node, or with another one where it cannot be reached or fails for now.

        Raises:
            Failure: That of the last one that may pass by itself.
        """
        self._turn += 1
        failures: list[Failure] = []
        for node in self._ordered(self._turn):
            try:
                return await job(node)
            except Failure as exc:
                if not self.passes_over(node, exc) and exc.kind != "transient":
                    raise
                failures.append(exc)
        raise self.foremost(failures)

    def passes_over(self, node: Node, failure: Failure) -> bool:
        """Whether another node is asked, and `node` left out: it cannot be reached, or it is not one at all."""
        if failure.kind == "down" or (failure.is_of_node and len(self._all) > 1):
            self.leave_out(node)
            return True
        return False

    @staticmethod
    def foremost(failures: Sequence[Failure]) -> Failure:
        """Of those of several nodes the one to go by: the last that may pass by itself."""
        return next((each for each in reversed(failures) if not each.is_of_node), failures[-1])

    def leave_out(self, node: Node) -> None:
        """It could not be reached."""
        node.absent_until = self._clock() + ABSENCE

    def _ordered(self, first: int) -> list[Node]:
        at = first % len(self._all)
        now = self._clock()
        turned = [*self._all[at:], *self._all[:at]]
        # One that is left out is the last resort, not refused: where all are, the first to come back.
        return sorted(turned, key=lambda node: max(node.absent_until - now, 0.0))
