from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from eventrec import EventHandler, ReceivedEvent
from eventrec.testing.conformance import Capability, Delivered, HandlerConformance, HandlerHarness
from eventrec_handlers.jsonl import JsonlHandler
from eventrec_handlers.jsonl.disk import Disk

pytestmark = pytest.mark.handlers


class FailingDisk(Disk):
    """Fails in all it does while `is_failing`; `answers_to_lose`: replaces a file, then fails."""

    def __init__(self) -> None:
        super().__init__(sync=False)  # a test does not cut the power
        self.is_failing = False
        self.answers_to_lose = 0

    def _reach(self) -> None:
        if self.is_failing:
            raise OSError(errno.EIO, "staged: Input/output error")

    def read(self, path: Path) -> bytes | None:
        self._reach()
        return super().read(path)

    def make_directory(self, path: Path) -> None:
        self._reach()
        super().make_directory(path)

    def write(self, path: Path, at: int, content: bytes) -> None:
        self._reach()
        super().write(path, at, content)
        self._reach()

    def replace(self, path: Path, content: bytes) -> None:
        self._reach()
        super().replace(path, content)
        if self.answers_to_lose:
            self.answers_to_lose -= 1
            raise OSError(errno.EIO, "staged: Input/output error")

    @contextmanager
    def locked(self, path: Path, *, seconds: float) -> Iterator[None]:
        self._reach()
        with super().locked(path, seconds=seconds):
            yield


class JsonlHarness(HandlerHarness):
    """A directory, on a disk that can fail. Small files, so that every claim meets a rotation."""

    lacks: ClassVar[Mapping[Capability, str]] = {
        "late_commit": "a file is written in the handler's own process: nothing is under way once `handle` has failed",
        "too_large": "a file takes a batch of any size",
    }

    def __init__(self, directory: Path) -> None:
        self.path = directory / "lines"
        self.away = directory / "away"
        self.copies = directory / "copies"
        self.disk = FailingDisk()

    def handler(self) -> EventHandler:
        return JsonlHandler(self.path, rotate_bytes=2_000, _disk=self.disk)

    async def delivered(self) -> Sequence[Delivered]:
        found: list[Delivered] = []
        root = self.away if self.away.exists() else self.path
        for sidecar in sorted(root.rglob("next")):
            stands = json.loads(sidecar.read_bytes())
            for file in sorted(sidecar.parent.glob("*.jsonl")):
                content = file.read_bytes()
                found += _lines(content[: stands["length"]] if file.name == stands["file"] else content)
        return found

    async def disconnect(self) -> None:
        self.disk.is_failing = True

    async def reconnect(self) -> None:
        self.disk.is_failing = False

    def poison(self) -> ReceivedEvent:
        return ReceivedEvent("poison", b'{"no": JSON}')

    async def forbid(self) -> None:
        if self.path.exists():
            self.path.rename(self.away)
        self.path.write_text("a file where the directory was")

    async def permit(self) -> None:
        self.path.unlink()
        if self.away.exists():
            self.away.rename(self.path)

    async def lose_answer(self, *, late: float = 0.0) -> None:
        self.disk.answers_to_lose += 1

    async def backup(self) -> object:
        return shutil.copytree(self.path, self.copies)

    async def restore(self, backup: Path) -> None:
        shutil.rmtree(self.path)
        shutil.copytree(backup, self.path)

    async def replace(self) -> None:
        shutil.rmtree(self.path)


def _lines(content: bytes) -> list[Delivered]:
    found = []
    for line in content.splitlines():
        row = json.loads(line)
        payload = line.split(b'"payload":', 1)[1]
        payload = payload.split(b',"columns":', 1)[0] if "columns" in row else payload[:-1]
        columns = row.get("columns", {})
        found.append(Delivered(row["id"], row["type"], row["timestamp"], payload, row["table"], columns))
    return found


class TestJsonlHandler(HandlerConformance):
    @pytest.fixture
    def harness(self, tmp_path: Path) -> HandlerHarness:
        return JsonlHarness(tmp_path)
