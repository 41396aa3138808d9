"""How a program is used, recorded for its makers: with its user's say, and never in the program's way."""

from __future__ import annotations

import logging
import os
import weakref
from typing import TYPE_CHECKING, Any, Final, Self

from eventrec.consent.choices import ChoicesFile
from eventrec.consent.decision import decide
from eventrec.consent.places import check_app, places_of
from eventrec.errors import EventrecError, RecorderStateError
from eventrec.events.event import Event
from eventrec.options import EventRecorderOptions
from eventrec.recorder import EventRecorder
from eventrec.records.context import encoded_fields
from eventrec.runtime.logging import ROOT, described, get_logger
from eventrec.usage.build import build_information
from eventrec.usage.disclosure import Disclosure, print_disclosure, shown_destination
from eventrec.usage.session import EVENT_ID, UsageSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from eventrec.durations import Duration
    from eventrec.events.event import Eventable
    from eventrec.handler import EventHandler
    from eventrec.status import Settled, Status
    from eventrec.usage.session import Kind

_logger = get_logger("eventrec.usage")

SUBSCRIPTION: Final = "analytics"
"""What delivery is called, whatever the destination: an application may move to another one."""

MAX_FIRST_RUN: Final = 10_000
"""Events that are kept of a first run, which sends nothing and so makes no room."""


def usage_options() -> EventRecorderOptions:
    """The options of `Analytics` where it is given none: little room, no waiting, and a stop after a failed send."""
    return EventRecorderOptions(
        on_failure="stop",
        close_timeout=0,
        flush_interval=2,
        queue_bytes=8 << 20,
        max_event_bytes=64 << 10,
        max_log_bytes=64 << 20,
        max_dead_bytes=8 << 20,
    )


class Analytics:
    """How a program is used, recorded for its makers.

        with Analytics("my-app", "posthog://phc_KEY@eu.i.posthog.com") as analytics:
            analytics.record(SettingsOpened(tab="privacy"))

    Made, it decides whether it may record: `enabled`, EVENTREC_DISABLED, DO_NOT_TRACK, CI, and what this user chose for
    this application (`eventrec analytics`); see `eventrec.consent.decision`. Switched off, `record` costs next to
    nothing, and no thread, file or connection is made. In its first run it tells the user (`disclose`, by default on
    stderr), keeps what is recorded and sends nothing, old sessions neither; from the second run on it sends both.
    Processes that start before the first run has ended are in it, too.

    Each event carries in its context `distinct_id` (this user's), `session_id`, and, but for `identify` and
    `set_person`, `event_id` (1, 2, 3 in this session) and `properties` (default: the build, see
    `eventrec.usage.build`). Sessions are logs in the user's data directory, one for each process; a session that a
    process left behind is sent by the next one. With the default options a send that fails stops recording, counted
    as `stopped`, until the program starts again, and the end of the program waits for no send.

    Nothing that the system, the user's files or the destination do is raised into the program: `why_off` and `status`
    tell it. What it logs stands under the logger `eventrec`, and goes nowhere in a program that configures no logging.

    Raises:
        OptionsError: `app` cannot be the name of a directory.
        HandlerURLError: It may record, and `to` names an unknown scheme or option, or its driver is not installed.
        EncodeError: `properties` are not JSON values.
    """

    record: Callable[[Event | Eventable], bool]
    """As `EventRecorder.record`: take an event, or refuse and count it. Never waits, never raises."""

    def __init__(
        self,
        app: str,
        to: EventHandler | str,
        *,
        properties: Mapping[str, Any] | None = None,
        enabled: bool = True,
        disclose: Callable[[Disclosure], object] = print_disclosure,
        opt_out: str | None = None,
        options: EventRecorderOptions | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`opt_out` is the command that the disclosure names; `environment` is where variables are looked up.

        `disclose` may ask the user, and opt out for them: with `run_analytics_command(app, ["disable"])`, in the same
        thread. What it raises keeps anything from being recorded, and the next run is the first one again.
        """
        self.app = check_app(app)
        options = options or usage_options()
        defaults = dict(properties or {})
        encoded_fields(**defaults)
        told = opt_out or f"eventrec analytics disable --app {app}"
        decision = decide(
            app,
            lambda: places_of(app, environment),
            environment,
            enabled=enabled and options.enabled,
            disclose=lambda places: disclose(Disclosure(app, shown_destination(to), places.choices, places.data, told)),
            holds=True,
        )
        self._end_first_run = (
            (lambda: None) if decision.held is None else weakref.finalize(self, os.close, decision.held)
        )
        self._why_off = decision.why_off
        self.is_first_run = decision.is_first_run
        """Whether nothing is sent, since the user was told just now, by this process or by one that still runs."""
        self._environment = environment
        self._choices = decision.choices
        self._session = UsageSession(defaults=build_information(app).properties() | defaults if decision.is_on else {})
        if decision.is_on:
            _quieten()
            self._recorder = EventRecorder(log=places_of(app, environment).data, options=options)
            self._recorder.register(to, name=SUBSCRIPTION)
            self.record = self._record
        else:
            self._recorder = EventRecorder(options=EventRecorderOptions(enabled=False))
            self.record = self._recorder.record
        self._sync = self._recorder.sync()

    def __repr__(self) -> str:
        return f"<Analytics {self.app!r} {self.state}>"

    @property
    def why_off(self) -> str | None:
        """Why nothing is recorded; None: it is."""
        if self._why_off is None and self._recorder.is_switched_off:
            return "a send failed"
        return self._why_off

    @property
    def state(self) -> str:
        """In words: "on", "first run", or "off: " and why."""
        if self.why_off is not None:
            return f"off: {self.why_off}"
        return "first run" if self.is_first_run else "on"

    @property
    def session_id(self) -> str:
        """Of this process's session."""
        return str(self._session.id)

    # -- its life

    def __enter__(self) -> Self:
        self.open()
        return self

    def open(self) -> None:
        """Start sending, in a thread of its own; does nothing where nothing may be sent. What is recorded before waits.

        At the end of the program it closes itself.

        Raises:
            RecorderStateError: It is open already.
        """
        if self.is_first_run or self.why_off is not None:
            return
        try:
            self._sync.open()
        except (OSError, RuntimeError, EventrecError) as exc:
            if isinstance(exc, RecorderStateError):
                raise
            self._turn_off(described(exc))
            _logger.warning("usage is not recorded", app=self.app, error=described(exc))

    def flush(self, timeout: Duration | None = None) -> bool | Settled:
        """As `SyncRecorder.flush`; False where it is not open, or in a first run. True where it is switched off."""
        if self.is_first_run or self._sync.status().state not in {"open", "disabled"}:
            return False
        return self._sync.flush(timeout)

    def status(self) -> Status:
        """The account now."""
        return self._sync.status()

    def close(self, timeout: Duration | None = None) -> Status:
        """Write what was recorded; send for `timeout` seconds (default: the option `close_timeout`), and end."""
        try:
            return self._sync.close(timeout)
        finally:
            self._end_first_run()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- what is said of the user

    def identify(self, **properties: object) -> bool:
        """Say who this user is: with `properties`, and what the user lets the application know (`analytics email`)."""
        metadata = {} if self._choices is None else self._choices.metadata
        return self._record(_OfPerson("$identify", {**metadata, **properties}), kind="Identify")

    def set_person(self, **properties: object) -> bool:
        """Say what is true of this user."""
        return self._record(_OfPerson("$set", properties), kind="SetPersonProperties")

    # -- what the user says

    def enable(self) -> None:
        """The user opts in: from the next start of the program on.

        Raises:
            ConsentError: It cannot be kept.
        """
        self._change(enabled=True)

    def disable(self) -> None:
        """The user opts out: at once and for good. What was not sent yet stays, unsent: `eventrec analytics clear`.

        Raises:
            ConsentError: It cannot be kept; in this process it holds all the same.
        """
        self._turn_off("the user has opted out")
        try:
            self._change(enabled=False)
        finally:
            self._sync.close(0)

    def _change(self, *, enabled: bool) -> None:
        self._choices = ChoicesFile(places_of(self.app, self._environment).choices).change(enabled=enabled)

    # -- beneath

    def _turn_off(self, why: str) -> None:
        self._why_off = why
        self._recorder.disable()
        self.record = self._recorder.record

    def _record(self, event: Event | Eventable, kind: Kind = "Append") -> bool:
        """Record `event` with what is known around it."""
        recorder, is_offered = self._recorder, False
        if recorder.is_switched_off:
            return recorder.record(event)
        try:
            with recorder.context(**self._around(kind)):
                is_offered = True
                return recorder.record(event)
        except Exception:  # noqa: BLE001 - at the recursion limit, say: `record` counts it, if it has not
            return is_offered or recorder.record(event)

    def _around(self, kind: Kind) -> dict[str, Any]:
        around = self._session.properties({}, kind)
        if self.is_first_run and around.get(EVENT_ID, 0) > MAX_FIRST_RUN:
            self._turn_off(f"a first run keeps {MAX_FIRST_RUN:,} events")
        if self._choices is not None:
            around["distinct_id"] = self._choices.id
        around["session_id"] = self.session_id
        return around


class _OfPerson(Event):
    """What is said of a user."""

    def __init__(self, kind: str, properties: Mapping[str, object]) -> None:
        self._kind = kind
        self._properties = dict(properties)

    @property
    def type(self) -> str:
        """`$identify` or `$set`."""
        return self._kind

    @property
    def payload(self) -> object:
        """The properties."""
        return self._properties


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _quieten() -> None:
    """Where the program configures no logging, ours is not shown to its user."""
    logger = logging.getLogger(ROOT)
    if not logger.hasHandlers():
        logger.addHandler(logging.NullHandler())
