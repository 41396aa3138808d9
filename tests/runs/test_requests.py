"""Requests that are left while a process that delivers sweeps the folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from eventrec.runs.files import replace
from eventrec.runs.requests import (
    REQUESTS,
    OperatorRequest,
    is_asked_since,
    load_requests,
    read_requests,
    save_request,
    sweep_requests,
)


def test_a_folder_that_is_swept_before_the_request_is_in_it_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [OperatorRequest(subscription="a", asked=time.time())]

    def sweep_first(*args: Any, **options: Any) -> None:
        monkeypatch.setattr("eventrec.runs.requests.replace", replace)
        sweep_requests(tmp_path)
        assert not (tmp_path / REQUESTS).exists()
        replace(*args, **options)

    monkeypatch.setattr("eventrec.runs.requests.replace", sweep_first)
    save_request(tmp_path, given[0])

    assert load_requests(tmp_path, since=0.0) == given


def test_where_the_directory_goes_that_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "log"
    directory.mkdir()

    def delete_all(*_: object) -> None:
        (directory / REQUESTS).rmdir()
        directory.rmdir()
        raise FileNotFoundError

    monkeypatch.setattr("eventrec.runs.requests.replace", delete_all)
    with pytest.raises(FileNotFoundError):
        save_request(directory, OperatorRequest(subscription="a", asked=time.time()))


@pytest.mark.parametrize(
    ("asked", "saved", "is_since"),
    [(2.0, 1.0, True), (1.0, 2.0, False), (1.0, 1.0, False), (2.0, 86_400.0, True)],
    ids=["after", "before", "at once", "saved by a clock that was ahead"],
)
def test_request_is_for_what_was_saved_before_it(*, asked: float, saved: float, is_since: bool) -> None:
    request = OperatorRequest(subscription="s", asked=asked)

    assert is_asked_since(request, saved, now=3.0) is is_since


def test_what_is_damaged_gives_way_to_the_next_request_and_what_is_not_a_request_is_no_trouble(tmp_path: Path) -> None:
    save_request(tmp_path, OperatorRequest(subscription="a", asked=5.0))
    (file,) = (tmp_path / REQUESTS).iterdir()
    file.write_bytes(b"damaged")
    (tmp_path / REQUESTS / "README").write_bytes(b"of an operator")

    save_request(tmp_path, asked := OperatorRequest(subscription="a", asked=6.0))

    assert read_requests(tmp_path) == ([asked], {})
    assert (tmp_path / REQUESTS / "README").read_bytes() == b"of an operator"


def test_a_stray_file_is_named_in_text_that_can_be_encoded(tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9" / REQUESTS
    folder.mkdir(parents=True)
    (folder / "\udcff.json").write_bytes(b"of an operator")

    assert list(read_requests(folder.parent)[1]) == [rf"{tmp_path}/caf\udce9/requests/\udcff.json"]
