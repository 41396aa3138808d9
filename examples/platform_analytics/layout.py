"""The table of the platform's events, as its own SQL makes it: every name, type and index."""

from __future__ import annotations

from typing import Final

from eventrec import (
    EVENT,
    GENERATED,
    TIMESTAMP,
    TYPE,
    Layout,
    LayoutColumn,
    LayoutCompression,
    LayoutIndex,
    from_payload,
)

ANALYTICS_EVENTS: Final = Layout(
    "analytics_events",
    [
        LayoutColumn("id", GENERATED, "bigint"),
        LayoutColumn("timestamp", TIMESTAMP, "timestamptz", default="now"),
        LayoutColumn("event_type", TYPE, "varchar", length=100),
        LayoutColumn("service", from_payload("service"), "varchar", length=100, nullable=False, default="unknown"),
        LayoutColumn("user_id", from_payload("user_id"), "uuid"),
        LayoutColumn("data", EVENT, "jsonb"),
    ],
    primary_key=("timestamp", "id"),
    indexes=[
        LayoutIndex(
            "idx_analytics_events_user_id",
            ("user_id", "timestamp"),
            descending=("timestamp",),
            where_not_null=("user_id",),
        ),
        LayoutIndex("idx_analytics_events_event_type", ("event_type", "timestamp"), descending=("timestamp",)),
        LayoutIndex("idx_analytics_events_service", ("service", "timestamp"), descending=("timestamp",)),
        LayoutIndex("idx_analytics_events_data_gin", ("data",), kind="json"),
    ],
    partition="day",
    retention="90d",
    compression=LayoutCompression(
        "7d", segment_by=("event_type", "service"), order_by=("timestamp",), descending=("timestamp",)
    ),
)
