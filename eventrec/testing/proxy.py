"""A TCP proxy that fails on demand: between a driver and its server, in threads of its own.

    with FaultProxy("127.0.0.1", 5432) as proxy:
        handler = PostgresHandler(f"postgresql://…@{proxy.host}:{proxy.port}/…")
        proxy.cut_after(b"COMMIT")      # the next connection that sends it breaks, once COMMIT has been passed on

Every method may be called from any thread and returns at once; what it asks for holds from then on. Streams are passed
on byte for byte; a pattern is found wherever it lies, but not inside of TLS.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias

if TYPE_CHECKING:
    from types import TracebackType

Direction: TypeAlias = Literal["to_server", "to_client"]

_CHUNK: Final = 65_536
_TURN: Final = 0.01
"""Seconds between two looks at what has changed, while a stream stands still."""


@dataclass(frozen=True, slots=True)
class _Cut:
    """Cut the first connection that has sent `pattern`, or `count` bytes, that way."""

    direction: Direction
    pattern: bytes
    count: int
    passes: bool
    late: float


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to `host:port`, until it is told to fail.

    `connections` counts the connections that were accepted so far, `cuts` those that were cut.
    """

    def __init__(self, host: str, port: int) -> None:
        self.connections = 0
        self.cuts = 0
        self._target = (host, port)
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._threads: list[threading.Thread] = []
        self._waiting: deque[_Cut] = deque()
        self._is_refusing = self._is_closed = False
        self._stalled: set[Direction] = set()
        self._delay = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()[:2]
        self._acceptor = threading.Thread(target=self._accept, name=f"fault proxy {self.port}", daemon=True)
        self._acceptor.start()

    def __repr__(self) -> str:
        return f"<FaultProxy {self.host}:{self.port} to {self._target[0]}:{self._target[1]}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- faults

    def cut(self) -> None:
        """Break every connection, and every new one, until `mend`."""
        with self._lock:
            self._is_refusing = True
            pairs = list(self._pairs)
        for pair in pairs:
            self._break(pair)

    def drop(self) -> None:
        """Break every connection; new ones are welcome."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._break(pair)

    def delay(self, seconds: float) -> None:
        """Hold every piece of both streams back for so long; 0: no more."""
        self._delay = seconds

    def stall(self, direction: Direction = "to_client") -> None:
        """Let nothing through that way, until `mend`: connections stay open, and hang."""
        self._stalled = {*self._stalled, direction}

    def cut_after(
        self,
        pattern: bytes = b"",
        *,
        count: int = 0,
        direction: Direction = "to_server",
        passes: bool = True,
        late: float = 0.0,
    ) -> None:
        """Break the client's side of the next connection that sends `pattern`, or `count` bytes; once per call.

        `passes=True`: what was sent up to there reaches its end first, and no answer comes back: the request was
        carried out, perhaps. `late`: it reaches its end that many seconds after the client broke. `passes=False`: it is
        dropped.

        Raises:
            ValueError: There is neither a pattern nor a count.
        """
        if not pattern and count <= 0:
            raise ValueError("cut_after needs a pattern or a count of bytes")
        with self._lock:
            self._waiting.append(_Cut(direction, pattern, count, passes, late))

    def mend(self) -> None:
        """Take every fault back. What stalled goes on; what was cut stays cut."""
        with self._lock:
            self._is_refusing = False
            self._waiting.clear()
        self._stalled = set()
        self._delay = 0.0

    def close(self) -> None:
        """Stop listening, break every connection, and wait for the threads."""
        self._is_closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the acceptor
        self._acceptor.join()
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join()

    # -- the threads

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = None if self._is_refusing else socket.create_connection(self._target, timeout=10)
            except OSError:
                server = None
            if server is None:
                _abort(client)
                client.close()
                continue
            server.settimeout(None)
            with suppress(OSError):
                for end in (client, server):
                    # Else a small piece waits for the other end to acknowledge the one before it: 40 ms, mostly.
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.add(pair)
                is_late = self._is_refusing or self._is_closed
            pumps = [
                threading.Thread(
                    target=self._pump, args=(pair, direction), name=f"fault proxy {self.port}", daemon=True
                )
                for direction in ("to_server", "to_client")
            ]
            for pump in pumps:
                pump.start()
            self._threads = [thread for thread in self._threads if thread.is_alive()] + pumps
            if is_late:
                self._break(pair)

    def _pump(self, pair: _Pair, direction: Direction) -> None:
        source, target = (pair.client, pair.server) if direction == "to_server" else (pair.server, pair.client)
        seen = 0
        tail = b""
        try:
            while chunk := source.recv(_CHUNK):
                self._hold_back(pair, direction)
                if pair.is_muted and direction == "to_client":
                    continue
                cut = self._cut_for(direction, tail, chunk, seen)
                if cut is not None:
                    self._perform(cut, pair, target, chunk)
                    return
                target.sendall(chunk)
                seen += len(chunk)
                tail = (tail + chunk)[-_CHUNK:]
            if not pair.is_muted:
                target.shutdown(socket.SHUT_WR)
        except OSError:
            self._break(pair)
        finally:
            self._finished(pair)

    def _hold_back(self, pair: _Pair, direction: Direction) -> None:
        if self._delay:
            time.sleep(self._delay)
        while direction in self._stalled and not (self._is_closed or pair.is_broken):
            time.sleep(_TURN)

    def _cut_for(self, direction: Direction, tail: bytes, chunk: bytes, seen: int) -> _Cut | None:
        """The cut that `chunk` asks for, which is then used up."""
        with self._lock:
            for cut in self._waiting:
                overlap = tail[-(len(cut.pattern) - 1) :] if len(cut.pattern) > 1 else b""
                is_found = cut.pattern in overlap + chunk if cut.pattern else seen + len(chunk) >= cut.count
                if cut.direction == direction and is_found:
                    self._waiting.remove(cut)
                    self.cuts += 1
                    return cut
        return None

    def _perform(self, cut: _Cut, pair: _Pair, target: socket.socket, chunk: bytes) -> None:
        pair.is_muted = True
        if cut.direction == "to_server" and cut.passes:
            if not cut.late:
                target.sendall(chunk)
            _abort(pair.client)
            if cut.late:
                time.sleep(cut.late)
                target.sendall(chunk)
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)  # the server ends when it has done what it was asked
            pair.server_done.wait(10)
        self._break(pair)

    def _finished(self, pair: _Pair) -> None:
        pair.server_done.set()
        with self._lock:
            pair.pumps -= 1
            is_last = not pair.pumps
            if is_last:
                self._pairs.discard(pair)
        if is_last:
            pair.client.close()
            pair.server.close()

    def _break(self, pair: _Pair) -> None:
        pair.is_broken = True
        _abort(pair.client)
        _abort(pair.server)


class _Pair:
    """One connection of the client, and ours to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.pumps = 2
        self.is_muted = self.is_broken = False
        self.server_done = threading.Event()


def _abort(connection: socket.socket) -> None:
    """End both ways of `connection`, and wake who waits at it; what is not sent yet is dropped when it is closed."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
