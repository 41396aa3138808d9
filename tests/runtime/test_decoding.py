"""Decoders that any thread may make."""

from __future__ import annotations

import msgspec
import pytest

from eventrec.runtime import decoding
from eventrec.runtime.decoding import decodable, decoder_of


@decodable
class Pair(msgspec.Struct):
    left: int
    right: int = 2


def test_a_decoder_decodes_its_class() -> None:
    assert decoder_of(Pair).decode(b'{"left":1}') == Pair(1, 2)


def test_a_lock_that_a_fork_left_held_is_not_waited_for_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_PATIENCE", 0.01)
    with decoding._making:
        assert decoder_of(Pair).decode(b'{"left":1}') == Pair(1, 2)
        assert decoding._making.locked()
    assert not decoding._making.locked()
