"""Record what happens in an application, and get it into a database: nothing lost, nothing doubled, no caller waits."""

# What is public comes from where it is made when it is first asked for: a program, or a command, loads what it uses.

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from eventrec.delivery.subscription import NewDestination
    from eventrec.errors import (
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
    from eventrec.options import Backoff, Duration, EventRecorderOptions
    from eventrec.reading import Cursor, EventPage, EventReader, StoredEvent
    from eventrec.recorder import EventRecorder
    from eventrec.records.batch import Batch
    from eventrec.records.column_types import ColumnType, SemanticType
    from eventrec.records.entry import Record
    from eventrec.records.marks import Allowed, Hashed, Redacted, Truncated
    from eventrec.records.rows import IdForm, RowInsertRequest
    from eventrec.records.schema import ColumnSchema, Row
    from eventrec.registry import HandlerURL, handler_from_url, reader_from_url, rollup_store_from_url
    from eventrec.rules import RateLimit, Redaction, Sampling
    from eventrec.runs.files import safe_name
    from eventrec.status import Health, Settled, Status, SubscriptionStatus
    from eventrec.sync import AsyncRecorder, SyncRecorder
    from eventrec.usage.analytics import Analytics
    from eventrec.usage.disclosure import Disclosure

__all__ = [
    "Allowed",
    "Analytics",
    "AsyncRecorder",
    "Backoff",
    "Batch",
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
    "LogError",
    "LogFullError",
    "NewDestination",
    "NotDurableError",
    "OptionsError",
    "PartialError",
    "PauseError",
    "PermanentError",
    "Position",
    "RateLimit",
    "ReceivedEvent",
    "Record",
    "RecorderClosedError",
    "RecorderStateError",
    "Redacted",
    "Redaction",
    "Row",
    "RowInsertRequest",
    "RowWidthError",
    "Sampling",
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
    "handler_from_url",
    "reader_from_url",
    "rollup_store_from_url",
    "safe_name",
]

_HOMES: Final = {
    "Allowed": "eventrec.records.marks",
    "Analytics": "eventrec.usage.analytics",
    "AsyncRecorder": "eventrec.sync",
    "Backoff": "eventrec.options",
    "Batch": "eventrec.records.batch",
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
    "Duration": "eventrec.options",
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
    "LogError": "eventrec.errors",
    "LogFullError": "eventrec.errors",
    "NewDestination": "eventrec.delivery.subscription",
    "NotDurableError": "eventrec.errors",
    "OptionsError": "eventrec.errors",
    "PartialError": "eventrec.errors",
    "PauseError": "eventrec.errors",
    "PermanentError": "eventrec.errors",
    "Position": "eventrec.intake.durable",
    "RateLimit": "eventrec.rules",
    "ReceivedEvent": "eventrec.events.event",
    "Record": "eventrec.records.entry",
    "RecorderClosedError": "eventrec.errors",
    "RecorderStateError": "eventrec.errors",
    "Redacted": "eventrec.records.marks",
    "Redaction": "eventrec.rules",
    "Row": "eventrec.records.schema",
    "RowInsertRequest": "eventrec.records.rows",
    "RowWidthError": "eventrec.errors",
    "Sampling": "eventrec.rules",
    "SchemaMismatchError": "eventrec.errors",
    "SemanticType": "eventrec.records.column_types",
    "Settled": "eventrec.status",
    "Status": "eventrec.status",
    "StoredEvent": "eventrec.reading",
    "SubscriptionError": "eventrec.errors",
    "SubscriptionStatus": "eventrec.status",
    "SyncRecorder": "eventrec.sync",
    "Timestamp": "eventrec.events.fields",
    "TransientError": "eventrec.errors",
    "Truncated": "eventrec.records.marks",
    "UnruledError": "eventrec.errors",
    "handler_from_url": "eventrec.registry",
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
