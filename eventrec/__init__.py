"""Record what happens in an application, and get it into a database: nothing lost, nothing doubled, no caller waits."""

# What is public comes from where it is made when it is first asked for: a program, or a command, loads what it uses.

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from eventrec.delivery.subscription import NewDestination
    from eventrec.durations import Duration
    from eventrec.errors import (
        BatchRefusedError,
        BatchTooLargeError,
        CatalogueError,
        ConsentError,
        DecodeError,
        DeliveryError,
        DurableTimeoutError,
        EncodeError,
        EventrecError,
        FencedError,
        HandlerURLError,
        InvalidEventError,
        LayoutError,
        LogError,
        LogFullError,
        NotDurableError,
        OptionsError,
        PartialError,
        PauseError,
        PermanentError,
        RecorderClosedError,
        RecorderStateError,
        RowWidthError,
        SchemaMismatchError,
        SubscriptionError,
        TransientError,
        UnruledError,
    )
    from eventrec.events.event import Event, Eventable, EventModel, EventStruct, ReceivedEvent
    from eventrec.events.fields import Column, Timestamp
    from eventrec.handler import DestinationCheckpoints, EventHandler
    from eventrec.intake.durable import Position
    from eventrec.options import Backoff, EventRecorderOptions
    from eventrec.reading import Cursor, EventPage, EventReader, StoredEvent
    from eventrec.recorder import EventRecorder, SyncRecorder
    from eventrec.records.batch import Batch
    from eventrec.records.column_types import ColumnType, SemanticType
    from eventrec.records.entry import Record
    from eventrec.records.layout import Layout, Location, default_layout
    from eventrec.records.layout_columns import (
        CONTEXT,
        DEFAULT,
        EVENT,
        GENERATED,
        ID,
        PAYLOAD,
        TIMESTAMP,
        TYPE,
        LayoutColumn,
        LayoutSource,
        LayoutSourceKind,
        LayoutType,
        from_context,
        from_field,
        from_payload,
    )
    from eventrec.records.layout_parts import LayoutCompression, LayoutIndex, PartitionUnit
    from eventrec.records.layout_rows import LayoutRows
    from eventrec.records.marks import Allowed, Hashed, Redacted, Truncated
    from eventrec.records.rows import IdForm, RowInsertRequest
    from eventrec.records.schema import ColumnSchema, Row
    from eventrec.registry import (
        HandlerURL,
        handler_from_url,
        migration_target_from_url,
        reader_from_url,
        rollup_store_from_url,
    )
    from eventrec.rules import RateLimit, RateLimitOption, Redaction, RedactionOption, Sampling, SamplingOption
    from eventrec.runs.files import safe_name
    from eventrec.runtime.logging import get_logger
    from eventrec.status import Health, Settled, Status, SubscriptionStatus
    from eventrec.sync import AsyncRecorder
    from eventrec.usage.analytics import Analytics
    from eventrec.usage.disclosure import Disclosure

__all__ = [
    "CONTEXT",
    "DEFAULT",
    "EVENT",
    "GENERATED",
    "ID",
    "PAYLOAD",
    "TIMESTAMP",
    "TYPE",
    "Allowed",
    "Analytics",
    "AsyncRecorder",
    "Backoff",
    "Batch",
    "BatchRefusedError",
    "BatchTooLargeError",
    "CatalogueError",
    "Column",
    "ColumnSchema",
    "ColumnType",
    "ConsentError",
    "Cursor",
    "DecodeError",
    "DeliveryError",
    "DestinationCheckpoints",
    "Disclosure",
    "DurableTimeoutError",
    "Duration",
    "EncodeError",
    "Event",
    "EventHandler",
    "EventModel",
    "EventPage",
    "EventReader",
    "EventRecorder",
    "EventRecorderOptions",
    "EventStruct",
    "Eventable",
    "EventrecError",
    "FencedError",
    "HandlerURL",
    "HandlerURLError",
    "Hashed",
    "Health",
    "IdForm",
    "InvalidEventError",
    "Layout",
    "LayoutColumn",
    "LayoutCompression",
    "LayoutError",
    "LayoutIndex",
    "LayoutRows",
    "LayoutSource",
    "LayoutSourceKind",
    "LayoutType",
    "Location",
    "LogError",
    "LogFullError",
    "NewDestination",
    "NotDurableError",
    "OptionsError",
    "PartialError",
    "PartitionUnit",
    "PauseError",
    "PermanentError",
    "Position",
    "RateLimit",
    "RateLimitOption",
    "ReceivedEvent",
    "Record",
    "RecorderClosedError",
    "RecorderStateError",
    "Redacted",
    "Redaction",
    "RedactionOption",
    "Row",
    "RowInsertRequest",
    "RowWidthError",
    "Sampling",
    "SamplingOption",
    "SchemaMismatchError",
    "SemanticType",
    "Settled",
    "Status",
    "StoredEvent",
    "SubscriptionError",
    "SubscriptionStatus",
    "SyncRecorder",
    "Timestamp",
    "TransientError",
    "Truncated",
    "UnruledError",
    "default_layout",
    "from_context",
    "from_field",
    "from_payload",
    "get_logger",
    "handler_from_url",
    "migration_target_from_url",
    "reader_from_url",
    "rollup_store_from_url",
    "safe_name",
]

_HOMES: Final = {
    "CONTEXT": "eventrec.records.layout_columns",
    "DEFAULT": "eventrec.records.layout_columns",
    "EVENT": "eventrec.records.layout_columns",
    "GENERATED": "eventrec.records.layout_columns",
    "ID": "eventrec.records.layout_columns",
    "PAYLOAD": "eventrec.records.layout_columns",
    "TIMESTAMP": "eventrec.records.layout_columns",
    "TYPE": "eventrec.records.layout_columns",
    "Allowed": "eventrec.records.marks",
    "Analytics": "eventrec.usage.analytics",
    "AsyncRecorder": "eventrec.sync",
    "Backoff": "eventrec.options",
    "Batch": "eventrec.records.batch",
    "BatchRefusedError": "eventrec.errors",
    "BatchTooLargeError": "eventrec.errors",
    "CatalogueError": "eventrec.errors",
    "Column": "eventrec.events.fields",
    "ColumnSchema": "eventrec.records.schema",
    "ColumnType": "eventrec.records.column_types",
    "ConsentError": "eventrec.errors",
    "Cursor": "eventrec.reading",
    "DecodeError": "eventrec.errors",
    "DeliveryError": "eventrec.errors",
    "DestinationCheckpoints": "eventrec.handler",
    "Disclosure": "eventrec.usage.disclosure",
    "DurableTimeoutError": "eventrec.errors",
    "Duration": "eventrec.durations",
    "EncodeError": "eventrec.errors",
    "Event": "eventrec.events.event",
    "EventHandler": "eventrec.handler",
    "EventModel": "eventrec.events.event",
    "EventPage": "eventrec.reading",
    "EventReader": "eventrec.reading",
    "EventRecorder": "eventrec.recorder",
    "EventRecorderOptions": "eventrec.options",
    "EventStruct": "eventrec.events.event",
    "Eventable": "eventrec.events.event",
    "EventrecError": "eventrec.errors",
    "FencedError": "eventrec.errors",
    "HandlerURL": "eventrec.registry",
    "HandlerURLError": "eventrec.errors",
    "Hashed": "eventrec.records.marks",
    "Health": "eventrec.status",
    "IdForm": "eventrec.records.rows",
    "InvalidEventError": "eventrec.errors",
    "Layout": "eventrec.records.layout",
    "LayoutColumn": "eventrec.records.layout_columns",
    "LayoutCompression": "eventrec.records.layout_parts",
    "LayoutError": "eventrec.errors",
    "LayoutIndex": "eventrec.records.layout_parts",
    "LayoutRows": "eventrec.records.layout_rows",
    "LayoutSource": "eventrec.records.layout_columns",
    "LayoutSourceKind": "eventrec.records.layout_columns",
    "LayoutType": "eventrec.records.layout_columns",
    "Location": "eventrec.records.layout",
    "LogError": "eventrec.errors",
    "LogFullError": "eventrec.errors",
    "NewDestination": "eventrec.delivery.subscription",
    "NotDurableError": "eventrec.errors",
    "OptionsError": "eventrec.errors",
    "PartialError": "eventrec.errors",
    "PartitionUnit": "eventrec.records.layout_parts",
    "PauseError": "eventrec.errors",
    "PermanentError": "eventrec.errors",
    "Position": "eventrec.intake.durable",
    "RateLimit": "eventrec.rules",
    "RateLimitOption": "eventrec.rules",
    "ReceivedEvent": "eventrec.events.event",
    "Record": "eventrec.records.entry",
    "RecorderClosedError": "eventrec.errors",
    "RecorderStateError": "eventrec.errors",
    "Redacted": "eventrec.records.marks",
    "Redaction": "eventrec.rules",
    "RedactionOption": "eventrec.rules",
    "Row": "eventrec.records.schema",
    "RowInsertRequest": "eventrec.records.rows",
    "RowWidthError": "eventrec.errors",
    "Sampling": "eventrec.rules",
    "SamplingOption": "eventrec.rules",
    "SchemaMismatchError": "eventrec.errors",
    "SemanticType": "eventrec.records.column_types",
    "Settled": "eventrec.status",
    "Status": "eventrec.status",
    "StoredEvent": "eventrec.reading",
    "SubscriptionError": "eventrec.errors",
    "SubscriptionStatus": "eventrec.status",
    "SyncRecorder": "eventrec.recorder",
    "Timestamp": "eventrec.events.fields",
    "TransientError": "eventrec.errors",
    "Truncated": "eventrec.records.marks",
    "UnruledError": "eventrec.errors",
    "default_layout": "eventrec.records.layout",
    "from_context": "eventrec.records.layout_columns",
    "from_field": "eventrec.records.layout_columns",
    "from_payload": "eventrec.records.layout_columns",
    "get_logger": "eventrec.runtime.logging",
    "handler_from_url": "eventrec.registry",
    "migration_target_from_url": "eventrec.registry",
    "reader_from_url": "eventrec.registry",
    "rollup_store_from_url": "eventrec.registry",
    "safe_name": "eventrec.runs.files",
}
"""Which module each of them is made in."""

_MODULES: Final = frozenset(
    {"errors", "handler", "options", "reading", "recorder", "registry", "rules", "status", "sync"}
)
"""Those that `import eventrec` is enough for."""


if not TYPE_CHECKING:  # for which every name would be one of ours

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(home), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
