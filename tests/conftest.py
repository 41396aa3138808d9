"""What holds for every test: async ones run on asyncio and on trio, and none may block the loop."""

import _thread
import faulthandler
import gc
import importlib
import importlib.util
import inspect
import io
import logging
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import cache
from itertools import count
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from blockbuster import BlockingError, blockbuster_ctx
from hypothesis import HealthCheck, settings

import eventrec
import eventrec_handlers
from eventrec.analytics import buckets
from eventrec.testing.clickhouse import clickhouse_engine
from eventrec.testing.clickhouse_http import clickhouse, clickhouse_server
from eventrec.testing.servers import THROW_AWAY, PostgresServer, home_of, postgres_server
from eventrec.testing.timescale import timescale_server

__all__ = ["clickhouse", "clickhouse_engine", "clickhouse_server", "postgres_server", "timescale_server"]

_numbers = count()

TESTS = Path(__file__).parent

# How long an example takes, and to draw it, says how busy the machine is.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


IN_MEMORY = pytest.StashKey[bool]()
"""Whether temporary files are in memory, as far as they are where pytest itself puts them."""

PASSED_OR_EMPTY = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


def pytest_configure(config: pytest.Config) -> None:
    """Files are in memory, stacks have somewhere to go, Ctrl-C reaches what tests start, coverage looks at threads.

    A test cannot tell whether its files outlive the machine: to write, sync and delete them on a disk takes half of the
    time of tests that keep logs, and shows nothing more. Those that are marked `faults` stay on the disk, in a session
    of their own. PYTEST_DEBUG_TEMPROOT says where they are to be instead. `threading` alone tells new ones to trace.
    """
    _stderr()
    memory = home_of(THROW_AWAY)
    if memory is not None and config.option.markexpr != "faults" and not os.statvfs(memory).f_flag & os.ST_NOEXEC:
        config.stash[IN_MEMORY] = os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory)) == str(memory)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell that starts the run in the background has it so, and every process of ours would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.gettrace() is not None:
        start = _thread.start_new_thread

        def start_traced(function: Callable[..., object], arguments: tuple[object, ...]) -> int:
            def run() -> None:
                sys.settrace(threading.gettrace())
                function(*arguments)

            return start(run, ())

        _thread.start_new_thread = start_traced  # type: ignore[assignment]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """What passed leaves no files in memory; where a test failed they stay for a person to look at."""
    config = session.config
    is_in_memory = config.stash.get(IN_MEMORY, False) and not config.option.basetemp
    is_worker = hasattr(config, "workerinput")  # Its folders are in those of the process that started it.
    if exitstatus in PASSED_OR_EMPTY and is_in_memory and not is_worker:
        folder: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        shutil.rmtree(folder, ignore_errors=True)


SECONDS_TO_TELL = 10.0
"""A test's stacks are printed so long before its time is over."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Every stack is printed before a test's own time limit ends its worker, which says nothing itself.

    No earlier, as pytest's `faulthandler_timeout` would for a test that may take longer than others: stacks are read
    while their threads run, and now and then that ends the process.
    """
    limit = item.get_closest_marker("timeout")
    seconds = float(limit.args[0] if limit else item.config.getoption("timeout") or item.config.getini("timeout"))
    if seconds > SECONDS_TO_TELL:
        faulthandler.dump_traceback_later(seconds - SECONDS_TO_TELL, file=_stderr())
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@cache
def _stderr() -> int:
    """The file of standard error, whatever takes its number while a test runs."""
    return os.dup(2)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A session reads no module that has nothing for it: each worker would import them all.

    True where no test of the module can be meant by `-m`, as noxfile.py says it.
    """
    if not collection_path.name.startswith("test_") or collection_path.suffix != ".py":
        return None
    text = collection_path.read_text(encoding="utf-8")
    match config.option.markexpr:
        case "not handlers and not faults and not docs":
            return (
                re.search(r"(?m)^pytestmark = \[?\s*pytest\.mark\.(handlers|faults|docs)\b", text) is not None or None
            )
        case "handlers and not faults":
            return None if _is_marked(collection_path, text, "handlers") else True
        case "faults":
            return None if _is_marked(collection_path, text, "faults") else True
    return None


def _is_marked(module: Path, text: str, marker: str) -> bool:
    """Whether a module, or a conftest.py that holds for it, names this marker."""
    mark = re.compile(rf"\bmark\.{marker}\b")
    above = (folder / "conftest.py" for folder in module.parents if folder.is_relative_to(TESTS))
    return any(mark.search(each) for each in (text, *(path.read_text("utf-8") for path in above if path.exists())))


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Every async test belongs to anyio's plugin, without a mark at each."""
    if collector.istestfunction(obj, name) and inspect.iscoroutinefunction(_inner(obj)):
        pytest.mark.anyio(obj)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of one `xdist_group` run in one worker, one after the other; what is slow comes first.

    Else a worker may be left alone at the end with what takes longest. Groups come before all else, by their size.

    xdist 3.8 writes the group into `_nodeid`, where its scheduler looked for it; since 9.2 pytest reads no such thing.
    """
    if not hasattr(config, "workerinput") or not config.option.loadgroup:
        return
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        groups = sorted({str(mark.args[0]) for mark in item.iter_markers("xdist_group")})
        suffix = f"@{'_'.join(groups)}"
        if groups and not item.nodeid.endswith(suffix):
            item._id = item.id.parse(f"{item.nodeid}{suffix}")  # type: ignore[attr-defined, unused-ignore]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """While tests are collected next to nothing is garbage: to look for it took an eighth of that time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """What was collected lives until the end: no collection of garbage during the run looks at it again.

    There are hundreds of megabytes of it; a test that collects a dozen times took a minute on a busy machine.
    """
    gc.collect()
    gc.freeze()


def _inner(test: object) -> object:
    """The function that hypothesis wraps, where it does."""
    return getattr(getattr(test, "hypothesis", None), "inner_test", test)


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    backend: str = request.param
    return backend


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a database of the test's own on the server of this process. Connections left at its end are cut."""
    name = f"own_{next(_numbers)}"
    postgres_server.execute(f"CREATE DATABASE {name} STRATEGY FILE_COPY")  # the faster one, with a server in memory
    yield name
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def load_module() -> Callable[[Path], Any]:
    """Makes a module of a file that no package has, once: an example, or what several test modules need."""

    @cache
    def load(path: Path) -> Any:
        spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look for the names in their annotations
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that only itself vouches for, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    directory = tmp_path_factory.mktemp("certificate")
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [openssl, "req", "-x509", *curve, *name, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def small_volume(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory on a file system of its own: 1 MiB, or the size, and the options, that the parameter gives."""
    path = tmp_path / "volume"
    path.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    size = f"size={getattr(request, 'param', '1m')}"
    command = [mount or "mount", "-t", "tmpfs", "-o", size, "tmpfs", str(path)]
    if mount is None or umount is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here: that needs root")
    yield path
    subprocess.run([umount, "-l", str(path)], check=True)


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """pytest's, without what asyncio says of a task of an earlier test, whose garbage is collected in this one."""

    def is_of_this_test(record: logging.LogRecord) -> bool:
        return record.name != "asyncio" or record.levelno < logging.ERROR

    caplog.handler.addFilter(is_of_this_test)
    yield caplog
    caplog.handler.removeFilter(is_of_this_test)


@pytest.fixture
def said_by(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[logging.LogRecord]]:
    """Gives the records of a logger: another one may speak of a recorder that an earlier test has left to garbage."""
    return lambda logger: [record for record in caplog.records if record.name == logger]


@pytest.fixture
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorders of this process look for orphans, requests, letters and the size of their log five times a second."""
    monkeypatch.setattr("eventrec.delivery.orphans.adoption.SCAN_SECONDS", 0.2)
    monkeypatch.setattr("eventrec.delivery.log_supervisor.SCAN_SECONDS", 0.2)
    monkeypatch.setattr("eventrec.delivery.letters.counts.LOOK_SECONDS", 0.2)
    monkeypatch.setattr("eventrec.delivery.retained_logs.FIRST_LOOK", 0.2)
    monkeypatch.setattr("eventrec.runs.measure.LOOKS_EVERY", 0.2)


@pytest.fixture
def without_stdin() -> Iterator[None]:
    """The number of stdin is free, as in a daemon that closed it: what is opened next gets it from the system."""
    kept = os.dup(0)
    os.close(0)
    try:
        yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


@pytest.fixture
def without_collector() -> Iterator[None]:
    """Nothing is collected during the test: at the recursion limit, finalizers of what other tests left would fail."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def handling() -> Callable[..., AbstractContextManager[None]]:
    """Gives a signal another handler inside of a `with` block: its number, then the handler.

    A timer ends with the block, since SIGALRM without a handler ends the process, and with it what the test found.
    """

    @contextmanager
    def handle(number: signal.Signals, handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
        before = signal.signal(number, handler)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(number, before)

    return handle


@pytest.fixture(autouse=True)
def _loop_is_never_blocked(request: pytest.FixtureRequest) -> Iterator[None]:
    """In async tests a blocking call that our own code makes on the loop's thread raises, and fails the test.

    The test's own blocking calls are let through: it may look into a file or a database. Blockbuster knows a running
    loop by asyncio alone, so the same test under trio does not look.
    """
    if "anyio_backend" not in request.fixturenames:
        yield
        return

    blocked: list[str] = []

    class NotedBlockingError(BlockingError):
        """Delivery contains errors, this one too: so it is noted where it is made."""

        def __init__(self, func: str) -> None:
            super().__init__(func)
            blocked.append(f"{self}\n{''.join(traceback.format_stack()[:-2])}")

    # The suite calls the harness, which is a test: it may look into a file.
    ours, theirs = [eventrec, eventrec_handlers], ["eventrec.testing.claims", "eventrec.testing.conformance"]
    # Not the fixture `monkeypatch`: what a test patches is put back before this is, or it would put these back again.
    with pytest.MonkeyPatch.context() as patch, blockbuster_ctx(ours, excluded_modules=theirs) as detector:
        patch.setattr("blockbuster.blockbuster.BlockingError", NotedBlockingError)
        detector.functions["os.getcwd"].deactivate()  # the kernel knows it: no disk is asked
        for function in detector.functions.values():
            # A recorder that is made on the loop may look up what is installed: like an import, once, at its start.
            function.can_block_in("eventrec/registry.py", {"_entry_points", "_loaded", "_has_extra"})
            # A fork waits for a thread that takes an event: a moment, and a second at most.
            function.can_block_in("eventrec/runtime/process.py", "before")
            # The driver looks for ~/.pgpass and ~/.postgresql whenever it connects, and offers no way to do so before.
            function.can_block_in("asyncpg/connect_utils.py", {"_parse_connect_dsn_and_args"})
        # Where log lines go is the application's choice; pytest's own is a file.
        for writer in ("io.TextIOWrapper.write", "io.BufferedWriter.write"):
            detector.functions[writer].can_block_in("logging/__init__.py", "emit")
        yield
    if blocked:
        pytest.fail("\n".join(blocked), pytrace=False)


@pytest.fixture(scope="session")
def platform_analytics() -> Any:
    """The modules of the example `platform_analytics`, by their names, as its scripts import them."""
    names = ("events", "layout", "rollups", "catalogue", "client", "generate", "queries", "answers", "asking", "routes")
    before = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    folder = str(Path(__file__).parents[1] / "examples" / "platform_analytics")
    sys.path.insert(0, folder)
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(folder)
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(before)


_ZONES: dict[str, ZoneInfo] = {}


@pytest.fixture
def zone_rules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Has this process know a zone by other rules, as after an update of tzdata, or as another machine does.

    `zone_rules("America/Asuncion", -4, ("2026-03-10T04:00Z", -3))`: by how many hours its clock is ahead of UTC, and
    the moments at which it is changed.
    """
    known: dict[str, ZoneInfo] = {}
    caches = [buckets.zone_of, buckets._rules, buckets._start_of_day]

    # What is known once more after `forget` is not read from files, on the loop of whatever test comes next.
    _ZONES.update({name: ZoneInfo(name) for name in available_timezones()} if not _ZONES else {})

    def forget() -> None:
        for cached in caches:
            cached.cache_clear()

    def set_rules(name: str, first: float, *changes: tuple[str, float]) -> None:
        seconds = [(int(datetime.fromisoformat(at).timestamp()), round(ahead * 3_600)) for at, ahead in changes]
        known[name] = ZoneInfo.from_file(io.BytesIO(_tzif(round(first * 3_600), seconds)), key=name)
        forget()

    monkeypatch.setattr(buckets, "ZoneInfo", lambda name: known.get(name) or ZoneInfo(name))
    yield set_rules
    monkeypatch.undo()
    forget()


def _tzif(first: int, changes: Sequence[tuple[int, int]]) -> bytes:
    """The file of a zone, see RFC 9636: the block of 64 bits alone; what was last stays for ever."""
    aheads = [first, *(ahead for _, ahead in changes)]
    times = struct.pack(f">{len(changes)}q{len(changes)}B", *(at for at, _ in changes), *range(1, len(aheads)))
    types = b"".join(struct.pack(">lBB", ahead, 0, 0) for ahead in aheads)
    hours, minutes = divmod(abs(aheads[-1]) // 60, 60)
    footer = f"\nZZZ{'-' if aheads[-1] > 0 else ''}{hours}:{minutes:02}\n".encode()
    empty, full = (0,) * 6, (0, 0, 0, len(changes), len(aheads), 4)
    headers = [b"TZif2" + bytes(15) + struct.pack(">6l", *counts) for counts in (empty, full)]
    return b"".join((*headers, times, types, b"ZZZ\0", footer))
