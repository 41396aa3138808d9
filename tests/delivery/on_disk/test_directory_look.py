"""What one look around a log directory sees, and what it leaves unread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventrec.delivery import directory_look
from eventrec.delivery.directory_look import DirectoryLook
from eventrec.delivery.orphans.locks import OrphanLocks
from eventrec.runs.directory import LogDirectory
from eventrec.runs.requests import REQUESTS, OperatorRequest, read_requests, save_request
from eventrec.runs.run import Run, new_run_id

OLD = 1_000_000_000.5


@pytest.fixture
def directory(tmp_path: Path) -> LogDirectory:
    return LogDirectory(tmp_path)


@pytest.fixture
def look(directory: LogDirectory) -> DirectoryLook:
    return DirectoryLook(directory, OrphanLocks(directory, threading.Lock()))


@pytest.fixture
def run(directory: LogDirectory) -> Iterator[Run]:
    run = Run.create(directory, new_run_id())
    yield run
    run.release()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether everything could be read, for each time that requests were."""
    noted: list[bool] = []

    def read(directory: os.PathLike[str]) -> tuple[list[OperatorRequest], dict[str, str]]:
        found, unreadable = read_requests(directory)
        noted.append(not unreadable)
        return found, unreadable

    monkeypatch.setattr(directory_look, "read_requests", read)
    return noted


def ask(directory: LogDirectory, name: str, *, changed: float = OLD) -> OperatorRequest:
    request = OperatorRequest(subscription=name, asked=time.time())
    save_request(directory, request)
    os.utime(directory.path / REQUESTS, (changed, changed))
    return request


def test_requests_are_read_again_only_once_their_folder_has_changed(
    directory: LogDirectory, look: DirectoryLook, reads: list[bool]
) -> None:
    assert look.look([]).requests == []
    first = ask(directory, "a")
    assert look.look([]).requests == [first]
    assert look.look([]).requests == []
    assert len(reads) == 2

    second = ask(directory, "b", changed=OLD + 1)

    assert look.look([]).requests == [first, second]


def test_a_request_left_in_the_instant_of_a_look_is_seen(directory: LogDirectory, look: DirectoryLook) -> None:
    now = time.time()
    ask(directory, "a", changed=now)
    look.look([])

    second = ask(directory, "b", changed=now)

    assert second in look.look([]).requests


@pytest.mark.parametrize("name", ["a.json", REQUESTS])
def test_requests_that_cannot_be_read_are_read_again(
    directory: LogDirectory, look: DirectoryLook, reads: list[bool], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    request = ask(directory, "a")
    real = os.open

    def refuse(path: str, *args: object, **options: object) -> int:
        if Path(path).name == name:
            raise OSError(24, "Too many open files")
        return real(path, *args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as refusing:
        refusing.setattr(os, "open", refuse)
        assert look.look([]).requests == []

    assert look.look([]).requests == [request]
    assert reads == [False, True]


def test_requests_that_cannot_be_read_are_said_once_and_again_where_they_could_be_in_between(
    directory: LogDirectory, look: DirectoryLook, caplog: pytest.LogCaptureFixture
) -> None:
    request = ask(directory, "a")
    file = directory.path / REQUESTS / "a.json"
    whole = file.read_bytes()
    said: list[int] = []

    for content in (b"damaged", b"damaged", whole, b"damaged"):
        file.write_bytes(content)
        os.utime(file.parent, (OLD + len(said), OLD + len(said)))
        assert look.look([]).requests == ([request] if content == whole else [])
        said.append(caplog.text.count("requests unreadable"))

    assert said == [1, 1, 1, 2]


def test_a_log_that_is_held_is_told_from_one_that_is_free_or_gone_and_no_lock_is_kept(
    directory: LogDirectory, look: DirectoryLook, run: Run
) -> None:
    free = Run.create(directory, new_run_id())
    free.release()

    assert look.look([run.id, free.id, new_run_id()]).held == [run.id]

    adopted = Run.try_adopt(directory, free.id)
    assert isinstance(adopted, Run)
    adopted.release()


def test_a_directory_that_is_gone_has_nothing(tmp_path: Path) -> None:
    directory = LogDirectory(tmp_path / "none")
    look = DirectoryLook(directory, OrphanLocks(directory, threading.Lock()))

    assert look.look([new_run_id()]) == (0.0, [], [])
