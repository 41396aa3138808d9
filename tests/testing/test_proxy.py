import socket
import threading
import time
from collections.abc import Iterator

import pytest

from eventrec.testing.proxy import FaultProxy


class Echo:
    """Sends every piece back in upper case, and keeps what it got."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.got = bytearray()
        self.changed = threading.Condition()
        self.threads: list[threading.Thread] = []
        self.acceptor = threading.Thread(target=self._accept)
        self.acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while piece := connection.recv(65_536):
                    with self.changed:
                        self.got += piece
                        self.changed.notify_all()
                    connection.sendall(piece.upper())
            except OSError:
                return

    def waits_for(self, content: bytes, *, seconds: float = 60) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: content in self.got, timeout=seconds)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.acceptor.join()
        self.listener.close()
        for thread in self.threads:
            thread.join(10)


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", echo.port) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as client:
        yield client


def ask(client: socket.socket, question: bytes) -> bytes:
    """The answer; empty where the connection has ended."""
    try:
        client.sendall(question)
        return client.recv(65_536)
    except ConnectionError:
        return b""


def connect_and_ask(proxy: FaultProxy, question: bytes) -> bytes:
    try:
        with socket.create_connection((proxy.host, proxy.port), timeout=10) as client:
            return ask(client, question)
    except ConnectionError:
        return b""


def test_both_streams_pass_byte_for_byte(proxy: FaultProxy, client: socket.socket, echo: Echo) -> None:
    large = bytes(range(128)) * 8_192
    client.sendall(large)

    answer = bytearray()
    while len(answer) < len(large):
        answer += client.recv(65_536)

    assert bytes(answer) == large.upper()
    assert bytes(echo.got) == large
    assert proxy.connections == 1


def test_end_of_the_client_reaches_the_server_and_its_answer_still_comes(client: socket.socket) -> None:
    client.sendall(b"bye")
    client.shutdown(socket.SHUT_WR)

    assert client.recv(10) == b"BYE"
    assert client.recv(10) == b""


def test_cut_breaks_connections_and_new_ones_until_mended(proxy: FaultProxy, client: socket.socket) -> None:
    assert ask(client, b"a") == b"A"

    proxy.cut()

    assert ask(client, b"b") == b""
    assert connect_and_ask(proxy, b"c") == b""
    proxy.mend()
    assert connect_and_ask(proxy, b"d") == b"D"


def test_drop_breaks_connections_and_welcomes_new_ones(proxy: FaultProxy, client: socket.socket) -> None:
    assert ask(client, b"a") == b"A"

    proxy.drop()

    assert ask(client, b"a") == b""
    assert connect_and_ask(proxy, b"b") == b"B"


def test_pattern_reaches_the_server_and_its_answer_never_comes(
    proxy: FaultProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.cut_after(b"COMMIT")

    assert ask(client, b"rows") == b"ROWS"
    assert ask(client, b"; COMMIT;") == b""

    assert echo.waits_for(b"; COMMIT;")
    assert proxy.cuts == 1
    assert connect_and_ask(proxy, b"COMMIT") == b"COMMIT"


def test_pattern_is_found_across_pieces(proxy: FaultProxy, client: socket.socket, echo: Echo) -> None:
    proxy.cut_after(b"COMMIT")

    assert ask(client, b"...COM") == b"...COM"
    assert ask(client, b"MIT") == b""

    assert echo.waits_for(b"...COMMIT")


def test_dropped_pattern_never_reaches_the_server(proxy: FaultProxy, client: socket.socket, echo: Echo) -> None:
    proxy.cut_after(b"COMMIT", passes=False)

    assert ask(client, b"COMMIT") == b""

    assert not echo.waits_for(b"COMMIT", seconds=0.1)


def test_late_pattern_reaches_the_server_after_the_client_has_lost_it(
    proxy: FaultProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.cut_after(b"COMMIT", late=1.0)
    start = time.monotonic()

    assert ask(client, b"COMMIT") == b""

    assert b"COMMIT" not in echo.got
    assert echo.waits_for(b"COMMIT")
    assert time.monotonic() - start >= 1.0


def test_answer_is_cut_after_so_many_bytes(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.cut_after(count=3, direction="to_client")

    assert ask(client, b"ab") == b"AB"
    assert ask(client, b"cd") == b""


def test_one_way_hang_keeps_the_connection_and_passes_on_when_mended(
    proxy: FaultProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.stall("to_client")
    client.sendall(b"a")
    client.settimeout(0.1)

    with pytest.raises(TimeoutError):
        client.recv(1)

    assert echo.waits_for(b"a")
    client.settimeout(10)
    proxy.mend()
    assert client.recv(1) == b"A"


def test_delay_holds_back_both_ways(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.delay(0.05)
    start = time.monotonic()

    assert ask(client, b"a") == b"A"

    assert time.monotonic() - start >= 0.1


def test_server_that_is_not_there_breaks_the_client(echo: Echo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with FaultProxy("127.0.0.1", port) as proxy:
        assert connect_and_ask(proxy, b"a") == b""


def test_closing_leaves_no_thread_even_while_streams_stall(echo: Echo) -> None:
    before = set(threading.enumerate())
    with FaultProxy("127.0.0.1", echo.port) as proxy:
        client = socket.create_connection((proxy.host, proxy.port), timeout=10)
        proxy.stall("to_server")
        client.sendall(b"a")
    client.close()

    left = set(threading.enumerate()) - before - set(echo.threads)
    assert not left


def test_cut_after_nothing_is_refused(proxy: FaultProxy) -> None:
    with pytest.raises(ValueError, match="a pattern or a count"):
        proxy.cut_after()
