import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from eventrec import Allowed, EventModel, EventRecorderOptions, EventStruct, ReceivedEvent
from eventrec.testing.recorded import RecordedEvents

TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("test")


class Asked(EventStruct):
    number: int


class Known(EventModel):
    number: Annotated[int, Allowed()]


@pytest.fixture
def events() -> Iterator[RecordedEvents]:
    events = RecordedEvents(EventRecorderOptions(trace_context=True))
    yield events
    events.recorder.status()


def ids(span: trace.Span) -> dict[str, str]:
    said = span.get_span_context()
    return {"trace_id": f"{said.trace_id:032x}", "span_id": f"{said.span_id:016x}"}


def test_events_inside_a_span_carry_its_ids_and_others_none(events: RecordedEvents) -> None:
    record = events.recorder.record
    record(Asked(0))
    with TRACER.start_as_current_span("outer") as outer:
        record(Asked(1))
        with TRACER.start_as_current_span("inner") as inner:
            record(Known(number=2))
            record(ReceivedEvent("said", b"{}"))
        record(Asked(3))
    record(Asked(4))

    assert [event.context for event in events] == [{}, ids(outer), ids(inner), ids(inner), ids(outer), {}]
    assert ids(outer)["trace_id"] == ids(inner)["trace_id"]


def test_they_stand_beside_the_fields_of_the_task_which_go_before(events: RecordedEvents) -> None:
    recorder = events.recorder
    with TRACER.start_as_current_span("one") as span:
        with recorder.context(user_id=7):
            recorder.record(Asked(1))
        with recorder.context(span_id="mine"):
            recorder.record(Asked(2))
        with recorder.context(said='"trace_id"'):
            recorder.record(Asked(3))
        recorder.record(ReceivedEvent("said", b"{}", context=b'{"trace_id":"theirs"}'))

    assert [event.context for event in events] == [
        {"user_id": 7, **ids(span)},
        {**ids(span), "span_id": "mine"},
        {"said": '"trace_id"', **ids(span)},
        {**ids(span), "trace_id": "theirs"},
    ]


def test_allowlist_knows_them() -> None:
    events = RecordedEvents(EventRecorderOptions(trace_context=True, policy="allowlist"))

    with TRACER.start_as_current_span("one") as span:
        assert events.recorder.record(Known(number=1))

    assert events[0].context == ids(span)


def test_a_broken_tracer_costs_an_event_its_ids_alone(events: RecordedEvents) -> None:
    class Broken(trace.NonRecordingSpan):
        def get_span_context(self) -> trace.SpanContext:
            raise ZeroDivisionError

    token = otel_context.attach(trace.set_span_in_context(Broken(trace.INVALID_SPAN_CONTEXT)))
    try:
        assert events.recorder.record(Asked(1))
    finally:
        otel_context.detach(token)

    assert events[0].context == {}


def test_without_the_option_opentelemetry_is_not_loaded_and_without_it_the_option_says_what_to_install() -> None:
    program = (
        "import sys\n"
        "from eventrec import EventRecorder, EventRecorderOptions, OptionsError\n"
        "EventRecorder('memory:')\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
        "sys.modules['opentelemetry.trace'] = None\n"
        "try:\n"
        "    EventRecorder('memory:', options=EventRecorderOptions(trace_context=True))\n"
        "except OptionsError as exc:\n"
        "    print(exc)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "trace_context needs OpenTelemetry: pip install 'eventrec[opentelemetry]'\n"
