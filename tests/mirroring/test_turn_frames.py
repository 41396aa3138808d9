"""One turn of a log as frames: what it says comes out of them again, whole and in order."""

from __future__ import annotations

import pytest

from eventrec.mirroring.frames import FROM_SOURCE, Frame, FrameParser, Kind
from eventrec.mirroring.messages import CarriedCheckpoint, Trimmed, decode, decode_data
from eventrec.mirroring.served_run import LogTurn
from eventrec.mirroring.turn_frames import DATA_BYTES, TurnFrames


def parsed(*frames: bytes | memoryview) -> list[Frame]:
    return FrameParser(FROM_SOURCE).feed(b"".join(frames))


@pytest.mark.parametrize("are_whole", [True, False])
@pytest.mark.parametrize("size", [1, DATA_BYTES, DATA_BYTES + 1, 3 * DATA_BYTES])
def test_the_bytes_of_a_log_are_cut_into_frames_and_are_the_same_together(size: int, *, are_whole: bool) -> None:
    parts = [bytes(range(256)) * (size // 256 + 1), b"the end"]

    frames = TurnFrames.of(LogTurn(parts=parts), 7, are_whole=are_whole)

    read = [decode_data(each) for each in parsed(*frames.data)]
    assert b"".join(piece for _, piece in read) == b"".join(parts)
    assert {stream for stream, _ in read} == {7}
    assert max(len(piece) for _, piece in read) <= DATA_BYTES


def test_a_whole_frame_is_one_piece_of_bytes() -> None:
    frames = TurnFrames.of(LogTurn(parts=[b"x" * (DATA_BYTES + 1)]), 1, are_whole=True)

    assert [len(parsed(frame)) for frame in frames.data] == [1, 1]


def test_a_checkpoint_waits_for_letters_and_one_that_is_gone_does_not() -> None:
    frames = TurnFrames.of(LogTurn(checkpoints={"a.json": b"{}", "b.json": None}, first=9), 3, are_whole=True)

    (waiting,) = parsed(*frames.checkpoints.values())
    gone, trimmed = parsed(*frames.others)
    assert list(frames.checkpoints) == ["a.json"]
    assert decode(waiting, CarriedCheckpoint) == CarriedCheckpoint(stream=3, name="a.json", content=b"{}")
    assert decode(gone, CarriedCheckpoint) == CarriedCheckpoint(stream=3, name="b.json", content=None)
    assert trimmed.kind is Kind.TRIMMED
    assert decode(trimmed, Trimmed) == Trimmed(stream=3, first=9)


def test_a_turn_with_nothing_has_no_frames() -> None:
    frames = TurnFrames.of(LogTurn(), 1, are_whole=False)

    assert not frames.data
    assert not frames.checkpoints
    assert not frames.others
