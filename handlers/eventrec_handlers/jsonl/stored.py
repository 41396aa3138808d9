"""What a directory of JSON Lines holds: a directory for each log and subscription, files in order, lines as events.

What this handler does not make is passed over, links too: folders with other names than it gives, say, or a copy of one
under another name, whose sidecar tells which subscription it is of.
"""

from __future__ import annotations

import errno
import json
import os
import re
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

import msgspec

from eventrec import PauseError, StoredEvent, safe_name
from eventrec_handlers._descriptors import open_descriptor
from eventrec_handlers.jsonl.folder import Folder, read_at
from eventrec_handlers.jsonl.sidecar import SIDECAR, UnreadableError, decoded, file_order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from eventrec_handlers.jsonl.sidecar import Next

MAX_LINE: Final = 64 << 20
"""A longer line is not one of ours."""

_BLOCK: Final = 256 << 10
_MAX_SIDECAR: Final = 64 << 10

_SAFE_NAME: Final = re.compile(r"(?:[A-Za-z0-9_~-]|%[0-9A-F]{2})+|[A-Za-z0-9_~%-]{50}[0-9a-f]{32}")
"""What `safe_name` gives: of a long name the beginning, which may end within an escape, and a digest."""


class File(NamedTuple):
    """A file of a place, and how many of its bytes count. Files sort as they were written."""

    order: tuple[int, int]
    name: str
    length: int


class Line(NamedTuple):
    """A line of a file: where it begins, where the next one does, and what it holds; None: it is too long."""

    begin: int
    end: int
    content: bytes | None


class StoredDirectory:
    """The directory of one log and subscription, open for reading.

    Attributes:
        name: Where it stands in the handler's directory: `<log id>/<name>`.
        folder: It.
        faults: Why what stands there is not what should.
    """

    def __init__(self, name: str, folder: Folder) -> None:
        self.name = name
        self.folder = folder
        self.faults: list[str] = []

    def files(self) -> list[File]:
        """Its files in the order in which they were written, with the bytes that count: those that were delivered.

        None of a folder that was made for another subscription.
        """
        stands = self._stands()
        if stands is not None and safe_name(stands.subscription) != self.name.rpartition("/")[2]:
            self.faults.append(f"{self.name} is a folder of subscription {stands.subscription!r} under another name")
            return []
        current, length = (None, 0) if stands is None else (stands.file, stands.length)
        last = None if current is None else file_order(current)
        found = []
        for name in self.folder.names():
            order = file_order(name)
            if order is None or (last is not None and order > last):  # begun since the sidecar was read
                continue
            try:
                with self.folder.file(name) as descriptor:
                    size = os.fstat(descriptor).st_size
            except OSError as exc:
                self.faults.append(f"{self.name}/{name}: {exc.strerror}")
                continue
            found.append(File(order, name, min(size, length) if name == current else size))
        return sorted(found)

    @contextmanager
    def opened(self, file: File) -> Iterator[int]:
        """The descriptor of `file`; of an empty one where it has been taken away since."""
        with ExitStack() as stack:
            try:
                descriptor = stack.enter_context(self.folder.file(file.name))
            except FileNotFoundError:
                descriptor = open_descriptor(os.devnull, os.O_RDONLY)
                stack.callback(os.close, descriptor)
            yield descriptor

    def _stands(self) -> Next | None:
        """What its sidecar says; None: there is none, or it cannot be read."""
        try:
            with self.folder.file(SIDECAR) as descriptor:
                return decoded(os.read(descriptor, _MAX_SIDECAR))
        except FileNotFoundError:
            return None
        except (OSError, UnreadableError) as exc:
            self.faults.append(f"{self.name}/{SIDECAR} cannot be read: {exc}")
            return None


def stored_directories(path: Path, *, is_awaited: bool = False) -> Iterator[StoredDirectory]:
    """Those in the directory `path`, by name; each is open until the next is asked for.

    Raises:
        PauseError: There is no such directory; with `is_awaited` it holds none.
        OSError: It cannot be read.
    """
    try:
        with Folder.opened(path) as top:
            for log in filter(_is_log_id, top.names()):
                with _others_passed_over(), top.folder(log) as middle:
                    for name in filter(_SAFE_NAME.fullmatch, middle.names()):
                        with _others_passed_over(), middle.folder(name) as bottom:
                            yield StoredDirectory(f"{log}/{name}", bottom)
    except FileNotFoundError as exc:
        if not is_awaited:
            raise PauseError(f"{path}: there is no such directory") from exc


@contextmanager
def _others_passed_over() -> Iterator[None]:
    """Pass over what is gone, a link, or not a folder."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _OTHERS:
            raise


_OTHERS: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def _is_log_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


# -- lines ------------------------------------------------------------------------------------------------------------


def lines(descriptor: int, begin: int, end: int) -> Iterator[Line]:
    """The whole lines between two bytes of a file, of which the first begins a line."""
    held, at = b"", begin
    is_long = False
    while at + len(held) < end:
        block = read_at(descriptor, min(max(_BLOCK, len(held)), end - at - len(held)), at + len(held))
        if not block:
            return  # it was cut meanwhile
        *whole, held = (held + block).split(b"\n")
        for content in whole:
            after = at + len(content) + 1
            yield Line(at, after, None if is_long else content)
            at, is_long = after, False
        if len(held) > MAX_LINE:
            at, held, is_long = at + len(held), b"", True


def lines_backwards(descriptor: int, end: int) -> Iterator[Line]:
    """The whole lines before the byte `end` of a file, the last one first; none from where one is too long."""
    held, begin = b"", end
    while begin > 0 and len(held) <= MAX_LINE:
        size = min(max(_BLOCK, len(held)), begin)
        begin -= size
        held = read_at(descriptor, size, begin) + held
        *whole, tail = held.split(b"\n")
        if not whole:
            continue
        end -= len(tail)  # which lacks its line break
        for content in reversed(whole[1:]):
            yield Line(end - len(content) - 1, end, content)
            end -= len(content) + 1
        held = whole[0] + b"\n"
    if begin == 0 and held.endswith(b"\n"):
        yield Line(0, end, held[:-1])


class _Line(msgspec.Struct, frozen=True):
    """A line as `_lines.py` writes it."""

    id: str
    type: str
    timestamp: int
    table: str
    payload: msgspec.Raw
    context: msgspec.Raw = msgspec.Raw()
    columns: dict[str, Any] = {}


_decode: Final = msgspec.json.Decoder(_Line).decode


def event_of(line: Line) -> StoredEvent | None:
    """The event that a line says; None: another program wrote it."""
    if line.content is None:
        return None
    for decode in (_decode, _decode_leniently):
        with suppress(Exception):  # whatever a decoder makes of odd bytes: ValueError, RecursionError, OverflowError
            return _event(decode(line.content))
    return None


def _decode_leniently(content: bytes) -> _Line:
    """A line with half of a surrogate pair, escaped: JSON, which the fast decoder refuses. Spaces are not kept."""
    line: dict[str, Any] = json.loads(content)
    raw: dict[str, Any] = {
        name: msgspec.Raw(json.dumps(line[name]).encode()) for name in ("payload", "context") if name in line
    }
    return msgspec.convert({**line, **raw}, _Line)


def _event(said: _Line) -> StoredEvent:
    payload, context = str(said.payload, "utf-8"), str(said.context, "utf-8")
    return StoredEvent(said.table, said.id, said.type, said.timestamp, payload, context or None, said.columns)
