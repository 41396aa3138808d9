"""What a URL, or a keyword, says of the server and of how to reach it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from eventrec import HandlerURL, HandlerURLError
from eventrec_handlers.redis.keys import is_name

if TYPE_CHECKING:
    from typing import Self

STREAM: Final = "events"
TIMEOUT: Final = 30.0
CONNECT_TIMEOUT: Final = 10.0
MAX_SHARDS: Final = 256
PORT: Final = 6379
SENTINEL_PORT: Final = 26379

TARGET_NAMES: Final = (
    "cluster",
    "connect_timeout",
    "db",
    "nodes",
    "sentinel",
    "sentinel_password",
    "sentinel_user",
    "shards",
    "stream",
    "timeout",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "tls_verify",
)
"""The options of a URL that say where a buffer is and how to reach it: producers and relays have these in common."""

_UNIX: Final = "redis+unix"
_TLS: Final = "rediss"
_NODE: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:,\[\]]+)(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A buffer, and how to reach it. Two with the same options share their connections' settings, never connections.

    Attributes:
        nodes: Host and port of the server; of several members of a cluster, or of several sentinels.
        socket: Path of a Unix socket, in place of `nodes`.
        database: Its number; a cluster has 0 alone.
        user: Of the ACL; None: the default one.
        stream: Name of the buffer.
        shards: Of how many parts it is; 0: of as many as it has, else 1.
        tls: `tls_ca` is a file of certificates to trust beside the system's, `tls_cert` and `tls_key` our own,
            `tls_verify=False` trusts any server: for tests.
        cluster: The nodes are some members of a Redis Cluster.
        sentinel: The nodes are sentinels, which say who is the master of the service of that name.
        timeout: Seconds that one call may take in all, from connecting to the answer.
        connect_timeout: Seconds that connecting may take.

    Raises:
        ValueError: They do not go together, or one is not allowed.
    """

    nodes: tuple[tuple[str, int], ...] = (("localhost", PORT),)
    socket: str | None = None
    database: int = 0
    user: str | None = None
    password: str | None = None
    stream: str = STREAM
    shards: int = 0
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_verify: bool = True
    cluster: bool = False
    sentinel: str | None = None
    sentinel_user: str | None = None
    sentinel_password: str | None = None
    timeout: float = TIMEOUT
    connect_timeout: float = CONNECT_TIMEOUT

    def __post_init__(self) -> None:
        if not is_name(self.stream):
            raise ValueError(
                f"stream must be a name without colons, braces and control characters, got {self.stream!r}"
            )
        if not 0 <= self.shards <= MAX_SHARDS:
            raise ValueError(f"shards must be 1 to {MAX_SHARDS}, got {self.shards}")
        for name in ("timeout", "connect_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name):g}")
        if self.cluster and (self.sentinel is not None or self.database or self.socket is not None):
            raise ValueError("a cluster has neither sentinels, nor other databases than 0, nor a Unix socket")
        if len(self.nodes) > 1 and not self.cluster and self.sentinel is None:
            raise ValueError("several hosts are members of a cluster (cluster=true), or sentinels (sentinel=NAME)")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("tls_key is the key of tls_cert, which is missing")
        if (self.tls_ca or self.tls_cert or not self.tls_verify) and not self.tls:
            raise ValueError("tls_ca, tls_cert, tls_key and tls_verify need rediss://")

    def __str__(self) -> str:
        """For errors and logs: where it is, without user and password."""
        scheme = _UNIX if self.socket is not None else _TLS if self.tls else "redis"
        nodes = self.socket or ",".join(f"{host}:{port}" for host, port in self.nodes)
        return f"{scheme}://{nodes}{'' if self.socket else f'/{self.database}'} {self.stream!r}"

    def __repr__(self) -> str:
        return f"<Target {self}>"

    @classmethod
    def of(cls, url: HandlerURL) -> Self:
        """What `url` says. Its other options, and whether it has unknown ones, are the caller's business.

        Raises:
            HandlerURLError: A value is not allowed.
        """
        is_unix = url.scheme == _UNIX
        if is_unix and not url.path.strip("/"):
            raise HandlerURLError(f"a {_UNIX} URL names a socket: {_UNIX}:///run/redis.sock")
        sentinel = url.text("sentinel")
        database = url.integer("db", default=0, high=2**31 - 1)
        if not is_unix and url.path:
            if "db" in url.options or re.fullmatch(r"[0-9]{1,9}", url.path) is None:
                raise HandlerURLError(f"the path of a {url.scheme} URL is the number of a database, once")
            database = int(url.path)
        port = PORT if sentinel is None else SENTINEL_PORT
        try:
            more = _nodes(url.text("nodes"), port)
            first = () if url.host is None and more else ((url.host or "localhost", url.port or port),)
            return cls(
                nodes=(*first, *more),
                socket="/" + url.path.lstrip("/") if is_unix else None,
                database=database,
                user=url.user or None,
                password=url.password,
                stream=url.text("stream") or STREAM,
                shards=url.integer("shards", default=0, high=MAX_SHARDS),
                tls=url.scheme == _TLS,
                tls_ca=url.text("tls_ca"),
                tls_cert=url.text("tls_cert"),
                tls_key=url.text("tls_key"),
                tls_verify=url.boolean("tls_verify", default=True),
                cluster=url.boolean("cluster", default=False),
                sentinel=sentinel,
                sentinel_user=url.text("sentinel_user"),
                sentinel_password=url.text("sentinel_password"),
                timeout=url.seconds("timeout", default=TIMEOUT),
                connect_timeout=url.seconds("connect_timeout", default=CONNECT_TIMEOUT),
            )
        except ValueError as exc:
            raise HandlerURLError(f"in a {url.scheme} URL, {exc}") from exc


def parsed_url(url: str) -> HandlerURL:
    """`url`, of which further hosts behind the first, as in `redis://a:1,b:2/0`, are the option `nodes`.

    Raises:
        HandlerURLError: It is not a URL, or has further hosts at both places.
    """
    scheme, mark, rest = url.partition("://")
    end = min((i for i in map(rest.find, "/?#") if i >= 0), default=len(rest))
    user, at, hosts = rest[:end].rpartition("@")
    first, comma, further = hosts.partition(",")
    if not mark or not comma:
        return HandlerURL(url)
    place, question, query = f"{scheme}://{user}{at}{first}{rest[end:]}".partition("?")
    if re.search(r"(^|&)nodes=", query):
        raise HandlerURLError(f"in a {scheme} URL, further hosts stand behind the first one or in nodes, not in both")
    return HandlerURL(f"{place}?{query}{'&' if question and query else ''}nodes={quote(further)}")


def _nodes(listed: str | None, default: int) -> list[tuple[str, int]]:
    """Further nodes: `host:port,host:port`."""
    found = []
    for each in (listed or "").split(","):
        if not each.strip():
            continue
        match = _NODE.fullmatch(each.strip())
        if match is None or int(match["port"] or default) > 65_535:  # noqa: PLR2004 - the last port
            raise ValueError(f"nodes must be host:port,host:port, got {listed!r}")
        found.append((match["host"].strip("[]"), int(match["port"] or default)))
    return found
