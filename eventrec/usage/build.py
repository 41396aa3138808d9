"""What a program says of its own build, and the properties that every event of it carries."""

from __future__ import annotations

import json
import platform
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildInformation:
    """Which program this is, and what it runs on.

    Attributes:
        application: Its name, which `properties` puts before `version` and `workspace`.
        version: Of the application; "unknown" where it is not installed as a package.
        git_hash: The commit it was installed from; "" where that is not known.
        features: Of the application, separated by spaces.
        target: Operating system and processor, as "linux-x86_64".
        build_date: As the application gives it; "" where it gives none.
        is_debug: Whether Python runs in development mode.
        is_workspace: Whether it was installed from its sources so that they can be edited.
    """

    application: str
    version: str = "unknown"
    git_hash: str = ""
    features: str = ""
    python_version: str = platform.python_version()
    implementation: str = sys.implementation.name
    target: str = sysconfig.get_platform()
    build_date: str = ""
    is_debug: bool = False
    is_workspace: bool = False

    def properties(self) -> dict[str, str | bool]:
        """The same as properties of an event; what is not known is left out."""
        name = self.application.replace("-", "_")
        said: dict[str, str | bool] = {
            "features": self.features,
            "git_hash": self.git_hash,
            f"{name}_version": self.version,
            "python_version": self.python_version,
            "python_implementation": self.implementation,
            "target": self.target,
            "build_date": self.build_date,
            "debug": self.is_debug,
            f"{name}_workspace": self.is_workspace,
        }
        return {key: value for key, value in said.items() if value != ""}


def build_information(application: str, *, package: str | None = None, **said: Any) -> BuildInformation:
    """What is known of the installed `package` (default: of the application's name); `said` goes before it.

    Reads the metadata of the package: a few small files. Raises nothing for what is missing or damaged in them.
    """
    known: dict[str, Any] = {"is_debug": sys.flags.dev_mode, **_installed(package or application), **said}
    return BuildInformation(application=application, **known)


def _installed(package: str) -> dict[str, Any]:
    """Version, commit and whether it can be edited (PEP 610's `direct_url.json`), as far as they are told."""
    known: dict[str, Any] = {}
    try:
        found = distribution(package)
        known["version"] = found.version
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        known["is_workspace"] = origin.get("dir_info", {}).get("editable") is True
        known["git_hash"] = str(origin.get("vcs_info", {}).get("commit_id", ""))
    except (PackageNotFoundError, OSError, ValueError, AttributeError, KeyError, TypeError):
        pass  # not installed, or a damaged file: what was read before it stands
    return {name: value for name, value in known.items() if value is not None}
