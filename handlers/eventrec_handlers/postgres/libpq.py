"""libpq's words for a connection: which the driver understands, and why the others cannot be had here.

Reference: https://www.postgresql.org/docs/current/libpq-connect.html, "Parameter Key Words".
"""

from __future__ import annotations

import configparser
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from eventrec import HandlerURLError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

DRIVER: Final = (
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
    "krbsrvname",
    "gsslib",
)
"""What the driver reads by itself, from a URL."""

_KEEPALIVES: Final = ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")

_OURS: Final = (
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "application_name",
    "fallback_application_name",
    "options",
    "service",
    "servicefile",
    "load_balance_hosts",
    "sslnegotiation",
    "ssl",
    *_KEEPALIVES,
)

_ON: Final = ("true", "1", "yes", "on")
_OFF: Final = ("false", "0", "no", "off")

_ONLY: Final[Mapping[str, tuple[Collection[str], str]]] = {
    "channel_binding": (("disable", "prefer"), "the driver cannot bind a login to its TLS channel"),
    "gssencmode": (("disable", "prefer"), "the driver cannot encrypt with GSSAPI"),
    "gssdelegation": (("0",), "the driver cannot delegate GSSAPI credentials"),
    "sslcompression": (("0", "1"), "libpq knows 0 and 1, and ignores both"),
    "sslcertmode": (("allow",), "the driver sends its certificate whenever it has one and is asked for it"),
    "sslsni": (("1",), "the driver always names the host"),
    "sslnegotiation": (("postgres", "direct"), "libpq knows postgres and direct"),
    "load_balance_hosts": (("disable", "random"), "libpq knows disable and random"),
    "client_encoding": (("auto", "utf8", "utf-8", "unicode"), "the driver speaks UTF-8"),
    "replication": (_OFF, "a replication connection stores no rows"),
    "min_protocol_version": (("3.0",), "the driver speaks protocol 3.0"),
    "max_protocol_version": (("3.0", "3.2", "latest"), "libpq knows 3.0, 3.2 and latest"),
    "pgbouncer": ((*_ON, *_OFF), "it is true or false, and makes no difference: a pooler may always stand between"),
}
"""Parameters of which some values can be had: those, and the reason why no other can."""

_REFUSED: Final[Mapping[str, str]] = {
    "sslcrldir": "the driver reads revoked certificates from one file: use sslcrl",
    "sslkeylogfile": "the keys of a connection are not written to a file",
    "requirepeer": "the driver cannot ask who runs the server behind a socket",
    "require_auth": "the driver cannot refuse a way of logging in that the server chooses",
    "scram_client_key": "the driver logs in with a password",
    "scram_server_key": "the driver logs in with a password",
    "oauth_issuer": "the driver cannot log in with OAuth",
    "oauth_client_id": "the driver cannot log in with OAuth",
    "oauth_client_secret": "the driver cannot log in with OAuth",
    "oauth_scope": "the driver cannot log in with OAuth",
}

OPTIONS: Final = tuple(dict.fromkeys((*DRIVER, *_OURS, *_ONLY, *_REFUSED)))
"""Every parameter that has an answer: it is taken, or refused with a reason of its own."""

ENCODE: Final = (
    "hosts are name:port, parted by commas; the port must be a number, and : / ? # [ ] @ inside a part be"
    " percent-encoded (@ as %40)"
)

_LAST_PORT: Final = 65_535
_HOST: Final = re.compile(r"(\[[^\[\]@/?#]+\]|[^\[\]@/?#:]*)(?::([0-9]*))?")


def check(options: Mapping[str, str]) -> None:
    """Refuse what cannot be had as libpq means it.

    Raises:
        HandlerURLError: Names the parameter and the reason.
    """
    for name, value in options.items():
        if name in _REFUSED:
            raise HandlerURLError(f"{name} in a postgresql URL cannot be had: {_REFUSED[name]}")
        allowed, why = _ONLY.get(name, ((value.lower(),), ""))
        if value.lower() not in allowed:
            raise HandlerURLError(f"{name}={value} in a postgresql URL cannot be had, only {_or(allowed)}: {why}")
    if options.get("ssl", "true") != "true":
        raise HandlerURLError("unknown option 'ssl' in a postgresql URL: libpq knows ssl=true alone; use sslmode")
    if "hostaddr" in options and "host" in options:
        raise HandlerURLError(
            "a postgresql URL with both host and hostaddr cannot be had: the driver takes one of them"
        )
    mode = options.get("sslmode")
    if options.get("sslrootcert") == "system" and mode not in (None, "verify-full"):
        raise HandlerURLError(f"sslrootcert=system in a postgresql URL needs sslmode=verify-full, got sslmode={mode}")
    if options.get("sslnegotiation") == "direct" and mode not in ("require", "verify-ca", "verify-full"):
        raise HandlerURLError(
            "sslnegotiation=direct in a postgresql URL needs sslmode=require, verify-ca or verify-full"
        )
    for name in _KEEPALIVES:
        if name in options and re.fullmatch(r"-?[0-9]{1,9}", options[name]) is None:
            raise HandlerURLError(f"{name} in a postgresql URL must be a whole number")


def _or(values: Collection[str]) -> str:
    return " or ".join(values)


def split_hosts(netloc: str) -> tuple[str, list[str], list[str]]:
    """The part of a URL between `//` and the next slash: user and password, hosts, and their ports ("" where none).

    Raises:
        HandlerURLError: It is not a list of hosts. What it holds is not shown: it may be half of a password.
    """
    user, at, listed = netloc.rpartition("@")
    hosts, ports = [], []
    for one in listed.split(",") if listed else ():
        found = _HOST.fullmatch(one)
        if found is None or (not found[1] and "," in listed) or not _is_port(found[2] or ""):
            raise HandlerURLError(f"in a postgresql URL, {ENCODE}")
        if found[1] or found[2]:
            hosts.append(unquote(found[1].strip("[]")))
            ports.append(found[2] or "")
    return user + at, hosts, ports


def check_places(hosts: Sequence[str], ports: Sequence[str]) -> None:
    """Refuse what cannot be a host, or a port, wherever in the URL or its service it stands.

    Raises:
        HandlerURLError: Names the parameter.
    """
    if any(not char.isprintable() for host in hosts for char in host):
        raise HandlerURLError("host in a postgresql URL holds a control character")
    if not all(_is_port(port) for port in ports):
        raise HandlerURLError("port in a postgresql URL must be a number from 0 to 65535")


def _is_port(port: str) -> bool:
    return re.fullmatch("[0-9]{0,5}", port) is not None and int(port or 0) <= _LAST_PORT


def service_of(options: Mapping[str, str]) -> Mapping[str, str]:
    """What the service that `options` or PGSERVICE name says, in the words of a URL; empty where none is named.

    Raises:
        HandlerURLError: There is no such service, or its file cannot be read.
    """
    name = options.get("service") or os.environ.get("PGSERVICE")
    if not name:
        return {}
    given = options.get("servicefile") or os.environ.get("PGSERVICEFILE")
    files = [Path(given)] if given else [Path("~/.pg_service.conf").expanduser()]
    if folder := os.environ.get("PGSYSCONFDIR"):
        files.append(Path(folder) / "pg_service.conf")
    for path in files:
        parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=False)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        try:
            parser.read_string(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, configparser.Error):
            raise HandlerURLError(f"the service file {path} of a postgresql URL cannot be read") from None
        if parser.has_section(name):
            return dict(parser.items(name))
    raise HandlerURLError(f"the service {name!r} of a postgresql URL is not defined in {_or([str(f) for f in files])}")


def set_keepalives(connection: Any, options: Mapping[str, str]) -> None:
    """Have the system watch over an open connection, as `options` say; by default it does, as with libpq."""
    made: socket.socket | None = connection._transport.get_extra_info("socket")  # noqa: SLF001 - no other way to it
    if made is None or made.family == getattr(socket, "AF_UNIX", None) or options.get("keepalives") == "0":
        return
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, constant in (
        ("keepalives_idle", "TCP_KEEPIDLE"),
        ("keepalives_interval", "TCP_KEEPINTVL"),
        ("keepalives_count", "TCP_KEEPCNT"),
        ("tcp_user_timeout", "TCP_USER_TIMEOUT"),
    ):
        value = int(options.get(name, "0"))
        if value > 0 and hasattr(socket, constant):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, constant), value)
