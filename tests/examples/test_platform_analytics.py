"""The platform's example: its events, rollups and client, and the script that shows all of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import msgspec
import pytest

from eventrec import Batch, EventHandler, TransientError
from eventrec.testing import assert_conserved

FIELDS = {
    "auth_login_attempt": "user_id? email success error?",
    "auth_code_verified": "user_id success error?",
    "auth_token_refresh": "user_id success error?",
    "auth_session_validated": "user_id valid",
    "task_created": "task_id user_id project_id? cocoon_id? command",
    "task_started": "task_id user_id cocoon_id?",
    "task_completed": "task_id user_id duration_ms exit_code",
    "task_failed": "task_id user_id duration_ms? exit_code? error",
    "task_cancelled": "task_id user_id duration_ms?",
    "integration_connected": "integration_id user_id provider project_id?",
    "integration_disconnected": "integration_id user_id provider reason?",
    "integration_used": "integration_id user_id provider action",
    "integration_error": "integration_id user_id provider error",
    "oauth_flow_started": "user_id provider state",
    "oauth_flow_completed": "user_id provider success error?",
    "webhook_received": "integration_id? provider event_type delivery_id",
    "webhook_processed": "integration_id? provider event_type delivery_id success duration_ms error?",
    "cocoon_registered": "cocoon_id user_id device_name?",
    "cocoon_connected": "cocoon_id user_id?",
    "cocoon_disconnected": "cocoon_id user_id? duration_seconds",
    "cocoon_claimed": "cocoon_id user_id via_setup_token",
    "cocoon_setup_token_created": "token_id user_id cocoon_name?",
    "cocoon_setup_token_used": "token_id cocoon_id user_id",
    "project_created": "project_id user_id name",
    "project_updated": "project_id user_id",
    "project_deleted": "project_id user_id",
    "api_request": "service endpoint method status_code duration_ms user_id?",
    "database_query": "service query_type duration_ms rows_affected?",
    "application_error": "service error_type error_message user_id? context?",
    "proxy_request": (
        "proxy_token_id user_id request_id upstream_request_id? requested_model? actual_model? provider_type key_mode"
        " endpoint input_tokens? output_tokens? total_tokens? reported_cost_usd? latency_ms ttft_ms? is_streaming"
        " status status_code? error_type? error_message?"
    ),
    "balance_created": "user_id balance_id",
    "balance_deposit": "user_id transaction_id amount reference_type?",
    "balance_debit": "user_id transaction_id amount reference_type?",
    "balance_insufficient": "user_id requested_amount current_balance reference_type?",
}

COLUMNS = {
    "analytics_daily_active_users": "day active_users total_events",
    "analytics_task_stats_daily": "day created started completed failed cancelled avg_duration_ms p95_duration_ms",
    "analytics_api_latency_hourly": (
        "hour service endpoint method request_count avg_duration_ms p50_duration_ms p95_duration_ms p99_duration_ms"
        " error_5xx_count error_4xx_count"
    ),
    "analytics_integration_health_daily": "day provider connections disconnections uses errors unique_users",
    "analytics_auth_events_daily": (
        "day login_attempts successful_logins failed_logins code_verifications token_refreshes"
        " unique_users_authenticated"
    ),
    "analytics_cocoon_activity_daily": (
        "day registrations connections disconnections claims avg_session_duration_seconds unique_cocoons"
    ),
    "analytics_errors_hourly": "hour service error_type error_count affected_users sample_error_message",
    "analytics_weekly_active_users": "week active_users total_events",
    "analytics_monthly_active_users": "month active_users total_events",
    "analytics_known_users": "month user_id total_events",
    "analytics_known_cocoons": "month cocoon_id total_events",
    "analytics_known_integrations": "month integration_id total_events",
}


@pytest.fixture(scope="session")
def batch_of(load_module: Callable[[Path], Any]) -> Callable[..., Batch]:
    """Gives the batch that a handler is given of events."""
    shared = load_module(Path(__file__).parents[1] / "analytics" / "conftest.py")
    return shared.made_batch  # type: ignore[no-any-return]


@pytest.fixture
def example(platform_analytics: Any) -> Any:
    """The modules of the example, as its script imports them."""
    return platform_analytics


# -- what is declared


def test_every_event_has_its_fields(example: Any) -> None:
    declared = {
        event.type: " ".join(
            f"{name}{'' if info.is_required() else '?'}" for name, info in event.cls.model_fields.items()
        )
        for event in example.catalogue.catalogue.events
    }

    assert declared == FIELDS
    assert {event.table for event in example.catalogue.catalogue.events} == {"analytics_events"}


def test_every_rollup_has_its_columns(example: Any) -> None:
    plans = [rollup.rollup_plan for rollup in example.catalogue.catalogue.rollups]

    assert {plan.name: " ".join(plan.column_names) for plan in plans} == COLUMNS
    assert {plan.table for plan in plans} == {"analytics_events"}
    assert {(plan.refresh.lag, plan.refresh.every) for plan in plans} == {(3_600.0, 3_600.0)}


@pytest.mark.parametrize("spelling", ["oauth_flow_started", "o_auth_flow_started"])
def test_both_spellings_are_read(example: Any, batch_of: Callable[..., Batch], spelling: str) -> None:
    event = example.events.OAuthFlowStarted(user_id=uuid4(), provider="github", state="s")
    record = replace(batch_of(event).records[0], type=spelling)

    assert example.catalogue.catalogue.decode(record) == event


def test_a_webhook_keeps_its_own_event_type(example: Any, batch_of: Callable[..., Batch]) -> None:
    event = example.events.WebhookReceived(provider="github", event_type="push", delivery_id="1")
    (record,) = batch_of(event).records

    assert (record.type, msgspec.json.decode(record.payload)["event_type"]) == ("webhook_received", "push")
    assert example.catalogue.catalogue.decode(record) == event


# -- what is made up


def test_generated_events_are_the_same_for_the_same_seed(example: Any) -> None:
    made = list(example.generate.arrivals(seed=3, days=20, number=3_000))

    assert made == list(example.generate.arrivals(seed=3, days=20, number=3_000))
    assert made != list(example.generate.arrivals(seed=4, days=20, number=3_000))
    assert {event.type for event in made} > {"api_request", "task_completed", "proxy_request"}
    start = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000_000
    assert all(start <= event.timestamp < start + 20 * 86_400 * 1_000_000_000 for event in made)


def test_generated_events_are_skewed_late_and_doubled(example: Any) -> None:
    made = list(example.generate.arrivals(days=20, number=3_000))

    copies = Counter(event.id for event in made)
    assert 10 < sum(number == 2 for number in copies.values()) < 100
    day = 86_400 * 1_000_000_000
    assert sum(after.timestamp < before.timestamp - day for before, after in pairwise(made)) > 10
    users = Counter(msgspec.json.decode(event.payload).get("user_id") for event in made)
    del users[None]
    assert users.most_common(1)[0][1] > 5 * users.total() / len(users)


def test_every_generated_event_decodes(example: Any, batch_of: Callable[..., Batch]) -> None:
    made = list(example.generate.arrivals(days=10, number=1_000))

    for event, record in zip(made, batch_of(*made).records, strict=True):
        decoded = example.catalogue.catalogue.decode(record)
        assert decoded.model_dump_json().encode() == event.payload


def test_generated_users_are_busy_in_their_own_mornings(example: Any) -> None:
    """The hours of the day move with summer time, in UTC."""

    def busiest(start: datetime) -> Counter[int]:
        made = example.generate.arrivals(start=start, days=5, number=4_000, late=0, doubled=0)
        return Counter(event.timestamp // example.generate.HOUR % 24 for event in made)

    winter, summer = busiest(datetime(2025, 1, 13, tzinfo=UTC)), busiest(datetime(2025, 7, 14, tzinfo=UTC))

    assert winter.total() > 3_000
    assert winter[6] + winter[7] < summer[6] + summer[7]


# -- client and worker


class Collecting(EventHandler):
    """Keeps the sizes of its batches; fails while `is_down`."""

    def __init__(self, *, is_down: bool = False) -> None:
        self.sizes: list[int] = []
        self.is_down = is_down
        self.called = anyio.Event()
        self.has_200 = anyio.Event()

    async def handle(self, batch: Batch) -> None:
        self.called.set()
        if self.is_down:
            raise TransientError("the database is down")
        self.sizes.append(len(batch.records))
        if sum(self.sizes) >= 200:
            self.has_200.set()


def created(example: Any) -> Any:
    return example.events.TaskCreated(task_id=uuid4(), user_id=uuid4(), command="make")


@pytest.mark.anyio
async def test_worker_stores_a_hundred_at_once_and_the_rest_when_it_is_closed(example: Any) -> None:
    client, config = example.client.AnalyticsClient.new()
    handler = Collecting()
    worker = example.client.AnalyticsWorker(config, handler)
    for _ in range(250):
        assert client.track(created(example))

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await handler.has_200.wait()
            status = await client.close()

    assert handler.sizes == [100, 100, 50]
    assert status.state == "closed"
    assert_conserved(status)
    assert not client.track(created(example))


@pytest.mark.anyio
async def test_client_that_closes_before_its_worker_began_loses_nothing(example: Any) -> None:
    client, config = example.client.AnalyticsClient.new()
    handler = Collecting()
    worker = example.client.AnalyticsWorker(config, handler)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            client.track(created(example))
            status = await client.close(30)

    assert handler.sizes == [1]
    assert_conserved(status)


@pytest.mark.anyio
async def test_client_whose_worker_never_runs_closes_all_the_same(example: Any) -> None:
    client, config = example.client.AnalyticsClient.new()
    example.client.AnalyticsWorker(config, Collecting())
    client.track(created(example))

    with anyio.fail_after(60):
        status = await client.close(0)

    assert status.offered == 1
    assert_conserved(status)


@pytest.mark.anyio
async def test_worker_that_is_cancelled_stores_what_waits(example: Any) -> None:
    client, config = example.client.AnalyticsClient.new()
    handler = Collecting()
    worker = example.client.AnalyticsWorker(config, handler)

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            client.track(created(example))
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    assert handler.sizes == [1]


@pytest.mark.anyio
async def test_client_is_bounded_and_counts_what_it_refuses(example: Any) -> None:
    client, _ = example.client.AnalyticsClient.new(max_waiting=10)

    taken = [client.track(created(example)) for _ in range(15)]

    assert taken == [True] * 10 + [False] * 5
    assert client.status().refused["overflow"] == 5
    await client.close(0)


@pytest.mark.anyio
async def test_database_that_is_down_costs_no_event(example: Any) -> None:
    client, config = example.client.AnalyticsClient.new(batch_size=1, flush_interval_secs=0)
    handler = Collecting(is_down=True)
    worker = example.client.AnalyticsWorker(config, handler)

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            assert client.track(created(example))
            await handler.called.wait()
            handler.is_down = False
            await client.close(20)

    assert handler.sizes == [1]


def test_track_works_from_any_thread_and_without_a_loop(example: Any) -> None:
    client, _ = example.client.AnalyticsClient.new()
    taken: list[bool] = []
    threads = [threading.Thread(target=lambda: taken.append(client.track(created(example)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert taken == [True] * 4
    assert not client.track_if(condition=False, event=created(example))
    assert client.track_if(condition=True, event=created(example))
    anyio.run(client.close, 0)


def test_noop_takes_nothing_and_starts_nothing(example: Any) -> None:
    before = threading.active_count()
    client = example.client.AnalyticsClient.noop()

    assert not client.track(created(example))
    assert client.status().refused == {"disabled": 1}
    assert threading.active_count() == before
    assert anyio.run(client.close).state == "disabled"
