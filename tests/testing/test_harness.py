"""What an author of a harness finds in `help(HandlerHarness)`."""

import pydoc

import pytest

from eventrec.testing.conformance import HandlerHarness

BOUNDS = [name for name in HandlerHarness.__annotations__ if not name.startswith("_")]


@pytest.mark.parametrize("name", BOUNDS)
def test_each_bound_of_a_harness_is_explained(name: str) -> None:
    told = pydoc.plain(pydoc.render_doc(HandlerHarness))

    assert f"{name}: " in told


def test_bounds_are_those_of_which_a_harness_may_have_its_own() -> None:
    assert {"largest_batch", "largest_payload", "longest_block", "patience", "payloads", "timestamp_unit"} < set(BOUNDS)
