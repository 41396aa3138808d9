"""What a URL says of credentials, as the headers of every request: Basic, Bearer, and any header by its name."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from eventrec_handlers._http.options import secret_option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec import HandlerURL

_HEADER: Final = "header."


def credential_names(url: HandlerURL) -> list[str]:
    """The options of `url` that `credentials_in` takes: `token`, and `header.NAME` for each that is there."""
    return ["token", *(name for name in url.options if name.startswith(_HEADER))]


def credentials_in(url: HandlerURL) -> dict[str, str]:
    """The headers that `token` and `header.NAME` ask for; each may be `env:NAME`.

    Raises:
        HandlerURLError: A variable is not set, or a value is empty.
    """
    headers = {name.removeprefix(_HEADER): secret_option(url, name) or "" for name in credential_names(url)[1:]}
    token = secret_option(url, "token")
    return headers if token is None else {**headers, "Authorization": f"Bearer {token}"}


def with_basic(headers: Mapping[str, str], url: str) -> tuple[dict[str, str], list[str]]:
    """`headers` with the user and password of `url`, where it has any, as the scheme Basic; and what is secret of them.

    Raises:
        ValueError: There is a header Authorization as well; or it is not a URL.
    """
    userinfo, at, _ = urlsplit(url).netloc.rpartition("@")
    if not at:
        return dict(headers), []
    if any(name.lower() == "authorization" for name in headers):
        raise ValueError("give a user or a header Authorization, not both")
    user, _, password = (unquote(part) for part in userinfo.partition(":"))
    encoded = b64encode(f"{user}:{password}".encode()).decode()
    return {**headers, "Authorization": f"Basic {encoded}"}, [password]
