"""The forms of an answer: values that JSON, CSV and Arrow cannot all say."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import pyarrow as pa
import pytest

from eventrec.analytics import Answer, AnswerColumn, Bucket
from eventrec.server.reading.answering import body_of

COLUMNS = (
    AnswerColumn("hour", "timestamp", "bucket"),
    AnswerColumn("name, said", "text", "group"),
    AnswerColumn("paid", "boolean", "group"),
    AnswerColumn("total", "integer", "measure"),
    AnswerColumn("mean", "float", "measure"),
    AnswerColumn("latest", "timestamp", "measure"),
)


def written(form: Any, *rows: tuple[Any, ...], zone: str = "UTC", is_raw: bool = False) -> bytes:
    answer = Answer("r", COLUMNS, rows, 5, 0, None, ("so",))
    return body_of(answer, form, bucket=Bucket("hour"), zone=zone, cursor=None, is_raw=is_raw)


@pytest.mark.parametrize("total", [2**63 - 1, 2**63, 10**30, -(2**63), -(2**63) - 1, 0, None])
def test_numbers_of_any_size_are_exact_in_json_and_csv(total: int | None) -> None:
    row = (0, "a", True, total, 0.5, None)

    assert json.loads(written("json", row))["rows"][0][3] == total
    assert list(csv.reader(io.StringIO(written("csv", row).decode())))[1][3] == ("" if total is None else str(total))
    (found,) = pa.ipc.open_stream(written("arrow", row)).read_all().column("total").to_pylist()
    assert found == (total if total is None or abs(total) < 2**63 else pytest.approx(float(total)))


@pytest.mark.parametrize(
    "text", ["", " ", "a,b", 'say "so"', "two\r\nlines", "\ud800", "=1", "+1", "-1", "@a", "\tb", "ü"]
)
def test_texts_are_what_they_were(text: str) -> None:
    row = (0, text, None, 1, math.pi, 1_500_000_000)
    wanted = text.encode(errors="replace").decode()

    assert json.loads(written("json", row))["rows"][0][1:] == [wanted, None, 1, math.pi, "1970-01-01T00:00:01.500000Z"]
    reader = csv.reader(io.StringIO(written("csv", row, is_raw=True).decode(), newline=""), strict=True)
    assert list(reader) == [
        [column.name for column in COLUMNS],
        ["1970-01-01T00:00:00Z", wanted, "", "1", str(math.pi), "1970-01-01T00:00:01.500000Z"],
    ]
    safe = written("csv", row).decode().partition("\r\n")[2]
    assert ("'" in safe) is text.startswith(("=", "+", "-", "@", "\t"))
    assert pa.ipc.open_stream(written("arrow", row)).read_all().column("name, said").to_pylist() == [wanted]


def test_null_is_not_an_empty_text_in_csv() -> None:
    lines = written("csv", (0, None, False, 1, None, None), (0, "", True, 1, None, None)).split(b"\r\n")

    assert lines[0] == b'hour,"name, said",paid,total,mean,latest'
    assert lines[1:] == [b"1970-01-01T00:00:00Z,,false,1,,", b'1970-01-01T00:00:00Z,"",true,1,,', b""]


def test_what_is_not_a_number_is_null_in_json() -> None:
    assert json.loads(written("json", (0, "a", True, 1, math.nan, None)))["rows"][0][4] is None


def test_moments_before_zones_had_whole_minutes_are_in_utc() -> None:
    found = json.loads(written("json", (-(10**19) // 2, "a", True, 1, 1.0, None), zone="Europe/Amsterdam"))

    assert found["rows"][0][0].endswith("+00:00")
