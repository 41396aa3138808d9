"""Frames and messages: cut anywhere, put together again, and never believed."""

from __future__ import annotations

from itertools import pairwise
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.mirroring.frames import FROM_MIRROR, FROM_SOURCE, Frame, FrameParser, Kind, ProtocolError, encode_frame
from eventrec.mirroring.messages import Ack, Claim, Hello, Last, Stopped, decode, decode_data, encode, encode_data

LIMITS = {Kind.DATA: 100, Kind.HEARTBEAT: 0, Kind.ACK: 20}
FRAMES = st.lists(
    st.sampled_from(list(LIMITS)).flatmap(
        lambda kind: st.binary(max_size=LIMITS[kind]).map(lambda body: Frame(kind, body))
    ),
    max_size=10,
)


@given(frames=FRAMES, cuts=st.sets(st.integers(0, 1_100)))
def test_frames_come_out_as_they_went_in_wherever_they_are_cut(frames: list[Frame], cuts: set[int]) -> None:
    content = b"".join(encode_frame(frame.kind, bytes(frame.body)) for frame in frames)
    parser = FrameParser(LIMITS)

    ends = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    found = [frame for start, end in pairwise(ends) for frame in parser.feed(content[start:end])]

    assert found == frames
    assert repr(parser) == "<FrameParser holding 0 bytes>"


@given(content=st.binary(max_size=2_000), size=st.integers(1, 64))
def test_garbage_is_refused_or_waited_for_and_never_held_beyond_the_limit(content: bytes, size: int) -> None:
    parser = FrameParser(FROM_MIRROR)

    try:
        for at in range(0, len(content), size):
            parser.feed(content[at : at + size])
    except ProtocolError:
        pass

    assert sum(map(len, parser._pieces)) <= max(FROM_MIRROR.values()) + 5 + size


@pytest.mark.parametrize("limits", [FROM_MIRROR, FROM_SOURCE])
def test_a_huge_length_is_refused_before_its_body_comes(limits: dict[Kind, int]) -> None:
    for kind, limit in limits.items():
        head = encode_frame(kind)[:1] + (limit + 1).to_bytes(4)
        with pytest.raises(ProtocolError, match=f"{kind.name} of"):
            FrameParser(limits).feed(head)


@pytest.mark.parametrize("kind", sorted(set(Kind) - set(FROM_MIRROR)))
def test_what_a_mirror_may_not_send_is_refused(kind: Kind) -> None:
    with pytest.raises(ProtocolError, match=f"kind {kind:d}"):
        FrameParser(FROM_MIRROR).feed(encode_frame(kind))


def test_a_message_comes_back_as_it_was() -> None:
    claim = Claim(run=uuid4(), is_dead=True, last=Last(0, 3, 5, 0xFFFFFFFF))
    hello = Hello(name="überall", instance=uuid4(), bandwidth=5, runs=[claim], more=True)

    (frame,) = FrameParser(FROM_MIRROR).feed(encode(hello))

    assert decode(frame, Hello) == hello


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 60_000,
        b'{"stream":-1,"next_offset":0}',
        b'{"stream":1,"next_offset":9223372036854775808}',
        b'{"stream":1,"next_offset":1e400}',
        b'{"stream":1,"next_offset":1,"checkpoints":{"a":-1}}',
    ],
)
def test_a_body_that_is_not_the_message_is_one_error(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="ACK"):
        decode(Frame(Kind.ACK, body), Ack)


@given(stream=st.integers(0, 2**32 - 1), piece=st.binary(max_size=50))
def test_data_carries_the_number_of_its_stream(stream: int, piece: bytes) -> None:
    (frame,) = FrameParser(FROM_SOURCE).feed(encode_data(stream, piece))

    assert decode_data(frame) == (stream, piece)


def test_a_reason_is_any_text() -> None:
    (frame,) = FrameParser(FROM_MIRROR).feed(encode(Stopped(run=uuid4(), why="no access to caf\udce9"), Kind.STOP))

    assert decode(frame, Stopped).why == r"no access to caf\udce9"


def test_data_without_a_number_is_refused() -> None:
    with pytest.raises(ProtocolError):
        decode_data(Frame(Kind.DATA, b"abc"))
