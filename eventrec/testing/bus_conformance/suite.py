"""All claims about a bus in one class: the one to subclass."""

from __future__ import annotations

from eventrec.testing.bus_conformance.checkpoints import CheckpointClaims
from eventrec.testing.bus_conformance.leases import LeaseClaims
from eventrec.testing.bus_conformance.losses import LossClaims
from eventrec.testing.bus_conformance.outages import OutageClaims
from eventrec.testing.bus_conformance.presence import PresenceClaims
from eventrec.testing.bus_conformance.reading import ReadingClaims
from eventrec.testing.bus_conformance.stages import StageClaims


# pytest begins with the last one: what a beginner meets first is the simplest.
class BusConformance(
    OutageClaims, LossClaims, PresenceClaims, StageClaims, CheckpointClaims, LeaseClaims, ReadingClaims
):
    """Every claim about a bus. Subclass it under a name that pytest collects, with a fixture `harness`."""
