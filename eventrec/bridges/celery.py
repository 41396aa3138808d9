"""A recorder in the workers of a Celery application; needs `eventrec[celery]`.

    app = Celery("shop", broker=…)
    recorder = EventRecorder("postgresql://…", log="/var/lib/shop/events")   # or EventRecorder.from_env()
    record_tasks(app, recorder)

    @app.task
    def place_order(number):
        recorder.record(OrderPlaced(number=number))

Each process of a pool opens the recorder when it starts and closes it when it ends, also after `max_tasks_per_child`;
so do the pools `solo` and `threads` in their one process. What a process that is killed has written is delivered by the
others, or by whatever opens the directory next.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from celery import signals

from eventrec.bridges.process_recorder import ProcessRecorder
from eventrec.events.event import EventStruct

if TYPE_CHECKING:
    from celery import Celery

    from eventrec.recorder import EventRecorder


class TaskRun(EventStruct):
    """One attempt at a task, from its begin to its end; without its arguments, which may hold what must not be kept.

    `state` is Celery's: "SUCCESS", "FAILURE", "RETRY", "IGNORED", "REJECTED". `retries` says how many attempts came
    before. `error` is the class of what the task raised. An attempt whose process was killed leaves none.
    """

    type: ClassVar[str] = "celery_task"

    task: str
    state: str | None
    milliseconds: float
    retries: int
    queue: str | None
    error: str | None = None


def record_tasks(app: Celery, recorder: EventRecorder) -> None:
    """Open and close `recorder` in the workers of `app`, and record a `TaskRun` for each attempt at a task.

    Whatever a task records carries `task` and `task_id` in its context, as the task's event does. Nothing is opened
    where the module is only imported, to send tasks.
    """
    observer = _Observer(app, ProcessRecorder(recorder))
    # weak=False: nothing else keeps the observer.
    signals.worker_process_init.connect(observer.start_process, weak=False)
    signals.worker_process_shutdown.connect(observer.end_process, weak=False)
    signals.worker_shutdown.connect(observer.end_process, weak=False)
    signals.task_prerun.connect(observer.begin, weak=False)
    signals.task_postrun.connect(observer.end, weak=False)


class _Observer:
    """What is known of the tasks that run in this process, by their ids."""

    def __init__(self, app: Celery, of_process: ProcessRecorder) -> None:
        self._app = app
        self._of_process = of_process
        self._running: dict[str, tuple[float, ExitStack]] = {}

    def start_process(self, **_: Any) -> None:
        self._of_process.start()

    def end_process(self, **_: Any) -> None:
        self._of_process.close()

    def begin(self, task_id: str, task: Any, **_: Any) -> None:
        if task.app is not self._app:
            return
        self._of_process.ensure_open()  # The pool `threads` has no signal for its process.
        context = ExitStack()
        context.enter_context(self._of_process.recorder.context(task=task.name, task_id=task_id))
        self._running[task_id] = time.perf_counter(), context

    def end(self, task_id: str, task: Any, retval: object = None, state: str | None = None, **_: Any) -> None:
        start, context = self._running.pop(task_id, (None, None))
        if start is None or context is None:
            return
        with context:
            self._of_process.recorder.record(
                TaskRun(
                    task=task.name,
                    state=state,
                    milliseconds=round((time.perf_counter() - start) * 1_000, 3),
                    retries=int(task.request.retries or 0),
                    queue=(task.request.delivery_info or {}).get("routing_key"),
                    error=type(retval).__name__ if isinstance(retval, BaseException) else None,
                )
            )
