"""What a PostgreSQL handler may be told beside its target, checked; by keyword or in the query string of a URL."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from eventrec import HandlerURLError
from eventrec_handlers._sql import SEEN_FOR
from eventrec_handlers.postgres.catalog import MAX_COLUMNS
from eventrec_handlers.postgres.columns import BASE_DECLARED

if TYPE_CHECKING:
    from typing import Self

    from eventrec import HandlerURL
    from eventrec_handlers._sql import SchemaMode

SCHEMA_MODES: Final[tuple[SchemaMode, ...]] = ("evolve", "strict")
DEFAULT_MAX_COLUMNS: Final = 200
POOL_SIZE: Final = 4
TIMEOUT: Final = 60.0
CONNECT_TIMEOUT: Final = 10.0
LOCK_TIMEOUT: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The keyword arguments of `PostgresHandler`, which says what they mean. Times are in seconds.

    Raises:
        ValueError: One of them is not allowed.
    """

    schema: SchemaMode = "evolve"
    max_columns: int = DEFAULT_MAX_COLUMNS
    ttl: float | None = None
    namespace: str | None = None
    pool_size: int = POOL_SIZE
    timeout: float = TIMEOUT
    connect_timeout: float = CONNECT_TIMEOUT
    lock_timeout: float = LOCK_TIMEOUT
    seen_for: float = SEEN_FOR
    unique_ids: bool = False
    refresh: bool = False
    catalogue: str | None = None

    def __post_init__(self) -> None:
        if self.schema not in SCHEMA_MODES:
            raise ValueError(f"schema must be one of {', '.join(SCHEMA_MODES)}, got {self.schema!r}")
        if not len(BASE_DECLARED) <= self.max_columns <= MAX_COLUMNS:
            raise ValueError(f"max_columns must be {len(BASE_DECLARED)} to {MAX_COLUMNS}, got {self.max_columns}")
        if self.pool_size < 1:
            raise ValueError(f"pool_size must be 1 or more, got {self.pool_size}")
        for name in ("timeout", "connect_timeout", "lock_timeout", "seen_for", "ttl"):
            seconds = getattr(self, name)
            if seconds is not None and seconds <= 0:
                raise ValueError(f"{name} must be more than 0 seconds, got {seconds:g}")

    @property
    def may_make(self) -> bool:
        """Whether tables, columns and a namespace may be made."""
        return self.schema == "evolve"

    @classmethod
    def of(cls, url: HandlerURL) -> Self:
        """The options in the query string of `url`.

        `connect_timeout=0` is libpq's: it means no bound of its own, so that of `timeout` is left.

        Raises:
            HandlerURLError: A value is not allowed.
        """
        timeout = url.seconds("timeout", default=TIMEOUT)
        try:
            return cls(
                schema=url.choice("schema", SCHEMA_MODES, default="evolve"),
                max_columns=url.integer("max_columns", default=DEFAULT_MAX_COLUMNS),
                ttl=url.seconds("ttl", default=0) if "ttl" in url.options else None,
                namespace=url.text("namespace"),
                pool_size=url.integer("pool_size", default=POOL_SIZE),
                timeout=timeout,
                connect_timeout=url.seconds("connect_timeout", default=CONNECT_TIMEOUT) or timeout,
                lock_timeout=url.seconds("lock_timeout", default=LOCK_TIMEOUT),
                seen_for=url.seconds("seen_for", default=SEEN_FOR),
                unique_ids=url.boolean("unique_ids", default=False),
                refresh=url.boolean("refresh", default=False),
                catalogue=url.text("catalogue"),
            )
        except ValueError as exc:
            raise HandlerURLError(f"a {url.scheme} URL: {exc}") from None


NAMES: Final = tuple(field.name for field in fields(Options))
"""The options as a URL names them."""
