"""A process that runs a relay or a producer on Redis forks: its children touch neither sockets nor leases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

pytestmark = [pytest.mark.handlers, pytest.mark.anyio]

FORKING = Path(__file__).with_name("forking_relay.py")


@pytest.fixture
def anyio_backend() -> str:
    """The process that forks is another one."""
    return "asyncio"


async def test_children_neither_renew_a_lease_nor_send_and_the_parent_goes_on(place: Any, tmp_path: Path) -> None:
    command = [sys.executable, str(FORKING), place.url(), str(tmp_path)]
    done = await to_thread.run_sync(
        lambda: subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    )

    assert done.stdout == "100 True 0 serving\n", done.stderr
    assert await place.do("HLEN", place.keys.lease("tested")) == 0  # given back once, by the parent
