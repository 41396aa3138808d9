from __future__ import annotations

import pytest

from eventrec.usage.hashing import hashed


@pytest.mark.parametrize(
    ("value", "digest"),
    [
        ("rerun.io", "3d0563e28c9991e522fee0dab0ea1d7dcc1b446eccc76c1e6e70a8e74f8e7cb1"),
        (True, "d420305186f55789d751a1b2b6b068b5c000e4711d5a2427f26300e3c8e64100"),
        (42, "aaed55bf731d7e6867c5cfb52f0efb7f96182b1ddd3f8410d583539ec3f77841"),
        (1.5, "26fd0ea5c86987d8df549180c712a8f6865e8232a8cc76185678e72dcc297b55"),
    ],
)
def test_hash_is_that_of_reruns_analytics(value: float | str, digest: str) -> None:
    assert hashed(value) == digest


def test_application_with_a_salt_of_its_own_has_hashes_of_its_own() -> None:
    assert hashed("rerun.io", salt="mine") != hashed("rerun.io")
    assert hashed("rerun.io", salt=b"mine") == hashed("rerun.io", salt="mine")
