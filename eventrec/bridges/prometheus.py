"""The account of a recorder for Prometheus; needs `eventrec[prometheus]`.

    REGISTRY.register(RecorderCollector(recorder))

Each scrape reads `recorder.status()`: nothing is counted twice, and nothing costs anything between scrapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from eventrec.bridges.measures import MEASURES, measured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from eventrec.recorder import EventRecorder


class RecorderCollector(Collector):
    """Families named `eventrec_…`, counters with `_total`; see `eventrec.bridges.measures`.

    `labels` are added to each of them: the name of the recorder, where a program has several.
    """

    def __init__(self, recorder: EventRecorder, *, prefix: str = "eventrec", **labels: str) -> None:
        self._recorder = recorder
        self._prefix = prefix
        self._labels = labels

    def describe(self) -> list[Metric]:
        """What `collect` gives, without values: registering costs no look at the recorder."""
        return list(self._families().values())

    def collect(self) -> Iterator[Metric]:
        """Every measurement, as it stands now."""
        families = self._families()
        for measure, labels, value in measured(self._recorder.status()):
            values = [labels[name] for name in measure.labels]
            families[measure.name].add_metric([*values, *self._labels.values()], value)
        yield from families.values()

    def _families(self) -> dict[str, CounterMetricFamily | GaugeMetricFamily]:
        return {
            measure.name: (CounterMetricFamily if measure.kind == "counter" else GaugeMetricFamily)(
                f"{self._prefix}_{measure.name}", measure.description, labels=[*measure.labels, *self._labels]
            )
            for measure in MEASURES
        }
