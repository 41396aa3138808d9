"""A mirror's copies, given frames as no honest source sends them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventrec.log.disk import DiskStorage
from eventrec.log.mirror import StreamReader
from eventrec.mirroring.copies import Copies
from eventrec.mirroring.frames import FROM_MIRROR, FROM_SOURCE, Frame, FrameParser, Kind, ProtocolError
from eventrec.mirroring.messages import (
    Ack,
    Begin,
    CarriedCheckpoint,
    Retired,
    Runs,
    Stopped,
    Trimmed,
    decode,
    encode,
    encode_data,
)
from eventrec.runs import files
from eventrec.runs.checkpoint import Checkpoint as Saved
from eventrec.runs.checkpoint import Progress
from eventrec.runs.directory import LogDirectory, list_runs
from eventrec.runs.run import Run, new_run_id

LOG = new_run_id()


@pytest.fixture
def copies(tmp_path: Path) -> Iterator[Copies]:
    made = Copies(LogDirectory(tmp_path / "there"), sweep_letters=lambda: None)
    assert made.claims() == []
    yield made
    made.close()


def frames(*content: bytes) -> list[Frame]:
    return FrameParser(FROM_SOURCE).feed(b"".join(content))


def begun(run: UUID = LOG, stream: int = 1, **options: Any) -> bytes:
    return encode(Begin(run=run, stream=stream, **{"is_fresh": True, **options}))


def synced(copies: Copies) -> list[bytes]:
    syncs = copies.syncs()
    for each in syncs:
        each.run()
    return copies.settle(syncs)


def answers(found: list[bytes]) -> list[Frame]:
    return FrameParser(FROM_MIRROR).feed(b"".join(found))


def stopped(found: list[bytes]) -> str:
    (frame,) = answers(found)
    assert frame.kind is Kind.STOP
    return decode(frame, Stopped).why


def saved(name: str = "s", scanned: int = 0) -> bytes:
    progress = Progress(0, scanned, scanned, delivered=scanned)
    return files.encode(Saved(subscription=name, progress=progress))


@pytest.mark.parametrize("name", ["../../escaped.json", "/escaped.json", "s.json/../../x", "lock", "..", "s.json\0"])
def test_a_checkpoint_stays_in_its_folder_whatever_it_is_called(copies: Copies, tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    copies.take(frames(begun()))
    made = sorted(tmp_path.rglob("*"))

    why = stopped(copies.take(frames(encode(CarriedCheckpoint(stream=1, name=name, content=saved())))))
    copies.take(frames(begun(stream=2), encode(CarriedCheckpoint(stream=2, name=name, content=None))))

    assert "by another name" in why
    assert len(before) < len(made)
    assert [path.name for path in tmp_path.rglob("*") if "escaped" in path.name or path.name == "x"] == []
    assert (tmp_path / "there" / str(LOG) / "lock").exists()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 10_000, saved()[:-3]])
def test_a_checkpoint_that_cannot_be_read_is_not_written(copies: Copies, tmp_path: Path, content: bytes) -> None:
    copies.take(frames(begun()))

    why = stopped(copies.take(frames(encode(CarriedCheckpoint(stream=1, name="s.json", content=content)))))

    assert "cannot be read" in why
    assert list(tmp_path.rglob("*.json")) == []


def test_what_is_not_a_stream_stops_that_log_alone(copies: Copies, kit: Any, tmp_path: Path) -> None:
    source = kit.source(tmp_path / "here")
    source.write(3)
    with StreamReader(DiskStorage(source.run.path)) as reader:
        stream = reader.read()
    source.end()

    found = copies.take(
        frames(begun(stream=1), begun(source.run.id, stream=2), encode_data(1, os.urandom(500)), encode_data(2, stream))
    )
    found += synced(copies)

    stop, ack = answers(found)
    assert decode(stop, Stopped).run == LOG
    assert decode(ack, Ack) == Ack(stream=2, next_offset=9)


def test_what_concerns_no_stream_is_ignored(copies: Copies) -> None:
    found = copies.take(
        frames(
            encode_data(7, b"x"),
            encode(Trimmed(stream=7, first=3)),
            encode(CarriedCheckpoint(stream=7, name="s.json", content=saved())),
            encode(Retired(run=LOG)),
            encode(Stopped(run=LOG, why="gone"), Kind.DIVERGED),
        )
    )

    assert found + synced(copies) == []


def test_a_log_that_was_stopped_is_offered_again_after_a_pause(tmp_path: Path) -> None:
    now = 1_000.0
    copies = Copies(LogDirectory(tmp_path), sweep_letters=lambda: None, clock=lambda: now)
    copies.claims()
    copies.take(frames(begun()))
    stopped(copies.take(frames(encode_data(1, b"x" * 100))))

    at_once = copies.take([])
    now += 2
    (offered,) = answers(copies.take([]))
    again = copies.take([])

    assert at_once == again == []
    assert [claim.run for claim in decode(offered, Runs).runs] == [LOG]
    copies.close()


def test_a_copy_that_another_process_holds_is_not_replaced(tmp_path: Path) -> None:
    held = Run.create(tmp_path, LOG)
    copies = Copies(LogDirectory(tmp_path), sweep_letters=lambda: None)

    assert copies.claims() == []
    why = stopped(copies.take(frames(begun())))

    assert "another process holds" in why
    assert held.is_in_place()
    held.release()
    copies.close()


def test_what_only_a_mirror_says_is_refused(copies: Copies) -> None:
    with pytest.raises(ProtocolError, match="ACK"):
        copies.take([Frame(Kind.ACK, b"{}")])


RUNS = st.sampled_from([LOG, UUID(int=5), UUID(int=0)])
STREAMS = st.integers(0, 3)
MESSAGES = st.one_of(
    st.builds(Begin, run=RUNS, stream=STREAMS, is_fresh=st.booleans(), checkpoints=st.just(["s.json"])).map(encode),
    st.builds(Trimmed, stream=STREAMS, first=st.integers(0, 100)).map(encode),
    st.builds(Retired, run=RUNS, is_dead=st.booleans()).map(encode),
    st.builds(
        CarriedCheckpoint,
        stream=STREAMS,
        name=st.sampled_from(["s.json", "a/b"]),
        content=st.sampled_from([None, b"", saved()]),
    ).map(encode),
    st.builds(Stopped, run=RUNS, why=st.just("x")).map(lambda message: encode(message, Kind.DIVERGED)),
    st.builds(encode_data, STREAMS, st.binary(max_size=60)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(MESSAGES, max_size=12))
def test_in_any_order_frames_are_taken_and_nothing_is_left_but_runs(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes]
) -> None:
    directory = tmp_path_factory.mktemp("there")
    copies = Copies(LogDirectory(directory), sweep_letters=lambda: None)
    copies.claims()

    found = copies.take(frames(*content)) + synced(copies)
    copies.close()

    assert {frame.kind for frame in answers(found)} <= {Kind.ACK, Kind.STOP, Kind.RUNS}
    assert {path.name for path in directory.iterdir()} <= {str(LOG), str(UUID(int=5)), str(UUID(int=0)), "dead"}
    for id_ in list_runs(directory):
        run = Run.adopt(directory, id_)
        assert run is not None
        run.release()
