"""The one way to run anything: `nox` for all that guards a change, `nox -s NAME -- ARGUMENTS` for one part of it."""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "layers", "tests", "handlers", "examples", "package"]

ROOT = Path(__file__).parent
ENVIRONMENTS = ROOT / ".nox"
PASSED_OR_EMPTY = (0, 5)  # pytest's 5: nothing collected, in a room without an inhabitant yet
OTHER_PYTHONS = ("3.12", "3.13")
"""What `tests-VERSION` runs the tests on, beside the Python that runs nox."""

CORES = os.cpu_count() or 2


def in_parallel(per_core: int) -> tuple[str, ...]:
    """The options of pytest for so many workers per core, two at least: more than one, since tests wait for disks."""
    return ("-n", str(max(2, min(CORES * per_core, 16))), "--dist", "loadgroup", "--max-worker-restart", "0")


IN_PARALLEL = in_parallel(2)
"""Tests that need each other's quiet share an `xdist_group`; `-n 0` after `--` runs them one after another.

A test beyond its time limit ends its worker, and so the run: another worker in its place would wait for ever.
"""

CHEAP = ("-m", "not handlers and not faults and not docs")
NEITHER_SERVER_NOR_KILL = ("--ignore=tests/examples", "--ignore=tests/package", *CHEAP)
MOSTLY_WAITING = in_parallel(3)
"""For these: they wait for threads, clocks and processes of their own more than for the processor."""


class Run(Protocol):
    """Runs commands of one environment."""

    def __call__(
        self, command: str, /, *arguments: str, success_codes: tuple[int, ...] = (0,), silent: bool = False
    ) -> None:
        """Run `command`; an exit code that is not in `success_codes` fails the session.

        Of one that is `silent` nothing is shown, unless it fails.
        """


def timed(work: Callable[[nox.Session], None]) -> object:
    """Make `work` a session, in no environment of its own (see `environment`), that prints its seconds."""

    @functools.wraps(work)
    def run(session: nox.Session) -> None:
        start = time.perf_counter()
        try:
            work(session)
        finally:
            print(f"nox > {session.name}: {time.perf_counter() - start:.1f} s", flush=True)

    return nox.session(venv_backend="none")(run)


def environment(session: nox.Session, name: str, *install: str, python: str = sys.executable) -> Run:
    """Return what runs commands in the environment `name`, which holds what `install` tells pip.

    It has the given `python`, serves every session that asks for it, and is made again only when that Python,
    pyproject.toml or `install` has changed.
    """
    home = ENVIRONMENTS / name
    commands = home / ("Scripts" if sys.platform == "win32" else "bin")
    path = f"{commands}{os.pathsep}{os.environ.get('PATH', os.defpath)}"

    def through(perform: Callable[..., object]) -> Run:
        def run(command: str, /, *arguments: str, success_codes: tuple[int, ...] = (0,), silent: bool = False) -> None:
            perform(
                str(commands / command),
                *arguments,
                # Compiled modules are kept, whatever the shell says: every worker and every process that a test starts
                # would compile all of eventrec, and pytest rewrite all tests, again each time.
                env={"PATH": path, "VIRTUAL_ENV": str(home), "PYTHONDONTWRITEBYTECODE": ""},
                external=True,
                success_codes=success_codes,
                silent=silent,
            )

        return run

    pyproject = (ROOT / "pyproject.toml").read_bytes()
    made_of = hashlib.sha256(pyproject + repr((_version_of(python), install)).encode()).hexdigest()
    stamp = home / "made-of"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != made_of:
        shutil.rmtree(home, ignore_errors=True)
        session.run_install(python, "-m", "venv", str(home), external=True)
        make = through(session.run_install)
        make("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", *install)
        # pip would compile one file after another. What fails is not Python of this version, and is imported by none.
        make("python", "-m", "compileall", "-qq", "-j", "0", str(home), success_codes=(0, 1))
        stamp.write_text(made_of, encoding="utf-8")
    return through(session.run)


def _version_of(python: str) -> str:
    """What `python` says of itself; nothing where it is not one, or a stand-in for one that is not installed."""
    try:
        done = subprocess.run([python, "-VV"], capture_output=True, check=False, text=True)  # noqa: S603 - a Python
    except OSError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def interpreter(version: str) -> str | None:
    """A Python of `version`, as "3.12", on the path or among pyenv's."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [shutil.which(name), *map(str, sorted(pyenv.glob(f"{version}.*/bin/{name}"), reverse=True))]
    return next((each for each in found if each is not None and _version_of(each)), None)


def workshop(session: nox.Session) -> Run:
    """The environment that nearly every session shares: eventrec as it stands in the tree, and all the tools."""
    return environment(session, "dev", "--editable", ".[dev,contract]")


@timed
def lint(session: nox.Session) -> None:
    """Ruff: every rule but the few that pyproject.toml gives a reason against, and the format."""
    run = workshop(session)
    run("ruff", "check")
    run("ruff", "format", "--check")


@timed
def types(session: nox.Session) -> None:
    """Types, by mypy (strict, everything) and pyright (strict, the public surface as a user's checker sees it).

    Beside them every test module is imported, so that the workers of the sessions that follow need not all compile it.
    """
    run = workshop(session)
    with ThreadPoolExecutor() as beside:
        others = [
            beside.submit(run, "pyright"),
            beside.submit(run, "pytest", "-qq", "--collect-only", "--no-summary", silent=True),
        ]
        run("mypy")
        for other in others:
            other.result()


@timed
def layers(session: nox.Session) -> None:
    """Import-linter: the contract in pyproject.toml is the map."""
    workshop(session)("lint-imports")


@timed
def tests(session: nox.Session) -> None:
    """What needs no server, kills no process and runs no example."""
    workshop(session)("pytest", *MOSTLY_WAITING, *NEITHER_SERVER_NOR_KILL, *session.posargs)


def tests_on(version: str) -> None:
    """Make a session `tests-VERSION`: `tests` on another Python, and the handlers that need no server.

    It is skipped where that Python is missing.
    """

    def run(session: nox.Session) -> None:
        python = interpreter(version)
        if python is None:
            session.skip(f"Python {version} is not here")
        command = environment(session, f"dev-{version}", "--editable", ".[dev,contract]", python=python)
        command("pytest", *MOSTLY_WAITING, *NEITHER_SERVER_NOR_KILL, *session.posargs)
        command("pytest", *IN_PARALLEL, "tests/handlers", "-m", "handlers and not faults", "-k", "sqlite or jsonl")

    run.__name__ = f"tests-{version}"
    run.__doc__ = f"The session `tests`, and the handlers that need no server, on Python {version}."
    timed(run)


for each in OTHER_PYTHONS:
    tests_on(each)


@timed
def handlers(session: nox.Session) -> None:
    """Conformance of each handler against its real destination."""
    workshop(session)(
        "pytest", *IN_PARALLEL, "-m", "handlers and not faults", *session.posargs, success_codes=PASSED_OR_EMPTY
    )


@timed
def coverage(session: nox.Session) -> None:
    """Branches of the log, of delivery and of the runs that the tests take: all, or it fails and names the rest.

    Measured from the first import on, in the processes that tests start too: pytest imports eventrec, as its plugin,
    before a plugin could measure it.
    """
    run = workshop(session)
    run("coverage", "erase")
    run("coverage", "run", "-m", "pytest", *MOSTLY_WAITING, *NEITHER_SERVER_NOR_KILL, *session.posargs)
    run("coverage", "combine", "--quiet")
    run("coverage", "report")


@timed
def examples(session: nox.Session) -> None:
    """Each example, and the README's quickstart, as they are."""
    workshop(session)("pytest", *IN_PARALLEL, "tests/examples", *session.posargs)


@timed
def docs(session: nox.Session) -> None:
    """The documentation: builds it into build/site, where a warning fails, checks its links, and runs its examples."""
    run = workshop(session)
    run("python", "-m", "mkdocs", "build", "--strict")
    run("pytest", "tests/docs", *session.posargs)
    print(f"nox > open {ROOT / 'build' / 'site' / 'index.html'}")


@timed
def package(session: nox.Session) -> None:
    """The wheel: what is in it, and that it works in an environment which holds nothing else."""
    workshop(session)("pytest", *IN_PARALLEL, "tests/package", *session.posargs)


@timed
def faults(session: nox.Session) -> None:
    """Kill, cut, starve, and anything at any time; compare the account with what the destination holds.

    EVENTREC_TEST_FUZZ_RUNS (2,000) and EVENTREC_TEST_SEED (1) are those of tests/faults/test_fuzz.py.

    `-- --minutes N [--seed S]` soaks instead: everything at once for so long, from that seed, counts at the end.
    `-- --mutants [WORD…]` plants known defects instead, all or those whose names hold a WORD: tests must catch each.
    """
    run = workshop(session)
    if "--mutants" in session.posargs:
        run("python", "tests/faults/mutants.py", *(each for each in session.posargs if each != "--mutants"))
    elif any(each.startswith(("--minutes", "--seed")) for each in session.posargs):
        run("python", "tests/faults/soak/soak.py", *session.posargs)
    else:
        run("pytest", "-m", "faults", *session.posargs, success_codes=PASSED_OR_EMPTY)


@timed
def bench(session: nox.Session) -> None:
    """What eventrec must cost, beside its peers in the same run: Markdown, JSON and pictures in .nox/bench, no gate.

    `-- --quick` takes some three minutes, `-- --only record,append` measures these rows alone. `-- --each [ROUNDS]`
    runs each tests/benchmarks/bench_*.py instead, which measure one thing, a handler or a page, more closely.
    """
    benchmarks = ROOT / "tests" / "benchmarks"
    if "--each" in session.posargs:
        run = workshop(session)
        for script in sorted(benchmarks.glob("bench_*.py")):
            run("python", str(script), *(each for each in session.posargs if each != "--each"))
        return
    lines = (benchmarks / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    run = environment(session, "bench", "--editable", ".[postgres]", *pinned)
    run("python", str(benchmarks / "headline" / "headline.py"), *session.posargs)


@timed
def lowest(session: nox.Session) -> None:
    """The tests against the lower bounds in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    bounded = "\n".join(project["dependencies"] + extras["cli"] + extras["server"] + extras["testing"])
    constraints = ENVIRONMENTS / "lowest.txt"
    ENVIRONMENTS.mkdir(exist_ok=True)
    constraints.write_text(re.sub(r"(\[.*\])?>=", "==", bounded), encoding="utf-8")
    run = environment(session, "lowest", "--editable", ".[dev]", "--constraint", str(constraints))
    # What the packaging says is not of versions; and schemathesis takes later ones than ours.
    left_out = ["--ignore=tests/package", "--ignore=tests/server/test_openapi.py"]
    run("pytest", *IN_PARALLEL, *left_out, *CHEAP, *session.posargs)
