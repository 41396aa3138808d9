"""Texts that UTF-8 cannot hold, as file names are that it does not encode."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventrec.runtime.texts import encodable, encoded_json


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    parts: tuple[Any, ...] = ()
    is_first: bool = msgspec.field(default=True, name="first")


@pytest.mark.parametrize(
    ("text", "said"), [("caf\udce9", "caf\\udce9"), ("café 😀\x00", "café 😀\x00"), ("\ud83d\ude00", "\\ud83d\\ude00")]
)
def test_lone_surrogates_are_written_out(text: str, said: str) -> None:
    assert encodable(text) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Part("a"), b'{"name":"a"}'),
        (Part("\udcff"), b'{"name":"\\\\udcff"}'),
        (
            {"\udcff": [Part("b", ("\udcff", 1, None), is_first=False), msgspec.Raw(b"[1]")]},
            b'{"\\\\udcff":[{"name":"b","parts":["\\\\udcff",1,null],"first":false},[1]]}',
        ),
        ({"a": {"\udcff"}, "b": 1.5}, b'{"a":["\\\\udcff"],"b":1.5}'),
    ],
)
def test_json_is_made_of_any_text(value: Any, said: bytes) -> None:
    assert encoded_json(value) == said


def test_what_is_not_json_is_refused_all_the_same() -> None:
    with pytest.raises(TypeError):
        encoded_json(["\udcff", object()])
