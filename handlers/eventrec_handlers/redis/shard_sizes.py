"""How much a shard holds, for who appends to it and for who reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec_handlers.redis.scripts import script

if TYPE_CHECKING:
    from eventrec_handlers.redis.connection import Connection
    from eventrec_handlers.redis.keys import ShardKeys


class ShardSizes:
    """Asks how much the shard with `keys` holds; for one loop, as the connection."""

    def __init__(self, connection: Connection, keys: ShardKeys) -> None:
        self._connection = connection
        self._keys = keys
        self._logs = ""
        """The ids of its logs, as meta had them last: a script may use no key that it was not given."""

    def __repr__(self) -> str:
        return f"<ShardSizes of {self._keys.base}>"

    async def look(self) -> tuple[int, int]:
        """Records and bytes of content. What is gone from where its logs begin is not there, whatever is known of it.

        Raises:
            DeliveryError: The server does not answer, or refuses.
        """
        while True:
            streams = map(self._keys.log, self._logs.split())
            answer = await self._connection.run(script("sizes"), [self._keys.meta, *streams], [self._logs])
            if len(answer) > 1:
                return int(answer[0]), int(answer[1])
            self._logs = answer[0].decode()
