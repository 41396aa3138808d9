from __future__ import annotations

import pytest


@pytest.mark.xdist_group("told")
def test_the_scheduler_of_xdist_is_told_of_groups(request: pytest.FixtureRequest) -> None:
    if not hasattr(request.config, "workerinput") or not request.config.option.loadgroup:
        pytest.skip("tests are not distributed by groups here")

    assert request.node.nodeid.endswith("::test_the_scheduler_of_xdist_is_told_of_groups@told")
