"""Where the nodes are and who we are there: from a URL. Nothing here shows a password."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from eventrec import HandlerURL, HandlerURLError

if TYPE_CHECKING:
    from collections.abc import Sequence

PLAIN: Final = "clickhouse"
SECURE: Final = "clickhouses"
PORTS: Final = {PLAIN: 8123, SECURE: 8443}
DEFAULT_DATABASE: Final = "default"
DEFAULT_USER: Final = "default"
PARTS: Final = ("user", "password", "path")

_AUTHORITY: Final = re.compile(r"([^:/?#]+://)([^/?#]*)(.*)", re.DOTALL)
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[^\]]+)?\]|[^\[\]:@,\s]+)(?::([0-9]{1,5}))?")
_ENCODE: Final = (
    "hosts are name:port, parted by commas; the port must be a number, and : / ? # [ ] @ , inside a part be"
    " percent-encoded (@ as %40)"
)


class Target:
    """The parts of `clickhouse://user:password@host:port,host:port/database?option=value`.

    A port is 8123 where none is given, and 8443 of `clickhouses://`, which is TLS; user and database are `default`.
    `others` are the options that the query string may hold.

    Raises:
        HandlerURLError: It is not such a URL.
    """

    __slots__ = ("addresses", "database", "is_secure", "password", "url", "user")

    def __init__(self, url: str, *, others: Sequence[str] = ()) -> None:
        found = _AUTHORITY.fullmatch(url)
        start, authority, rest = found.groups() if found is not None else (url, "", "")
        identity, at, hosts = authority.rpartition("@")
        self.url = HandlerURL(f"{start}{identity}{at}{rest}" if found is not None else url)
        if self.url.scheme not in PORTS:
            raise HandlerURLError(f"a ClickHouse URL starts with {PLAIN}:// or {SECURE}://, got {self.url.scheme!r}")
        self.url.accept(*others, parts=PARTS)
        if "@" in rest.partition("?")[0]:
            raise HandlerURLError(f"in a {self.url.scheme} URL, {_ENCODE}")
        self.is_secure = self.url.scheme == SECURE
        self.addresses = tuple(self._address(host) for host in hosts.split(","))
        if len(set(self.addresses)) != len(self.addresses):
            raise HandlerURLError(f"a {self.url.scheme} URL names a host twice")
        self.password = self.url.password or ""
        if self.password and not self.url.user:
            raise HandlerURLError(f"a {self.url.scheme} URL has a password and no user")
        self.user = self.url.user or DEFAULT_USER
        self.database = self.url.path or DEFAULT_DATABASE
        if "/" in self.database:
            raise HandlerURLError(f"a {self.url.scheme} URL ends with a database, got {self.database!r}")

    def __repr__(self) -> str:
        return f"<Target {self}>"

    def __str__(self) -> str:
        hosts = ",".join(f"{f'[{host}]' if ':' in host else host}:{port}" for host, port in self.addresses)
        return f"{self.url.scheme}://{hosts}/{self.database}"

    def _address(self, host: str) -> tuple[str, int]:
        scheme = self.url.scheme
        found = _HOST.fullmatch(host)
        port = PORTS[scheme] if found is None or found[2] is None else int(found[2])
        if found is None or not 0 < port < 1 << 16:
            # Without what stands there: it may be half of a password.
            raise HandlerURLError(f"in a {scheme} URL, {_ENCODE}" if host else f"a {scheme} URL names no host")
        return unquote(found[1]).strip("[]"), port
