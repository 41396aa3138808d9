"""A pool of connections to one origin, with TLS and proxy as the options say. It reads files: for a thread."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore2

from eventrec import PauseError
from eventrec_handlers._http.origin import origin_of

if TYPE_CHECKING:
    from eventrec_handlers._http.options import HTTPOptions
    from eventrec_handlers._http.origin import Origin

MAX_CONNECTIONS: Final = 10
KEEP_ALIVE: Final = 5.0
"""Seconds that an idle connection is kept: many servers close it after as much."""

_SOCKS: Final = ("socks5", "socks5h")
_SOCKS_PORT: Final = 1080


def pool_for(origin: Origin, options: HTTPOptions) -> httpcore2.AsyncConnectionPool:
    """A pool without a connection yet.

    Raises:
        PauseError: A file of certificates cannot be read, or the proxy's URL is not one. No URL is shown.
    """
    proxy = _proxy_url(origin, options.proxy)
    is_secure = origin.scheme == "https" or (proxy is not None and proxy.startswith("https:"))
    # Without TLS, the context is never used, and loading the system's certificates would take 20 ms.
    context = _tls_context(options) if is_secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpcore2.AsyncConnectionPool(
        ssl_context=context,
        proxy=None if proxy is None else _proxy(proxy, context),
        max_connections=MAX_CONNECTIONS,
        keepalive_expiry=KEEP_ALIVE,
    )


def _tls_context(options: HTTPOptions) -> ssl.SSLContext:
    try:
        if not options.tls_verify:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif options.tls_ca is not None:
            context = ssl.create_default_context(cafile=options.tls_ca)
        else:
            context = httpcore2.default_ssl_context()
        if options.tls_cert is not None:
            # A key with a passphrase would be asked for on the terminal.
            context.load_cert_chain(options.tls_cert, options.tls_key, password=_no_passphrase)
    except (OSError, ValueError) as exc:
        files = ", ".join(each for each in (options.tls_ca, options.tls_cert, options.tls_key) if each is not None)
        raise PauseError(f"TLS cannot be set up{files and f' with {files}'}: {exc}") from exc
    return context


def _no_passphrase() -> str:
    raise ValueError("its key has a passphrase")


def _proxy_url(origin: Origin, said: str) -> str | None:
    """The proxy to go through; None: straight to `origin`."""
    if said == "none":
        return None
    if said != "environment":
        return said
    if origin.is_loopback or proxy_bypass(f"{origin.host}:{origin.port}") or proxy_bypass(origin.host):
        return None
    proxies = getproxies()
    url = proxies.get(origin.scheme) or proxies.get("all")
    return url if not url or "://" in url else f"http://{url}"


def _proxy(url: str, context: ssl.SSLContext) -> httpcore2.Proxy:
    try:
        split = urlsplit(url)
        is_socks = split.scheme.startswith("socks")
        scheme = "http" if is_socks and split.scheme in _SOCKS else split.scheme
        place = origin_of(scheme, split.hostname, split.port or (_SOCKS_PORT if is_socks else None))
    except ValueError:
        raise PauseError("the proxy's URL is not one of http, https or socks5") from None
    auth = None
    if split.username is not None:
        auth = (unquote(split.username).encode(), unquote(split.password or "").encode())
    if is_socks:
        try:
            import socksio  # type: ignore[import-not-found] # noqa: F401, PLC0415 - an extra of its own, seldom needed
        except ImportError as exc:
            raise PauseError("a SOCKS proxy needs the package socksio") from exc
    return httpcore2.Proxy(
        httpcore2.URL(scheme=split.scheme, host=place.host, port=place.port, target="/"),
        auth=auth,
        ssl_context=context if split.scheme == "https" else None,
    )
