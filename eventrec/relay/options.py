"""How a relay works: sizes, times, and the names that the reference system has for some of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from eventrec.errors import OptionsError

if TYPE_CHECKING:
    from collections.abc import Mapping

REFERENCE_NAMES: Final[Mapping[str, str]] = {
    "EVENT_BUFFER_DAYS_TO_KEEP": "days_to_keep",
    "EVENT_BUFFER_BATCH_SIZE": "batch_rows",
    "EVENT_BUFFER_CHUNK_SIZE": "chunk_rows",
    "EVENT_BUFFER_UPDATE_PENDING_SESSIONS_BATCH_SIZE": "due_rows",
}
"""Environment variables of the reference system, and our options of that meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOptions:
    """What a relay does at once, and how long it waits. Its defaults are those of the reference system.

    Attributes:
        batch_rows: Records that a stage processes at once.
        chunk_rows: Rows that a destination which takes a batch in several requests is given at once, where its handler
            was not told another number.
        due_rows: Keys of a stage whose time is over that are processed at once.
        days_to_keep: After so many days records that still wait on the bus are a reason of `Status.health`.
        max_shards: Of a sharded bus, how many shards it serves at once at most. None: its share, which is equal for all
            relays that serve the same subscription, and all shards where it is alone.
        lease_seconds: How long another relay waits for one that died. It is renewed three times as often. Shares are
            changed no more often than that.
        save_seconds: How often it is saved how far a subscription is, where that changed.
        due_seconds: How often it is looked for keys of a stage whose time is over.
        project: The field of a payload that names a project: what is delivered is told to who listens on the bus, as
            `event:saved`, by project. None: it is not.
    """

    batch_rows: int = 4_000
    chunk_rows: int = 1_000
    due_rows: int = 1_000
    days_to_keep: int = 3
    max_shards: int | None = None
    lease_seconds: float = 15.0
    save_seconds: float = 0.2
    due_seconds: float = 1.0
    project: str | None = None

    def __post_init__(self) -> None:
        """Raise OptionsError where a value makes no sense."""
        if self.max_shards is not None and self.max_shards < 1:
            raise OptionsError(f"max_shards of a relay is at least 1, got {self.max_shards}")
        for name in ("batch_rows", "chunk_rows", "due_rows", "days_to_keep"):
            if not 1 <= getattr(self, name) <= 1_000_000:  # noqa: PLR2004 - the bound is here alone
                raise OptionsError(f"{name} of a relay is from 1 to 1,000,000, got {getattr(self, name)}")
        for name in ("lease_seconds", "save_seconds", "due_seconds"):
            if not 0.01 <= getattr(self, name) <= 3_600.0:  # noqa: PLR2004 - likewise
                raise OptionsError(f"{name} of a relay is from 0.01 to 3,600 seconds, got {getattr(self, name)}")

    @classmethod
    def reference(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """What the environment says by the names of the reference system (`REFERENCE_NAMES`), else its defaults.

        Raises:
            OptionsError: One of them is not a number that makes sense.
        """
        given: dict[str, int] = {}
        for name, option in REFERENCE_NAMES.items():
            if text := environment.get(name):
                try:
                    given[option] = int(text)
                except ValueError as exc:
                    raise OptionsError(f"{name} must be a whole number, got {text!r}") from exc
        return cls(**given)  # type: ignore[arg-type]
