"""All claims in one class: the one to subclass."""

from __future__ import annotations

from eventrec.testing.conformance.blocking import BlockingClaims
from eventrec.testing.conformance.checkpoints import CheckpointClaims
from eventrec.testing.conformance.delivery import DeliveryClaims
from eventrec.testing.conformance.failures import FailureClaims
from eventrec.testing.conformance.lifecycle import LifecycleClaims
from eventrec.testing.conformance.reading import ReadingClaims
from eventrec.testing.conformance.recorders import RecorderClaims


# pytest begins with the last one: what a beginner meets first is the simplest.
class HandlerConformance(
    RecorderClaims, ReadingClaims, BlockingClaims, LifecycleClaims, FailureClaims, CheckpointClaims, DeliveryClaims
):
    """Every claim about a handler. Subclass it under a name that pytest collects, with a fixture `harness`."""
