"""An event, turned into a record: stamped, encoded, and from then on only bytes and small values."""

from __future__ import annotations

import inspect
import time
from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakKeyDictionary

import msgspec

from eventrec.errors import EncodeError, InvalidEventError
from eventrec.events.clocks import brief, checked_time
from eventrec.events.event import (
    DEFAULT_TABLE,
    ONE_ROW,
    Event,
    EventModel,
    EventStruct,
    ReceivedEvent,
    ReceivedJson,
    SaidEvent,
    model_plan,
    struct_plan,
    type_name,
)
from eventrec.events.plain_fields import field_markers, refuse_unheeded, refuse_unread_markers, unrecorded_fields
from eventrec.events.plain_payloads import PlainPayloads
from eventrec.events.privacy import refuse_unmasked
from eventrec.events.privacy_plans import Privacy, declared_by, declared_by_plan
from eventrec.events.shortcuts import make_shortcut
from eventrec.records.context import check_context, merged_context
from eventrec.records.entry import OVERHEAD_BYTES, make_entry
from eventrec.records.extra_rows import check_sequence, encode_rows
from eventrec.records.json import encode_json, encode_plain, not_json
from eventrec.records.mark_rules import Members
from eventrec.records.marked import rules_of
from eventrec.records.marked_values import MarkedValueError
from eventrec.records.schema import ColumnSchema, Row, Shape

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from eventrec.events.plans import ClassPlan
    from eventrec.events.reasons import Reason
    from eventrec.records.context import ContextBlock
    from eventrec.records.entry import Entry
    from eventrec.records.mark_rules import Rule

_NO_RULES: Final[Mapping[str, Rule]] = {}


class Encoder:
    """Turns events into entries by a plan compiled once per class.

    `types` are the event types to take (None: all), `context` gives what is true around the call, `now` the time in
    nanoseconds since the epoch, UTC; `privacy` says which of them are taken, and what of them. `on_unrecorded` is told
    once of a class of which fields are not recorded, by its name and theirs.
    """

    def __init__(
        self,
        *,
        types: Collection[str] | None = None,
        context: Callable[[], ContextBlock | bytes | None] = lambda: None,
        now: Callable[[], int] = time.time_ns,
        privacy: Privacy | None = None,
        on_unrecorded: Callable[[str, Sequence[str]], object] = lambda _name, _fields: None,
    ) -> None:
        self._types = None if types is None else frozenset(types)
        self._context = context
        self._now = now
        self._privacy = privacy or Privacy()
        self.on_unrecorded = on_unrecorded
        self._sampled_types = self._privacy.sampled_types
        self.plans: dict[type, Callable[[Any], Entry | Reason]] = {}
        """What `encode` does, by class; a class that is not here yet goes through `encode`."""
        self._said_plans: WeakKeyDictionary[type, Callable[[Any], Entry | Reason]] = WeakKeyDictionary()
        self._shapes: dict[tuple[str, str, Sequence[ColumnSchema]], Shape] = {}
        self._recent_shapes: dict[tuple[str, str], tuple[Sequence[ColumnSchema], Shape]] = {}
        """By table and type: columns that they were given with, compared by identity."""

    def encode(self, event: object) -> Entry | Reason:
        """The entry of `event`, or why there is none ("filtered", "declined", "sampled", "rate_limited").

        Raises:
            EncodeError: The payload or a column value cannot be encoded.
            UnruledError: A field has no rule of privacy, where there has to be one.
            InvalidEventError: It is not an event, or its type, table, timestamp, schema or row width is wrong.
            TypeError: The markers of its class contradict each other.
            Exception: Whatever the event's own code raises.
        """
        plan = self.plans.get(event.__class__)
        if plan is None:
            plan = self._compile(event.__class__, event)
            if len(self.plans) >= MAX_CLASSES:
                self.plans.clear()
            self.plans[event.__class__] = plan
        return plan(event)

    def _compile(self, cls: type, event: object) -> Callable[[Any], Entry | Reason]:
        if issubclass(cls, EventModel) and cls.to_event is EventModel.to_event:
            return self._planned(cls, model_plan(cls, self._privacy.masks))
        if issubclass(cls, EventStruct) and cls.to_event is EventStruct.to_event:
            return self._planned(cls, struct_plan(cls, self._privacy.masks))
        if issubclass(cls, ReceivedEvent):
            return self._privacy.ruled(declared_by(), self._entry_of_received)
        if cls is ReceivedJson:
            return self._privacy.ruled(declared_by(), self._plan_of_json())
        if issubclass(cls, SaidEvent):
            return self._entry_of_said
        return self._plan_of_foreign_class(cls, event)

    def _plan_of_foreign_class(self, cls: type, event: object) -> Callable[[Any], Entry | Reason]:
        if callable(getattr(cls, "to_event", None)):
            said_by = self._heeding_markers(cls, self._privacy.quiet(cls, methodcaller("to_event")))
            return self._privacy.marked(cls, partial(self._entry_of_eventable, said_by, rules_of(cls)))
        return self._plan_of_event(cls, event)

    def _plan_of_event(self, cls: type, event: object) -> Callable[[Any], Entry | Reason]:
        is_subclass = Event in cls.__mro__  # a Protocol answers no issubclass
        if is_subclass:
            self._look_at_fields(cast("Event", event))
        else:
            _refuse_non_event(cls, event)
        rules = rules_of(cls)
        if rules:
            plan = self._privacy.marked(cls, partial(self._entry_of_event, rules=rules))
        else:
            plan = self._plan_of_subclass(cls) if is_subclass else self._entry_of_event
        if not is_subclass:
            itself, entry_of = self._heeding_markers(cls, _itself), plan
            plan = entry_of if itself is _itself else lambda event: entry_of(itself(event))
        return self._privacy.ruled(declared_by(cls), plan)

    def _heeding_markers(self, cls: type, said_by: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`said_by`, which refuses an event that lacks a column, or the time, which a field of `cls` is marked as."""
        markers = [] if issubclass(cls, (EventModel, EventStruct)) else field_markers(cls)
        if not markers:
            return said_by
        columns_and_time = self._privacy.quiet(cls, _columns_and_time)

        def heeding(event: Any) -> Any:
            said = said_by(event)
            has = None if said is None else columns_and_time(said)
            if has is not None:
                refuse_unheeded(cls, markers, *has)
            return said

        return heeding

    def _look_at_fields(self, event: Event) -> None:
        refuse_unread_markers(type(event))
        fields = unrecorded_fields(event)
        if fields:
            self.on_unrecorded(type(event).__name__, fields)

    # -- one plan per kind of class

    def _plan_of_subclass(self, cls: type) -> Callable[[Any], Entry | Reason]:
        """The short way for what is left at `Event`'s defaults; the general one for the rest."""
        inherited = {
            name for name, default in vars(Event).items() if inspect.getattr_static(cls, name, None) is default
        }
        if not {"type", "table", "extra_schema", "extra_rows"} <= inherited:
            return self._entry_of_event
        shape = self._shape(DEFAULT_TABLE, type_name(cls.__name__), ())
        if shape.type in self._sampled_types:
            return self._entry_of_event
        if self._is_filtered(shape):
            return _filtered
        masks, context_now, now, stamped_here = self._privacy.masks, self._context, self._now, "timestamp" in inherited
        payloads = PlainPayloads(cls)

        def encode(event: Any) -> Entry | Reason:
            given = event.payload
            try:
                if type(given) is dict and (payloads.is_like_before(given) or payloads.is_plain(given)):
                    payload = encode_plain(given)
                else:
                    payload = encode_json(given)
            except MarkedValueError:
                payload = encode_json(masks.unmarked(given))
            except EncodeError:
                raise
            except Exception as exc:
                raise not_json(exc) from exc
            when = None if stamped_here else event.timestamp
            stamp = now() if when is None else checked_time(when)
            context = context_now()
            if context is None:  # `_entry`, without the call: this is the way most events take
                return (shape, stamp, payload, None, None, None, len(payload) + OVERHEAD_BYTES)
            return make_entry(shape, stamp, payload, _as_bytes(context), None)

        return encode

    def _entry_of_event(self, event: Event, rules: Mapping[str, Rule] = _NO_RULES, of: object = None) -> Entry | Reason:
        """`rules`, of the class of `of`: what becomes of members of the payload, and columns, of these names."""
        shape = self._shape(event.table, event.type, event.extra_schema())
        if self._is_filtered(shape):
            return "filtered"
        rows = event.extra_rows()
        if rows is not ONE_ROW:
            check_sequence("extra_rows()", rows)
            if not rows:
                return "declined"
        payload = event.payload
        if shape.type in self._sampled_types:
            refusal = self._refusal(shape, (event if of is None else of, payload), rows)
            if refusal is not None:
                return refusal
        if rules:
            rows = self._privacy.masks.rows(shape.columns, rows, rules)
            payload = self._privacy.masks.unmarked(payload, Members(rules))
            if event.__class__ is not SaidEvent:
                refuse_unmasked(event if of is None else of, rules, payload, shape.columns)
        has_rows = bool(shape.columns) or rows not in (ONE_ROW, [()])
        try:
            extras = encode_rows(shape, rows) if has_rows else None
            encoded = encode_json(payload)
        except MarkedValueError:
            extras = encode_rows(shape, self._privacy.masks.unmarked_rows(rows)) if has_rows else None
            encoded = encode_json(self._privacy.masks.unmarked(payload))
        when = event.timestamp
        stamp = self._now() if when is None else checked_time(when)
        return make_entry(shape, stamp, encoded, _as_bytes(self._context()), extras)

    def _entry_of_eventable(
        self, said_by: Callable[[Any], Any], rules: Mapping[str, Rule], event: Any
    ) -> Entry | Reason:
        said = said_by(event)
        if said is None:
            return "declined"
        kind = said.__class__
        if said is event:
            return self._plan_as_itself(kind, said)(said)
        if not rules or issubclass(kind, (EventModel, EventStruct, SaidEvent)):
            return self.encode(said)
        if issubclass(kind, ReceivedEvent) or callable(getattr(kind, "to_event", None)):
            raise InvalidEventError(f"{type(event).__name__} has marked fields, and gives a {kind.__name__}")
        entry_of_said = partial(self._entry_of_event, rules={**rules_of(kind), **rules}, of=event)
        return self._privacy.ruled(declared_by(kind, event.__class__), entry_of_said)(said)

    def _entry_of_said(self, event: SaidEvent) -> Entry | Reason:
        cls, fields = event.source.__class__, event.plan.fields
        if event.is_as_made:  # As if its class had never been asked.
            return self._plan_as_itself(cls, event.source)(event.source)
        rules = {**rules_of(cls), **fields.rules_of_columns()}
        plan = self._privacy.marked(cls, partial(self._entry_of_event, rules=rules))
        return self._privacy.ruled(declared_by_plan(cls, fields), plan)(event)

    def _plan_as_itself(self, cls: type, event: object) -> Callable[[Any], Entry | Reason]:
        """What encodes an instance of `cls`, `event` say, without asking it for another event."""
        plan = self._said_plans.get(cls)
        if plan is None:
            if issubclass(cls, EventModel):
                plan = self._planned(cls, model_plan(cls, self._privacy.masks))
            elif issubclass(cls, EventStruct):
                plan = self._planned(cls, struct_plan(cls, self._privacy.masks))
            else:
                plan = self._plan_of_event(cls, event)
            self._said_plans[cls] = plan
        return plan

    def _entry_of_received(self, event: ReceivedEvent) -> Entry | Reason:
        shape = self._shape(event.table, event.type, event.columns)
        if self._is_filtered(shape):
            return "filtered"
        if event.rows is not ONE_ROW:
            check_sequence("rows", event.rows)
            if not event.rows:
                return "declined"
        payload = _exact_bytes("payload", event.payload)
        own_context = None if event.context is None else _exact_bytes("context", event.context)
        if shape.type in self._sampled_types:
            sources = msgspec.json.decode(payload), msgspec.json.decode(own_context or b"{}")
            refusal = self._refusal(shape, sources, event.rows)
            if refusal is not None:
                return refusal
        if own_context is not None:
            check_context(own_context)
        extras = None if event.rows is ONE_ROW and not shape.columns else encode_rows(shape, event.rows)
        id_ = None if event.id is None else _checked_id(event.id)
        stamp = self._now() if event.timestamp is None else checked_time(event.timestamp)
        context = merged_context(_as_bytes(self._context()), own_context)
        return make_entry(shape, stamp, payload, context, extras, explicit_id=id_)

    def _plan_of_json(self) -> Callable[[Any], Entry | Reason]:
        """For `ReceivedJson`: the short way where every type is taken, else that of all received events."""
        if self._types is not None or self._sampled_types:
            return lambda event: self._entry_of_received(ReceivedEvent(event.type, event.payload, table=event.table))
        shapes, context_now, now = self._shapes, self._context, self._now

        def encode(event: Any) -> Entry:
            table, kind, payload = event.table, event.type, event.payload
            shape = shapes.get((table, kind, ())) or self._shape(table, kind, ())
            context = context_now()
            if context is None:
                return (shape, now(), payload, None, None, None, len(payload) + OVERHEAD_BYTES)
            return make_entry(shape, now(), payload, _as_bytes(context), None)

        return encode

    def _plan_of_class(self, cls: type, said: ClassPlan) -> Callable[[Any], Entry | Reason]:
        shape = self._shape(said.table, said.type, said.fields.columns)
        if self._is_filtered(shape):
            return _filtered
        context, now = self._context, self._now
        payload_of, columns_of, timestamp_of, masks = said.payload, said.columns, said.timestamp, self._privacy.masks

        def encode(event: Any) -> Entry | Reason:
            try:
                payload = payload_of(event)
                extras = None if columns_of is None else encode_rows(shape, (columns_of(event),))
            except MarkedValueError:
                if said.masked_payload is None:
                    raise
                payload = said.masked_payload(event)
                extras = None if columns_of is None else encode_rows(shape, masks.unmarked_rows((columns_of(event),)))
            when = None if timestamp_of is None else timestamp_of(event)
            stamp = now() if when is None else checked_time(when)
            around = context()
            return make_entry(shape, stamp, payload, _as_bytes(around), extras)

        if said.shortcut is None or not said.shortcut.is_for(shape):
            return encode
        return make_shortcut(
            cls,
            said.shortcut,
            shape,
            long_way=encode,
            timestamp_of=timestamp_of,
            now=now,
            context=context,
            as_bytes=_as_bytes,
        )

    # -- what they share

    def _planned(self, cls: type, said: ClassPlan) -> Callable[[Any], Entry | Reason]:
        encode = self._plan_of_class(cls, said)
        if encode is _filtered:
            return _filtered
        plan = self._privacy.ruled(declared_by_plan(cls, said.fields), self._privacy.marked(cls, encode))
        if said.type not in self._sampled_types:
            return plan
        shape = self._shape(said.table, said.type, said.fields.columns)
        refusal = self._privacy.quiet(cls, lambda event: self._refusal(shape, (event,), ()))
        return lambda event: refusal(event) or plan(event)

    def _refusal(self, shape: Shape, sources: tuple[object, ...], rows: Sequence[Row]) -> Reason | None:
        return self._privacy.refusal(shape, sources, rows, lambda: _as_bytes(self._context()))

    def _shape(self, table: str, kind: str, columns: Sequence[ColumnSchema]) -> Shape:
        try:
            # Most classes return the same tuple each time; to hash its columns takes longer than to encode the event.
            recent = self._recent_shapes.get((table, kind))
            if recent is not None and recent[0] is columns:
                return recent[1]
            key = (table, kind, columns if columns.__class__ is tuple else tuple(columns))
            shape = self._shapes.get(key)
        except TypeError as exc:
            raise InvalidEventError(f"type, table or extra schema of an event is of the wrong kind: {exc}") from exc
        if shape is None:
            shape = Shape(table, kind, key[2])
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
                self._recent_shapes.clear()
            self._shapes[key] = shape
        if columns.__class__ is tuple:
            self._recent_shapes[table, kind] = columns, shape
        return shape

    def _is_filtered(self, shape: Shape) -> bool:
        return self._types is not None and shape.type not in self._types


MAX_SHAPES: Final = 10_000
"""Shapes remembered at once: types made from user input must not fill the memory."""

MAX_CLASSES: Final = 10_000
"""Classes remembered at once, for the same reason."""


def _as_bytes(context: ContextBlock | bytes | None) -> bytes | None:
    return context if context is None or context.__class__ is bytes else context.encoded  # type: ignore[union-attr]


def _checked_id(given: object) -> bytes:
    if not isinstance(given, bytes) or bytes.__len__(given) != 16:  # noqa: PLR2004 - as many as a UUID has
        raise InvalidEventError(f"an id is 16 bytes, got {brief(given)}")
    return _plain_bytes(given)


def _exact_bytes(what: str, given: object) -> bytes:
    if not isinstance(given, bytes):
        raise InvalidEventError(f"a received {what} is JSON text as bytes, got {type(given).__name__}")
    return _plain_bytes(given)


def _plain_bytes(given: bytes) -> bytes:
    """Of a subclass, what it is: no log takes another."""
    return given if type(given) is bytes else bytes(memoryview(given))


def _filtered(_: object) -> Reason:
    return "filtered"


_PLANS: Final = ((EventModel, EventModel.to_event, model_plan), (EventStruct, EventStruct.to_event, struct_plan))


def _columns_and_time(event: Any) -> tuple[Sequence[ColumnSchema], object] | None:
    """Its columns, and None where it has no time of its own; None where it gives another event itself."""
    kind: Any = type(event)
    for base, to_event, plan_of in _PLANS:
        if issubclass(kind, base) and kind.to_event is to_event:
            fields = plan_of(kind).fields
            return fields.columns, fields.timestamp_field
    return None if callable(getattr(kind, "to_event", None)) else (event.extra_schema(), event.timestamp)


def _itself(event: Any) -> Any:
    return event


_MEMBERS: Final = ("type", "table", "payload", "timestamp", "extra_schema", "extra_rows")


def _refuse_non_event(cls: type, event: object) -> None:
    if issubclass(cls, EventStruct):
        raise InvalidEventError(f"{cls.__name__}: the name to_event is reserved, no field can have it")
    missing = [name for name in _MEMBERS if inspect.getattr_static(event, name, event) is event]
    if missing and not hasattr(cls, "__getattr__"):
        raise InvalidEventError(
            f"{cls.__name__} is not an event, it lacks {', '.join(missing)}: subclass Event, EventModel or "
            "EventStruct, or have all six members, or to_event()"
        )
