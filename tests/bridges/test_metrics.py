"""The account as metrics, and as a health check: the same numbers as `status()`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from eventrec import EventRecorder, PauseError, PermanentError, ReceivedEvent, TransientError
from eventrec.bridges.measures import MEASURES, MIRROR_LAG, REFUSED, measured
from eventrec.bridges.opentelemetry import observe
from eventrec.bridges.prometheus import RecorderCollector
from eventrec.bus import MemoryBus, MemoryStore
from eventrec.runs.mirrors import Mirrors
from eventrec.status import Status
from eventrec.testing import assert_conserved
from eventrec.testing.relays import QUICK, Doubling, numbered
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly, raising, refusing


async def test_prometheus_is_told_the_account() -> None:
    recorder = EventRecorder(options=quickly(batch_rows=4))
    recorder.register(ScriptedHandler(always=refusing({3}, lambda: PermanentError("no"))), name="one", types=["a"])
    registry = CollectorRegistry()
    registry.register(RecorderCollector(recorder, service="shop"))

    async with recorder:
        recorder.record_many(Numbered(n, kind="ab"[n % 5 == 0]) for n in range(10))
        recorder.record(object())  # type: ignore[arg-type]
        assert await recorder.flush(timeout=60)
        told = generate_latest(registry).decode()

    assert 'eventrec_offered_total{service="shop"} 11.0\n' in told
    assert 'eventrec_refused_total{reason="invalid",service="shop"} 1.0\n' in told
    assert 'eventrec_delivered_total{service="shop",subscription="one"} 7.0\n' in told
    assert 'eventrec_filtered_total{service="shop",subscription="one"} 2.0\n' in told
    assert 'eventrec_dead_total{service="shop",subscription="one"} 1.0\n' in told
    assert 'eventrec_pending{service="shop",subscription="one"} 0.0\n' in told
    assert 'eventrec_healthy{service="shop",subscription="one"} 1.0\n' in told
    assert_conserved(recorder.status(), offered=11)


async def test_an_outage_is_seen_in_the_figures() -> None:
    down = ScriptedHandler(always=raising(TransientError("no route to host")))
    recorder = EventRecorder(options=quickly())
    recorder.register(ScriptedHandler(), name="fine")
    recorder.register(down, name="down")
    registry = CollectorRegistry()
    registry.register(RecorderCollector(recorder))

    async with recorder:
        recorder.record(ReceivedEvent("numbered", b'{"number":0}', timestamp=1_000_000_000))
        assert not await recorder.flush(timeout=0.3)
        told = generate_latest(registry).decode()
        part = recorder.status().subscriptions["down"]
        await recorder.close(0)

    assert down.times
    assert part.last_error is not None
    assert "no route to host" in part.last_error
    assert 'eventrec_healthy{subscription="down"} 0.0\n' in told
    assert 'eventrec_healthy{subscription="fine"} 1.0\n' in told
    assert 'eventrec_last_success_timestamp{subscription="fine"} ' in told
    assert 'eventrec_last_success_timestamp{subscription="down"} ' not in told
    ages = [float(line.split()[1]) for line in told.splitlines() if line.startswith("eventrec_oldest_pending_age{")]
    assert ages
    assert ages[0] > 1_000_000_000


def test_labels_can_be_encoded() -> None:
    status = Status("open", 0, 0, {"\udcff": 1}, 0, mirrors={"caf\udce9": 3})

    labels = [labels for measure, labels, _ in measured(status) if measure in {REFUSED, MIRROR_LAG}]

    assert labels == [{"reason": r"\udcff"}, {"mirror": r"caf\udce9"}]


async def test_what_a_mirror_lacks_is_a_figure(tmp_path: Path) -> None:
    await anyio.to_thread.run_sync(Mirrors(tmp_path).register, "standby")
    recorder = EventRecorder(log=tmp_path, options=quickly())
    recorder.register(ScriptedHandler(), name="one")
    registry = CollectorRegistry()
    registry.register(RecorderCollector(recorder))

    async with recorder:
        recorder.record_many(Numbered(n) for n in range(10))
        with anyio.fail_after(120):
            while recorder.status().mirrors.get("standby") != 10:  # noqa: ASYNC110 - a disk changes it
                await anyio.sleep(0.01)
        told = generate_latest(registry).decode()

    assert 'eventrec_mirror_lag{mirror="standby"} 10.0\n' in told


async def test_opentelemetry_is_told_the_account() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    recorder = EventRecorder(options=quickly())
    recorder.register(ScriptedHandler(), name="one")
    observe(recorder, provider.get_meter("test"), service="shop")

    async with recorder:
        recorder.record_many(Numbered(n) for n in range(10))
        assert await recorder.flush(timeout=60)
        told = points(reader)

    assert set(told) <= {f"eventrec.{measure.name}" for measure in MEASURES}
    assert told["eventrec.offered"] == [({"service": "shop"}, 10)]
    assert told["eventrec.delivered"] == [({"service": "shop", "subscription": "one"}, 10)]
    assert_conserved(recorder.status(), offered=10)
    provider.shutdown()


def points(reader: InMemoryMetricReader) -> dict[str, list[tuple[dict[str, Any], float]]]:
    collected = reader.get_metrics_data()
    assert collected is not None
    return {
        metric.name: [(dict(point.attributes or {}), point.value) for point in metric.data.data_points]  # type: ignore[union-attr]
        for resource in collected.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def test_a_recorder_is_ready_while_it_is_open_and_nobody_has_to_act(tmp_path: Path) -> None:
    handler = ScriptedHandler()
    recorder = EventRecorder(handler, log=tmp_path, options=quickly())
    assert (recorder.status().health.live, recorder.status().health.ready) == (True, False)

    async with recorder:
        assert recorder.status().health.ready
        handler.always = raising(TransientError("down"))
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=0.2) is False
        assert recorder.status().health.ready
        handler.always = raising(PauseError("wrong password"))
        with anyio.fail_after(60):
            while recorder.status().health.ready:  # noqa: ASYNC110 - a disk changes it
                await anyio.sleep(0.01)
        health = recorder.status().health
        handler.always = lambda _: None
        recorder.resume("ScriptedHandler")
        assert await recorder.flush(timeout=60)

    assert health.live
    assert health.reasons == ("ScriptedHandler: paused: wrong password",)
    assert recorder.status().health.reasons == ("the recorder is closed",)
    assert_conserved(recorder.status(), offered=1)


async def test_what_a_relay_does_is_seen_in_the_figures(tmp_path: Path) -> None:
    store = MemoryStore()
    store.append(numbered(0, 10))
    recorder = EventRecorder(
        log=tmp_path / "log",
        bus=MemoryBus(store),
        stages=[Doubling()],
        relay=QUICK,
        options=quickly(flush_interval=0.01),
    )
    recorder.register(ScriptedHandler(), name="one")
    registry = CollectorRegistry()
    registry.register(RecorderCollector(recorder))

    async with recorder:
        assert await recorder.flush(timeout=60)
        with anyio.fail_after(60):
            while not any(part.tallies == {"doubled": 10} for part in recorder.status().relay):  # noqa: ASYNC110 - looked at now and then
                await anyio.sleep(0.05)
        told = generate_latest(registry).decode()

    part = 'part="stage:doubling",shard="memory"'
    assert f'eventrec_stage_tally{{of="doubled",{part}}} 10.0\n' in told
    assert 'eventrec_delivered_total{subscription="one"} 20.0\n' in told
    assert f"eventrec_stage_processed_total{{{part}}} 10.0\n" in told
    assert f'eventrec_stage_outcomes_total{{outcome="doubled",{part}}} 10.0\n' in told
    assert f"eventrec_relay_pending{{{part}}} 0.0\n" in told
    assert f"eventrec_relay_serving{{{part}}} 1.0\n" in told
    for phase in ("fetch", "process", "commit", "insert", "expire"):
        assert f'eventrec_relay_phase_runs_total{{phase="{phase}"}} ' in told
        assert f'{{phase="{phase}"}} ' in told
    assert_conserved(recorder.status(), offered=0)
