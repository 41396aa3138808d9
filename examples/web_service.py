"""A web service that records its orders, and every request, into SQLite.

    pip install eventrec starlette uvicorn
    python examples/web_service.py [PORT]
    curl -X POST localhost:8000/orders -d '{"customer": "ada", "total": 12.5}'
    curl localhost:8000/status

Stop it with Ctrl-C: what was recorded is delivered before it exits. `events.db` then has the tables `orders`, and
`events` with the requests; both have the request's id in their column `context`.
"""

import sys
from typing import Annotated

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from eventrec import Column, EventModel, EventRecorder
from eventrec.bridges.asgi import RecordRequests, recorder_lifespan


class OrderPlaced(EventModel, table="orders"):
    customer: Annotated[str, Column()]
    total: float


recorder = EventRecorder("sqlite:///events.db")


async def place_order(request: Request) -> JSONResponse:
    order = OrderPlaced.model_validate_json(await request.body())
    recorder.record(order)  # never waits, never raises: the response does not depend on the database
    return JSONResponse({"customer": order.customer}, status_code=201)


async def status(_: Request) -> JSONResponse:
    return JSONResponse(recorder.status().to_dict())


app = Starlette(
    routes=[Route("/orders", place_order, methods=["POST"]), Route("/status", status)],
    lifespan=recorder_lifespan(recorder),
    middleware=[Middleware(RecordRequests, recorder=recorder, wants=lambda scope: scope["path"] != "/status")],
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
