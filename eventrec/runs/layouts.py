"""The layouts of tables, kept beside the logs: a process without the application's classes delivers by them.

    <log>/layouts/<table>.json    the layout, as `Layout.to_json` gives it, with a checksum: see files.py

A process writes those that it declares before its log begins; of two for one table the one that was written last is
there. Nothing deletes them: they say how the records of any log here are to be stored.
"""

from __future__ import annotations

import errno
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import msgspec

from eventrec.errors import LayoutError, UnreadableFileError
from eventrec.records.layout import Layout
from eventrec.runs.directory import LogDirectory
from eventrec.runs.files import SUFFIX, decode, file_name, read, replace
from eventrec.runtime.logging import text_of

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from eventrec.log.disk import DiskStorage

LAYOUTS: Final = "layouts"


_TRACES: Final = (b'{"version":', b'{"crc32c":"')
"""What a file of ours begins with, and what its last line does: damage to one leaves the other."""


class LayoutFolder:
    """The layouts in `directory`, read again only once a file of them came, went or was replaced.

    Blocking; from one thread at a time.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = LogDirectory.of(directory)
        self._seen: object = None
        """The folder when it was read last; None: not everything in it could be."""

    def __repr__(self) -> str:
        return f"<LayoutFolder of {self._directory}>"

    def changed(self) -> tuple[dict[str, Layout], dict[str, str]] | None:
        """What `kept_layouts` says of the directory; None: the same as the last time.

        Raises:
            OSError: That cannot be told now.
        """
        # It is looked at before it is read: what comes between the two is read twice, not missed.
        seen: object = ()
        with suppress(FileNotFoundError, NotADirectoryError), closing(_folder(self._directory)) as folder:
            seen = folder.modified(), {entry.name: entry.inode() for entry in folder.entries()}
        if seen == self._seen:
            return None
        found, unreadable = kept_layouts(self._directory)
        self._seen = None if unreadable else seen
        return found, unreadable


def keep_layouts(
    directory: str | os.PathLike[str], layouts: Iterable[Layout], *, is_replacing_any: bool = True
) -> None:
    """Have `layouts` in `directory`, each in the place of an older one for its table. Durable on return. Blocking.

    Whatever lies under such a name is replaced; unless `is_replacing_any`, only a file that is empty or of ours.

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
            if not is_replacing_any and not _is_free(folder, file_name(layout.table)):
                raise FileExistsError(
                    errno.EEXIST, "not a file of ours", str(folder.directory / file_name(layout.table))
                )
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
                unreadable[text_of(unquote(name.removesuffix(SUFFIX)))] = text_of(exc)
            else:
                found[layout.table] = layout
    return found, unreadable


def _folder(directory: str | os.PathLike[str]) -> DiskStorage:
    return LogDirectory.of(directory).opened().folder(LAYOUTS)


def _holds(folder: DiskStorage, layout: Layout) -> bool:
    with suppress(FileNotFoundError, UnreadableFileError):
        return _text(folder, file_name(layout.table)) == layout.to_json().encode()
    return False


def _is_free(folder: DiskStorage, name: str) -> bool:
    """Whether there is no file of that name, or one of ours, damaged or not."""
    try:
        content = read(folder, name)
    except FileNotFoundError:
        return True
    except UnreadableFileError:
        return False
    return not content.strip(b"\0") or any(trace in content for trace in _TRACES)


def _text(folder: DiskStorage, name: str) -> bytes:
    return bytes(decode(read(folder, name), msgspec.Raw)[0])
