"""The columns of a pydantic model whose serializers may have a say: exact values, unless a serializer hides them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import to_jsonable_python

from eventrec.errors import EncodeError
from eventrec.records.column_types import ColumnType

if TYPE_CHECKING:
    from collections.abc import Collection

    from pydantic import BaseModel

    from eventrec.events.fields import FieldPlan
    from eventrec.events.privacy import Masks
    from eventrec.records.schema import Row

_TEXTUAL: Final = frozenset(
    {ColumnType.STRING, ColumnType.DICTIONARY, ColumnType.JSON, ColumnType.LIST, ColumnType.STRUCT}
)


class SerializedColumns:
    """Gives the columns of an instance of `cls`, in the order of `fields.columns`.

    Those in `plain` have no serializer in the way, and are read from the instance. Values that are marked for privacy
    are given as `masks` says. Raises EncodeError when called.
    """

    def __init__(
        self, cls: type[BaseModel], fields: FieldPlan, plain: Collection[str], masks: Masks | None = None
    ) -> None:
        self._columns = [(name, column.type) for name, column in zip(fields.column_fields, fields.columns, strict=True)]
        self._plain = frozenset(plain)
        self._shown = {name for name in fields.column_fields if name not in plain}
        self._to_python = partial(
            cls.__pydantic_serializer__.to_python,
            by_alias=False,
            warnings="error" if fields.rules else False,
            context=masks,
        )
        # How the model's own configuration has JSON say what JSON does not know.
        self._bytes_mode: Any = cls.model_config.get("ser_json_bytes", "utf8")
        self._timedelta_mode: Any = cls.model_config.get("ser_json_timedelta", "iso8601")

    def __call__(self, event: Any) -> Row:
        """The columns of `event`."""
        try:
            values = self._to_python(event, include=self._shown)
            said = self._said(event)
        except Exception as exc:
            raise EncodeError(f"columns: {type(exc).__name__}: {exc}") from exc
        return tuple(
            getattr(event, name)
            if name in self._plain
            else said.get(name)
            if type_ in _TEXTUAL
            else self._faithful(name, values, said)
            for name, type_ in self._columns
        )

    def _said(self, event: Any) -> dict[str, Any]:
        """What the payload would say of each; without BINARY columns that no serializer hides and JSON cannot say."""
        try:
            return self._in_json(event, self._shown)
        except UnicodeDecodeError:
            said: dict[str, Any] = {}
        for name, type_ in self._columns:
            if name in self._shown:
                try:
                    said |= self._in_json(event, {name})
                except UnicodeDecodeError:
                    # From pydantic's own hand: what a serializer of the class raises comes as another error.
                    if type_ is not ColumnType.BINARY:
                        raise
        return said

    def _in_json(self, event: Any, names: set[str]) -> dict[str, Any]:
        return self._to_python(event, mode="json", include=names)  # type: ignore[no-any-return]

    def _faithful(self, name: str, values: dict[str, Any], said: dict[str, Any]) -> object:
        """The value, if in JSON it would say what the payload would: else a serializer hides it there alone."""
        value = values.get(name)
        if name not in said:
            return value
        try:
            jsonable = to_jsonable_python(value, bytes_mode=self._bytes_mode, timedelta_mode=self._timedelta_mode)
        except ValueError:
            return said[name]
        return value if jsonable == said[name] else said[name]
