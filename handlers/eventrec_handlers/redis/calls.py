"""How one shard calls its server: scripts with its keys, and several commands at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventrec.bus import Lease, LeaseLostError
from eventrec_handlers.redis.relay_scripts import relay_scripts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventrec_handlers.redis.connection import Connection
    from eventrec_handlers.redis.keys import ShardKeys


class ShardCalls:
    """The shard with `keys`, which operators call `name`, by `connection`."""

    def __init__(self, connection: Connection, keys: ShardKeys, name: str) -> None:
        self.connection = connection
        self.keys = keys
        self.name = name

    def __repr__(self) -> str:
        return f"<ShardCalls {self.name!r} of {self.connection.target}>"

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Any] = ()) -> Any:
        """What the script of that name answers. Errors as `Connection.run`."""
        return await self.connection.run(relay_scripts()[script], keys, args)

    async def call(self, *command: Any, seconds: float = 0.0) -> Any:
        """What one command answers, which may wait so long. Errors as `Connection.call`."""
        return await self.connection.call(*command, seconds=seconds)

    async def pipeline(self, *commands: Sequence[Any]) -> list[Any]:
        """The answers to `commands`, sent at once and carried out in order; the first that fails is raised."""

        async def send(client: Any) -> list[Any]:
            async with client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                answers: list[Any] = await pipe.execute()
                return answers

        return await self.connection.do(send)

    def lease(self, lease: Lease) -> str:
        """The key of a lease."""
        return self.keys.lease(lease.subscription)

    def lost(self, lease: Lease) -> LeaseLostError:
        """The error where another has it by now."""
        return LeaseLostError(f"{self.name}: the lease of {lease.subscription!r} is lost")


def pairs(flat: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    """Two and two of a list."""
    return zip(flat[::2], flat[1::2], strict=True)


def seconds_of(answer: Sequence[Any]) -> float:
    """What TIME answers, in seconds since the epoch."""
    return int(answer[0]) + int(answer[1]) / 1_000_000
