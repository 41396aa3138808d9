"""The layouts beside a served directory's logs: which of them a mirror has to be told, and what it keeps of them.

A source says them before the records that were written after them. A mirror keeps them as files of its own directory,
where what delivers its logs looks for them; it writes no other file, and under no other name than the table's.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

import msgspec

from eventrec.errors import LayoutError, UnreadableFileError
from eventrec.mirroring.messages import KeptLayout, decode, encode
from eventrec.records.layout import Layout
from eventrec.runs.files import SUFFIX, file_name
from eventrec.runs.files import decode as decode_file
from eventrec.runs.files import encode as encode_file
from eventrec.runs.layouts import LAYOUTS, LayoutFolder, keep_layouts
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from eventrec.mirroring.frames import Frame
    from eventrec.runs.directory import LogDirectory

MAX_LAYOUTS: Final = 1_000
"""Tables of which a directory's layouts are mirrored."""

MAX_LAYOUT_BYTES: Final = 1 << 20
"""Bytes of one file: a table of 1,600 columns takes a fifth of that."""

_WAITING_BYTES: Final = 16 << 20
"""Of layouts that could not be written yet."""

_LOOKS_EVERY: Final = 1.0
"""Seconds between two looks where no records come; those that come are looked for before these are sent."""

_MAX_SAID: Final = 100
"""Warnings in one process: what a peer sends must not fill the logging."""

_logger = get_logger("eventrec.mirroring")


class OfferedLayouts:
    """The layouts of `directory`, for one mirror that is connected. Blocking; from one thread at a time."""

    def __init__(self, directory: LogDirectory) -> None:
        self._directory = directory
        self._folder = LayoutFolder(directory)
        self._told: dict[str, Layout] = {}
        self._looked_at = -_LOOKS_EVERY
        self._said: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"<OfferedLayouts of {self._directory}: {len(self._told)} told>"

    @property
    def is_due(self) -> bool:
        """Whether it is time to look though no records come."""
        return monotonic() - self._looked_at >= _LOOKS_EVERY

    def frames(self) -> list[bytes]:
        """The frames of those that are new or changed."""
        self._looked_at = monotonic()
        try:
            changed = self._folder.changed()
        except OSError as exc:
            self._say(LAYOUTS, described(exc))
            return []
        if changed is None:
            return []
        found, unreadable = changed
        for table, why in unreadable.items():
            self._say(table, why)
        new = [layout for table, layout in found.items() if self._told.get(table) != layout]
        return [frame for layout in new if (frame := self._frame(layout))]

    def _frame(self, layout: Layout) -> bytes | None:
        content = encode_file(msgspec.Raw(layout.to_json().encode()))
        if len(content) > MAX_LAYOUT_BYTES:
            self._say(layout.table, f"it has {len(content):,} bytes, more than {MAX_LAYOUT_BYTES:,}")
        elif layout.table not in self._told and len(self._told) >= MAX_LAYOUTS:
            self._say(LAYOUTS, f"there are more than {MAX_LAYOUTS:,}")
        else:
            self._told[layout.table] = layout
            return encode(KeptLayout(content=content))
        return None

    def _say(self, name: str, why: str) -> None:
        _say_once(self._said, "layout not mirrored", name, why)


class ReceivedLayouts:
    """The layouts that a mirror is told, kept in its `directory`. Blocking; from one thread at a time."""

    def __init__(self, directory: LogDirectory) -> None:
        self._directory = directory
        self._waiting: dict[str, Layout] = {}
        """Those that could not be written yet, by their tables."""
        self._waiting_bytes = 0
        self._said: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"<ReceivedLayouts in {self._directory}: {len(self._waiting)} waiting>"

    def take(self, frame: Frame) -> None:
        """Keep the layout that `frame` says, durably; where the disk refuses it, at a later `retry`.

        What is not a layout, or one too many, is logged and not kept: the logs are mirrored all the same.

        Raises:
            ProtocolError: The frame is not such a message.
        """
        content = decode(frame, KeptLayout).content
        try:
            if len(content) > MAX_LAYOUT_BYTES:
                raise LayoutError(f"it has {len(content):,} bytes, more than {MAX_LAYOUT_BYTES:,}")  # noqa: TRY301 - one answer to all that is wrong with it
            text, is_checked = decode_file(content, msgspec.Raw)
            if not is_checked:
                raise LayoutError("it has no checksum")  # noqa: TRY301 - likewise
            layout = Layout.from_json(bytes(text))
        except (UnreadableFileError, LayoutError) as exc:
            self._say("?", str(exc))
            return
        self._waiting.pop(layout.table, None)
        self._keep(layout, len(content))

    def retry(self) -> None:
        """Keep those that the disk refused."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, {}, 0
        for layout in waiting.values():
            self._keep(layout, len(layout.to_json()))

    def _keep(self, layout: Layout, size: int) -> None:
        try:
            if not self._has_room(file_name(layout.table)):
                self._say(LAYOUTS, f"there are {MAX_LAYOUTS:,} already")
                return
            keep_layouts(self._directory, [layout], is_replacing_any=False)
        except OSError as exc:
            self._say(layout.table, described(exc))
            if self._waiting_bytes + size <= _WAITING_BYTES and len(self._waiting) < MAX_LAYOUTS:
                self._waiting[layout.table] = layout
                self._waiting_bytes += size

    def _has_room(self, name: str) -> bool:
        names = set((self._directory / LAYOUTS).names())
        return name in names or sum(each.endswith(SUFFIX) for each in names) < MAX_LAYOUTS

    def _say(self, name: str, why: str) -> None:
        _say_once(self._said, "layout not kept", name, why)


def _say_once(said: set[tuple[str, str]], what: str, name: str, why: str) -> None:
    if (name, why) not in said and len(said) < _MAX_SAID:
        said.add((name, why))
        _logger.warning(what, layout=name[:200], reason=why[:1_000])
