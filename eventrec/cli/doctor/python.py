"""What the doctor looks at in the interpreter: versions, extras, variables, the checksum's speed, the clocks."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Final

import google_crc32c

from eventrec.cli.doctor.findings import Finding, ok, problem, warning
from eventrec.consent.variables import is_disabled
from eventrec.errors import LogError
from eventrec.log.compressed import load_zstd
from eventrec.option_sources import DISABLED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_OLDEST: Final = (3, 11)
_DEVELOPERS_EXTRAS: Final = frozenset({"contract", "dev", "docs", "testing", "web-example"})
"""They are for who works on eventrec, or tests what is built on it; the others are for users."""

_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(?:\(?>=\s*([0-9.]+))?")
_EXTRA: Final = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")

_LOOKS: Final = 5
_DRIFT_SECONDS: Final = 0.005
_EARLIEST: Final = 1_704_067_200_000_000_000
"""2024-01-01 in nanoseconds: before this was written."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package that is needed, at least in version `least`, and for which extra."""

    name: str
    least: tuple[int, ...]
    extra: str | None


def parsed(requirement: str) -> Requirement | None:
    """What one line of a package's metadata asks for; None where it is not one that we write."""
    match = _REQUIREMENT.match(requirement)
    if match is None:
        return None
    extra = _EXTRA.search(requirement)
    return Requirement(match[1], numbers_of(match[2] or ""), extra[1] if extra else None)


def numbers_of(version_text: str) -> tuple[int, ...]:
    """The leading numbers of a version: "1.12.0rc1" is (1, 12, 0)."""
    numbers = []
    for part in version_text.split("."):
        digits = re.match(r"\d+", part)
        if digits is None:
            break
        numbers.append(int(digits[0]))
    return tuple(numbers)


def look_at_python() -> Iterator[Finding]:
    """The interpreter, and what is installed in it."""
    said = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] < _OLDEST:
        yield problem("python", said, "install Python 3.11 or newer")
    else:
        yield ok("python", said)
    try:
        own, needed = version("eventrec"), [each for line in requires("eventrec") or () if (each := parsed(line))]
    except PackageNotFoundError:
        yield warning("packages", "eventrec is not installed, it runs from its source", "pip install it")
        return
    yield _packages(own, [each for each in needed if each.extra is None])
    yield _extras(needed)


def _packages(own: str, needed: Sequence[Requirement]) -> Finding:
    found, wrong = [f"eventrec {own}"], []
    for each in needed:
        has = _version_of(each.name)
        found.append(f"{each.name} {has or 'missing'}")
        if has is None or numbers_of(has) < each.least:
            wrong.append(each.name)
    said = ", ".join(found)
    if wrong:
        return problem("packages", said, f"missing or too old: pip install --upgrade {' '.join(wrong)}")
    return ok("packages", said)


def _extras(needed: Sequence[Requirement]) -> Finding:
    installed: list[str] = []
    absent: list[str] = []
    stated = sorted({each.extra for each in needed if each.extra is not None} - _DEVELOPERS_EXTRAS)
    for extra in stated:
        if extra == "zstd":
            is_there = has_zstd()
        else:
            is_there = all(_version_of(each.name) for each in needed if each.extra == extra)
        (installed if is_there else absent).append(extra)
    without = f"; not installed: {', '.join(absent)}" if absent else ""
    return ok("extras", f"installed: {', '.join(installed) or 'none'}{without}")


def has_zstd() -> bool:
    """Whether compressed segments can be read."""
    try:
        load_zstd()
    except LogError:
        return False
    return True


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def look_at_checksum(implementation: str = google_crc32c.implementation) -> Finding:
    """Whether CRC-32C is the processor's, or Python's."""
    if implementation == "c":
        return ok("crc32c", "in C, with the processor's instruction where there is one")
    return warning(
        "crc32c",
        f"the slow fallback ({implementation}): checksums cost a hundred times as much",
        "install a google-crc32c that brings its library for this platform",
    )


def look_at_environment(environment: Mapping[str, str] = os.environ) -> Finding:
    """Whether a variable switches off the recorders that start in it."""
    if is_disabled(environment):
        return warning("environment", f"{DISABLED} is set: recorders that start here record nothing", "unset it")
    return ok("environment", "no variable switches recorders off")


def look_at_clocks(
    wall: Callable[[], int] = time.time_ns,
    monotonic: Callable[[], int] = time.monotonic_ns,
    sleep: Callable[[float], object] = time.sleep,
    newest_log: int | None = None,
) -> Finding:
    """Whether the time of day passes as the monotonic clock does, and is not older than the newest log (ns)."""
    worst, apart = 0, wall() - monotonic()
    for _ in range(_LOOKS):
        sleep(0.02)
        before, apart = apart, wall() - monotonic()
        worst = max(worst, abs(apart - before))
    now = wall()
    if now < _EARLIEST:
        return problem("clock", "the time of day lies before 2024", "set it: it becomes the timestamp of every event")
    if newest_log is not None and newest_log - now > 60 * 1_000_000_000:
        return warning(
            "clock",
            f"a log was made {(newest_log - now) / 1e9:,.0f} s in the future",
            "set the clock: timestamps will not follow one another",
        )
    if worst > _DRIFT_SECONDS * 1e9:
        return warning(
            "clock",
            f"the time of day moved by {worst / 1e6:,.1f} ms against the monotonic clock within 20 ms",
            "see who sets it; order and intervals do not depend on it, timestamps do",
        )
    return ok("clock", f"time of day and monotonic clock agree within {worst / 1e6:,.2f} ms")
