"""What `register` was told: handlers with their names, filters and settings, checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from eventrec.delivery.subscription import NewDestination, Subscription
from eventrec.delivery.worker.containment import contained
from eventrec.durations import duration_seconds
from eventrec.errors import InvalidEventError, SubscriptionError
from eventrec.events.layouts import class_layouts, layout_of
from eventrec.handler import EventHandler
from eventrec.options import EventRecorderOptions
from eventrec.records.layout import layouts_by_table
from eventrec.records.schema import check_name
from eventrec.registry import address_of, default_name, handler_from_url, resolve_url, scheme_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from eventrec.delivery.stopping import FailureStop
    from eventrec.records.layout import Layout

Start: TypeAlias = Literal["earliest", "latest"]

BACKLOG_BATCHES: Final = 4
"""Measured: rows that are ready go into PostgreSQL at 0.82 of what one transaction takes in batches of 1,000, and at
0.97 in batches of 4,000."""

_SIZES: Final = frozenset({"batch_rows", "batch_bytes"})
"""Options that say how large a batch is: a subscription that sets one gets no larger ones."""


class Subscriptions:
    """Those of one recorder, by name, in the order in which they were registered."""

    def __init__(
        self,
        options: EventRecorderOptions,
        *,
        has_log: bool,
        stop: FailureStop | None = None,
        layouts: Iterable[Layout | type] = (),
        chunk_rows: int | None = None,
    ) -> None:
        """`stop` is told of the first send that fails, and lets nothing through from then on.

        `chunk_rows` are the rows that a relay wants handlers to send at once.

        Raises:
            LayoutError: One of `layouts` is neither a layout nor a class with one, or two are for one table.
        """
        self._options = options
        self._layouts = layouts_by_table(map(layout_of, layouts))
        self._has_log = has_log
        self._stop = stop
        self._chunk_rows = chunk_rows
        self._by_name: dict[str, Subscription] = {}
        self._urls: dict[str, str] = {}
        """Of those that were registered by one, as it was given."""

    def __getitem__(self, name: str) -> Subscription:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._by_name.values())

    @property
    def options(self) -> EventRecorderOptions:
        """The recorder's."""
        return self._options

    @property
    def layouts(self) -> Mapping[str, Layout]:
        """What the recorder was given, by table."""
        return self._layouts

    @property
    def names(self) -> list[str]:
        """The name of each."""
        return list(self._by_name)

    def has_url(self, url: str) -> bool:
        """Whether one was registered by `url`, as it is written."""
        return url in self._urls.values()

    def register(
        self,
        handler_or_url: EventHandler | str,
        *,
        name: str | None,
        types: Collection[str] | None,
        start: Start,
        on_new_destination: NewDestination,
        **own: Any,
    ) -> None:
        """Add one; `own` are its settings, those that are None follow the recorder's options.

        Raises:
            SubscriptionError, HandlerURLError, pydantic.ValidationError: As `EventRecorder.register`.
        """
        check_word("start", start, get_args(Start))
        check_word("on_new_destination", on_new_destination, get_args(NewDestination))
        wanted = _checked_types(types)
        given: object = handler_or_url  # Not every application has a type checker.
        if isinstance(given, str):
            handler, default = handler_from_url(given), default_name(given)
        elif isinstance(given, EventHandler):
            handler, default = given, type(given).__name__
        else:
            shown = f"the class {given.__name__}, not an instance" if isinstance(given, type) else repr(given)
            raise SubscriptionError(f"a handler is an EventHandler or a URL, got {shown}")
        name = name if name is not None else default
        try:
            check_name("the name of a subscription", name)
        except InvalidEventError as exc:
            raise SubscriptionError(str(exc)) from exc
        if name in self._by_name:
            raise SubscriptionError(f"there is a handler named {name!r} already: give this one another with name=")
        own = {key: value for key, value in own.items() if value is not None}
        settings = EventRecorderOptions(**{**self._options.model_dump(), **own}).resolve(has_log=self._has_log).delivery
        is_default = not (settings.ticks or _SIZES & (self._options.model_fields_set | own.keys()))
        if is_default and _keeps_checkpoints(handler):
            settings = replace(settings, backlog_batches=BACKLOG_BATCHES)
        self._by_name[name] = Subscription(
            name=name,
            handler=self._prepared(handler),
            settings=settings,
            types=wanted,
            start=start,
            on_new_destination=on_new_destination,
            address=address_of(given) if isinstance(given, str) else "",
        )
        if isinstance(handler_or_url, str):
            self._urls[name] = handler_or_url

    def another(self, name: str) -> Subscription:
        """The subscription with a handler of its own, made from the URL that it was registered by.

        Raises:
            SubscriptionError: There is none of this name, or it was not registered by URL.
            HandlerURLError: As `handler_from_url`.
        """
        if name not in self._by_name:
            raise SubscriptionError(f"no subscription {name!r}; there are {sorted(self._by_name)}")
        url = self._urls.get(name)
        if url is None or scheme_of(resolve_url(url)) == "memory":
            why = "was not registered by its URL" if url is None else "keeps what it is given in memory"
            raise SubscriptionError(f"the handler {name!r} {why}: another one cannot deliver for it")
        handler = self._prepared(handler_from_url(url))
        declared = self._declared_layouts()
        if declared:
            handler.use_layouts(declared)
        return replace(self._by_name[name], handler=handler)

    def use_declared_layouts(self) -> None:
        """Tell the handlers of the layouts that event classes have, beside those that the recorder was given.

        Raises:
            LayoutError: Two classes have different ones for one table; or a handler cannot have such a table.
        """
        declared = self._declared_layouts()
        if declared:
            for each in self:
                each.handler.use_layouts(declared)

    def _declared_layouts(self) -> dict[str, Layout]:
        return layouts_by_table(layout for layout in class_layouts() if layout.table not in self._layouts)

    def remake(self, *, must: bool) -> None:
        """Handlers made again from their URLs, for another life. The others stay; or with `must` may not.

        Raises:
            SubscriptionError: One of them must, and was not registered by URL. Nothing has changed.
        """
        self._by_name = {name: self._remade(each, must=must) for name, each in self._by_name.items()}

    def _remade(self, subscription: Subscription, *, must: bool) -> Subscription:
        url = self._urls.get(subscription.name)
        if url is None and not must:
            return subscription
        if url is None:
            raise SubscriptionError(
                f"the handler {subscription.name!r} belongs to the process that forked this one, which had opened it: "
                "register it by its URL, or make a recorder after the fork"
            )
        return replace(subscription, handler=self._prepared(handler_from_url(url)))

    def _prepared(self, handler: EventHandler) -> EventHandler:
        """`handler` as it is used: told what it inherits from the recorder, and behind its stop, where it has one."""
        if self._options.ttl is not None:
            handler.inherit_ttl(duration_seconds(self._options.ttl))
        if self._chunk_rows is not None:
            handler.inherit_chunk_rows(self._chunk_rows)
        if self._layouts:
            handler.use_layouts(self._layouts)
        return handler if self._stop is None else self._stop.guarded(handler)


def _keeps_checkpoints(handler: EventHandler) -> bool:
    try:
        with contained():
            return handler.checkpoints is not None
    except Exception:  # noqa: BLE001 - foreign code: it is met again, and said, when the handler is opened
        return False


def check_word(argument: str, given: object, allowed: tuple[str, ...]) -> None:
    """Raise SubscriptionError where `given` is none of the words that are `allowed` for `argument`."""
    if not isinstance(given, str) or given not in allowed:
        raise SubscriptionError(f"{argument} is one of {', '.join(allowed)}, got {given!r}")


def _checked_types(types: object) -> frozenset[str] | None:
    """`types` as `register` was told them."""
    if types is None:
        return None
    if isinstance(types, str):
        raise SubscriptionError(f"types is a collection of event types: write [{types!r}]")
    if not isinstance(types, Iterable):
        raise SubscriptionError(f"types is a collection of event types, got {types!r}")
    wanted = list(types)
    for kind in wanted:
        if not isinstance(kind, str):
            raise SubscriptionError(f"types is a collection of event types, which are texts, got {kind!r} in it")
        try:
            check_name("an event type", kind)  # another one would filter every event, and its log be deleted
        except InvalidEventError as exc:
            raise SubscriptionError(f"types: {exc}") from exc
    return frozenset(wanted)
