import pytest

from eventrec import EventPage, EventReader, HandlerURLError, StoredEvent, handler_from_url, reader_from_url


class Unread(EventReader):
    """Nothing to read: what the interface does by itself."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def open(self) -> None:
        self.calls.append("open")

    async def close(self) -> None:
        self.calls.append("close")

    async def latest(self, **_: object) -> EventPage:
        return EventPage((), "now")

    async def range(self, *_: object, **__: object) -> EventPage:
        return EventPage((), "now")

    async def follow(self, cursor: str, **_: object) -> EventPage:
        return EventPage((), cursor)


def stored(n: int, *, at: int) -> StoredEvent:
    return StoredEvent(table="events", id=str(n), type="t", timestamp=at, payload=str(n))


def test_page_is_sorted_by_time_and_equal_times_stay_as_they_arrived() -> None:
    late, first, second = stored(0, at=9), stored(1, at=2), stored(2, at=2)

    page = EventPage.of([late, first, second], "now", {"table 'x': its payload is NULL": 1})

    assert page == EventPage((first, second, late), "now", {"table 'x': its payload is NULL": 1})


def test_negative_limit_is_refused() -> None:
    EventReader.check_limit(0)

    with pytest.raises(ValueError, match=r"limit must not be negative, got -1"):
        EventReader.check_limit(-1)


async def test_block_opens_and_closes_the_reader_also_when_it_fails() -> None:
    reader = Unread()

    with pytest.raises(KeyError):
        async with reader:
            raise KeyError

    assert reader.calls == ["open", "close"]


def test_handler_without_a_reader_is_named_by_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTS_URL", "memory:")

    assert handler_from_url("memory:").reader() is None
    with pytest.raises(HandlerURLError, match=r"the handler for 'memory' cannot tell what it has stored"):
        reader_from_url("env:EVENTS_URL")
