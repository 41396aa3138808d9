"""Our own log lines, and the texts of errors in them: foreign code on both sides."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from eventrec.runtime.logging import MAX_TEXT, described, get_logger, text_of


class SilentError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Text(str):
    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        raise RuntimeError((encoding, errors))

    def __str__(self) -> str:
        return self

    def __len__(self) -> int:
        raise RuntimeError

    def __getitem__(self, at: object) -> str:
        raise RuntimeError(at)


class OddError(Exception):
    def __str__(self) -> str:
        return Text("odd")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ValueError("who knows"), "who knows"),
        (ValueError(), ""),
        (ValueError("no such file: \udcff.txt"), "no such file: \\udcff.txt"),
        (ValueError("\ud83d\ude00"), "\\ud83d\\ude00"),
        (SilentError(), "SilentError"),
        (OddError(), "odd"),
        (ValueError("ä\x00\n"), "ä\x00\n"),
        (ValueError("x" * MAX_TEXT), "x" * MAX_TEXT),
        (ValueError("x" * 1_000_000), "x" * MAX_TEXT + "… (1,000,000 characters)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_text_of_an_error_can_be_kept_anywhere(value: Exception, text: str) -> None:
    assert text_of(value) == text
    assert described(value) == f"{type(value).__name__}: {text}"
    text_of(value).encode()


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit(3)


class NamelessError(Exception, metaclass=Nameless):
    def __str__(self) -> str:
        raise SystemExit(3)


def test_an_error_whose_class_cannot_say_its_name_is_named() -> None:
    assert text_of(NamelessError()) == "NamelessError"
    assert described(NamelessError()) == "NamelessError: NamelessError"


def test_a_line_holds_texts_that_can_be_encoded(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("eventrec.test").warning("file unreadable", file="caf\udce9", files=["caf\udce9"], count=1)

    (line,) = caplog.records
    assert line.getMessage() == r"file unreadable file=caf\udce9 files=['caf\udce9'] count=1"
    assert vars(line)["eventrec"]["file"] == r"caf\udce9"


class Raising(logging.Handler):
    """Throws at every line."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
        self.called = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.called += 1
        raise self.error


@pytest.fixture(
    params=[ValueError("no"), SystemExit(1), KeyboardInterrupt(), GeneratorExit(), SilentError()],
    ids=lambda error: type(error).__name__,
)
def raising(request: pytest.FixtureRequest) -> Iterator[Raising]:
    handler = Raising(request.param)
    logging.getLogger("eventrec").addHandler(handler)
    yield handler
    logging.getLogger("eventrec").removeHandler(handler)


def test_a_logging_handler_that_raises_costs_a_line_and_says_so_on_stderr(
    raising: Raising, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = get_logger("eventrec.test")

    logger.warning("disk is full", path="/var")
    try:
        raise LookupError("far away")  # noqa: TRY301 - with a traceback
    except LookupError:
        logger.exception("it failed", error="far away")

    assert raising.called == 2
    assert capsys.readouterr().err.startswith("eventrec: the logging failed at 'disk is full': ")


def test_nothing_is_said_on_stderr_where_logging_is_told_not_to(
    raising: Raising, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)

    get_logger("eventrec.test").error("disk is full")

    assert (raising.called, capsys.readouterr().err) == (1, "")
