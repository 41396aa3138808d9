"""What the doctor finds: one line for each thing looked at, how it is, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad it is. Only a problem makes the exit code 1."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject` is what was looked at, `said` how it is, `advice` what to do; nothing to do where it is ok."""

    subject: str
    level: Level
    said: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.level:8} {self.subject}: {self.said}" + (f"; {self.advice}" if self.advice else "")

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self) | {"level": str(self.level)}


def ok(subject: str, said: str) -> Finding:
    """As it should be."""
    return Finding(subject, Level.OK, said)


def warning(subject: str, said: str, advice: str) -> Finding:
    """It works, and may not do what is expected of it."""
    return Finding(subject, Level.WARNING, said, advice)


def problem(subject: str, said: str, advice: str) -> Finding:
    """Recording, delivering, or keeping what is recorded will fail."""
    return Finding(subject, Level.PROBLEM, said, advice)
