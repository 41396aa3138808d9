"""The official clients of PostHog, Segment and OpenTelemetry, unmodified, pointed at a process that serves."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import posthog.request
import pytest
import segment.analytics.request
from opentelemetry._logs import LogRecord
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from posthog import Posthog
from segment.analytics import Client as SegmentClient

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="the server's lives are forks"),
    pytest.mark.xdist_group("official clients"),
]

LOST = b"HTTP/1.1 200"


def assert_each_once(server_process: Any, clients: Any, until: Callable[..., None]) -> None:
    """Every event that was said, and that its client did not give up, is in the database once; the account balances."""
    until(lambda: len(server_process.stored()) >= len(clients.said), 60.0)
    account = server_process.end()

    assert clients.failed == []
    assert server_process.stored() == Counter(dict.fromkeys(clients.said, 1))
    assert account["is_balanced"] is True


def test_each_event_arrives_once_without_a_fault(server_process: Any, clients: Any, until: Any) -> None:
    for number in range(50):
        clients.say(number)
    clients.flush()

    assert_each_once(server_process, clients, until)


def test_each_event_arrives_once_though_answers_are_lost(server_process: Any, clients: Any, until: Any) -> None:
    for proxy in clients.proxies.values():
        proxy.cut_after(LOST, direction="to_client", passes=False)
    for number in range(10):
        clients.say(number)
    clients.flush()

    assert [proxy.cuts for proxy in clients.proxies.values()] == [1, 1, 1]
    assert_each_once(server_process, clients, until)


def test_each_event_arrives_once_though_connections_are_cut_behind_it(
    server_process: Any, clients: Any, until: Any
) -> None:
    for proxy in clients.proxies.values():
        proxy.cut_after(b"number", direction="to_server", passes=True)
    for number in range(10):
        clients.say(number)
    clients.flush()

    assert [proxy.cuts for proxy in clients.proxies.values()] == [1, 1, 1]
    assert_each_once(server_process, clients, until)


def test_each_event_arrives_once_though_the_server_has_too_much_to_do(
    server_process: Any, clients: Any, until: Any
) -> None:
    for path in ("/batch/", "/v1/batch", "/v1/logs"):
        server_process.tell(f"refuse {path}")
    for number in range(10):
        clients.say(number)
    clients.flush()

    assert_each_once(server_process, clients, until)


def test_each_event_arrives_once_compressed_and_by_the_second_protocol(
    server_process: Any, until: Callable[..., None]
) -> None:
    url = f"http://127.0.0.1:{server_process.port}"
    first = Posthog("phc_test", host=url, gzip=True, sync_mode=True)
    second = Posthog("phc_test", host=url, capture_mode="v1", capture_compression="gzip", flush_interval=0.02)
    by_segment = SegmentClient("write-key", host=url, gzip=True, sync_mode=True)
    by_otlp = OTLPLogExporter(f"{url}/v1/logs", compression=Compression.Gzip)
    otlp = LoggerProvider(shutdown_on_exit=False)
    otlp.add_log_record_processor(SimpleLogRecordProcessor(by_otlp))

    first.capture("posthog", distinct_id="ada", properties={"number": 1})
    second.capture("posthog", distinct_id="ada", properties={"number": 2})
    second.flush(60)
    by_segment.track("ada", "segment", {"number": 3})
    otlp.get_logger("test").emit(LogRecord(event_name="otlp", body={"number": 4}, context=Context()))

    flags = first.get_all_flags("ada")
    first.shutdown()
    second.shutdown()
    otlp.shutdown()
    posthog.request.reset_sessions()
    segment.analytics.request._session.close()
    assert flags == {}
    said = {("posthog", 1), ("posthog", 2), ("segment", 3), ("otlp", 4)}
    until(lambda: server_process.stored() == Counter(dict.fromkeys(said, 1)), 60.0)
    assert server_process.end()["is_balanced"] is True


def test_every_call_of_the_clients_is_an_event(server_process: Any, until: Callable[..., None]) -> None:
    url = f"http://127.0.0.1:{server_process.port}"
    by_posthog = Posthog("phc_test", host=url, sync_mode=True)
    by_segment = SegmentClient("write-key", host=url, sync_mode=True)

    by_posthog.set(distinct_id="ada", properties={"number": 1})
    by_posthog.set_once(distinct_id="ada", properties={"number": 1})
    by_posthog.alias(previous_id="a-1", distinct_id="ada")
    by_posthog.group_identify("company", "acme", {"number": 1})
    by_posthog.shutdown()
    by_segment.identify("ada", {"number": 2})
    by_segment.page("ada", "Docs", "Home", {"number": 3})
    by_segment.screen("ada", "Docs", "Home", {"number": 4})
    by_segment.group("ada", "acme", {"number": 5})
    by_segment.alias("a-1", "ada")
    posthog.request.reset_sessions()
    segment.analytics.request._session.close()

    expected = {
        ("$set", 1): 1,
        ("$set_once", None): 1,
        ("$create_alias", None): 2,
        ("$groupidentify", None): 2,
        ("$identify", 2): 1,
        ("$pageview", 3): 1,
        ("$screen", 4): 1,
    }
    until(lambda: server_process.stored() == Counter(expected), 60.0)
    assert server_process.end()["is_balanced"] is True


def killed(server_process: Any, clients: Any, until: Any, kills: int) -> None:
    """Kill the server that often, at a moment that chance chooses, while all three send."""
    chance = random.Random()
    number = 0
    for _ in range(kills):
        seen = len(server_process.stored())
        for _ in range(chance.randrange(1, 60)):
            clients.say(number)
            number += 1
        if chance.random() < 0.5:
            until(lambda seen=seen: len(server_process.stored()) > seen, 60.0)
        server_process.tell("kill")
        server_process.live()
    clients.flush()

    assert_each_once(server_process, clients, until)


def test_each_event_arrives_once_though_the_server_is_killed(server_process: Any, clients: Any, until: Any) -> None:
    killed(server_process, clients, until, 4)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_each_event_arrives_once_though_the_server_is_killed_a_hundred_times(
    server_process: Any, clients: Any, until: Any
) -> None:
    killed(server_process, clients, until, 100)
