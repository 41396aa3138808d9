"""Where a server is and who we are there: from a URL, completed by libpq's environment variables.

    postgresql://user:password@host:port/database?sslmode=verify-full&sslrootcert=/etc/ca.pem

Nothing here shows a password: not `repr`, and not an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from eventrec import HandlerURL, HandlerURLError

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMES: Final = ("postgresql", "postgres")

_FOR_DRIVER: Final = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "target_session_attrs",
    "passfile",
)
OPTIONS: Final = (*_FOR_DRIVER, "host", "port", "user", "password", "dbname", "application_name")
"""What the query string of a URL may say about the connection: libpq's words."""

PARTS: Final = ("user", "password", "host", "port", "path")


class Target:
    """Where to connect. `others` are options that are somebody else's to read.

    A part that the URL does not name comes from PGHOST, PGPORT, PGUSER, PGPASSWORD, PGPASSFILE, PGDATABASE, PGSSLMODE …
    when connecting. `host` and `port` in the query may be lists parted by commas, or the directory of a socket.

    Raises:
        HandlerURLError: It is no URL of PostgreSQL, or names an option that there is not.
    """

    __slots__ = ("_password", "_url")

    def __init__(self, dsn: str, *, others: Sequence[str] = ()) -> None:
        url = HandlerURL(dsn)
        if url.scheme not in SCHEMES:
            raise HandlerURLError(f"a PostgreSQL URL starts with postgresql://, got the scheme {url.scheme!r}")
        url.accept(*others, *OPTIONS, parts=PARTS)
        self._url = url
        self._password = url.password or url.text("password")
        for part, name in (("host", "host"), ("port", "port"), ("user", "user"), ("path", "dbname")):
            if getattr(url, part) and url.text(name):
                raise HandlerURLError(f"a {url.scheme} URL says {name} twice, as a part and as an option")

    def __repr__(self) -> str:
        return f"<Target {self}>"

    def __str__(self) -> str:
        url = self._url
        host, port = url.host or url.text("host"), url.port or url.text("port")
        database = url.path or url.text("dbname")
        return f"postgresql://{host or ''}{f':{port}' if port else ''}/{database or ''}"

    def arguments(self) -> dict[str, Any]:
        """What `asyncpg.connect` is to be called with."""
        url = self._url
        ports = url.text("port")
        # Some of it is understood only in a URL; and there, so the driver says, "port" alone is a list.
        options = {name: url.options[name] for name in _FOR_DRIVER if name in url.options}
        arguments: dict[str, Any] = {
            "dsn": f"postgresql://?{urlencode(options)}" if options else None,
            "host": url.host or _listed(url.text("host")),
            "port": url.port or _listed(ports),
            "user": url.user or url.text("user"),
            "database": url.path or url.text("dbname"),
            "server_settings": {"application_name": url.text("application_name") or "eventrec"},
        }
        if self._password is not None:
            arguments["password"] = self._shown_to_the_server
        return arguments

    def _shown_to_the_server(self) -> str:
        """Asked by the driver at the last moment, so that none of its objects carries the password about."""
        return self._password or ""


def _listed(values: str | None) -> list[str] | str | None:
    return values.split(",") if values is not None and "," in values else values
