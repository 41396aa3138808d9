"""A change between two catalogues: what it is about, what it does, and whether it breaks what is stored or reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal[
    "added",
    "removed",
    "required",
    "optional",
    "type",
    "narrowed",
    "widened",
    "changed",
    "privacy",
]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        kind: What was done.
        subject: To what: `order_placed version 1, field total`.
        message: The whole, in a line.
        is_breaking: Whether events that are stored can no longer be read, or what reads them finds something else.
    """

    kind: Kind
    subject: str
    message: str
    is_breaking: bool

    def __str__(self) -> str:
        return self.message

    def to_dict(self) -> dict[str, object]:
        """It as JSON."""
        return {
            "kind": self.kind,
            "subject": self.subject,
            "message": self.message,
            "breaking": self.is_breaking,
        }


def breaking(kind: Kind, subject: str, what: str) -> Change:
    """A change that breaks."""
    return Change(kind, subject, f"{subject}: {what}", is_breaking=True)


def compatible(kind: Kind, subject: str, what: str) -> Change:
    """A change that does not."""
    return Change(kind, subject, f"{subject}: {what}", is_breaking=False)
