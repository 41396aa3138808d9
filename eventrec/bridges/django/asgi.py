"""Django's ASGI application with a lifespan: servers that end by a signal close the recorder before.

from eventrec.bridges.django.asgi import get_asgi_application

application = get_asgi_application()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from anyio import to_thread
from django.core.asgi import get_asgi_application as _django_application

from eventrec.bridges.django import close, start

if TYPE_CHECKING:
    from eventrec.bridges.asgi import ASGIApp, Receive, Scope, Send


def get_asgi_application() -> ASGIApp:
    """What Django's function of this name returns, and it answers a server's lifespan.

    The recorder opens when the server starts, and closes when it ends: uvicorn ends by the signal that it was sent,
    which leaves no time for anything that Python would do at its end.
    """
    return with_lifespan(cast("ASGIApp", _django_application()))


def with_lifespan(app: ASGIApp) -> ASGIApp:
    """`app`, which need not know of lifespans; where it does, wrap it so that it is not asked."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        while True:
            match (await receive())["type"]:
                case "lifespan.startup":
                    await to_thread.run_sync(start)
                    await send({"type": "lifespan.startup.complete"})
                case "lifespan.shutdown":
                    await to_thread.run_sync(close)
                    await send({"type": "lifespan.shutdown.complete"})
                    return
                case _:
                    pass

    return application
