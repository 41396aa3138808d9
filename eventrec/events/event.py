"""What the application says: `Event` and its three ready-made kinds.

class                        how it says its type, table and columns
a plain class, dataclass     subclasses `Event` and overrides properties
an attrs class, a Struct     has the six members of `Event`, subclasses nothing
`EventModel` (pydantic)      class keywords `type=`, `table=`; `Annotated[X, Column()]`, `Annotated[X, Timestamp()]`
`EventStruct` (msgspec)      `type: ClassVar[str]`, `table: ClassVar[str]`; the same markers; the fast path
anything `Eventable`         has `to_event()`
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, Self, dataclass_transform

import msgspec
from pydantic import BaseModel, ConfigDict

from eventrec.errors import InvalidEventError, LayoutError
from eventrec.events.decoding import decode_model, decode_struct
from eventrec.events.fields import FieldPlan, model_fields_plan, struct_fields_plan
from eventrec.events.plans import ClassPlan, model_class_plan, struct_class_plan
from eventrec.events.privacy import Masks
from eventrec.records.layout import Layout
from eventrec.records.marked import rules_of
from eventrec.records.marked_values import MarkedValueError
from eventrec.records.schema import check_name
from eventrec.runtime.signals import error_of_signal_handler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventrec.records.entry import Record
    from eventrec.records.schema import ColumnSchema, Row

DEFAULT_TABLE: Final = "events"
_NO_COLUMNS: Final[tuple[ColumnSchema, ...]] = ()
ONE_ROW: Final[tuple[Row, ...]] = ((),)


@lru_cache(maxsize=4_096)
def type_name(class_name: str) -> str:
    """The snake_case of a class name: HTTPRequestDone → http_request_done."""
    words = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", class_name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", words).lower()


class Event(Protocol):
    """Something that happened. Subclass it, or have the same members.

    Never checked at run time: what an instance gives is looked at when it is recorded, and refused there if wrong.
    """

    @property
    def type(self) -> str:
        """What kind of thing happened. Default: the snake_case of the class name. 1 to 255 bytes."""
        return type_name(type(self).__name__)

    @property
    def table(self) -> str:
        """Where its rows go. Default: "events"."""
        return DEFAULT_TABLE

    @property
    def payload(self) -> object:
        """What there is to say about it: a JSON value. Default: None, for a type alone is an event."""
        return None

    @property
    def timestamp(self) -> int | None:
        """When it happened: nanoseconds since the epoch, UTC. None (default): stamped once, by `record()`."""
        return None

    def extra_schema(self) -> Sequence[ColumnSchema]:
        """Columns beyond the base ones. Default: none."""
        return _NO_COLUMNS

    def extra_rows(self) -> Sequence[Row]:
        """The extra columns' values, one sequence per row. Default: one row without; `[]` records nothing."""
        return ONE_ROW


class Eventable(Protocol):
    """Something that can give itself as an event, or decline (None: nothing is recorded)."""

    def to_event(self) -> Event | None:
        """The event, or None. Itself is recorded as it is, where its class says how."""


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event that was made elsewhere and arrives with what it is: an ingest, a relay, a replay.

    `payload` is JSON text in UTF-8, and `context` a JSON object, both taken as they are. `id`, if given, is the id of
    its first row: 16 bytes. `columns` and `rows` are what `extra_schema()` and `extra_rows()` give.
    """

    type: str
    payload: bytes
    timestamp: int | None = None
    table: str = DEFAULT_TABLE
    id: bytes | None = None
    context: bytes | None = None
    columns: Sequence[ColumnSchema] = _NO_COLUMNS
    rows: Sequence[Row] = ONE_ROW

    def extra_schema(self) -> Sequence[ColumnSchema]:
        """Columns beyond the base ones."""
        return self.columns

    def extra_rows(self) -> Sequence[Row]:
        """Their values, one sequence per row."""
        return self.rows


class ReceivedJson(msgspec.Struct, frozen=True, gc=False):
    """A `ReceivedEvent` that brings nothing else, at a tenth of its price. For ourselves: all of it is right."""

    type: str
    table: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class SaidEvent:
    """What `to_event()` gives. It subclasses nothing: a dataclass takes inherited properties for defaults."""

    type: str
    table: str
    payload: object
    timestamp: int | None
    columns: Sequence[ColumnSchema]
    rows: Sequence[Row]
    source: Any = field(repr=False)
    """The model or struct that said it."""
    plan: ClassPlan = field(repr=False)
    made_of: tuple[object, ...] = field(repr=False)
    """The payload in bytes, then type, table, timestamp, columns and rows as they were given."""

    @property
    def is_as_made(self) -> bool:
        """Whether it still says what its source does."""
        try:
            payload = msgspec.json.encode(self.payload)  # Where there is another object, or other members in it.
        except Exception as exc:  # of an application's own objects
            if error_of_signal_handler(exc) is not None:
                raise
            return False
        now = (self.type, self.table, self.timestamp, self.columns, self.rows)
        return payload == self.made_of[0] and all(one is two for one, two in zip(self.made_of[1:], now, strict=True))

    def extra_schema(self) -> Sequence[ColumnSchema]:
        """Columns beyond the base ones."""
        return self.columns

    def extra_rows(self) -> Sequence[Row]:
        """Their values, one sequence per row."""
        return self.rows


def _said(event: Any, plan: ClassPlan, hiding: Callable[[], ClassPlan]) -> Event:
    """What `event` says of itself: marked values that its class declares as they are, all others as `hiding` gives."""
    payload, row = _values(event, plan)
    if plan.fields.rules:
        declared, columns = rules_of(event.__class__), plan.fields.rules_of_columns()
        hidden, hidden_row = _values(event, hiding())
        if isinstance(payload, dict):
            payload = {name: part if name in declared else hidden[name] for name, part in payload.items()}
        cells = zip(plan.fields.columns, row, hidden_row, strict=True)
        row = tuple(value if column.name in columns else other for column, value, other in cells)
    timestamp = None if plan.timestamp is None else plan.timestamp(event)
    rows = ONE_ROW if plan.columns is None else (row,)
    return SaidEvent(
        plan.type,
        plan.table,
        payload,
        timestamp,
        plan.fields.columns,
        rows,
        source=event,
        plan=plan,
        made_of=(msgspec.json.encode(payload), plan.type, plan.table, timestamp, plan.fields.columns, rows),
    )


def _values(event: Any, plan: ClassPlan) -> tuple[Any, Row]:
    try:
        payload = plan.payload(event)
    except MarkedValueError:
        if plan.masked_payload is None:
            raise
        payload = plan.masked_payload(event)
    return msgspec.json.decode(payload), () if plan.columns is None else plan.columns(event)


@lru_cache(maxsize=4_096)
def _hiding_model_plan(cls: type[EventModel]) -> ClassPlan:
    return model_plan(cls, Masks())


@lru_cache(maxsize=4_096)
def _hiding_struct_plan(cls: type[EventStruct]) -> ClassPlan:
    return struct_plan(cls, Masks())


class EventModel(BaseModel):
    """A frozen pydantic model that is an event: its fields are the payload, marked ones are columns of their own.

        class OrderPlaced(EventModel, table="orders"):
            order_id: UUID
            customer: Annotated[UUID, Column()]

    The payload is what pydantic's own serializer makes of the model, so that serializers which mask a field mask it
    here too; columns take their value from the same place. `type=` defaults to the class name in snake_case; a subclass
    inherits the table, a parametrized generic both. `layout=` says how its table is made, and which one it is; it is
    inherited with the table. Only the name `to_event` is reserved.

    Raises:
        TypeError: At class definition: a marker stands inside an annotation in which pydantic drops it, no column type
            fits a marked field, a type or table is not a name, or the layout is one of another table, or has no room
            for the type.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    __eventrec_type__: ClassVar[str] = "event_model"
    __eventrec_table__: ClassVar[str] = DEFAULT_TABLE
    __eventrec_layout__: ClassVar[Layout | None] = None
    __eventrec_fields__: ClassVar[FieldPlan | None] = None
    __eventrec_plan__: ClassVar[ClassPlan | None] = None

    def __init_subclass__(
        cls,
        *,
        type: str | None = None,  # noqa: A002 - the word users write
        table: str | None = None,
        layout: Layout | None = None,
        **kwargs: Any,
    ) -> None:
        try:
            super().__init_subclass__(**kwargs)
        except TypeError as exc:
            raise TypeError(
                f"{cls.__name__}: class keywords are type, table, layout and pydantic's, not {sorted(kwargs)}"
            ) from exc
        cls.__eventrec_type__ = type_name(cls.__name__) if type is None else _checked_name(cls, "type", type)
        if layout is not None:
            cls.__eventrec_layout__ = layout
            cls.__eventrec_table__ = getattr(layout, "table", DEFAULT_TABLE)
        if table is not None:
            cls.__eventrec_table__ = _checked_name(cls, "table", table)
            if layout is None and cls.__eventrec_layout__ is not None and cls.__eventrec_layout__.table != table:
                cls.__eventrec_layout__ = None  # It is one of another table.

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        origin = cls.__pydantic_generic_metadata__["origin"]
        if origin is not None and issubclass(origin, EventModel):
            cls.__eventrec_type__ = origin.__eventrec_type__
        _check_layout(cls, cls.__eventrec_layout__, cls.__eventrec_type__, cls.__eventrec_table__)
        if "to_event" in cls.model_fields:
            raise TypeError(f"{cls.__name__}: the name to_event is reserved, no field can have it")
        cls.__eventrec_plan__ = None
        # With names or type parameters still to come, the plan is made once they are there: see `model_plan`.
        is_settled = cls.__pydantic_complete__ and not cls.__pydantic_generic_metadata__["parameters"]
        cls.__eventrec_fields__ = fields = model_fields_plan(cls) if is_settled else None
        if "hide_input_in_errors" not in cls.model_config and (fields is None or fields.rules):
            # What pydantic says of a value that does not fit quotes it.
            cls.model_config["hide_input_in_errors"] = True
            if is_settled:
                cls.model_rebuild(force=True)

    def to_event(self) -> Event | None:
        """This model in the form of `Event`. Override it to decline (None), or to say something else (`self`: itself).

        Values of marked fields are as they are: what is recorded of them is decided when it is recorded, by the names
        of these fields.

        Raises:
            EncodeError: The model cannot be serialized.
        """
        return _said(self, model_plan(type(self)), lambda: _hiding_model_plan(type(self)))

    @classmethod
    def __eventrec_decode__(cls, record: Record) -> Self:
        return decode_model(cls, model_plan(cls), record)


def model_plan(cls: type[EventModel], masks: Masks | None = None) -> ClassPlan:
    """The plan of a model class; made once where there are no `masks`, those of a recorder.

    Raises:
        TypeError: As `EventModel`, where the class was not complete when it was defined.
    """
    plan = cls.__eventrec_plan__
    if plan is None or masks is not None:
        fields = cls.__eventrec_fields__ or model_fields_plan(cls)
        plan = model_class_plan(cls, cls.__eventrec_type__, cls.__eventrec_table__, fields, masks)
        if masks is None:
            cls.__eventrec_plan__ = plan
    return plan


def _checked_name(cls: type, what: str, name: str) -> str:
    try:
        check_name(what, name)
    except InvalidEventError as exc:
        raise TypeError(f"{cls.__name__}: {exc}") from exc
    return name


def _check_layout(cls: type, layout: object, kind: str, table: str) -> None:
    """Raise TypeError unless `layout` is None, or one of `table` in which events of type `kind` fit."""
    if layout is None:
        return
    if not isinstance(layout, Layout):
        raise TypeError(f"{cls.__name__}: a layout is a Layout, got {layout!r:.60}")
    if layout.table != table:
        raise TypeError(f"{cls.__name__}: its table is {table!r}, and its layout one of table {layout.table!r}")
    try:
        layout.check_type(kind)
    except LayoutError as exc:
        raise TypeError(f"{cls.__name__}: {exc}") from exc


# For the checkers: else mypy asks for `frozen=True` in every subclass, which the program does not need.
@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class EventStruct(msgspec.Struct, frozen=True):
    """A frozen msgspec Struct that is an event: the fastest kind.

        class Clicked(EventStruct):
            type: ClassVar[str] = "clicked"          # default: the class name in snake_case
            table: ClassVar[str] = "clicks"          # default: that of `layout: ClassVar[Layout]`, else "events"
            target: str
            user: Annotated[str, Column()]

    Only the name `to_event` is reserved.
    """

    def to_event(self) -> Event | None:
        """This struct in the form of `Event`. Override it to decline (None), or to say something else (`self`: itself).

        Values of marked fields are as they are, as in a model.

        Raises:
            EncodeError: The struct cannot be serialized.
            TypeError: As `struct_plan`.
        """
        return _said(self, struct_plan(type(self)), lambda: _hiding_struct_plan(type(self)))

    @classmethod
    def __eventrec_decode__(cls, record: Record) -> Self:
        return decode_struct(cls, struct_plan(cls), record)


def struct_plan(cls: type[EventStruct], masks: Masks | None = None) -> ClassPlan:
    """Read type, table and markers of a struct class; `masks` are those of a recorder.

    Raises:
        TypeError: As `EventModel`; or an annotation names what does not exist when the program runs.
    """
    fields = set(cls.__struct_fields__)
    said = {name: getattr(cls, name, None) for name in ("type", "table", "layout") if name not in fields}
    kind, table, layout = said.get("type"), said.get("table"), said.get("layout")
    kind = kind if isinstance(kind, str) else type_name(cls.__name__)
    layout = layout if isinstance(layout, Layout) else None
    if not isinstance(table, str):
        table = DEFAULT_TABLE if layout is None else layout.table
    _check_layout(cls, layout, kind, table)
    return struct_class_plan(cls, kind, table, struct_fields_plan(cls), masks)
