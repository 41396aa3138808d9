"""What is asked of a rollup, and what comes back: the same from every database.

Rows are sorted by bucket, then by groups, in the order of the declaration: None first, texts byte by byte. Asked for
`newest_first`, the latest bucket comes first, its groups as before.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from eventrec.analytics.empty_buckets import Shown, with_empty_buckets
from eventrec.analytics.fields import MAX_INTEGER, MIN_INTEGER, UUID_FORM
from eventrec.analytics.rollup import plan_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from eventrec.analytics.fields import Kind, Value
    from eventrec.analytics.rollup import Rollup
    from eventrec.analytics.rollup_plan import RollupPlan

AnswerRow: TypeAlias = "tuple[Value, ...]"
"""One value for each column of the answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a rollup.

    Attributes:
        rollup: Which one.
        start: Buckets that begin at this moment or later, in nanoseconds since the epoch; None: all that there are.
        end: Buckets that begin before.
        groups: By which of its groups; the others are added up. None: by all of them.
        limit: At most so many rows; None: all.
        cursor: Goes on after an answer to the same question.
        empty_buckets: Also buckets without events, from `start` to `end`, or from the first to the last that have
            some: a row for each combination of groups that occurs in the answer.
        newest_first: From the latest bucket to the earliest.

    Raises:
        ValueError: A group is not one of the rollup's, the limit is negative or beyond 64 bits, or the cursor
            was not given by an answer.
        CatalogueError: `rollup` is not one.
    """

    rollup: RollupPlan | type[Rollup]
    start: int | None = None
    end: int | None = None
    groups: tuple[str, ...] | None = None
    limit: int | None = None
    cursor: str | None = None
    empty_buckets: bool = False
    newest_first: bool = False

    def __post_init__(self) -> None:
        known = [group.name for group in self.plan.groups]
        for name in self.groups or ():
            if name not in known:
                raise ValueError(f"{name!r} is not a group of {self.plan.name!r}: {', '.join(known) or 'it has none'}")
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"limit must not be negative, got {self.limit}")
        if self.limit is not None and self.limit > sys.maxsize:
            raise ValueError(f"limit must not exceed {sys.maxsize}, got {self.limit:.3g}")
        if self.cursor is not None:
            self.after()

    @property
    def plan(self) -> RollupPlan:
        """What is asked."""
        return plan_of(self.rollup)

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups that are asked for, in the order of the declaration."""
        return tuple(g.name for g in self.plan.groups if self.groups is None or g.name in self.groups)

    @property
    def columns(self) -> tuple[AnswerColumn, ...]:
        """The columns of the answer, in the order of the declaration."""
        plan, asked = self.plan, {self.plan.bucket_name, *self.group_names}
        measures = {measure.name for measure in plan.measures}
        return tuple(
            AnswerColumn(name, plan.kind_of(name), _role(plan, name))
            for name in plan.column_names
            if name in asked or name in measures
        )

    def after(self) -> tuple[Any, ...] | None:
        """The bucket and groups after which the answer begins; None: at its beginning.

        Raises:
            ValueError: The cursor was not given by an answer to this question.
        """
        if self.cursor is None:
            return None
        try:
            found: tuple[Any, ...] = msgspec.json.decode(self.cursor, type=tuple[int, tuple[Any, ...]])
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as exc:
            raise ValueError(f"not a cursor of an answer: {exc}") from exc
        _, groups = found
        if len(groups) != len(self.group_names):
            raise ValueError(f"the cursor is of a question for {len(groups)} groups, not {len(self.group_names)}")
        kinds = [group.field.kind for group in self.plan.groups if group.name in self.group_names]
        for kind, value in zip(kinds, groups, strict=True):
            if value is not None and not _IS_OF[kind](value):
                raise ValueError(f"not a cursor of an answer to this question: {value!r:.80} is not of kind {kind}")
        return found


_IS_OF: Final[Mapping[Kind, Callable[[Any], bool]]] = {
    "text": lambda value: isinstance(value, str),
    "integer": lambda value: type(value) is int and MIN_INTEGER <= value <= MAX_INTEGER,
    "boolean": lambda value: isinstance(value, bool),
    "uuid": lambda value: isinstance(value, str) and UUID_FORM.fullmatch(value) is not None,
}
"""Whether a value is of a kind; of the kinds that there are groups of."""

Role: TypeAlias = Literal["bucket", "group", "measure"]


@dataclass(frozen=True, slots=True)
class AnswerColumn:
    """A column of an answer: a bucket is its start in nanoseconds, a moment likewise."""

    name: str
    kind: Kind
    role: Role


@dataclass(frozen=True, slots=True)
class Answer:
    """What a rollup tells.

    Attributes:
        rollup: The name of the rollup.
        columns: What each value of a row is.
        rows: Sorted: see the module.
        complete_to: The time of the newest event that is stored and counted in: what happened later is not in the
            answer yet. None: nothing is stored, or it is not known.
        pending: How many events, or rows, wait to be counted in; None: not known.
        cursor: Goes on with the rows that `limit` has left out; None: there are none.
        remarks: What a reader should know, a sentence each.
    """

    rollup: str
    columns: tuple[AnswerColumn, ...]
    rows: tuple[AnswerRow, ...]
    complete_to: int | None = None
    pending: int | None = None
    cursor: str | None = None
    remarks: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        question: Question,
        rows: Iterable[Sequence[Value]],
        *,
        complete_to: int | None = None,
        pending: int | None = None,
        remarks: Sequence[str] = (),
    ) -> Answer:
        """The answer to `question` out of all `rows` from its start to its end, in any order.

        Asked for no groups, those after its cursor are enough, and of these one more than its limit.

        Raises:
            ValueError: With empty buckets it has too many rows.
        """
        found: list[AnswerRow] = [tuple(row) for row in rows]
        if question.empty_buckets:
            found = with_empty_buckets(question.plan.bucket, found, _shown(question), rank=_ranked)
            return cls.of_sorted(question, found, complete_to=complete_to, pending=pending, remarks=remarks)
        _sort(question, found)
        after = question.after()
        if after is not None:
            found = found[bisect_right(found, _place(question, *after), key=_key(question)) :]
        return cls.of_sorted(question, found, complete_to=complete_to, pending=pending, remarks=remarks)

    @classmethod
    def of_sorted(
        cls,
        question: Question,
        rows: Sequence[AnswerRow],
        *,
        complete_to: int | None = None,
        pending: int | None = None,
        remarks: Sequence[str] = (),
    ) -> Answer:
        """The answer to `question` out of `rows`, which are in its order and begin after its cursor.

        Of those after its limit, one is enough: it tells that there are more.
        """
        kept = tuple(rows if question.limit is None else rows[: question.limit])
        cursor = None
        if len(kept) < len(rows):
            cursor = _cursor(question, kept[-1]) if kept else question.cursor
        return cls(question.plan.name, question.columns, kept, complete_to, pending, cursor, tuple(remarks))


def _role(plan: RollupPlan, name: str) -> Role:
    if name == plan.bucket_name:
        return "bucket"
    return "group" if any(group.name == name for group in plan.groups) else "measure"


def _places(question: Question) -> tuple[int, tuple[int, ...]]:
    """Where in a row the bucket and the groups stand."""
    names = [column.name for column in question.columns]
    return names.index(question.plan.bucket_name), tuple(names.index(name) for name in question.group_names)


def _shown(question: Question) -> Shown:
    counts = {measure.name for measure in question.plan.measures if measure.is_count}
    return Shown(
        question.start,
        question.end,
        question.after(),
        question.limit,
        question.newest_first,
        *_places(question),
        [0 if column.name in counts else None for column in question.columns],
    )


def _place(question: Question, bucket: int, groups: Sequence[Value]) -> tuple[Any, ...]:
    return (-bucket if question.newest_first else bucket, *_ranked(groups))


def _ranked(groups: Sequence[Value]) -> tuple[Any, ...]:
    return tuple((value is not None, value) for value in groups)


def _sort(question: Question, rows: list[AnswerRow]) -> None:
    bucket, groups = _places(question)
    if any(row[group] is None for group in groups for row in rows):
        rows.sort(key=_key(question))
        return
    # Twice without a key of ours takes a fraction of once with one: the second sort keeps the order of the first.
    if groups:
        rows.sort(key=itemgetter(*groups))
    rows.sort(key=itemgetter(bucket), reverse=question.newest_first)


def _key(question: Question) -> Any:
    bucket, groups = _places(question)

    def key(row: Sequence[Any]) -> tuple[Any, ...]:
        return _place(question, row[bucket], [row[group] for group in groups])

    return key


def _cursor(question: Question, row: Sequence[Any]) -> str:
    bucket, groups = _places(question)
    return msgspec.json.encode((row[bucket], [row[group] for group in groups])).decode()
