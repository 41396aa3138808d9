"""What the log directory says of the layouts of tables, told to the handlers before they get records of other logs."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from eventrec.runs.layouts import LAYOUTS, LayoutFolder
from eventrec.runtime.logging import described, get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eventrec.delivery.subscription import Subscription
    from eventrec.records.layout import Layout
    from eventrec.runs.directory import LogDirectory

_NOT_FOR_US: Final = (errno.EACCES, errno.EPERM, errno.ELOOP)

_logger = get_logger("eventrec.delivery")


class LogLayouts:
    """Those of `directory`, for the handlers of `subscriptions`."""

    def __init__(self, directory: LogDirectory, subscriptions: Iterable[Subscription]) -> None:
        self._directory = directory
        self._folder = LayoutFolder(directory)
        self._subscriptions = list(subscriptions)
        self._told: dict[str, Layout] = {}
        self._said: set[tuple[str, ...]] = set()

    def learn(self) -> None:
        """Tell the handlers what is new. In a thread, after the logs were found: what they need was there before them.

        What cannot be read is logged once. So is a folder that is another user's: so are the logs of which it tells.

        Raises:
            OSError: The directory cannot be read now.
        """
        try:
            changed = self._folder.changed()
        except OSError as exc:
            if exc.errno not in _NOT_FOR_US:
                raise
            self._say("layouts cannot be read: tables are made as if they had none", LAYOUTS, error=described(exc))
            return
        if changed is None:
            return
        found, unreadable = changed
        new = {table: layout for table, layout in found.items() if self._told.get(table) != layout}
        if new:
            for each in self._subscriptions:
                self._tell(each, new)
            self._told |= new
        for table, why in unreadable.items():
            self._say("layout cannot be read: rows are made as if its table had none", table, error=why)

    def _tell(self, subscription: Subscription, layouts: Mapping[str, Layout]) -> None:
        for table, layout in layouts.items():
            try:
                subscription.handler.assume_layouts({table: layout})
            except Exception as exc:  # noqa: BLE001 - one handler of several, and one table of several
                self._say("layout not used", table, subscription=subscription.name, error=described(exc))

    def _say(self, what: str, name: str, **more: str) -> None:
        said = (name, *more.values())
        if said not in self._said:
            self._said.add(said)
            _logger.warning(what, layout=name, directory=str(self._directory), **more)
