"""The routes of the page. It holds no data, so it needs no token: what it shows, it asks for with the reader's own.

    /                            the page, asked for again each time (ETag)
    /dashboard                   leads there
    /dashboard/VERSION/NAME      its files, kept by a browser for ever: another version has another address

All addresses in it are relative: it works under any path that the server is mounted at.
"""

from __future__ import annotations

import hashlib
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from eventrec.runtime.backend import in_thread
from eventrec.server.dashboard.files import Files
from eventrec.server.refusals import RefusedError
from eventrec.server.routes import Query, Route

if TYPE_CHECKING:
    from starlette.requests import Request

    from eventrec.server.serving import Server

HTML: Final = "text/html"
FOREVER: Final = "public, max-age=31536000, immutable"

# Of plotly.js: a style element is made empty, and filled through its sheet; one attribute is set to find out whether
# the browser shows pixels as they are.
_EMPTY: Final = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
_PIXELATED: Final = "'sha256-wkY2X5hecQzbhnFCqvTpwrUJ1f4X8LH5WFjYUzv1wmU='"

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        f"style-src 'self' {_EMPTY}",
        f"style-src-attr 'unsafe-hashes' {_PIXELATED}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types eventrec",
    )
)
"""Nothing from elsewhere, no inline script, no style but ours and plotly's; no text becomes markup."""


async def _page(request: Request, server: Server) -> Response:
    # So that it need not find out by requests that are refused.
    needs_token, reads = server.access.has_tokens, server.pool is not None
    html, tag = await in_thread(_rendered, needs_token, reads)
    headers = {"Cache-Control": "no-cache", "ETag": tag, "Content-Security-Policy": POLICY}
    if tag in _tags(request):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(html, headers=headers, media_type="text/html")


async def _redirect(request: Request, server: Server) -> Response:
    del request, server
    return Response(status_code=HTTPStatus.TEMPORARY_REDIRECT, headers={"Location": "./"})


async def _file(request: Request, server: Server) -> Response:
    del server
    files = await in_thread(_files)
    found = files.by_name.get(request.path_params["name"])
    if found is None or request.path_params["version"] != files.version:
        raise RefusedError(HTTPStatus.NOT_FOUND, "the page has no such file; of an earlier version, load it again")
    tag = f'"{files.version}"'
    # A weak tag: it is that of both encodings.
    headers = {"Cache-Control": FOREVER, "ETag": f"W/{tag}", "Vary": "Accept-Encoding"}
    if tag in _tags(request):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    packed = None
    if "gzip" in request.headers.get("accept-encoding", ""):
        packed = await in_thread(lambda: found.compressed)
    if packed is not None:
        headers["Content-Encoding"] = "gzip"
    return Response(packed or found.content, headers=headers, media_type=found.media_type)


def _tags(request: Request) -> list[str]:
    said = request.headers.get("if-none-match", "").split(",")
    return [each.strip().removeprefix("W/") for each in said]


@cache
def _files() -> Files:
    return Files.read()


@cache
def _rendered(needs_token: bool, reads: bool) -> tuple[bytes, str]:  # noqa: FBT001 - a thread passes by position
    """The page of a server that wants tokens, or reads a destination, and its ETag."""
    files = _files()
    html = files.page
    modules = [f'<link rel="modulepreload" href="{{static}}/{name}">' for name in files.by_name if _is_module(name)]
    modules += [f'<meta name="brought-style" id="{id_}">' for id_ in files.brought_styles]
    for name, value in (
        ("modules", "\n".join(modules)),
        ("static", f"dashboard/{files.version}"),
        ("version", version("eventrec")),
        ("tokens", "needed" if needs_token else ""),
        ("reads", "yes" if reads else ""),
    ):
        html = html.replace(f"{{{name}}}", value)
    content = html.encode()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _is_module(name: str) -> bool:
    return name.endswith(".js") and not name.endswith(".min.js")


DASHBOARD: Final = (
    Route(
        method="GET",
        path="/",
        endpoint=_page,
        scope=None,
        summary="The page",
        tag="dashboard",
        answers={HTML: None},
    ),
    Route(
        method="GET",
        path="/dashboard",
        endpoint=_redirect,
        scope=None,
        summary="Leads to the page",
        tag="dashboard",
        answers={},
        status=HTTPStatus.TEMPORARY_REDIRECT,
    ),
    Route(
        method="GET",
        path="/dashboard/{version}/{name}",
        endpoint=_file,
        scope=None,
        summary="A file of the page",
        tag="dashboard",
        parameters=(
            Query(name="version", place="path", description="The version of the page."),
            Query(name="name", place="path", description="The name of the file."),
        ),
        answers={"text/css": None, "text/javascript": None, "image/svg+xml": None},
        refusals=(404,),
    ),
)
"""The routes of this room."""
