"""Delivery is tested on virtual time, on both backends: back-offs of hours pass in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from eventrec.testing import virtual_backends


@pytest.fixture(params=virtual_backends(), ids=lambda backend: backend[0])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, Mapping[str, Any]]:
    backend: tuple[str, Mapping[str, Any]] = request.param
    return backend
