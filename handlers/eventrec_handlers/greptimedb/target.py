"""Where the front ends are and who we are there: from a URL. Nothing here shows a password."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from eventrec import HandlerURL, HandlerURLError

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEME: Final = "greptimedb"
DEFAULT_PORT: Final = 4001
CATALOG: Final = "greptime"
PRIVATE_SCHEMA: Final = "greptime_private"
"""Where GreptimeDB's own recorder keeps its events, and ours where a URL names no database."""

PARTS: Final = ("user", "password", "path")

_AUTHORITY: Final = re.compile(r"([^:/?#]+://)([^/?#]*)(.*)", re.DOTALL)
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[^\]]+)?\]|[^\[\]:@,\s]+)(?::([0-9]{1,5}))?")
_DATABASE: Final = re.compile(r"[^\x00-\x20/\x7f]+")


class Target:
    """The parts of `greptimedb://user:password@host:port,host:port/database?option=value`.

    A port is 4001 where none is given. The database is `schema`, or `catalog-schema`; where there is none, it is the
    private one. `others` are the options that the query string may hold.

    Raises:
        HandlerURLError: It is not such a URL.
    """

    __slots__ = ("addresses", "catalog", "password", "schema", "url", "user")

    def __init__(self, url: str, *, others: Sequence[str] = ()) -> None:
        found = _AUTHORITY.fullmatch(url)
        start, authority, rest = found.groups() if found is not None else (url, "", "")
        identity, at, hosts = authority.rpartition("@")
        self.url = HandlerURL(f"{start}{identity}{at}{rest}" if found is not None else url)
        if self.url.scheme != SCHEME:
            raise HandlerURLError(f"a GreptimeDB URL starts with {SCHEME}://, got the scheme {self.url.scheme!r}")
        self.url.accept(*others, parts=PARTS)
        if "@" in rest.partition("?")[0]:
            raise HandlerURLError(f"in a {SCHEME} URL, {_ENCODE}")
        self.addresses = tuple(map(_address, hosts.split(",")))
        self.user = self.url.user or None
        self.password = self.url.password
        if self.password is not None and self.user is None:
            raise HandlerURLError(f"a {SCHEME} URL has a password and no user")
        self.catalog, self.schema = _database(self.url.path)

    def __repr__(self) -> str:
        return f"<Target {self}>"

    def __str__(self) -> str:
        return f"{SCHEME}://{','.join(self.addresses)}/{self.database}"

    @property
    def database(self) -> str:
        """What the protocol calls the database: the catalog is left out where it is the usual one."""
        return self.schema if self.catalog == CATALOG else f"{self.catalog}-{self.schema}"


_ENCODE: Final = (
    "hosts are name:port, parted by commas; the port must be a number, and : / ? # [ ] @ , inside a part be"
    " percent-encoded (@ as %40)"
)


def _address(host: str) -> str:
    """`host:port` as gRPC takes it."""
    found = _HOST.fullmatch(host)
    if found is None or not 0 < int(found[2] or DEFAULT_PORT) < 1 << 16:
        # Without what stands there: it may be half of a password.
        raise HandlerURLError(f"in a {SCHEME} URL, {_ENCODE}" if host else f"a {SCHEME} URL names no host")
    return f"{unquote(found[1])}:{found[2] or DEFAULT_PORT}"


def _database(path: str) -> tuple[str, str]:
    """Catalog and schema, parted as GreptimeDB parts them: at the first hyphen."""
    if not path:
        return CATALOG, PRIVATE_SCHEMA
    first, hyphen, rest = path.partition("-")
    catalog, schema = (first, rest) if hyphen else (CATALOG, path)
    if not (_DATABASE.fullmatch(catalog) and _DATABASE.fullmatch(schema)):
        raise HandlerURLError(f"a {SCHEME} URL ends with a database: schema, or catalog-schema; got {path!r}")
    return catalog, schema
