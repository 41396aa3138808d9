"""Record what happens in an application, and get it into a database: nothing lost, nothing doubled, no caller waits."""

from eventrec.delivery.subscription import NewDestination
from eventrec.errors import (
    BatchTooLargeError,
    ConsentError,
    DecodeError,
    DeliveryError,
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
from eventrec.registry import HandlerURL, handler_from_url, reader_from_url
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
    "Column",
    "ColumnSchema",
    "ColumnType",
    "ConsentError",
    "Cursor",
    "DecodeError",
    "DeliveryError",
    "DestinationCheckpoints",
    "Disclosure",
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
    "safe_name",
]
