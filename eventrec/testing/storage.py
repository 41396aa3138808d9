"""Storage for tests: one that lives in memory, and one that fails on demand and can lose power at any instant.

The power cut is the one of the ALICE paper (Pillai et al., OSDI 2014): of what was not synced, any part may have
reached the disk, in any order: single sectors of a write, the new length without the bytes, a rename before the
content of the file renamed, a deletion before an earlier one. What was synced is there, a name only after
`sync_directory`.

The failed sync is that of ext4 and xfs (Rebello et al., USENIX ATC 2020): some of the bytes reached the disk, all of
them stay in the page cache and count as written, so that later syncs pass over them. A kill alone loses none of them;
memory pressure or a power cut does, unless the log writes them again. A directory whose sync failed is as unsynced
as before: there the journal has ended, and nothing succeeds until the file system is mounted again.
"""

from __future__ import annotations

import copy
import errno
import itertools
import os
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

from eventrec.errors import LogLockedError
from eventrec.log.storage import FileSize

SECTOR: Final = 512


@dataclass(eq=False)
class _Node:
    """A file, apart from its names: what programs see, what is on the disk, and what has not got there yet."""

    seen: bytearray = field(default_factory=bytearray)
    disk: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes | None]] = field(default_factory=list)
    number: int = field(default_factory=itertools.count().__next__)


class MemoryStorage:
    """A directory in memory. Nothing fails, and everything is synced at once."""

    def __init__(self) -> None:
        self._names: dict[str, _Node] = {}
        self._locks: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self._names)} files>"

    def list(self) -> list[str]:
        """See `Storage`."""
        return list(self._names)

    def open(self, name: str, mode: Literal["read", "write", "create"]) -> MemoryFile:
        """See `Storage`."""
        if mode == "create":
            if name in self._names:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            self._link(name, _Node())
        return MemoryFile(self, name, self._node(name))

    def delete(self, name: str) -> None:
        """See `Storage`."""
        self._node(name)
        self._link(name, None)

    def replace(self, source: str, target: str) -> None:
        """See `Storage`."""
        node = self._node(source)
        self._names[target] = node
        del self._names[source]

    def size(self, name: str) -> FileSize:
        """See `Storage`."""
        node = self._node(name)
        length = len(node.seen)
        return FileSize(length, -(-length // SECTOR) * SECTOR, identity=(0, node.number))

    def sync_directory(self) -> None:
        """See `Storage`."""

    def lock(self, name: str, *, shared: bool = False) -> MemoryLock:
        """See `Storage`. It is held as long as the object returned."""
        held = self._locks.get(name, 0)
        if held < 0 or (held > 0 and not shared):
            raise LogLockedError(f"{name} is locked")
        self._locks[name] = held + 1 if shared else -1
        return MemoryLock(self._locks, name)

    def close(self) -> None:
        """See `Storage`."""

    def _node(self, name: str) -> _Node:
        try:
            return self._names[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None

    def _link(self, name: str, node: _Node | None) -> None:
        if node is None:
            del self._names[name]
        else:
            self._names[name] = node

    def read(self, name: str) -> bytes:
        """The content of a file: for tests."""
        return bytes(self._node(name).seen)

    def put(self, name: str, content: bytes) -> None:
        """Make a file, or replace its content, synced: for tests."""
        self._names[name] = _Node(bytearray(content), bytearray(content))

    # What files ask of their storage; the storage that fails overrides these.

    def _read(self, node: _Node, name: str, position: int, size: int) -> bytes:  # noqa: ARG002
        return bytes(node.seen[position : position + size])

    def _write(self, node: _Node, name: str, position: int, piece: bytes) -> int:  # noqa: ARG002
        _put(node.seen, position, piece)
        return len(piece)

    def _truncate(self, node: _Node, name: str, size: int) -> None:  # noqa: ARG002
        _cut(node.seen, size)

    def _sync(self, node: _Node, name: str) -> None:
        """Nothing to do: what is in memory stays there."""


class MemoryFile:
    """A file of a `MemoryStorage`, which goes on being readable when its name is gone."""

    def __init__(self, storage: MemoryStorage, name: str, node: _Node) -> None:
        self._storage, self._name, self._node = storage, name, node

    def read(self, position: int, size: int) -> bytes:
        """See `File`."""
        return self._storage._read(self._node, self._name, position, size)  # noqa: SLF001  one thing in two classes

    def write(self, piece: bytes, position: int) -> int:
        """See `File`."""
        return self._storage._write(self._node, self._name, position, piece)  # noqa: SLF001

    def size(self) -> int:
        """See `File`."""
        return len(self._node.seen)

    def data_from(self, position: int) -> int:
        """See `File`: it has no holes."""
        return position

    def truncate(self, size: int) -> None:
        """See `File`."""
        self._storage._truncate(self._node, self._name, size)  # noqa: SLF001

    def sync(self) -> None:
        """See `File`."""
        self._storage._sync(self._node, self._name)  # noqa: SLF001

    def close(self) -> None:
        """See `File`."""


class MemoryLock:
    """A lock of a `MemoryStorage`."""

    def __init__(self, locks: dict[str, int], name: str) -> None:
        self._locks, self._name = locks, name

    def release(self, *, delete: bool = False) -> None:  # noqa: ARG002  there is no file
        """See `Lock`."""
        held = self._locks.pop(self._name, 0)
        if held > 1:
            self._locks[self._name] = held - 1

    def forget(self) -> None:
        """See `Lock`: the parent still holds it."""


@dataclass
class _Fault:
    operation: str
    error: int
    after: int
    times: int
    name: str


class FaultyStorage(MemoryStorage):
    """A `MemoryStorage` that does what disks do.

    Args:
        seed: Of the choices a power cut or a failed sync makes.
        capacity: Bytes in files before the disk is full; a write that does not fit is cut short first. None: no bound.
        max_per_write: Bytes a single write takes at most. None: no bound.
        max_file_bytes: Bytes a file may have, as by a limit of the process. None: no bound.

    Attributes:
        wreck: What `cut_power_in` or `kill_in` left.
        calls: (operation, name) in order, operation one of open, create, delete, replace, list, size, read, write,
            truncate, sync, sync_directory.
        bytes_read: In all.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        capacity: int | None = None,
        max_per_write: int | None = None,
        max_file_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self.capacity = capacity
        self.max_per_write = max_per_write
        self.max_file_bytes = max_file_bytes
        self.calls: list[tuple[str, str]] = []
        self.bytes_read = 0
        self.wreck: FaultyStorage | None = None
        self._cut_in = -1
        self._keep: float | None = None
        self._random = random.Random(seed)  # noqa: S311  chosen by the seed, so that it can be repeated
        self._faults: list[_Fault] = []
        self._disk_names: dict[str, _Node] = {}
        # Each entry is done wholly or not at all: names and what they then stand for.
        self._unsynced_names: list[tuple[tuple[str, _Node | None], ...]] = []

    @property
    def counts(self) -> Counter[str]:
        """How often each operation was called."""
        return Counter(operation for operation, _ in self.calls)

    def fail(self, operation: str, error: int = errno.EIO, *, after: int = 0, times: int = 1, name: str = "") -> None:
        """Have `operation` on files with `name` in their name fail `times` times, after going well `after` times."""
        self._faults.append(_Fault(operation, error, after, times, name))

    def heal(self) -> None:
        """Let nothing fail any more, and have room."""
        self._faults.clear()
        self.capacity = None
        self.max_per_write = None
        self.max_file_bytes = None

    def cut_power_in(self, calls: int, *, keep: float = 0.5) -> None:
        """Before the call after the next `calls` ones, leave in `wreck` what a power cut then would; and go on."""
        self.wreck = None
        self._cut_in = calls
        self._keep = keep

    def kill_in(self, calls: int) -> None:
        """Before the call after the next `calls` ones, leave in `wreck` what a kill then would; and go on."""
        self.wreck = None
        self._cut_in = calls
        self._keep = None

    def evict(self) -> None:
        """Drop what the page cache thinks is clean: it is read from the disk again."""
        for node in self._names.values():
            node.seen[:] = node.disk
            for position, piece in node.unsynced:
                _apply(node.seen, position, piece)

    def crash(self, *, keep: float = 0.5) -> FaultyStorage:
        """What is on the disk after a power cut now. Each unsynced thing is there with probability `keep`."""
        after = FaultyStorage(self._random.randrange(1 << 30))
        names = dict(self._disk_names)
        for change in self._unsynced_names:
            if self._random.random() < keep:
                _rename(names, change)
        contents = {id(node): self._torn(node, keep) for node in names.values()}
        for name, node in names.items():
            after.put(name, contents[id(node)])
        return after

    def kill(self) -> FaultyStorage:
        """What a process that is killed now leaves to the next: the page cache, a disk as bad as it was, no lock."""
        after = FaultyStorage(
            self._random.randrange(1 << 30),
            capacity=self.capacity,
            max_per_write=self.max_per_write,
            max_file_bytes=self.max_file_bytes,
        )
        after._names, after._disk_names, after._unsynced_names, after._faults = copy.deepcopy(
            (self._names, self._disk_names, self._unsynced_names, self._faults)
        )
        return after

    def put(self, name: str, content: bytes) -> None:
        """See `MemoryStorage`."""
        super().put(name, content)
        self._disk_names[name] = self._names[name]

    def list(self) -> list[str]:
        """See `Storage`."""
        self._call("list", "")
        return super().list()

    def open(self, name: str, mode: Literal["read", "write", "create"]) -> MemoryFile:
        """See `Storage`."""
        self._call("create" if mode == "create" else "open", name)
        return super().open(name, mode)

    def delete(self, name: str) -> None:
        """See `Storage`."""
        self._node(name)
        self._call("delete", name)
        super().delete(name)

    def replace(self, source: str, target: str) -> None:
        """See `Storage`."""
        self._call("replace", target)
        super().replace(source, target)
        self._unsynced_names.append(((source, None), (target, self._names[target])))

    def size(self, name: str) -> FileSize:
        """See `Storage`."""
        self._call("size", name)
        return super().size(name)

    def sync_directory(self) -> None:
        """See `Storage`."""
        self._call("sync_directory", "")
        self._unsynced_names.clear()
        self._disk_names = dict(self._names)

    def _link(self, name: str, node: _Node | None) -> None:
        super()._link(name, node)
        self._unsynced_names.append(((name, node),))

    def _call(self, operation: str, name: str) -> None:
        if self._cut_in == 0:
            self.wreck = self.kill() if self._keep is None else self.crash(keep=self._keep)
        self._cut_in -= 1
        self.calls.append((operation, name))
        for fault in self._faults:
            if fault.operation == operation and fault.name in name:
                if fault.after:
                    fault.after -= 1
                elif fault.times:
                    fault.times -= 1
                    raise OSError(fault.error, os.strerror(fault.error), name)

    def _read(self, node: _Node, name: str, position: int, size: int) -> bytes:
        self._call("read", name)
        piece = super()._read(node, name, position, size)
        self.bytes_read += len(piece)
        return piece

    def _write(self, node: _Node, name: str, position: int, piece: bytes) -> int:
        self._call("write", name)
        if self.max_per_write is not None:
            piece = piece[: self.max_per_write]
        if self.max_file_bytes is not None:
            room = max(0, self.max_file_bytes - position)
            if not room and piece:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
            piece = piece[:room]
        if self.capacity is not None:
            used = sum(len(other.seen) for other in self._names.values())
            room = max(0, self.capacity - used) + max(0, len(node.seen) - position)
            if not room and piece:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            piece = piece[:room]
        node.unsynced.append((position, piece))
        return super()._write(node, name, position, piece)

    def _truncate(self, node: _Node, name: str, size: int) -> None:
        self._call("truncate", name)
        node.unsynced.append((size, None))
        super()._truncate(node, name, size)

    def _sync(self, node: _Node, name: str) -> None:
        try:
            self._call("sync", name)
        except OSError:
            # The kernel takes the bytes for written from now on, whichever of them are: no later sync tries again.
            node.disk[:] = self._torn(node, 0.5)
            node.unsynced.clear()
            raise
        for position, piece in node.unsynced:
            _apply(node.disk, position, piece)
        node.unsynced.clear()

    def _torn(self, node: _Node, keep: float) -> bytes:
        """The content of a file of which only some of the unsynced sectors and lengths have reached the disk."""
        content = bytearray(node.disk)
        for position, piece in node.unsynced:
            if piece is None:
                if self._random.random() < keep:
                    _cut(content, position)
                continue
            if self._random.random() < keep:
                content.extend(bytes(max(0, position + len(piece) - len(content))))
            at = 0
            while at < len(piece):
                end = min(len(piece), at + SECTOR - (position + at) % SECTOR)
                if self._random.random() < keep:
                    _put(content, position + at, piece[at:end])
                at = end
        return bytes(content)


def _put(content: bytearray, position: int, piece: bytes) -> None:
    content.extend(bytes(max(0, position - len(content))))
    content[position : position + len(piece)] = piece


def _cut(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


def _apply(content: bytearray, position: int, piece: bytes | None) -> None:
    if piece is None:
        _cut(content, position)
    else:
        _put(content, position, piece)


def _rename(names: dict[str, _Node], change: tuple[tuple[str, _Node | None], ...]) -> None:
    for name, node in change:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node
