"""What tests of eventrec, and of code that uses it, are written with."""

from eventrec.testing.account import assert_conserved
from eventrec.testing.clock import VirtualTimeLoop, virtual_backends
from eventrec.testing.recorded import Conservation, RecordedEvent, RecordedEvents

__all__ = [
    "Conservation",
    "RecordedEvent",
    "RecordedEvents",
    "VirtualTimeLoop",
    "assert_conserved",
    "virtual_backends",
]
