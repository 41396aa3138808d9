import logging
import pickle
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from logging.handlers import SocketHandler
from typing import Annotated, Any

import pytest
import structlog
from pydantic import BaseModel, ConfigDict

from eventrec import EventRecorder, Hashed
from eventrec.bridges.loggers import RecordingHandler, RecordingProcessor
from eventrec.runtime.logging import get_logger
from eventrec.testing.recorded import RecordedEvents


class MarkedModel(BaseModel):
    email: Annotated[str, Hashed()]


@dataclass
class MarkedCompany:
    email: Annotated[str, Hashed()]


@dataclass(frozen=True)
class MarkedKey:
    email: Annotated[str, Hashed()]


class OpenModel(BaseModel):
    model_config = ConfigDict(extra="allow")


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def logger(events: RecordedEvents) -> Iterator[logging.Logger]:
    """A logger of the standard library whose lines are recorded."""
    root, handler = logging.getLogger(), RecordingHandler(events.recorder)
    root.addHandler(handler)
    logger = logging.getLogger("shop.orders")
    logger.setLevel(logging.INFO)
    yield logger
    root.removeHandler(handler)


def alone(handler: logging.Handler) -> logging.Logger:
    """A logger with this handler and no other."""
    logger = logging.getLogger(f"alone.{id(handler)}")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.handlers[:] = [handler]
    return logger


class TestLogging:
    def test_line_becomes_an_event_with_its_arguments_and_extras(
        self, events: RecordedEvents, logger: logging.Logger
    ) -> None:
        logger.info("order %d for %s", 7, "ada", extra={"total": 12.5, "customer": "ada"})

        (event,) = events
        assert (event.type, event.table) == ("logged", "events")
        assert event.payload == {
            "logger": "shop.orders",
            "level": "info",
            "message": "order 7 for ada",
            "fields": {"total": 12.5, "customer": "ada"},
        }

    def test_marked_fields_are_hidden_whether_json_can_say_them_or_not(
        self, events: RecordedEvents, logger: logging.Logger
    ) -> None:
        model, company = MarkedModel(email="alice@example.com"), MarkedCompany("alice@example.com")

        logger.info("seen", extra={"company": company, "model": model, "mixed": [object(), company]})

        (event,) = events
        assert event.payload["fields"] == {
            "company": {"email": "[redacted]"},  # this recorder has no salt
            "model": "a MarkedModel with marked fields",
            "mixed": "a list with marked fields",
        }

    def test_what_is_marked_is_hidden_as_a_key_and_in_an_extra_field_too(
        self, events: RecordedEvents, logger: logging.Logger
    ) -> None:
        key, extra = MarkedKey("alice@example.com"), OpenModel.model_validate({"more": MarkedKey("alice@example.com")})

        logger.info("seen", extra={"by_key": {key: 1}, "inside": [object(), {key: 1}], "open": extra})

        (event,) = events
        assert event.payload["fields"] == {
            "by_key": "a dict with marked fields",
            "inside": "a list with marked fields",
            "open": "a OpenModel with marked fields",
        }

    def test_time_is_that_of_the_line(self, events: RecordedEvents, logger: logging.Logger) -> None:
        line = logging.makeLogRecord(
            {"name": "x", "created": 1_700_000_000.25, "levelno": logging.INFO, "levelname": "INFO", "msg": "said"}
        )

        logger.handle(line)

        assert events[0].timestamp == 1_700_000_000_250_000_000

    def test_traceback_is_text(self, events: RecordedEvents, logger: logging.Logger) -> None:
        try:
            _ = dict[str, int]()["gone"]
        except KeyError:
            logger.exception("failed")

        assert events[0].payload["exception"].startswith("Traceback (most recent call last):")
        assert events[0].payload["exception"].endswith("KeyError: 'gone'")

    def test_what_json_cannot_say_is_recorded_as_it_looks(self, events: RecordedEvents, logger: logging.Logger) -> None:
        class Hostile:
            def __repr__(self) -> str:
                raise RuntimeError

        logger.warning("odd", extra={"a": {b"\0"}, "b": Hostile(), "c": float("nan"), "d": "x" * 5_000})

        fields = events[0].payload["fields"]
        assert (fields["a"], fields["b"], fields["c"], len(fields["d"])) == ("{b'\\x00'}", "a Hostile", "nan", 5_000)

    def test_our_own_loggers_are_left_out(self, events: RecordedEvents, logger: logging.Logger) -> None:
        get_logger("eventrec.delivery").warning("delivery interrupted")
        logging.getLogger("eventrec").error("ours")
        logging.getLogger("eventrecorder").error("somebody else's")

        assert [event.payload["message"] for event in events] == ["somebody else's"]

    def test_recorder_in_trouble_does_not_record_its_own_complaints(
        self, events: RecordedEvents, logger: logging.Logger
    ) -> None:
        recorder = EventRecorder()
        handler = RecordingHandler(recorder)
        logging.getLogger().addHandler(handler)
        try:
            with recorder.sync():
                recorder.record(object())  # type: ignore[arg-type]
                logger.info("after")
        finally:
            logging.getLogger().removeHandler(handler)

        assert recorder.status().offered == 2
        assert recorder.status().appended == 1

    def test_level_and_filters_hold(self, events: RecordedEvents) -> None:
        handler = RecordingHandler(events.recorder, level="WARNING", table="lines")
        handler.addFilter(lambda line: "secret" not in line.getMessage())
        logger = alone(handler)

        logger.info("too low")
        logger.warning("a secret")
        logger.warning("kept")

        assert [(event.payload["message"], event.table) for event in events] == [("kept", "lines")]

    def test_line_that_cannot_be_formatted_disturbs_nobody(
        self, events: RecordedEvents, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(logging, "raiseExceptions", False)
        said = alone(RecordingHandler(events.recorder))

        said.info("%d", "no number")
        said.info("fine")

        assert [event.payload["message"] for event in events] == ["fine"]

    @pytest.mark.parametrize("exc_info", [None, (None, None, None), True])
    def test_traceback_that_is_left_as_text_alone_is_recorded(
        self, events: RecordedEvents, logger: logging.Logger, exc_info: object
    ) -> None:
        handler = RecordingHandler(events.recorder)
        try:
            [].pop()
        except IndexError:
            record = logging.LogRecord("app", logging.ERROR, "app.py", 1, "failed", None, sys.exc_info())
        received = pickle.loads(SocketHandler("127.0.0.1", 9).makePickle(record)[4:])  # noqa: S301 - our own bytes

        handler.handle(logging.makeLogRecord({**received, "exc_info": exc_info}))

        (event,) = events
        assert event.payload["exception"].endswith("IndexError: pop from empty list")
        assert "fields" not in event.payload

    def test_it_holds_no_lock_while_it_records(self, events: RecordedEvents) -> None:
        handler = RecordingHandler(events.recorder)
        said = alone(handler)
        handler.acquire()  # as another thread would that is interrupted in the middle

        thread = threading.Thread(target=said.info, args=("said",), daemon=True)
        thread.start()
        thread.join(5)
        handler.release()

        assert [event.payload["message"] for event in events] == ["said"]


class TestStructlog:
    def processed(self, events: RecordedEvents, **fields: Any) -> dict[str, Any]:
        processor = RecordingProcessor(events.recorder)
        given = dict(fields)
        assert processor(None, "info", given) is given
        assert given == fields, "the event goes on as it was"
        payload: dict[str, Any] = events[-1].payload
        return payload

    def test_event_becomes_an_event(self, events: RecordedEvents) -> None:
        payload = self.processed(events, event="placed", logger="shop", level="warning", order=7)

        assert payload == {"logger": "shop", "level": "warning", "message": "placed", "fields": {"order": 7}}

    def test_level_is_that_of_the_method_where_nobody_added_one(self, events: RecordedEvents) -> None:
        assert self.processed(events, event="x")["level"] == "info"

    @pytest.mark.parametrize("how", ["exception", "true", "triple", "text"])
    def test_each_way_to_give_an_exception(self, events: RecordedEvents, how: str) -> None:
        try:
            _ = dict[str, int]()["gone"]
        except KeyError as exc:
            ways: dict[str, dict[str, Any]] = {
                "exception": {"exc_info": exc},
                "true": {"exc_info": True},
                "triple": {"exc_info": (type(exc), exc, None)},
                "text": {"exception": "Traceback: KeyError: 'gone'"},
            }
            payload = self.processed(events, event="x", **ways[how])

        assert payload["exception"].endswith("KeyError: 'gone'")
        assert "fields" not in payload

    def test_no_exception_is_none(self, events: RecordedEvents) -> None:
        assert "exception" not in self.processed(events, event="x", exc_info=False)
        assert "exception" not in self.processed(events, event="x", exc_info=True)

    def test_our_own_loggers_are_left_out(self, events: RecordedEvents) -> None:
        processor = RecordingProcessor(events.recorder)

        processor(logging.getLogger("eventrec.intake.queue"), "info", {"event": "ours"})
        processor(None, "info", {"event": "ours", "logger": "eventrec"})

        assert list(events) == []

    def test_it_works_in_a_chain(self, events: RecordedEvents) -> None:
        logger = structlog.wrap_logger(
            structlog.PrintLogger(),
            processors=[RecordingProcessor(events.recorder), lambda *_: (_ for _ in ()).throw(structlog.DropEvent)],
        )

        logger.bind(user="u").error("failed", code=3)

        assert events[0].payload["fields"] == {"user": "u", "code": 3}
        assert events[0].payload["level"] == "error"
