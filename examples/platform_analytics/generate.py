"""Days of the platform, made up: the same events for the same seed, skewed, some of them late and some delivered twice.

Users live in three zones, and are busy in their own mornings and afternoons: so an hour has other events after a change
to summer time. A few users do most of what happens, and so do a few endpoints.
"""

from __future__ import annotations

import heapq
import random
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from catalogue import catalogue
from eventrec import ReceivedEvent
from events import (
    ApiRequest,
    ApplicationError,
    AuthCodeVerified,
    AuthLoginAttempt,
    AuthSessionValidated,
    AuthTokenRefresh,
    BalanceCreated,
    BalanceDebit,
    BalanceDeposit,
    BalanceInsufficient,
    CocoonClaimed,
    CocoonConnected,
    CocoonDisconnected,
    CocoonRegistered,
    CocoonSetupTokenCreated,
    CocoonSetupTokenUsed,
    DatabaseQuery,
    IntegrationConnected,
    IntegrationDisconnected,
    IntegrationError,
    IntegrationUsed,
    OAuthFlowCompleted,
    OAuthFlowStarted,
    PlatformEvent,
    ProjectCreated,
    ProjectDeleted,
    ProjectUpdated,
    ProxyRequest,
    TaskCancelled,
    TaskCompleted,
    TaskCreated,
    TaskFailed,
    TaskStarted,
    WebhookProcessed,
    WebhookReceived,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

SECOND: Final = 1_000_000_000
HOUR: Final = 3_600 * SECOND
ZONES: Final = ("Europe/Zurich", "America/New_York", "Australia/Lord_Howe")

# How busy each hour of a local day is.
_HOURS: Final = (1, 1, 1, 1, 1, 2, 4, 8, 14, 18, 18, 16, 12, 15, 18, 18, 15, 11, 8, 6, 5, 4, 3, 2)
_ENDPOINTS: Final = ("/api/tasks", "/api/tasks/{id}", "/api/cocoons", "/api/projects", "/api/integrations", "/health")
_SERVICES: Final = ("adi-platform", "adi-auth", "adi-signaling")
_PROVIDERS: Final = ("github", "gitlab", "slack", "linear")
_ERRORS: Final = ("timeout", "validation", "database", "not_found")
_TYPES: Final = {each.cls: each.type for each in catalogue.events}


def arrivals(
    *,
    seed: int = 1,
    start: datetime = datetime(2025, 1, 1, tzinfo=UTC),
    days: int = 365,
    number: int = 100_000,
    users: int = 2_000,
    late: float = 0.02,
    doubled: float = 0.01,
) -> Iterator[ReceivedEvent]:
    """About `number` events that happen within `days` from `start` on, in the order in which they arrive.

    A share of `late` arrives up to five days after it happened, a share of `doubled` twice, with one id.
    """
    platform = Platform(random.Random(seed), users)  # noqa: S311 - it has to be the same again
    draw = platform.draw
    waiting: list[tuple[int, int, ReceivedEvent]] = []
    order = 0
    for day, happening in _per_day(draw, start, days, number):
        for timestamp in happening:
            event = platform.next(timestamp)
            arrival = timestamp + draw.randrange(2 * SECOND)
            if draw.random() < late:
                arrival += draw.randrange(5 * 24) * HOUR
            for again in range(2 if draw.random() < doubled else 1):
                heapq.heappush(waiting, (arrival + again * draw.randrange(HOUR), order, event))
                order += 1
        while waiting and waiting[0][0] < day:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def _per_day(draw: random.Random, start: datetime, days: int, number: int) -> Iterator[tuple[int, Sequence[int]]]:
    """For each day the moment before which nothing of the days to come happens, and when something happens."""
    zones = [ZoneInfo(name) for name in ZONES]
    hours = list(accumulate(_HOURS))
    first = start.date()
    busy = [1.0 if (first + timedelta(day)).weekday() < 5 else 0.4 for day in range(days)]
    share = number / sum(busy)
    begin, end = (int((start + timedelta(day)).timestamp()) * SECOND for day in (0, days))
    for day in range(days):
        date = first + timedelta(day)
        midnights = [int(datetime(date.year, date.month, date.day, tzinfo=zone).timestamp()) for zone in zones]
        happening = []
        for _ in range(round(share * busy[day])):
            hour = draw.choices(range(24), cum_weights=hours)[0]
            moment = draw.choice(midnights) * SECOND + hour * HOUR + draw.randrange(HOUR // 1_000) * 1_000
            if begin <= moment < end:
                happening.append(moment)
        happening.sort()
        # The next day begins first in the east, up to half a day before it does in UTC.
        yield int((start + timedelta(day)).timestamp()) * SECOND, happening


class Platform:
    """What its users do next. `draw` decides."""

    def __init__(self, draw: random.Random, users: int) -> None:
        self.draw = draw
        self._users = [self._uuid() for _ in range(users)]
        self._cocoons = [self._uuid() for _ in range(max(1, users // 2))]
        self._projects = [self._uuid() for _ in range(max(1, users // 3))]
        self._integrations = [self._uuid() for _ in range(max(1, users // 4))]
        self._makers = [make for make, _ in self._weighted()]
        self._weights = list(accumulate(weight for _, weight in self._weighted()))

    def next(self, timestamp: int) -> ReceivedEvent:
        """What happens at `timestamp`, as it arrives: with an id, so that it can be told apart when it comes twice."""
        event = self.draw.choices(self._makers, cum_weights=self._weights)[0](self._user())
        return ReceivedEvent(
            type=_TYPES[type(event)],
            payload=event.model_dump_json().encode(),
            timestamp=timestamp,
            table="analytics_events",
            id=self._uuid().bytes,
        )

    def _weighted(self) -> list[tuple[Callable[[UUID], PlatformEvent], int]]:
        some, text, uuid = self._some, self._text, self._uuid
        draw, chance = self.draw, self._chance
        return [
            (self._api_request, 400),
            (
                lambda _: DatabaseQuery(
                    service=some(_SERVICES), query_type=some(("select", "insert")), duration_ms=self._duration(5)
                ),
                100,
            ),
            (
                lambda user: ApplicationError(
                    service=some(_SERVICES),
                    error_type=(kind := some(_ERRORS)),
                    error_message=f"{kind} {draw.randrange(5)}",
                    user_id=user if chance(0.7) else None,
                    context={"attempt": draw.randrange(3)} if chance(0.3) else None,
                ),
                20,
            ),
            (
                lambda user: AuthLoginAttempt(
                    user_id=user if (success := chance(0.9)) else None,
                    email=f"{str(user)[:8]}@example.org",
                    success=success,
                    error=None if success else "unknown user",
                ),
                30,
            ),
            (lambda user: AuthCodeVerified(user_id=user, success=chance(0.95)), 25),
            (lambda user: AuthTokenRefresh(user_id=user, success=chance(0.99)), 60),
            (lambda user: AuthSessionValidated(user_id=user, valid=chance(0.98)), 80),
            (
                lambda user: TaskCreated(
                    task_id=uuid(),
                    user_id=user,
                    project_id=some(self._projects) if chance(0.6) else None,
                    cocoon_id=some(self._cocoons),
                    command=some(("make", "make test", "cargo build")),
                ),
                50,
            ),
            (lambda user: TaskStarted(task_id=uuid(), user_id=user, cocoon_id=some(self._cocoons)), 48),
            (
                lambda user: TaskCompleted(
                    task_id=uuid(), user_id=user, duration_ms=self._duration(4_000), exit_code=0 if chance(0.95) else 1
                ),
                40,
            ),
            (
                lambda user: TaskFailed(
                    task_id=uuid(),
                    user_id=user,
                    duration_ms=self._duration(2_000) if chance(0.8) else None,
                    error=some(_ERRORS),
                ),
                6,
            ),
            (lambda user: TaskCancelled(task_id=uuid(), user_id=user, duration_ms=self._duration(1_000)), 3),
            *self._of_integrations(),
            *self._of_cocoons(),
            (lambda user: ProjectCreated(project_id=some(self._projects), user_id=user, name=text("project")), 6),
            (lambda user: ProjectUpdated(project_id=some(self._projects), user_id=user), 12),
            (lambda user: ProjectDeleted(project_id=some(self._projects), user_id=user), 2),
            (self._proxy_request, 40),
            (lambda user: BalanceCreated(user_id=user, balance_id=uuid()), 2),
            (lambda user: BalanceDeposit(user_id=user, transaction_id=uuid(), amount=draw.randrange(10_000)), 4),
            (lambda user: BalanceDebit(user_id=user, transaction_id=uuid(), amount=draw.randrange(100)), 30),
            (
                lambda user: BalanceInsufficient(
                    user_id=user, requested_amount=100, current_balance=draw.randrange(100), reference_type="proxy"
                ),
                2,
            ),
        ]

    def _of_integrations(self) -> list[tuple[Callable[[UUID], PlatformEvent], int]]:
        some, text, chance = self._some, self._text, self._chance
        integrations, providers = self._integrations, _PROVIDERS
        return [
            (
                lambda user: IntegrationConnected(
                    integration_id=some(integrations), user_id=user, provider=some(providers)
                ),
                5,
            ),
            (
                lambda user: IntegrationDisconnected(
                    integration_id=some(integrations), user_id=user, provider=some(providers), reason="asked"
                ),
                2,
            ),
            (
                lambda user: IntegrationUsed(
                    integration_id=some(integrations), user_id=user, provider=some(providers), action="sync"
                ),
                40,
            ),
            (
                lambda user: IntegrationError(
                    integration_id=some(integrations), user_id=user, provider=some(providers), error=some(_ERRORS)
                ),
                3,
            ),
            (lambda user: OAuthFlowStarted(user_id=user, provider=some(providers), state=text("state")), 6),
            (lambda user: OAuthFlowCompleted(user_id=user, provider=some(providers), success=chance(0.9)), 5),
            (
                lambda _: WebhookReceived(
                    integration_id=some(integrations),
                    provider=some(providers),
                    event_type=some(("push", "pull_request")),
                    delivery_id=text("delivery"),
                ),
                20,
            ),
            (
                lambda _: WebhookProcessed(
                    provider=some(providers),
                    event_type=some(("push", "pull_request")),
                    delivery_id=text("delivery"),
                    success=chance(0.97),
                    duration_ms=self._duration(40),
                ),
                20,
            ),
        ]

    def _of_cocoons(self) -> list[tuple[Callable[[UUID], PlatformEvent], int]]:
        some, uuid, chance, cocoons = self._some, self._uuid, self._chance, self._cocoons
        return [
            (lambda user: CocoonRegistered(cocoon_id=some(cocoons), user_id=user, device_name="laptop"), 3),
            (lambda user: CocoonConnected(cocoon_id=some(cocoons), user_id=user if chance(0.8) else None), 30),
            (
                lambda user: CocoonDisconnected(
                    cocoon_id=some(cocoons),
                    user_id=user if chance(0.8) else None,
                    duration_seconds=self._duration(1_800),
                ),
                29,
            ),
            (lambda user: CocoonClaimed(cocoon_id=some(cocoons), user_id=user, via_setup_token=chance(0.5)), 2),
            (lambda user: CocoonSetupTokenCreated(token_id=uuid(), user_id=user, cocoon_name="laptop"), 2),
            (lambda user: CocoonSetupTokenUsed(token_id=uuid(), cocoon_id=some(cocoons), user_id=user), 1),
        ]

    def _api_request(self, user: UUID) -> ApiRequest:
        status = self.draw.choices((200, 201, 404, 429, 500, 503), (80, 10, 5, 2, 2, 1))[0]
        return ApiRequest(
            service=self._some(_SERVICES),
            endpoint=self._some(_ENDPOINTS),
            method=self._some(("GET", "POST")),
            status_code=status,
            duration_ms=self._duration(20),
            user_id=user if self._chance(0.9) else None,
        )

    def _proxy_request(self, user: UUID) -> ProxyRequest:
        tokens = self.draw.randrange(4_000)
        return ProxyRequest(
            proxy_token_id=self._uuid(),
            user_id=user,
            request_id=self._text("request"),
            requested_model="small",
            provider_type="anthropic",
            key_mode="platform",
            endpoint="/v1/messages",
            input_tokens=tokens,
            output_tokens=tokens // 4,
            total_tokens=tokens + tokens // 4,
            reported_cost_usd=tokens / 1_000_000,
            latency_ms=self._duration(800),
            is_streaming=self._chance(0.5),
            status="success",
            status_code=200,
        )

    # -- chance

    def _user(self) -> UUID:
        return self._some(self._users)

    def _some(self, given: Sequence[T]) -> T:
        """One of them, the first ones much more often."""
        return given[int(len(given) * self.draw.random() ** 3)]

    def _chance(self, share: float) -> bool:
        return self.draw.random() < share

    def _duration(self, usual: int) -> int:
        """Most are short, and a few are very long."""
        return int(usual * self.draw.lognormvariate(0, 1))

    def _text(self, word: str) -> str:
        return f"{word}-{self.draw.getrandbits(40):010x}"

    def _uuid(self) -> UUID:
        return UUID(int=self.draw.getrandbits(128), version=4)
