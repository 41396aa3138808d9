"""What a user may say of a connection over HTTP: timeouts, TLS, the proxy; by keyword or in the query of a URL."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from eventrec import HandlerURLError

if TYPE_CHECKING:
    from typing import Self

    from eventrec import HandlerURL

TIMEOUT: Final = 30.0
CONNECT_TIMEOUT: Final = 10.0
MAX_ANSWER: Final = 1 << 20

OPTION_NAMES: Final = ("timeout", "connect_timeout", "tls_ca", "tls_cert", "tls_key", "tls_verify", "proxy")
"""The options as a URL names them."""

_ENV: Final = "env:"


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPOptions:
    """How to connect, and how much to take.

    Attributes:
        timeout: Seconds that one request may take in all, from connecting to the end of the answer.
        connect_timeout: Seconds that connecting may take, TLS included.
        max_answer: Bytes of an answer's body, decompressed, that are read.
        tls_ca: A file of certificates in PEM form to trust in place of the system's.
        tls_cert: A file with the client's own certificate, and its key unless `tls_key` names another file.
        tls_key: A file with the key of `tls_cert`.
        tls_verify: False trusts any certificate: for tests.
        proxy: "environment": as HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say, where the destination is not this
            machine itself. "none", or the proxy's URL. A proxy sees what is sent to an `http://` destination.

    Raises:
        ValueError: One of them is not allowed.
    """

    timeout: float = TIMEOUT
    connect_timeout: float = CONNECT_TIMEOUT
    max_answer: int = MAX_ANSWER
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_verify: bool = True
    proxy: str = "environment"

    def __post_init__(self) -> None:
        for name in ("timeout", "connect_timeout", "max_answer"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be more than 0, got {value:g}")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("tls_key is the key of tls_cert, which is missing")

    @property
    def secrets(self) -> list[str]:
        """What in them is secret: the password of the proxy."""
        userinfo = self.proxy.partition("://")[2].rpartition("@")[0]
        password = userinfo.partition(":")[2]
        return [password, unquote(password)] if password else []

    @classmethod
    def of(cls, url: HandlerURL) -> Self:
        """The options in the query string of `url`. `proxy=env:NAME` takes the proxy's URL from the environment.

        Raises:
            HandlerURLError: A value is not allowed, or the variable is not set.
        """
        try:
            return cls(
                timeout=url.seconds("timeout", default=TIMEOUT),
                connect_timeout=url.seconds("connect_timeout", default=CONNECT_TIMEOUT),
                tls_ca=url.text("tls_ca"),
                tls_cert=url.text("tls_cert"),
                tls_key=url.text("tls_key"),
                tls_verify=url.boolean("tls_verify", default=True),
                proxy=secret_option(url, "proxy") or "environment",
            )
        except ValueError as exc:
            raise HandlerURLError(f"a {url.scheme} URL: {exc}") from None


def secret_option(url: HandlerURL, name: str) -> str | None:
    """The option `name` of `url`, or what the variable holds that it names as `env:NAME`; None: it is not given.

    Raises:
        HandlerURLError: The variable is not set, or empty; or the option is.
    """
    value = url.text(name)
    if value is None:
        return None
    if value.startswith(_ENV):
        value = os.environ.get(value.removeprefix(_ENV))
    if not value:
        raise HandlerURLError(f"the option {name!r} of a {url.scheme} URL is empty, or its variable is not set")
    return value
