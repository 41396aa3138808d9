"""The files of the page: ours, and plotly.js from the wheel `plotly`; under one version, a hash of them all."""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PLOTLY: Final = "plotly.min.js"
PAGE: Final = "index.html"

_FOLDER: Final = Path(__file__).with_name("static")
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_BROUGHT_STYLES: Final = re.compile(rb'document\.getElementById\("([0-9a-f]{64})"\)')
"""Where plotly.js looks whether the styles of its maps are in the document: else it adds them."""

_COMPRESSION: Final = 6
_MIN_COMPRESSED: Final = 1_000


@dataclass(frozen=True)
class StaticFile:
    """One file as it is sent.

    Attributes:
        content: Its bytes.
        media_type: What they are.
    """

    content: bytes
    media_type: str

    @cached_property
    def compressed(self) -> bytes | None:
        """The same by gzip; None where that gains little. The first time it blocks, for plotly.js some tenths."""
        if len(self.content) < _MIN_COMPRESSED:
            return None
        return gzip.compress(self.content, _COMPRESSION, mtime=0)


@dataclass(frozen=True, slots=True)
class Files:
    """All files of the page.

    Attributes:
        by_name: Each by its name.
        version: Changes with any of them; a part of their addresses.
        page: The page's source.
        brought_styles: Ids of elements that stand for styles which plotly.js would add otherwise.
    """

    by_name: Mapping[str, StaticFile]
    version: str
    page: str
    brought_styles: tuple[str, ...] = field(default=())

    @classmethod
    def read(cls) -> Files:
        """Read them. It blocks."""
        contents = {path.name: path.read_bytes() for path in sorted(_FOLDER.iterdir()) if path.is_file()}
        page = contents.pop(PAGE)
        plotly = _plotly()
        if plotly is not None:
            contents[PLOTLY] = plotly
        known = hashlib.sha256(page)
        for name, content in contents.items():
            known.update(b"%s %d\n" % (name.encode(), len(content)))
            known.update(content)
        styles = () if plotly is None else tuple(id_.decode() for id_ in _BROUGHT_STYLES.findall(plotly))
        by_name = {name: _static(name, content) for name, content in contents.items()}
        return cls(by_name, known.hexdigest()[:16], page.decode(), styles)


def _plotly() -> bytes | None:
    """plotly.js, where the wheel is installed; found without importing it."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "package_data" / PLOTLY
    return path.read_bytes() if path.is_file() else None


def _static(name: str, content: bytes) -> StaticFile:
    return StaticFile(content, _TYPES[Path(name).suffix])
