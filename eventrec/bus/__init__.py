"""A bus between applications and relays: what one must offer, and what a stage does with what it carries."""

from eventrec.bus.bus import STAGE_PREFIX, Bus, Held, Lease, LogBounds, Presence, Shard, Step
from eventrec.bus.memory import MemoryBus, MemoryShard
from eventrec.bus.memory_store import MemoryStore
from eventrec.bus.stage import Output, Published, Seen, Stage
from eventrec.delivery.sources.source import Records
from eventrec.errors import ContentError, LeaseLostError, ShardsChangedError
from eventrec.records.content import Content, ContentDecoder, encode_take
from eventrec.records.entry import (
    CONTEXT,
    EXPLICIT_ID,
    EXTRA_ROWS,
    PAYLOAD,
    SHAPE,
    SIZE,
    TIMESTAMP,
    Entry,
    make_entry,
)
from eventrec.records.ids import Ids
from eventrec.records.normalizers import Normalizer
from eventrec.records.schema import Shape
from eventrec.runs.run import new_run_id as new_log_id

__all__ = [
    "CONTEXT",
    "EXPLICIT_ID",
    "EXTRA_ROWS",
    "PAYLOAD",
    "SHAPE",
    "SIZE",
    "STAGE_PREFIX",
    "TIMESTAMP",
    "Bus",
    "Content",
    "ContentDecoder",
    "ContentError",
    "Entry",
    "Held",
    "Ids",
    "Lease",
    "LeaseLostError",
    "LogBounds",
    "MemoryBus",
    "MemoryShard",
    "MemoryStore",
    "Normalizer",
    "Output",
    "Presence",
    "Published",
    "Records",
    "Seen",
    "Shape",
    "Shard",
    "ShardsChangedError",
    "Stage",
    "Step",
    "encode_take",
    "make_entry",
    "new_log_id",
]
