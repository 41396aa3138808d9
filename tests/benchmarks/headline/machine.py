"""The machine and the versions that figures are of."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "asyncpg",
    "google-crc32c",
    "litequeue",
    "msgspec",
    "opentelemetry-sdk",
    "posthog",
    "pydantic",
    "segment-analytics-python",
)


def describe(directory: Path) -> dict[str, Any]:
    """What somebody else needs to know to make sense of a figure. `directory` is where files were written."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "file_system": _file_system(directory),
        "fdatasync_ms": fdatasync_ms(directory),
        "load_before": [round(each, 2) for each in os.getloadavg()],
        "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def fixed_work_ms() -> float:
    """The best of nine times of one piece of Python: what the machine's own speed is now."""

    def once() -> float:
        start = time.perf_counter()
        sum(n * n % 7 for n in range(50_000))
        return (time.perf_counter() - start) * 1e3

    return min(once() for _ in range(9))


def fdatasync_ms(directory: Path) -> float:
    """The median of fifty syncs of a page, in milliseconds."""
    with tempfile.TemporaryFile(dir=directory) as file:
        each = []
        for _ in range(50):
            file.write(b"x" * 4_096)
            file.flush()
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            each.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(each), 3)


def _processor() -> str:
    with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        found = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return found or platform.processor() or platform.machine()


def _file_system(directory: Path) -> str:
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    within = [each for each in mounts if directory.resolve().is_relative_to(each[0])]
    kind = max(within, key=lambda each: len(each[0]))[1] if within else "unknown"
    return f"{kind}, {shutil.disk_usage(directory).free / 2**30:.0f} GiB free"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
