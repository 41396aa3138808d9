"""Where a directory is served: host and port, whether that is this machine, and what TLS and tokens take."""

from __future__ import annotations

import ipaddress
import ssl
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from eventrec.errors import MirrorError

if TYPE_CHECKING:
    from eventrec.runs.directory import LogDirectory

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
"""Says which machine it is, since it was started."""

_MAX_PORT: Final = 65_535
_MAX_TOKEN_BYTES: Final = 4_096


class Address(NamedTuple):
    """A host, by name or number, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """`HOST:PORT`, or `[HOST]:PORT` for a number of IPv6.

        Raises:
            ValueError: It is neither.
        """
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: an IPv6 address stands in brackets: [::1]:7400")
        if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > _MAX_PORT:
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine by its very name; what another name means is not looked up."""
        return is_loopback(self.host) or self.host == "localhost"


def place_of(directory: LogDirectory) -> str:
    """What no two directories have alike, on one machine or on two; "" where that cannot be told. Blocking."""
    try:
        boot, info = _BOOT.read_bytes(), directory.opened().info
    except OSError:
        return ""
    return blake2b(b"%b %d %d" % (boot, info.st_dev, info.st_ino), digest_size=16).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether `host` is a number that means this machine, and is reached by no other."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The token in a file: its only line.

    Raises:
        MirrorError: It is empty, too long, or not text.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(_MAX_TOKEN_BYTES + 1)
    try:
        token = content.decode().strip()
    except UnicodeDecodeError as exc:
        raise MirrorError(f"{path}: a token is text") from exc
    if not token or len(content) > _MAX_TOKEN_BYTES or "\n" in token:
        raise MirrorError(f"{path}: a token is one line of at most {_MAX_TOKEN_BYTES:,} bytes")
    return token


def server_context(certificate: Path, key: Path, *, client_ca: Path | None = None) -> ssl.SSLContext:
    """TLS for a source. With `client_ca` a mirror needs a certificate that is signed by it.

    Raises:
        MirrorError: The files are not what they are to be.
        OSError: They cannot be read.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_chain(context, certificate, key)
    if client_ca is not None:
        _load_authorities(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    *, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """TLS for a mirror: the source is who its name says, by `ca`, or by the system's authorities. Raises likewise."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        _load_authorities(context, ca)
    if certificate is not None:
        _load_chain(context, certificate, key)
    return context


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as exc:
        raise MirrorError(f"{certificate}: not a certificate with its key: {exc.reason}") from exc
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, f"{certificate} or {key}") from exc


def _load_authorities(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as exc:
        raise MirrorError(f"{path}: no certificates are in it: {exc.reason}") from exc
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, str(path)) from exc
