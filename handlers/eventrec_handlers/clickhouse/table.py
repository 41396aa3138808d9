"""What an application says of a ClickHouse table beside its columns: engine, order, types, codecs, indexes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from eventrec import LayoutError
from eventrec_handlers.clickhouse.types import parsed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec import Layout

_PAIRS: Final = {")": "(", "]": "[", "}": "{"}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTED: Final = re.compile(r"""'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
_MORE: Final = re.compile(r";|\0|--|/\*|#")
_ENGINE: Final = re.compile(r"[A-Za-z]+(\(.*\))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ClickHouseIndex:
    """A data skipping index: `ClickHouseIndex("idx_path", "path", "bloom_filter(0.01)")`.

    Raises:
        LayoutError: It has no name, or a part is not a piece of SQL.
    """

    name: str
    expression: str
    type: str
    granularity: int = 1

    def __post_init__(self) -> None:
        if not self.name:
            raise LayoutError(f"an index of ClickHouse has a name, got {self.name!r:.60}")
        check_sql(f"index {self.name!r}", self.expression)
        check_sql(f"the type of index {self.name!r}", self.type)
        if self.granularity < 1:
            raise LayoutError(f"index {self.name!r}: a granularity is 1 or more, got {self.granularity!r}")


@dataclass(frozen=True, slots=True)
class ClickHouseTable:
    """How one table is made in ClickHouse, beside what its layout says. Immutable.

        ClickHouseTable(
            engine="VersionedCollapsingMergeTree(sign, version)",
            order_by=("project_id", "toDate(created_at)", "created_at"),
            types={"sign": "Int8", "version": "UInt64"},
            codecs={"created_at": "DoubleDelta, ZSTD(3)"},
        )

    It counts where the handler makes the table; one that is there is left as it is, but for the columns it lacks.
    Everything is SQL of the application, taken as it stands. Without `order_by` rows are ordered by the layout's
    primary key, else by type and time.

    Attributes:
        engine: One of the MergeTree family; others keep no tokens, so a batch that is sent again is there twice.
        order_by: Expressions.
        primary_key: Expressions that `order_by` begins with, where the two differ.
        partition_by: An expression; None: as the layout says.
        ttl: An expression; None: as the layout, or the handler's `ttl`, says.
        types: Column to type, instead of what its word is made as.
        codecs: Column to what stands in CODEC(…).
        defaults: Column to expression. Rows of the handler have it where no record of an insert has a value.
        indexes: Data skipping indexes.
        settings: Settings of the table.

    Raises:
        LayoutError: A part is not a piece of SQL.
    """

    engine: str = "MergeTree"
    order_by: Sequence[str] | None = None
    primary_key: Sequence[str] = ()
    partition_by: str | None = None
    ttl: str | None = None
    types: Mapping[str, str] = field(default_factory=dict)
    codecs: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    indexes: Sequence[ClickHouseIndex] = ()
    settings: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_sql("an engine", self.engine)
        if _ENGINE.fullmatch(self.engine) is None:
            raise LayoutError(f"an engine of ClickHouse is a name with arguments, got {self.engine!r:.80}")
        for name in ("order_by", "primary_key", "indexes"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise LayoutError(f"{name} of a ClickHouse table is a sequence, got the text {value!r:.60}")
            object.__setattr__(self, name, None if value is None else tuple(value))
        for name in ("types", "codecs", "defaults", "settings"):
            given = getattr(self, name)
            if not isinstance(given, Mapping):
                raise LayoutError(f"{name} of a ClickHouse table is a mapping, got {given!r:.60}")
            object.__setattr__(self, name, MappingProxyType(dict(given)))
        self._check_sql()
        self._check_names()

    def _check_sql(self) -> None:
        for expression in (*(self.order_by or ()), *self.primary_key):
            check_sql("a key of a table", expression)
        for what, text in (("partition_by", self.partition_by), ("ttl", self.ttl)):
            if text is not None:
                check_sql(what, text)
        for what, texts in (("types", self.types), ("codecs", self.codecs), ("defaults", self.defaults)):
            for column, text in texts.items():
                check_sql(f"{what} of column {column!r}", text)

    def _check_names(self) -> None:
        for column, text in self.types.items():
            if _NAME.fullmatch(parsed(text).name) is None:
                raise LayoutError(f"column {column!r}: {text!r:.80} is not a type of ClickHouse")
        if any(not isinstance(index, ClickHouseIndex) for index in self.indexes):
            raise LayoutError("indexes of a ClickHouse table are ClickHouseIndexes")
        for setting in self.settings:
            if _NAME.fullmatch(setting) is None:
                raise LayoutError(f"{setting!r:.60} is not the name of a setting")

    def check(self, layout: Layout) -> None:
        """Raise LayoutError if it names a column that `layout` has not."""
        known = {column.name for column in layout.columns}
        for what in ("types", "codecs", "defaults"):
            for column in getattr(self, what):
                if column not in known:
                    raise LayoutError(f"{what} of ClickHouse table {layout.table!r}: it has no column {column!r}")


def check_sql(what: str, text: Any) -> None:
    """Raise LayoutError unless `text` is one piece of SQL: balanced, without a comment or an end of the statement."""
    if not isinstance(text, str) or not text.strip():
        raise LayoutError(f"{what} is a piece of SQL, got {text!r:.60}")
    plain = _QUOTED.sub("", text)
    stack: list[str] = []
    is_balanced = not any(quote in plain for quote in "'`\"")
    for char in plain:
        if char in "([{":
            stack.append(char)
        elif char in _PAIRS and (not stack or stack.pop() != _PAIRS[char]):
            is_balanced = False
    if stack or not is_balanced:
        raise LayoutError(f"{what}: {text!r:.80} is not balanced")
    if _MORE.search(plain) is not None:
        raise LayoutError(f"{what}: {text!r:.80} is more than a piece of SQL")
