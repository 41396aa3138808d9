"""The way that nearly every event of a class takes: code made for the class once, as dataclasses make theirs.

A shortcut decides nothing. Values that are plain, of builtin types alone, it encodes as they stand; an event that has
others goes the long way (`encoder.py`), which looks for what must be refused, changed or hidden. What is made can be
read as `__source__` of the function, and is shown in tracebacks. For a class with two fields, of which one is a column:

    def entry_of_Clicked(event):
        try:
            event_target = event.target
            if type(event_target) is not str and not is_plain(event_target):
                payload = None
            else:
                payload = encode(Payload(event_target))
        except Exception as exc:
            raise not_json(exc) from exc
        if payload is None:
            return long_way(event)
        event_user = event.user
        if type(event_user) is not str and event_user is not None:
            event_user = fit_user(event_user)
        try:
            rows = encode_rows(((event_user,),))
        except UnicodeEncodeError:
            return long_way(event)
        when = now()
        around = context()
        if around is None:
            return (shape, when, payload, None, rows, None, len(payload) + len(rows) + 200)
        return make_entry(shape, when, payload, as_bytes(around), rows)
"""

from __future__ import annotations

import itertools
import linecache
import unicodedata
import weakref
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Final, Literal

from eventrec.events.clocks import checked_time
from eventrec.records.column_types import TEXTUAL, ColumnType
from eventrec.records.entry import OVERHEAD_BYTES, make_entry
from eventrec.records.extra_rows import encode_kept_rows
from eventrec.records.json import MAY_BE_INFINITE, encode_plain, is_plain, not_json, refuse_constants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from eventrec.records.schema import Shape

Checked = Literal["str", "int", "float", "bool"] | None
"""The builtin type that a field is declared as; None: another one, or several."""

_JSON: Final = frozenset({ColumnType.JSON, ColumnType.LIST, ColumnType.STRUCT})
_numbers: Final = itertools.count()


@dataclass(frozen=True, slots=True)
class Shortcut:
    """What a class leaves to be done for its payload, where all values are plain.

    `checked` are the fields to look at; of these `rest` is made, a Struct class, and encoded; without one the event is.
    Where there is a `to_json`, that is asked instead, for what is not in `excluded`. `columns` are the names of fields.
    """

    checked: Mapping[str, Checked] = field(default_factory=dict)
    rest: Callable[..., Any] | None = None
    to_json: Callable[..., bytes] | None = None
    excluded: frozenset[str] = frozenset()
    columns: tuple[str, ...] = ()

    def is_for(self, shape: Shape) -> bool:
        """Whether code can be made of it: JSON in a column may hold marked values, and code not every name."""
        names = (*self.checked, *self.columns)
        return not any(column.type in _JSON for column in shape.columns) and all(map(_can_be_written, names))


def _can_be_written(name: str) -> bool:
    """Whether `name` in code means what it says: Python reads one that is not in the form NFKC as another one."""
    return name.isidentifier() and not iskeyword(name) and unicodedata.is_normalized("NFKC", name)


def make_shortcut(
    cls: type,
    said: Shortcut,
    shape: Shape,
    *,
    long_way: Callable[[Any], Any],
    timestamp_of: Callable[[Any], int | None] | None,
    now: Callable[[], int],
    context: Callable[[], Any],
    as_bytes: Callable[[Any], bytes | None],
) -> Callable[[Any], Any]:
    """The function that turns an instance of `cls` into an entry of `shape`; `long_way` does it for any instance."""
    name = f"entry_of_{cls.__name__ if _can_be_written(cls.__name__) else 'event'}"
    source = "\n".join(_lines(name, said, shape, has_timestamp=timestamp_of is not None))
    names: dict[str, Any] = {
        "shape": shape,
        "long_way": long_way,
        "now": now,
        "timestamp_of": timestamp_of,
        "checked_time": checked_time,
        "context": context,
        "as_bytes": as_bytes,
        "to_json": said.to_json,
        "excluded": set(said.excluded) or None,
        "Payload": said.rest,
        "encode": encode_plain,
        "encode_rows": encode_kept_rows,
        "is_plain": is_plain,
        "not_json": not_json,
        "refuse_constants": refuse_constants,
        "make_entry": make_entry,
        **{f"fit_{name}": fit for name, fit in zip(said.columns, shape.normalizers, strict=True)},
    }
    return compiled(name, source, of=cls, names=names)


def compiled(name: str, source: str, *, of: type, names: Mapping[str, Any]) -> Callable[[Any], Any]:
    """The function `name` that `source` defines for the class `of`, in which `names` are known."""
    named = f"{of.__module__}.{of.__qualname__}".replace("\0", "?")  # the one character that no file's name has
    file = f"<eventrec: {name} of {named}, {next(_numbers)}>"
    scope = dict(names)
    exec(compile(source, file, "exec"), scope)  # noqa: S102 - names in it are identifiers, and texts are literals
    made: Any = scope.pop(name)  # Else the two would hold each other, and all that they know.
    made.__source__ = source
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    weakref.finalize(made, linecache.cache.pop, file, None).atexit = False
    return made  # type: ignore[no-any-return]


def _lines(name: str, said: Shortcut, shape: Shape, *, has_timestamp: bool) -> Iterator[str]:
    yield f"def {name}(event):"
    yield "    try:"
    if said.to_json is None:
        yield from _struct_payload(said)
    else:
        yield from _model_payload(said)
    yield "    except Exception as exc:"
    yield "        raise not_json(exc) from exc"
    if said.to_json is not None:
        yield f"    if {' or '.join(f'{byte} in payload' for byte in MAY_BE_INFINITE)}:"
        yield "        refuse_constants(payload)"
    elif said.checked:
        yield "    if payload is None:"
        yield "        return long_way(event)"
    if said.columns:
        yield from _columns(said, shape)
    rows, size = ("rows", "len(payload) + len(rows)") if said.columns else ("None", "len(payload)")
    if has_timestamp:
        yield "    when = timestamp_of(event)"
        yield "    when = now() if when is None else checked_time(when)"
    else:
        yield "    when = now()"
    yield "    around = context()"
    yield "    if around is None:"
    yield f"        return (shape, when, payload, None, {rows}, None, {size} + {OVERHEAD_BYTES})"
    yield f"    return make_entry(shape, when, payload, as_bytes(around), {rows})"


def _struct_payload(said: Shortcut) -> Iterator[str]:
    values = ", ".join(f"event_{name}" for name in said.checked)
    encoded = "event" if said.rest is None else f"Payload({values})"
    for name in said.checked:
        yield f"        event_{name} = event.{name}"
    for number, (name, declared) in enumerate(said.checked.items()):
        yield f"        {'elif' if number else 'if'} {_is_not_plain(f'event_{name}', declared)}:"
        yield "            payload = None"
    if said.checked:
        yield "        else:"
        yield f"            payload = encode({encoded})"
    else:
        yield f"        payload = encode({encoded})"


def _is_not_plain(value: str, declared: Checked) -> str:
    match declared:
        case None:
            return f"not is_plain({value})"
        case "float":  # what is not finite differs from itself by something that is not zero
            return f"(type({value}) is not float or {value} - {value} != 0.0) and not is_plain({value})"
        case kind:
            return f"type({value}) is not {kind} and not is_plain({value})"


def _model_payload(said: Shortcut) -> Iterator[str]:
    exclude = "exclude=excluded, " if said.excluded else ""
    yield f"        payload = to_json(event, {exclude}warnings=False)"


def _columns(said: Shortcut, shape: Shape) -> Iterator[str]:
    for name, column in zip(said.columns, shape.columns, strict=True):
        is_text = column.type in TEXTUAL
        yield f"    event_{name} = event.{name}"
        yield f"    if {f'type(event_{name}) is not str and ' if is_text else ''}event_{name} is not None:"
        yield f"        event_{name} = fit_{name}(event_{name})"
    yield "    try:"
    yield f"        rows = encode_rows((({', '.join(f'event_{name}' for name in said.columns)},),))"
    yield "    except UnicodeEncodeError:"
    yield "        return long_way(event)"
