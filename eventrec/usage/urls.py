"""What may be told of a URL that a person opened: a hash of its root domain, and of some domains the whole URL.

The root domain is the last two labels of the host, in lower case. A host that is an IP address, or a single label,
has none; neither has text that is not a URL with a scheme. Hosts are read as browsers read them: any number of
slashes may follow `https:`, user and port are left out, and a host that ends in a number is an address.

    https://rerun.io, https://ReRun.io, https://app.rerun.io/a?b=c     rerun.io
    https://localhost, https://127.0.0.1, rerun.io, https:/rerun       none
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from eventrec.usage.hashing import RERUN_SALT, hashed

if TYPE_CHECKING:
    from collections.abc import Collection

_WEB: Final = re.compile(r"(?:https?|wss?|ftp):[/\\]*([^/\\?#]*)", re.IGNORECASE)
_OTHER: Final = re.compile(r"[a-z][a-z0-9+.-]*://([^/?#]*)", re.IGNORECASE)
_PORT: Final = re.compile(r":([0-9]{0,5})\Z")
_MAX_PORT: Final = 65_535
_NUMBER: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)", re.IGNORECASE)
_FORBIDDEN: Final = re.compile(r"[\0-\x20#%/:<>?@\[\\\]^|\x7f]")
_AROUND: Final = "".join(map(chr, range(0x21)))
"""Control characters and spaces, which a URL may stand between."""
_LABELS: Final = 2


def root_domain(url: str) -> str | None:
    """The root domain of `url`, of a name outside of ASCII in its ASCII form; None where it has none."""
    text = re.sub(r"[\t\r\n]", "", url.strip(_AROUND))
    match = _WEB.match(text) or _OTHER.match(text)
    host = None if match is None else _host(match[1])
    if host is None:
        return None
    labels = host.removesuffix(".").split(".")
    last = labels[-_LABELS:]
    if len(last) < _LABELS or not all(last) or _NUMBER.fullmatch(last[-1]) is not None:
        return None
    return ".".join(last)


def url_properties(
    url: str, *, name: str = "rerun_url", in_clear: Collection[str] = ("rerun.io",), salt: bytes | str = RERUN_SALT
) -> dict[str, str]:
    """What an event may say of `url`; nothing where it has no root domain.

    `hashed_root_domain` always; the URL itself, without user and password, as `name`, only where its root domain is one
    of `in_clear`.
    """
    domain = root_domain(url)
    if domain is None:
        return {}
    said = {"hashed_root_domain": hashed(domain, salt=salt)}
    return {**said, name: _without_credentials(url)} if domain in in_clear else said


def _without_credentials(url: str) -> str:
    match = _WEB.search(url) or _OTHER.search(url)
    if match is None:
        return url
    return url[: match.start(1)] + match[1].rpartition("@")[2] + url[match.end(1) :]


def _host(authority: str) -> str | None:
    """The host of `user:password@host:port`, in lower-case ASCII; None where it is not a name."""
    host = authority.rpartition("@")[2]
    port = _PORT.search(host)
    if port is not None:
        if int(port[1] or 0) > _MAX_PORT:
            return None
        host = host[: port.start()]
    try:
        name = unquote(host, errors="strict").encode("idna").decode() if not host.isascii() or "%" in host else host
    except UnicodeError:
        return None
    return name.lower() if name and _FORBIDDEN.search(name) is None else None
