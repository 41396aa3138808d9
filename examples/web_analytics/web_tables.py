"""The tables of events, sessions and profiles: columns, codecs, keys and indexes as they are in the reference."""

from __future__ import annotations

from typing import Final

from eventrec import ID, TIMESTAMP, TYPE, Layout, LayoutColumn, from_payload
from eventrec_handlers.clickhouse import ClickHouseIndex, ClickHouseTable

_WORD: Final = "LowCardinality(String)"
_MOMENT: Final = "DateTime64(3)"


def _text(*names: str) -> list[LayoutColumn]:
    """Columns of text that are empty where an event has nothing of that name."""
    return [LayoutColumn(name, from_payload(name), "text", nullable=False, default="") for name in names]


def _number(name: str, default: int = 0) -> LayoutColumn:
    return LayoutColumn(name, from_payload(name), "bigint", nullable=False, default=default)


_WORDS: Final = ("region", "os", "os_version", "browser", "browser_version", "device", "brand", "model")

EVENTS: Final = Layout(
    "events",
    [
        LayoutColumn("id", ID, "uuid"),
        LayoutColumn("name", TYPE, "text"),
        *_text("sdk_name", "sdk_version", "device_id", "profile_id", "project_id", "session_id", "path", "origin"),
        *_text("referrer", "referrer_name", "referrer_type"),
        LayoutColumn("groups", from_payload("groups"), "json"),
        _number("revenue"),
        _number("duration"),
        LayoutColumn("properties", from_payload("properties"), "json"),
        LayoutColumn("created_at", TIMESTAMP, "timestamptz"),
        *_text("country", "city", *_WORDS),
        LayoutColumn("longitude", from_payload("longitude"), "real"),
        LayoutColumn("latitude", from_payload("latitude"), "real"),
        LayoutColumn("imported_at", from_payload("imported_at"), "timestamptz"),
    ],
)

SESSIONS: Final = Layout(
    "sessions",
    [
        *_text("id", "project_id", "device_id", "profile_id"),
        LayoutColumn("created_at", TIMESTAMP, "timestamptz"),
        LayoutColumn("ended_at", from_payload("ended_at"), "timestamptz"),
        _number("duration"),
        LayoutColumn("is_bounce", from_payload("is_bounce"), "boolean", nullable=False, default=False),
        *_text("entry_path", "entry_origin", "exit_path", "exit_origin"),
        _number("screen_view_count"),
        _number("event_count"),
        LayoutColumn("revenue", from_payload("revenue"), "double", nullable=False, default=0),
        *_text("referrer", "referrer_name", "referrer_type", "country", "city", *_WORDS),
        _number("sign", default=1),
        _number("version", default=1),
    ],
)

PROFILES: Final = Layout(
    "profiles",
    [
        *_text("id", "project_id", "first_name", "last_name", "email", "avatar"),
        LayoutColumn("is_external", from_payload("is_external"), "boolean", nullable=False, default=False),
        LayoutColumn("properties", from_payload("properties"), "json"),
        LayoutColumn("groups", from_payload("groups"), "json"),
        LayoutColumn("created_at", from_payload("created_at"), "timestamptz"),
        LayoutColumn("last_seen_at", TIMESTAMP, "timestamptz"),
        _number("version"),
    ],
)

LAYOUTS: Final = (EVENTS, SESSIONS, PROFILES)

CLICKHOUSE: Final = {
    "events": ClickHouseTable(
        order_by=("project_id", "toDate(created_at)", "created_at", "name"),
        partition_by="toYYYYMM(created_at)",
        types={
            **dict.fromkeys(("name", "sdk_name", "sdk_version", "referrer_type", *_WORDS), _WORD),
            "groups": "Array(String)",
            "properties": "Map(String, String)",
            "created_at": _MOMENT,
            "country": "LowCardinality(FixedString(2))",
            "revenue": "UInt64",
            "duration": "UInt64",
            "imported_at": "Nullable(DateTime)",
        },
        codecs={
            **dict.fromkeys(
                (
                    *("device_id", "profile_id", "project_id", "path", "origin", "referrer", "referrer_name"),
                    "properties",
                ),
                "ZSTD(3)",
            ),
            "session_id": "LZ4",
            "duration": "Delta(4), LZ4",
            "created_at": "DoubleDelta, ZSTD(3)",
            "longitude": "Gorilla, LZ4",
            "latitude": "Gorilla, LZ4",
            "imported_at": "Delta(4), LZ4",
        },
        indexes=(
            ClickHouseIndex("idx_name", "name", "bloom_filter"),
            ClickHouseIndex("idx_properties_bounce", "properties['__bounce']", "set(3)"),
            ClickHouseIndex("idx_origin", "origin", "bloom_filter(0.05)"),
            ClickHouseIndex("idx_path", "path", "bloom_filter(0.01)"),
            ClickHouseIndex("idx_profile_id", "profile_id", "bloom_filter(0.01)"),
        ),
        settings={"index_granularity": 8192},
    ),
    "sessions": ClickHouseTable(
        engine="VersionedCollapsingMergeTree(sign, version)",
        order_by=("project_id", "toDate(created_at)", "created_at", "id"),
        partition_by="toYYYYMM(created_at)",
        types={
            **dict.fromkeys(("referrer_type", *_WORDS), _WORD),
            "created_at": _MOMENT,
            "ended_at": _MOMENT,
            "duration": "UInt32",
            "screen_view_count": "Int32",
            "event_count": "Int32",
            "sign": "Int8",
            "version": "UInt64",
            "country": "LowCardinality(FixedString(2))",
        },
        settings={"index_granularity": 8192},
    ),
    # A row is the whole of a profile: merging keeps the one of the highest version. `created_at` never changes, so all
    # of one profile are in one partition.
    "profiles": ClickHouseTable(
        engine="ReplacingMergeTree(version)",
        order_by=("project_id", "id"),
        partition_by="toYYYYMM(created_at)",
        types={
            "properties": "Map(String, String)",
            "groups": "Array(String)",
            "created_at": _MOMENT,
            "last_seen_at": _MOMENT,
            "version": "UInt64",
        },
        codecs={
            **dict.fromkeys(
                ("id", "project_id", "first_name", "last_name", "email", "avatar", "properties", "groups"), "ZSTD(3)"
            ),
            **dict.fromkeys(("created_at", "last_seen_at"), "Delta(4), LZ4"),
        },
        indexes=(
            ClickHouseIndex("idx_first_name", "first_name", "bloom_filter"),
            ClickHouseIndex("idx_last_name", "last_name", "bloom_filter"),
            ClickHouseIndex("idx_email", "email", "bloom_filter"),
        ),
        settings={"index_granularity": 8192},
    ),
}
