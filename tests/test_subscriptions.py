"""What `register` was told: names, settings, and what a handler inherits."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from eventrec import Batch, EventHandler, EventRecorder, EventRecorderOptions, SubscriptionError
from eventrec.subscriptions import Subscriptions
from eventrec_handlers.postgres import PostgresHandler


class Keeping(EventHandler):
    """Remembers which ttl it inherited."""

    ttl: float | None = None

    def inherit_ttl(self, seconds: float) -> None:
        self.ttl = seconds

    async def handle(self, batch: Batch) -> None:
        pass


def registered(options: EventRecorderOptions, handler: EventHandler) -> Subscriptions:
    subscriptions = Subscriptions(options, has_log=False)
    subscriptions.register(handler, name=None, types=None, start="earliest", on_new_destination="pause")
    return subscriptions


def test_a_name_defaults_to_the_class_of_the_handler() -> None:
    subscriptions = registered(EventRecorderOptions(), Keeping())

    assert subscriptions.names == ["Keeping"]
    assert [each.name for each in subscriptions] == ["Keeping"]


def test_a_handler_inherits_the_ttl_of_the_recorder_in_seconds() -> None:
    handler = Keeping()
    registered(EventRecorderOptions(ttl="90d"), handler)

    assert handler.ttl == 90 * 86_400


def test_without_a_ttl_a_handler_is_told_of_none() -> None:
    handler = Keeping()
    EventRecorder(handler)

    assert handler.ttl is None


def test_a_ttl_of_its_own_stays() -> None:
    own, inheriting = (PostgresHandler("postgresql://localhost/a", ttl=ttl) for ttl in (60.0, None))
    for handler in (own, inheriting):
        registered(EventRecorderOptions(ttl=5), handler)

    assert own._expiry._ttl == 60
    assert inheriting._expiry._ttl == 5


def test_a_ttl_of_zero_is_refused() -> None:
    with pytest.raises(ValidationError, match="a ttl is more than zero"):
        EventRecorderOptions(ttl=0)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (Keeping, "the class Keeping, not an instance"),
        (None, "None"),
        (Keeping().handle, "bound method Keeping.handle"),
        (b"sqlite:///x.db", "b'sqlite:///x.db'"),
        ([Keeping()], "Keeping object"),
    ],
)
def test_what_is_not_a_handler_is_refused_when_it_is_given(given: object, named: str, tmp_path: Path) -> None:
    for log in (None, tmp_path):
        with pytest.raises(SubscriptionError, match=named):
            EventRecorder(given, log=log)  # type: ignore[arg-type]
