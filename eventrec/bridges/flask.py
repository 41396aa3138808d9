"""A recorder in a Flask application; needs `eventrec[flask]`.

    events = FlaskRecorder()

    def create_app():
        app = Flask(__name__)
        app.config["EVENTREC"] = {"to": "postgresql://…", "log": "var/events"}
        events.init_app(app)
        return app

Without that setting EVENTREC_TO, EVENTREC_LOG and the other variables say what the recorder is.

    events.record(OrderPlaced(...))  # in a view, or wherever else an application context is

With the development server, gunicorn with and without `--preload`, and commands alike: see
`eventrec.bridges.process_recorder`.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from flask import current_app, g, request

from eventrec.bridges.process_recorder import ProcessRecorder, recorder_of
from eventrec.bridges.requests import RequestServed, error_name, request_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flask import Flask, Response

    from eventrec.events.event import Event, Eventable
    from eventrec.recorder import EventRecorder
    from eventrec.status import Status

EXTENSION: Final = "eventrec"
_OBSERVED: Final = "_eventrec"


class FlaskRecorder:
    """The extension: records a `RequestServed` for each request, and gives views the application's recorder.

    Whatever is recorded during a request carries `request_id` in its context: the value of the header X-Request-ID, or
    a new one. A subclass may say more (`fields_of`, `wants`). `recorder` is one for every application; without it
    `app.config["EVENTREC"]` says what it is made of: a recorder, or a mapping with `to`, `log` and options; or
    the environment.

    Raises:
        OptionsError: What the configuration or the environment says does not make a recorder; so does `init_app`.
        HandlerURLError: A URL names an unknown scheme or option, or its driver is not installed; so does `init_app`.
    """

    def __init__(self, app: Flask | None = None, *, recorder: EventRecorder | None = None) -> None:
        self._given = recorder
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Make the recorder of `app`, and observe its requests. Nothing is opened before the first of them."""
        settings = self._given if self._given is not None else app.config.get("EVENTREC")
        app.extensions[EXTENSION] = ProcessRecorder(recorder_of(settings, name='app.config["EVENTREC"]'))
        app.before_request(self._begin)
        app.after_request(self._note)
        app.teardown_request(self._end)

    @property
    def recorder(self) -> EventRecorder:
        """That of the current application, open in this process. RuntimeError where there is no application context."""
        of_process = _of_process()
        of_process.ensure_open()
        return of_process.recorder

    def record(self, event: Event | Eventable) -> bool:
        """See `EventRecorder.record`. RuntimeError where there is no application context."""
        return self.recorder.record(event)

    def close(self) -> Status:
        """Close the current application's recorder before the process ends, which otherwise does it."""
        return _of_process().close()

    def wants(self) -> bool:
        """Whether the current request becomes an event; its context is there either way."""
        return True

    def fields_of(self) -> Mapping[str, object]:
        """What is in the context of all that is recorded during the current request: JSON values by their names."""
        return {"request_id": request_id(request.headers.get("x-request-id"))}

    def _begin(self) -> None:
        observed = _Observed()
        setattr(g, _OBSERVED, observed)
        observed.context.enter_context(self.recorder.context(**self.fields_of()))

    def _note(self, response: Response) -> Response:
        observed: _Observed | None = g.get(_OBSERVED)
        if observed is not None:
            observed.status = response.status_code
            observed.bytes = None if response.is_streamed else response.calculate_content_length()
        return response

    def _end(self, exc: BaseException | None) -> None:
        observed: _Observed | None = g.pop(_OBSERVED, None)
        if observed is None:  # Another function before ours answered, or raised.
            return
        with observed.context:
            if self.wants():
                self.recorder.record(
                    RequestServed(
                        method=request.method,
                        path=request.path,
                        route=None if request.url_rule is None else request.url_rule.rule,
                        status=observed.status,
                        milliseconds=round((time.perf_counter() - observed.start) * 1_000, 3),
                        response_bytes=observed.bytes,
                        error=error_name(exc),
                    )
                )


class _Observed:
    """What is known of the current request so far."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.context = ExitStack()
        self.status: int | None = None
        self.bytes: int | None = 0


def _of_process() -> ProcessRecorder:
    found = current_app.extensions.get(EXTENSION)
    if not isinstance(found, ProcessRecorder):
        raise RuntimeError("this application has no recorder: call FlaskRecorder.init_app(app)")  # noqa: TRY004 - no type
    return found
