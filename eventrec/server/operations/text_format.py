"""Prometheus' text format, version 0.0.4, as far as counters, gauges and histograms need it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_IN_LABEL: Final = {"\\": r"\\", "\n": r"\n", '"': r"\""}
_IN_HELP: Final = {"\\": r"\\", "\n": r"\n"}
_ESCAPED: Final = re.compile(r'[\\\n"]')


class Sample(NamedTuple):
    """One number of a family. `suffix` is added to the family's name."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


class Family(NamedTuple):
    """What one name measures."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: Iterable[Sample]


def text_of(families: Iterable[Family]) -> str:
    """The families as a scrape reads them."""
    lines: list[str] = []
    for family in families:
        help_text = _ESCAPED.sub(lambda found: _IN_HELP.get(found.group(), found.group()), family.help)
        lines += [f"# HELP {family.name} {help_text}", f"# TYPE {family.name} {family.kind}"]
        lines += [f"{family.name}{each.suffix}{_labels(each.labels)} {_number(each.value)}" for each in family.samples]
    return "\n".join([*lines, ""])


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    said = ",".join(f'{name}="{_ESCAPED.sub(lambda m: _IN_LABEL[m.group()], text)}"' for name, text in labels.items())
    return f"{{{said}}}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
