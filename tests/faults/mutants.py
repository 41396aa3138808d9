"""Plants each mutant of `mutants.toml` in a copy of the tree, and runs the tests that should catch it: all must."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).with_name("mutants.toml")
COPIED = ("eventrec", "handlers", "tests", "examples", "docs", "pyproject.toml", "README.md", "ARCHITECTURE.md")

FAILED = 1
"""What pytest ends with when a test failed; its other numbers say that nothing was tested."""


@dataclass(frozen=True)
class Mutant:
    """A defect: `before` becomes `after` in `file`, and one of `tests` fails."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


def mutants() -> list[Mutant]:
    """What the data says, in its order."""
    return [
        Mutant(**{**each, "tests": tuple(each["tests"])})
        for each in tomllib.loads(DATA.read_text(encoding="utf-8"))["mutant"]
    ]


def planted(mutant: Mutant, source: str) -> str:
    """`source` with the defect.

    Raises:
        ValueError: Its place is not there, or not once: the mutant is rotten.
    """
    if (count := source.count(mutant.before)) != 1:
        raise ValueError(f"{mutant.name}: its text stands {count} times in {mutant.file}")
    return source.replace(mutant.before, mutant.after)


class Copy:
    """A tree of its own, whose packages come first, also in processes that the tests start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, path / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(ROOT / name, path / name)
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(path), str(path / "handlers")]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        found = self._run("-c", "import eventrec, eventrec_handlers as h; print(eventrec.__file__, h.__file__)").stdout
        if found.count(str(path)) != len(found.split()):
            raise RuntimeError(f"not the copy is imported: {found}")

    def _run(self, *arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        return run_in_group([sys.executable, *arguments], cwd=self.path, env=self._environment, seconds=seconds)

    def tested(self, *tests: str, timeout: int = 30, seconds: float = 600) -> subprocess.CompletedProcess[str]:
        """Run pytest on `tests` up to the first failure; one that takes longer than `timeout` seconds has failed.

        All of them may take `seconds`.
        """
        options = ["-x", "-v", "-p", "no:cacheprovider", "-p", "no:randomly", f"--timeout={timeout}", "--color=no"]
        return self._run("-m", "pytest", *options, *tests, seconds=seconds)


def run_in_group(
    command: list[str], *, cwd: Path, env: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run `command` in a process group of its own; what it started, and left running, is killed at its end.

    It is killed itself after `seconds`. Its output is what it and they have said by then.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:  # A pipe would wait for all of them.
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        return subprocess.CompletedProcess(command, process.returncode, said.read())


def catcher(output: str) -> str:
    """The test that failed, or that hung."""
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    started = re.findall(r"^(tests/\S+::\S+)", output, re.MULTILINE)
    return failed[0] if failed else f"{started[-1]} (hangs)"


def main(only: list[str]) -> int:
    """Print a line for each mutant, those that `only` names or all; how many survived."""
    chosen = [each for each in mutants() if not only or any(word in each.name for word in only)]
    survivors = 0
    with tempfile.TemporaryDirectory() as directory:
        copy = Copy(Path(directory))
        start = time.perf_counter()
        healthy = copy.tested(*sorted({test for each in chosen for test in each.tests}), timeout=120, seconds=3_600)
        if healthy.returncode:
            print(healthy.stdout)
            print("without a mutant the tests fail already: nothing is shown")
            return 1
        print(f"{'no mutant':42} {time.perf_counter() - start:6.1f} s  all pass", flush=True)
        for mutant in chosen:
            path = copy.path / mutant.file
            sound = path.read_text(encoding="utf-8")
            path.write_text(planted(mutant, sound), encoding="utf-8")
            start = time.perf_counter()
            run = copy.tested(*mutant.tests)
            path.write_text(sound, encoding="utf-8")
            survived = run.returncode != FAILED
            survivors += survived
            if run.returncode not in (0, FAILED):
                print(run.stdout)
            verdict = f"NOT CAUGHT (pytest ended with {run.returncode})" if survived else catcher(run.stdout)
            print(f"{mutant.name:42} {time.perf_counter() - start:6.1f} s  {verdict}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants caught")
    return min(survivors, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
