"""What a handler for ClickHouse is told beside its URL: every option with its unit and default."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from eventrec import HandlerURLError
from eventrec_handlers.clickhouse.target import SECURE

if TYPE_CHECKING:
    from eventrec import HandlerURL
    from eventrec_handlers._sql import SchemaMode

SCHEMA_MODES: Final[tuple[SchemaMode, ...]] = ("evolve", "strict")
MAX_COLUMNS: Final = 10_000
BASE_COLUMNS: Final = 5
CHUNK_ROWS: Final = 1_000
"""Of a chunk, where neither the handler nor a relay was told another number."""

MAX_CHUNK_ROWS: Final = 100_000
"""A chunk stays one block of the server, whose default is five times as many."""

REFERENCE_SETTINGS: Final[dict[str, Any]] = {
    "max_execution_time": 300,
    "max_insert_block_size": 500_000,
    "input_format_parallel_parsing": 1,
    "wait_end_of_query": 1,
    "send_progress_in_http_headers": 1,
    "http_headers_progress_interval_ms": 50_000,
    "date_time_input_format": "best_effort",
}
"""With what OpenPanel inserts."""


@dataclass(frozen=True, slots=True)
class Options:
    """The options; `ClickHouseHandler` says what they mean.

    Raises:
        ValueError: One is not allowed.
    """

    schema: SchemaMode = "evolve"
    max_columns: int = 1_000
    chunk_rows: int | None = None
    chunk_bytes: int = 16 << 20
    concurrency: int = 5
    ttl: float | None = None
    unique_ids: bool = False
    dedup_window: int = 10_000
    cluster: str | None = None
    timeout: float = 30.0
    connect_timeout: float = 10.0
    compression: str = "lz4"
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    refresh: bool = False
    catalogue: str | None = None

    def __post_init__(self) -> None:
        if self.schema not in SCHEMA_MODES:
            raise ValueError(f"schema must be one of {', '.join(SCHEMA_MODES)}, got {self.schema!r}")
        _within("max_columns", self.max_columns, BASE_COLUMNS, MAX_COLUMNS)
        if self.chunk_rows is not None:
            _within("chunk_rows", self.chunk_rows, 1, MAX_CHUNK_ROWS)
        _within("chunk_bytes", self.chunk_bytes, 1 << 10, 1 << 30)
        _within("concurrency", self.concurrency, 1, 100)
        _within("dedup_window", self.dedup_window, 1, 10_000_000)
        for name in ("ttl", "timeout", "connect_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name} must be more than 0 seconds, got {seconds:g}")
        if self.compression not in COMPRESSIONS:
            raise ValueError(f"compression must be one of {', '.join(COMPRESSIONS)}, got {self.compression!r}")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("tls_key needs tls_cert")


COMPRESSIONS: Final = ("lz4", "zstd", "gzip", "none")
NAMES: Final = tuple(field.name for field in fields(Options))


def options_of(url: HandlerURL) -> Options:
    """The options in the query string of `url`.

    Raises:
        HandlerURLError: A value is not allowed.
    """
    default = Options()
    if url.scheme != SECURE and any(name in url.options for name in ("tls_ca", "tls_cert", "tls_key")):
        raise HandlerURLError(f"options of TLS are for {SECURE}:// URLs")
    try:
        return Options(
            schema=url.choice("schema", SCHEMA_MODES, default=default.schema),
            max_columns=url.integer("max_columns", default=default.max_columns),
            chunk_rows=url.integer("chunk_rows", default=CHUNK_ROWS) if "chunk_rows" in url.options else None,
            chunk_bytes=url.integer("chunk_bytes", default=default.chunk_bytes),
            concurrency=url.integer("concurrency", default=default.concurrency),
            ttl=url.seconds("ttl", default=0.0) or None,
            unique_ids=url.boolean("unique_ids", default=default.unique_ids),
            dedup_window=url.integer("dedup_window", default=default.dedup_window),
            cluster=url.text("cluster"),
            timeout=url.seconds("timeout", default=default.timeout),
            connect_timeout=url.seconds("connect_timeout", default=default.connect_timeout),
            compression=url.choice("compression", COMPRESSIONS, default="lz4"),
            tls_ca=url.text("tls_ca"),
            tls_cert=url.text("tls_cert"),
            tls_key=url.text("tls_key"),
            refresh=url.boolean("refresh", default=default.refresh),
            catalogue=url.text("catalogue"),
        )
    except ValueError as exc:
        raise HandlerURLError(f"a ClickHouse URL: {exc}") from exc


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low} to {high}, got {value}")
