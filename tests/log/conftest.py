"""What the tests of the log share: a storage that can fail, and files made without the code under test."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import google_crc32c
import pytest

from eventrec.testing.storage import FaultyStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HEADER = {0: bytes.fromhex("286473295e3200000000"), 1: bytes.fromhex("286473295e3201000000")}


@pytest.fixture
def storage() -> FaultyStorage:
    return FaultyStorage()


@pytest.fixture
def foreign_commit() -> Callable[..., bytes]:
    """An encoder of commits of its own."""

    def encode(offset: int, content: bytes, n: int = 1, *, epoch: int = 0, version: int = 1) -> bytes:
        middle = struct.pack("<Q", epoch) if version else b""
        body = struct.pack("<Q", offset) + middle + struct.pack("<HI", n, len(content)) + content
        return body + struct.pack("<I", google_crc32c.value(body))

    return encode


@pytest.fixture
def foreign_segment(foreign_commit: Callable[..., bytes]) -> Callable[..., bytes]:
    """A segment of one commit per content, made by that encoder."""

    def encode(contents: Sequence[bytes], first: int = 0, *, version: int = 1) -> bytes:
        commits = [foreign_commit(first + i, content, version=version) for i, content in enumerate(contents)]
        return HEADER[version] + b"".join(commits)

    return encode
