"""A worker of Celery's in this process, over its broker in memory; pools of processes: tests/processes."""

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, signals
from celery.contrib.testing.worker import start_worker

from eventrec import EventStruct
from eventrec.bridges.celery import record_tasks
from eventrec.testing import assert_conserved
from eventrec.testing.recorded import RecordedEvents

SIGNALS = (
    signals.worker_process_init,
    signals.worker_process_shutdown,
    signals.worker_shutdown,
    signals.task_prerun,
    signals.task_postrun,
)


class Asked(EventStruct):
    number: int


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> RecordedEvents:
    for signal in SIGNALS:
        monkeypatch.setattr(signal, "receivers", list(signal.receivers or ()))
    return RecordedEvents()


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """A worker sets the level of the root logger, and redirects warnings."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    logging.captureWarnings(False)  # noqa: FBT003 - its only parameter
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture
def app(events: RecordedEvents, logging_as_it_was: None) -> Iterator[Celery]:
    app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.broker_connection_retry_on_startup = False
    record_tasks(app, events.recorder)
    yield app
    app.close()


def test_each_attempt_becomes_an_event_and_its_task_is_in_the_context_of_all(
    app: Celery, events: RecordedEvents
) -> None:
    ended = threading.Semaphore(0)
    signals.task_postrun.connect(lambda **_: ended.release(), weak=False)

    @app.task(bind=True, name="shop.order", max_retries=1)
    def order(self: Any, number: int) -> None:
        events.recorder.record(Asked(number))
        if number == 2 and self.request.retries == 0:
            raise self.retry(countdown=0)
        if number == 3:
            raise ZeroDivisionError

    with start_worker(app, perform_ping_check=False, shutdown_timeout=30):
        ids = [order.apply_async((number,)).id for number in (1, 2, 3)]
        for _ in range(4):
            assert ended.acquire(timeout=30)
        opened = events.recorder.status().state
    signals.worker_shutdown.send(sender=None)  # start_worker leaves it out

    runs = events.of_type("celery_task")
    assert all(run.payload.pop("milliseconds") >= 0 for run in runs)
    found: dict[str, list[tuple[str, int, str | None]]] = {run.context["task_id"]: [] for run in runs}
    for run in runs:
        found[run.context["task_id"]].append((run.payload["state"], run.payload["retries"], run.payload["error"]))
    assert [found[id_] for id_ in ids] == [
        [("SUCCESS", 0, None)],
        [("RETRY", 0, "Retry"), ("SUCCESS", 1, None)],
        [("FAILURE", 0, "ZeroDivisionError")],
    ]
    assert {run.payload["queue"] for run in runs} == {"celery"}
    asked = events.of_type("asked")
    assert {event.context["task"] for event in [*asked, *runs]} == {"shop.order"}
    assert [event.payload["number"] for event in asked if event.context["task_id"] == ids[0]] == [1]
    assert opened == "open"
    assert events.recorder.status().state == "closed"
    assert_conserved(events.recorder.status(), offered=len(events))


def test_tasks_of_another_application_are_its_own_affair(app: Celery, events: RecordedEvents) -> None:
    other = Celery("other", broker="memory://", set_as_current=False)

    @other.task
    def something() -> None: ...

    something.apply()

    assert list(events) == []
    assert events.recorder.status().state == "new"
    other.close()
