"""Record what happens in an application, and get it into a database: nothing lost, nothing doubled, nobody waits."""

from eventrec.batch import Batch
from eventrec.column_types import ColumnType, SemanticType
from eventrec.durable import Position
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
from eventrec.event import Event, Eventable, EventModel, EventStruct, ReceivedEvent
from eventrec.fields import Column, Timestamp
from eventrec.handler import DestinationCheckpoints, EventHandler
from eventrec.options import Backoff, EventRecorderOptions
from eventrec.record import Record
from eventrec.recorder import EventRecorder
from eventrec.registry import HandlerURL, handler_from_url
from eventrec.rows import RowInsertRequest
from eventrec.schema import ColumnSchema, Row
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
    "SubscriptionError",
    "SubscriptionStatus",
    "SyncRecorder",
    "Timestamp",
    "TransientError",
    "handler_from_url",
]
