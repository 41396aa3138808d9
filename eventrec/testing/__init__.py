"""What tests of eventrec, and of code that uses it, are written with."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eventrec.testing.account import assert_conserved
from eventrec.testing.clock import VirtualTimeLoop, virtual_backends

if TYPE_CHECKING:
    from eventrec.testing.recorded import Conservation, RecordedEvent, RecordedEvents

__all__ = [
    "Conservation",
    "RecordedEvent",
    "RecordedEvents",
    "VirtualTimeLoop",
    "assert_conserved",
    "virtual_backends",
]


def __getattr__(name: str) -> Any:
    """What only tests of recorded events need is loaded by them: pytest loads this package in every run."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("eventrec.testing.recorded"), name)
