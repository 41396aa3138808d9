"""Where a client sends: scheme, host and port; nothing it is told goes anywhere else."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

PORTS: Final = {"http": 80, "https": 443}

_TARGET: Final = re.compile(r"/[!-~]*")
_HOST: Final = re.compile(r"[a-z0-9_.:-]+")


@dataclass(frozen=True, slots=True)
class Origin:
    """A scheme, `http` or `https`, a host in ASCII and lower case, IPv6 without brackets, and a port.

    Raises:
        ValueError: It is not one. The host is not shown.
    """

    scheme: str
    host: str
    port: int

    def __post_init__(self) -> None:
        if self.scheme not in PORTS:
            raise ValueError(f"the scheme must be http or https, got {self.scheme!r:.20}")
        if not _HOST.fullmatch(self.host) or not 1 <= self.port < 1 << 16:
            raise ValueError("this is not a host and a port")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """Host and port as the header `Host` has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine itself."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")


def origin_of(scheme: str, host: str | None, port: int | None = None) -> Origin:
    """The place of these parts of a URL; a host that is not ASCII in its IDNA form, the port the scheme's own.

    Raises:
        ValueError: They are not the parts of one.
    """
    scheme = scheme.lower()
    try:
        name = (host or "").lower().encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("this is not a host") from None
    return Origin(scheme, name, PORTS.get(scheme, 0) if port is None else port)


def checked_target(target: str) -> str:
    """`target` itself, a path that begins with a slash, perhaps with a query, percent-encoded.

    Raises:
        ValueError: It is not one. It is not shown: paths hold secrets, those of webhooks do.
    """
    if _TARGET.fullmatch(target) is None or "#" in target:
        raise ValueError("a path begins with / and is percent-encoded ASCII without a fragment")
    return target


def place_of(url: str) -> tuple[Origin, str]:
    """Origin and target of an absolute URL. User and password are not looked at.

    Raises:
        ValueError: It is not one of http or https. It is not shown.
    """
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        raise ValueError("this is not a URL") from None
    origin = origin_of(split.scheme, split.hostname, port)
    return origin, checked_target((split.path or "/") + (f"?{split.query}" if split.query else ""))


def redirected(origin: Origin, target: str, location: str) -> tuple[Origin, str]:
    """Where an answer's `Location` leads from `target`.

    Raises:
        ValueError: Nowhere that HTTP goes.
    """
    return place_of(urljoin(f"{origin}{target}", location.strip()))
