"""Who may do what: tokens with scopes; where there are none, this machine alone.

    tokens   a request brings one, `Authorization: Bearer …`; where it comes from does not matter
    none     it comes from this machine, by loopback or a unix socket; not through a proxy, as far as that says so; the
             host it asks for is this machine by name or number, which a page of another site cannot have a browser do
             (DNS rebinding); and where a page sends it, that page is of this server, or of an origin in `cors_origins`

A proxy on this machine that adds no header of its own cannot be told from a client on it: behind one there are tokens.
"""

from __future__ import annotations

import ipaddress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from eventrec.server.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.requests import Request

    from eventrec.server.scopes import Scope
    from eventrec.server.tokens import Tokens

LOCAL: Final = "local"
"""What who asks is called where there are no tokens."""

TOKEN_NAME: Final = "eventrec.token"  # noqa: S105 - the key of an ASGI scope: the name of the token that a request brought

_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
"""Headers that proxies add. One may name any address, also of this machine: that it is there is what counts."""

_BEARER: Final = "bearer"
_REALM: Final = 'Bearer realm="eventrec"'


class Access:
    """Decides about each request. `tokens` None: this machine may do everything, and no other one anything.

    `origins` are those of other sites whose pages may ask from this machine, where there are no tokens.
    """

    def __init__(self, tokens: Tokens | None, *, origins: Collection[str] = ()) -> None:
        self._tokens = tokens
        self._origins = frozenset(origins)

    @property
    def has_tokens(self) -> bool:
        """Whether requests need tokens."""
        return self._tokens is not None

    @property
    def remarks(self) -> list[str]:
        """What is wrong with the file of tokens."""
        return [] if self._tokens is None or self._tokens.remark is None else [self._tokens.remark]

    async def refresh(self) -> None:
        """Look whether the file of tokens has changed, once a second at most."""
        if self._tokens is not None:
            await self._tokens.refresh()

    def admit(self, request: Request) -> None:
        """Return where who asks may be answered at all; with tokens `check` decides.

        Raises:
            RefusedError: 403: there are no tokens, and it is not this machine that asks, or another site's page.
        """
        if self._tokens is None and (why := self._foreign(request)) is not None:
            raise RefusedError(HTTPStatus.FORBIDDEN, f"without tokens this server answers this machine alone: {why}")

    def check(self, request: Request, scope: Scope, *, token: str | None = None) -> str:
        """The name of who asks. `token` is one that stood in the body, else the request's own counts.

        Raises:
            RefusedError: 401 without a token that is known, 403 where it is not one for `scope`.
        """
        if self._tokens is None:
            self.admit(request)
            request.scope[TOKEN_NAME] = LOCAL
            return LOCAL
        text = token if token is not None else _bearer(request)
        if not text:
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "a token is needed: Authorization: Bearer …",
                headers={"WWW-Authenticate": _REALM},
            )
        found = self._tokens.find(text)
        if found is None:
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "this token is not known, or has expired",
                headers={"WWW-Authenticate": f'{_REALM}, error="invalid_token"'},
            )
        request.scope[TOKEN_NAME] = found.name
        if scope not in found.scopes:
            raise RefusedError(
                HTTPStatus.FORBIDDEN,
                f"this token has not the scope {scope!r}, which this needs",
                headers={"WWW-Authenticate": f'{_REALM}, error="insufficient_scope", scope="{scope}"'},
            )
        return found.name

    def may(self, request: Request, scope: Scope) -> bool:
        """Whether `check` would return."""
        try:
            self.check(request, scope)
        except RefusedError:
            return False
        return True

    def _foreign(self, request: Request) -> str | None:
        """Why it is not this machine that asks for itself; None: it is."""
        headers = request.headers
        if not _is_from_here(request):
            return "the request comes from another one"
        if any(name in headers for name in _FORWARDED):
            return "the request came through a proxy"
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not is_this_machine(host_of(hosts[0])):
            return "the header Host names another one"
        origin = headers.get("origin")
        if origin is not None and origin not in self._origins and _netloc(origin) != hosts[0].lower():
            return "the page that asks is of another origin"
        if origin is None and headers.get("sec-fetch-site") == "cross-site":
            return "the page that asks is of another site"
        return None


def host_of(header: str) -> str:
    """The name, or number, in a header Host, in lower case and without the port; "" where it has none."""
    host = header.strip().lower()
    if host.startswith("["):
        number, end, _ = host[1:].partition("]")
        return number if end else ""
    return host.partition(":")[0].removesuffix(".")


def is_this_machine(host: str) -> bool:
    """Whether `host` is this machine, by loopback."""
    if host == "localhost":
        return True
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = number.ipv4_mapped if isinstance(number, ipaddress.IPv6Address) else None
    return (mapped or number).is_loopback


def _is_from_here(request: Request) -> bool:
    """By the connection: where it is not of the network, it is of a unix socket, whose server has no port."""
    if request.client is not None and request.client.host:
        return is_this_machine(request.client.host)
    server = request.scope.get("server")
    return server is not None and server[1] is None


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _bearer(request: Request) -> str:
    """The token in the header; "" where there is none."""
    given = request.headers.getlist("authorization")
    if len(given) != 1:
        return ""
    scheme, _, text = given[0].strip().partition(" ")
    return text.strip() if scheme.lower() == _BEARER else ""
