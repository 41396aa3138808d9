"""Tells who listens on the bus what was delivered, counted by project: `event:saved`. Nothing depends on it.

    {"subscription":"clickhouse","project":"shop","count":1200}

Once for each batch that went through, half a second later at most together with others. It is not waited for, and what
cannot be told is forgotten: while the bus does not take it, and beyond a thousand projects at once.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec

from eventrec.records.entry import PAYLOAD
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from eventrec.bus.bus import Shard
    from eventrec.records.batch import Batch

CHANNEL: Final = "event:saved"

_BETWEEN: Final = 0.5
_PATIENCE: Final = 1.0
"""Seconds."""

_MAX_PROJECTS: Final = 1_000
_MAX_TEXT: Final = 200

_encode: Final = msgspec.json.Encoder().encode
_logger = get_logger("eventrec.relay")


class SavedNotices:
    """What is to be told of `subscription` on `shard`; `field` of a payload names the project."""

    def __init__(self, shard: Shard, subscription: str, field: str) -> None:
        self._shard = shard
        self._subscription = subscription
        shape = msgspec.defstruct("OfProject", [("project", Any, None)], rename={"project": field})
        self._decode = msgspec.json.Decoder(shape).decode
        self._counts: Counter[str] = Counter()
        self._added = anyio.Event()

    def add(self, batch: Batch) -> None:
        """All of `batch` is safe at its destination."""
        for entry in batch.entries:
            try:
                project = self._decode(entry[PAYLOAD]).project  # type: ignore[attr-defined]
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue
            if isinstance(project, str | int) and (project in self._counts or len(self._counts) < _MAX_PROJECTS):
                self._counts[str(project)[:_MAX_TEXT]] += 1
        self._added.set()

    async def run(self) -> None:
        """Tell it, until cancelled."""
        while True:
            await self._added.wait()
            await anyio.sleep(_BETWEEN)
            self._added = anyio.Event()
            counts, self._counts = self._counts, Counter()
            told = [
                _encode({"subscription": self._subscription, "project": project, "count": count})
                for project, count in counts.items()
            ]
            with anyio.move_on_after(_PATIENCE):
                try:
                    await self._shard.notify(CHANNEL, told)
                except Exception as exc:  # noqa: BLE001 - no reader is told then
                    _logger.debug("notice not sent", channel=CHANNEL, error=described(exc))
