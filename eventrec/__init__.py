"""Record what happens in an application, and get it into a database: nothing lost, nothing doubled, nobody waits."""

from eventrec.errors import (
    BatchTooLargeError,
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
    RowWidthError,
    SchemaMismatchError,
    SubscriptionError,
    TransientError,
)
from eventrec.events.event import Event, Eventable, EventModel, EventStruct, ReceivedEvent
from eventrec.events.fields import Column, Timestamp
from eventrec.handler import DestinationCheckpoints, EventHandler
from eventrec.intake.durable import Position
from eventrec.options import Backoff, EventRecorderOptions
from eventrec.reading import EventPage, EventReader, StoredEvent
from eventrec.recorder import EventRecorder
from eventrec.records.batch import Batch
from eventrec.records.column_types import ColumnType, SemanticType
from eventrec.records.entry import Record
from eventrec.records.rows import RowInsertRequest
from eventrec.records.schema import ColumnSchema, Row
from eventrec.registry import HandlerURL, handler_from_url, reader_from_url
from eventrec.status import Status, SubscriptionStatus
from eventrec.sync import SyncRecorder

__all__ = [
    "Backoff",
    "Batch",
    "BatchTooLargeError",
    "Column",
    "ColumnSchema",
    "ColumnType",
    "DeliveryError",
    "DestinationCheckpoints",
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
    "InvalidEventError",
    "LogError",
    "LogFullError",
    "NotDurableError",
    "OptionsError",
    "PartialError",
    "PauseError",
    "PermanentError",
    "Position",
    "ReceivedEvent",
    "Record",
    "RecorderClosedError",
    "Row",
    "RowInsertRequest",
    "RowWidthError",
    "SchemaMismatchError",
    "SemanticType",
    "Status",
    "StoredEvent",
    "SubscriptionError",
    "SubscriptionStatus",
    "SyncRecorder",
    "Timestamp",
    "TransientError",
    "handler_from_url",
    "reader_from_url",
]
