"""Relays: what takes records from a bus to handlers."""

from eventrec.relay.options import RelayOptions
from eventrec.status import PhaseTime, RelayPart

__all__ = ["PhaseTime", "RelayOptions", "RelayPart"]
