from __future__ import annotations

import pytest

from eventrec.ingest.names import _is_short_name, is_name, uuid_in


def test_uuid_is_one_in_its_usual_form() -> None:
    assert uuid_in("0195F9B5-6f0e-4d6b-9d1a-3c1d6a1f0b7e") == bytes.fromhex("0195f9b56f0e4d6b9d1a3c1d6a1f0b7e")
    assert uuid_in("{0195f9b5-6f0e-4d6b-9d1a-3c1d6a1f0b7e}") is uuid_in("0195f9b56f0e4d6b9d1a3c1d6a1f0b7e") is None


@pytest.mark.parametrize("text", ["a", "x" * 255, "ü" * 127, "order placed"])
def test_name_is_of_1_to_255_bytes(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize("text", ["", "x" * 256, "ü" * 128, "a\0b", "\ud800"])
def test_what_is_empty_long_or_not_text_is_not_a_name(text: str) -> None:
    assert not is_name(text)


def test_long_text_is_not_remembered() -> None:
    before = _is_short_name.cache_info().currsize

    assert not is_name("not a name " * 1_000)

    assert _is_short_name.cache_info().currsize == before
