"""What a recorder's options of privacy add to the plan of a class: nothing, where no rule is about it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from eventrec.errors import InvalidEventError
from eventrec.events.admission import Admission, field_of
from eventrec.events.entry_rules import Declared, EntryRules
from eventrec.events.privacy import Masks, quietly
from eventrec.records.mark_rules import Fields, Members
from eventrec.records.marked import fields_of, has_marks, member_rules, rules_of
from eventrec.records.marks import Hashed
from eventrec.records.trace_context import TRACE_KEYS
from eventrec.rules import Redaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventrec.events.admission import Refusal
    from eventrec.events.fields import FieldPlan
    from eventrec.options import EventRecorderOptions
    from eventrec.records.schema import Row, Shape

T = TypeVar("T")


class Privacy:
    """The rules of one recorder: `salt` for `Hashed()`, which events are taken, and what of unmarked fields."""

    def __init__(
        self, *, salt: bytes | None = None, admission: Admission | None = None, rules: EntryRules | None = None
    ) -> None:
        self.masks: Final = Masks(salt)
        self._admission = admission or Admission()
        self._rules = rules
        self.sampled_types: Final = self._admission.types
        """Types of which not every event is taken."""

    @classmethod
    def of(cls, options: EventRecorderOptions) -> Privacy:
        """As `options` say."""
        redaction = options.redact if isinstance(options.redact, Redaction) else None
        plain = options.plain_keys | (frozenset(TRACE_KEYS) if options.trace_context else frozenset())
        allow = plain if options.policy == "allowlist" else None
        return cls(
            salt=options.salt(),
            admission=Admission(options.sample, options.rate_limits),
            rules=None if redaction is None and allow is None else EntryRules(redaction, allow),
        )

    def marked(self, cls: type, plan: Callable[[Any], T]) -> Callable[[Any], T]:
        """`plan`, whose errors quote nothing where `cls` has marked fields; it refuses all where there is no salt."""
        rules = rules_of(cls)
        if not rules:
            return plan
        if not self.masks.is_salted and any(has_marks(rule, Hashed) for rule in rules.values()):
            return partial(_refuse_unsalted, cls)
        return quietly(plan)

    def quiet(self, cls: type, plan: Callable[[Any], T]) -> Callable[[Any], T]:
        """`plan`, whose errors quote nothing where a rule is about instances of `cls`; it changes nothing else."""
        return quietly(plan) if self._rules is not None or rules_of(cls) else plan

    def ruled(self, declared: Declared, plan: Callable[[Any], T]) -> Callable[[Any], T]:
        """`plan`, and then what the rules for fields without a marker say of the entry, where it makes one."""
        rules = self._rules
        if rules is None:
            return plan

        def encode(event: Any) -> T:
            entry: Any = plan(event)
            if entry.__class__ is tuple:
                entry = rules.applied(entry, declared)
            return entry  # type: ignore[no-any-return]

        return quietly(encode)

    def refusal(
        self, shape: Shape, sources: Sequence[object], rows: Sequence[Row], context: Callable[[], bytes | None]
    ) -> Refusal | None:
        """Why the event is not taken; its fields are looked for in `sources`, in the columns, and in the context."""

        def find(name: str) -> object:
            for source in sources:
                found = field_of(source, name)
                if found is not None:
                    return found
            for position, column in enumerate(shape.columns if rows else ()):
                if column.name == name and rows[0][position] is not None:
                    return rows[0][position]
            around = context()
            return None if around is None else field_of(msgspec.json.decode(around), name)

        return self._admission.refusal(shape.type, find)


def declared_by(*classes: type) -> Declared:
    """What classes say by the names of their fields; the last one before the others."""
    rules = {name: rule for cls in classes for name, rule in member_rules(Fields(cls)).items()}
    return Declared(Members(rules), rules)


def declared_by_plan(cls: type, fields: FieldPlan) -> Declared:
    """What a class with a plan says of its payload, and of its columns by the names of these."""
    rules = {field.name: field.rule for field in fields_of(cls) if field.rule is not None}
    return Declared(Fields(cls), fields.rules_of_columns(rules))


def _refuse_unsalted(cls: type, _: object) -> Any:
    raise InvalidEventError(f"{cls.__name__} has fields marked Hashed(), and the recorder no option hash_salt")
