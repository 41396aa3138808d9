"""The layouts of tables, kept beside the logs: a process without the application's classes delivers by them.

    <log>/layouts/<table>.json    the layout, as `Layout.to_json` gives it, with a checksum: see files.py

A process writes those that it declares before its log begins; of two for one table the one that was written last is
there. Nothing deletes them: they say how the records of any log here are to be stored.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import msgspec

from eventrec.errors import LayoutError, UnreadableFileError
from eventrec.records.layout import Layout
from eventrec.runs.directory import LogDirectory
from eventrec.runs.files import SUFFIX, decode, file_name, read, replace

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from eventrec.log.disk import DiskStorage

LAYOUTS: Final = "layouts"


def keep_layouts(directory: str | os.PathLike[str], layouts: Iterable[Layout]) -> None:
    """Have `layouts` in `directory`, each in the place of an older one for its table. Durable on return. Blocking.

    Raises:
        OSError: They could not be written.
    """
    given = list(layouts)
    if not given:
        return
    base = LogDirectory.of(directory).opened(create=True)
    with closing(base.folder(LAYOUTS, create=True)) as folder:
        changed = [layout for layout in given if not _holds(folder, layout)]
        for layout in changed:
            replace(folder, file_name(layout.table), msgspec.Raw(layout.to_json().encode()))
    if changed:
        base.sync_directory()


def kept_layouts(directory: str | os.PathLike[str]) -> tuple[dict[str, Layout], dict[str, str]]:
    """The layouts in `directory` by their tables; and why others could not be read, by the same. Blocking.

    Raises:
        OSError: That cannot be told now.
    """
    found: dict[str, Layout] = {}
    unreadable: dict[str, str] = {}
    with suppress(FileNotFoundError, NotADirectoryError), closing(_folder(directory)) as folder:
        for name in folder.list():
            if not name.endswith(SUFFIX):
                continue
            try:
                layout = Layout.from_json(_text(folder, name))
            except FileNotFoundError:
                continue
            except (UnreadableFileError, LayoutError) as exc:
                unreadable[unquote(name.removesuffix(SUFFIX))] = str(exc)
            else:
                found[layout.table] = layout
    return found, unreadable


def _folder(directory: str | os.PathLike[str]) -> DiskStorage:
    return LogDirectory.of(directory).opened().folder(LAYOUTS)


def _holds(folder: DiskStorage, layout: Layout) -> bool:
    with suppress(FileNotFoundError, UnreadableFileError):
        return _text(folder, file_name(layout.table)) == layout.to_json().encode()
    return False


def _text(folder: DiskStorage, name: str) -> bytes:
    return bytes(decode(read(folder, name), msgspec.Raw)[0])
