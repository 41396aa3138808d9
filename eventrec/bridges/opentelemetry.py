"""The account of a recorder as OpenTelemetry metrics; needs `eventrec[opentelemetry]`.

    observe(recorder, metrics.get_meter("my.service"))

Instruments are observed: each collection reads `recorder.status()`, nothing costs anything between collections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import Observation

from eventrec.bridges.measures import MEASURES, measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Meter

    from eventrec.bridges.measures import Measure
    from eventrec.recorder import EventRecorder


def observe(recorder: EventRecorder, meter: Meter, *, prefix: str = "eventrec", **attributes: str) -> None:
    """Make an instrument `eventrec.…` for each measurement; see `eventrec.bridges.measures`.

    `attributes` are added to each observation: the name of the recorder, where a program has several.
    """
    for measure in MEASURES:
        create = meter.create_observable_counter if measure.kind == "counter" else meter.create_observable_gauge
        create(
            f"{prefix}.{measure.name}",
            callbacks=[_callback(recorder, measure, attributes)],
            unit=measure.unit if measure.unit == "1" else f"{{{measure.unit}}}",
            description=measure.description,
        )


def _callback(
    recorder: EventRecorder, measure: Measure, attributes: dict[str, str]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observed(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(value, {**attributes, **labels})
            for each, labels, value in measured(recorder.status())
            if each is measure
        ]

    return observed
