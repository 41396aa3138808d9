"""Where a server is and who we are there: from a URL, completed by libpq's environment variables.

    postgresql://user:password@host:port/database?sslmode=verify-full&sslrootcert=/etc/ca.pem

Nothing here shows a password: not `repr`, and not an error.
"""

from __future__ import annotations

import os
import random
import re
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from eventrec import HandlerURL, HandlerURLError, PauseError
from eventrec_handlers.postgres import libpq

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SCHEMES: Final = ("postgresql", "postgres")
PARTS: Final = ("user", "password", "path")

_READS_ONLY: Final = ("standby", "read-only", "prefer-standby")


class Target:
    """Where to connect. `others` are options of the URL that are not about the connection.

    A part that the URL does not name comes from its `service`, then from PGHOST, PGPORT, PGUSER, PGPASSWORD,
    PGPASSFILE, PGDATABASE, PGSSLMODE … when connecting. Hosts may be several, parted by commas, each with its port:
    those are tried in turn. A host that begins with a slash is the directory of a Unix socket.

    Raises:
        HandlerURLError: It is not a URL of PostgreSQL, or names an option that is unknown or cannot be had.
    """

    __slots__ = ("_database", "_hosts", "_options", "_password", "_ports", "_user", "url")

    def __init__(self, dsn: str, *, others: Sequence[str] = ()) -> None:
        rest, self._hosts, self._ports = _without_hosts(dsn)
        self.url = url = HandlerURL(rest)
        if url.scheme not in SCHEMES:
            raise HandlerURLError(f"a PostgreSQL URL starts with postgresql://, got the scheme {url.scheme!r}")
        url.accept(*others, *libpq.OPTIONS, parts=PARTS)
        for part, name in (
            (self._hosts, "host"),
            (any(self._ports), "port"),
            (url.user, "user"),
            (url.password, "password"),
            (url.path, "dbname"),
        ):
            if part and url.text(name):
                raise HandlerURLError(f"a {url.scheme} URL says {name} twice, as a part and as an option")
        options = {name: value for name, value in url.options.items() if name not in others}
        if self._hosts:
            options["host"] = ",".join(self._hosts)
        service = libpq.service_of(options)
        if unknown := set(service) - set(libpq.OPTIONS):
            raise HandlerURLError(f"the service of a {url.scheme} URL names unknown parameters: {sorted(unknown)}")
        options = {**service, **options}
        libpq.check(options)
        if not self._hosts and (listed := options.get("host") or options.get("hostaddr")):
            self._hosts = listed.split(",")
        if not any(self._ports) and (listed := options.get("port")):
            self._ports = listed.split(",")
        libpq.check_places(self._hosts, self._ports)
        self._user = url.user or options.get("user")
        self._password = url.password or options.pop("password", None)
        self._database = url.path or options.get("dbname")
        self._options: Mapping[str, str] = options

    def __repr__(self) -> str:
        return f"<Target {self}>"

    def __str__(self) -> str:
        ports = self._ports * len(self._hosts) if len(self._ports) == 1 else self._ports
        named = [
            (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
            for host, port in zip(self._hosts, ports or [""] * len(self._hosts), strict=False)
        ]
        alone = f":{self._ports[0]}" if self._ports and not named else ""
        return f"postgresql://{','.join(named)}{alone}/{self._database or ''}"

    @property
    def reads_only(self) -> str | None:
        """The `target_session_attrs` that asks for a server on which nothing can be written, or None."""
        attributes = self._options.get("target_session_attrs") or os.environ.get("PGTARGETSESSIONATTRS")
        return attributes if attributes in _READS_ONLY else None

    def arguments(self) -> dict[str, Any]:
        """What `asyncpg.connect` is to be called with.

        Raises:
            PauseError: A certificate or a key cannot be used.
        """
        options = self._options
        # Some of it is understood only in a URL.
        driver = {name: options[name] for name in libpq.DRIVER if name in options}
        if options.get("ssl") and "sslmode" not in options:
            driver["sslmode"] = "require"
        arguments: dict[str, Any] = {}
        if driver.get("sslrootcert") == "system":
            arguments["ssl"] = ssl.create_default_context()
            del driver["sslrootcert"]
        if options.get("sslnegotiation") == "direct":
            arguments["direct_tls"] = True
        self.check_files()
        hosts, ports = self._addresses()
        settings = {"application_name": self._named()}
        if started := options.get("options") or os.environ.get("PGOPTIONS"):
            settings["options"] = started
        arguments |= {
            "dsn": f"postgresql://?{urlencode(driver)}" if driver else None,
            "host": hosts,
            "port": ports,
            "user": self._user,
            "database": self._database,
            "server_settings": settings,
        }
        if self._password is not None:
            arguments["password"] = self._shown_to_the_server
        return arguments

    async def watch(self, connection: Any) -> None:
        """Have the system notice, as the URL says, that the other end of an open connection is gone."""
        libpq.set_keepalives(connection, self._options)

    def _named(self) -> str:
        options = self._options
        name = options.get("application_name") or os.environ.get("PGAPPNAME")
        return name or options.get("fallback_application_name") or "eventrec"

    def _addresses(self) -> tuple[list[str] | str | None, list[str] | str | int | None]:
        """Hosts and ports; the driver takes a list for several, and completes what is None."""
        hosts, ports = self._hosts, self._ports
        if len(hosts) > 1:
            # Each host has a port of its own, or all have one.
            whole = ports * len(hosts) if len(ports) == 1 else ports or [""] * len(hosts)
            if len(whole) != len(hosts):
                raise PauseError(f"{self}: {len(hosts)} hosts and {len(whole)} ports do not match")
            pairs = [
                (host, port or os.environ.get("PGPORT") or "5432") for host, port in zip(hosts, whole, strict=True)
            ]
            if self._options.get("load_balance_hosts") == "random":
                random.shuffle(pairs)
            return [host for host, _ in pairs], [port for _, port in pairs]
        return (hosts[0] or None) if hosts else None, (int(ports[0]) if ports[0].isdigit() else None) if ports else None

    def check_files(self) -> None:
        """Read each file of TLS that is named: the driver's errors do not tell a missing one from a missing server.

        Raises:
            PauseError: One cannot be used.
        """
        options, context = self._options, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if options.get("sslmode") == "disable":
            return
        for name in ("sslrootcert", "sslcrl"):
            path = options.get(name) or os.environ.get(f"PG{name.upper()}")
            if path and path != "system":
                with _tls_file(self, name, path):
                    context.load_verify_locations(cafile=path)
        certificate = options.get("sslcert") or os.environ.get("PGSSLCERT")
        key = options.get("sslkey") or os.environ.get("PGSSLKEY")
        if certificate:
            with _tls_file(self, "sslcert or sslkey", certificate):
                context.load_cert_chain(certificate, keyfile=key, password=lambda: options.get("sslpassword", ""))

    def _shown_to_the_server(self) -> str:
        """Asked by the driver at the last moment, so that none of its objects carries the password about."""
        return self._password or ""


def _without_hosts(dsn: str) -> tuple[str, list[str], list[str]]:
    """`dsn` without its hosts, which `HandlerURL` knows one of; the hosts, and their ports."""
    found = re.fullmatch(r"([^:/?#]+://)([^/?#]*)(.*)", dsn, re.DOTALL)
    if found is None:
        return dsn, [], []
    start, netloc, rest = found.groups()
    if "@" not in netloc and ":" in netloc and "@" in rest.partition("#")[0]:
        raise HandlerURLError(f"in a postgresql URL, {libpq.ENCODE}")
    user, hosts, ports = libpq.split_hosts(netloc)
    return f"{start}{user}{rest}", hosts, ports


@contextmanager
def _tls_file(where: Target, name: str, path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:  # an ssl.SSLError is an OSError
        why = getattr(exc, "strerror", None) or exc
        raise PauseError(f"{where}: {name}={path} cannot be used: {why}") from None
