from __future__ import annotations

import random
import struct
from itertools import product
from typing import TYPE_CHECKING

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.errors import Damage
from eventrec.log import resync
from eventrec.log.commit import MAX_OFFSET, Commit, encode_commit
from eventrec.log.crc import shift_crc
from eventrec.log.resync import Resync
from eventrec.log.segment import Segment, encode_header, segment_name
from eventrec.log.walk import Gap, Tail, Walk
from eventrec.testing.storage import FaultyStorage

if TYPE_CHECKING:
    from collections.abc import Callable

RANDOM = random.Random(7)


def _walk(
    content: bytes, *, version: int = 1, upper: int | None = None, is_ours: Callable[[bytes], bool] | None = None
) -> tuple[list[Commit | Gap], Walk]:
    storage = FaultyStorage()
    storage.put(segment_name(0), encode_header(version) + content)
    walk = Walk(Segment.open(storage, 0), upper=upper, is_ours=is_ours)
    steps = []
    while step := walk.step():
        steps.append(step)
    return steps, walk


def _brief(steps: list[Commit | Gap]) -> list[object]:
    return [step.offset if isinstance(step, Commit) else (step.missing, step.reason) for step in steps]


def _commits(*offsets: int, n: int = 1, size: int = 40) -> list[bytes]:
    return [encode_commit(offset, RANDOM.randbytes(size), n) for offset in offsets]


def test_whole_commits_end_clean() -> None:
    steps, walk = _walk(b"".join(_commits(0, 1, 2)))

    assert (_brief(steps), walk.tail, walk.offset, walk.damage) == ([0, 1, 2], Tail.CLEAN, 3, None)
    assert walk.step() is None


@pytest.mark.parametrize("before", [(1 << 20) - 27, (1 << 20) - 26 - 22, (1 << 20) - 500])
def test_a_commit_whose_header_is_buffered_and_whose_records_are_not_is_whole(before: int) -> None:
    steps, walk = _walk(b"".join(_commits(0, size=before - 26) + _commits(1, size=5_000) + _commits(2)))

    assert (_brief(steps), walk.tail) == ([0, 1, 2], Tail.CLEAN)


@pytest.mark.parametrize("keep", [0, 1, 21, 22, 30, 65])
def test_an_incomplete_commit_is_a_torn_tail(keep: int) -> None:
    whole = b"".join(_commits(0, 1))

    steps, walk = _walk(whole + _commits(2)[0][:keep])

    assert (_brief(steps), walk.position) == ([0, 1], 10 + len(whole))
    assert walk.tail is (Tail.TORN if keep else Tail.CLEAN)


def test_a_whole_last_commit_with_a_wrong_checksum_is_told_apart() -> None:
    raw = bytearray(b"".join(_commits(0, 1)))
    raw[-1] ^= 1

    steps, walk = _walk(bytes(raw))

    assert (_brief(steps), walk.tail, walk.damage) == ([0], Tail.DAMAGED, Damage.CHECKSUM)


@pytest.mark.parametrize("size", [1, 13, 14, 21, 22, 23, 5000, 3 << 20])
@pytest.mark.parametrize("version", [0, 1])
def test_zeros_to_the_end_are_reserved_space(foreign_commit: Callable[..., bytes], size: int, version: int) -> None:
    steps, walk = _walk(foreign_commit(0, b"a", version=version) + bytes(size), version=version)

    assert _brief(steps) == [0]
    assert walk.tail is (Tail.ZEROS if size >= (22 if version else 14) else Tail.TORN)


def test_zeros_with_something_behind_are_no_reserved_space() -> None:
    steps, walk = _walk(_commits(0)[0] + bytes(5000) + b"x")

    assert (_brief(steps), walk.tail) == ([0], Tail.TORN)


def test_zeros_with_a_commit_behind_are_a_gap() -> None:
    a, b, c = _commits(0, 1, 2)

    steps, walk = _walk(a + bytes(len(b)) + c)

    assert _brief(steps) == [0, (1, Damage.ZEROS), 2]
    assert steps[1] == Gap(0, 10 + len(a), len(b), 1, 1, Damage.ZEROS)
    assert walk.tail is Tail.CLEAN


@pytest.mark.parametrize("keep", [1, 2, 7, 8, 13, 21, 22, 25, 60])
def test_a_flipped_bit_before_a_torn_end_costs_nothing_in_between(keep: int) -> None:
    """One bit of the first commit's header, and so many bytes of the fourth commit that were written."""
    whole = b"".join(_commits(0, 1, 2)) + _commits(3)[0][:keep]

    for bit in range(22 * 8):
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        steps, walk = _walk(bytes(raw))
        assert [step.offset for step in steps if isinstance(step, Commit)] == [1, 2], bit
        assert (walk.tail, walk.offset) == (Tail.TORN, 3)


def test_two_flipped_bits_cost_the_two_commits_that_they_are_in() -> None:
    """One of the first commit's header, and one of the last one's offset."""
    commits = _commits(0, 1, 2, 3)
    last = 8 * sum(map(len, commits[:3]))

    for first, other in product(range(22 * 8), range(0, 8 * 8, 3)):
        raw = bytearray(b"".join(commits))
        for bit in (first, last + other):
            raw[bit // 8] ^= 1 << bit % 8
        steps, _ = _walk(bytes(raw))
        assert [step.offset for step in steps if isinstance(step, Commit)] == [1, 2], (first, other)


@pytest.mark.parametrize("upper", [None, 6, 7, 1_000])
def test_two_flipped_bits_cost_the_last_commit_nothing_wherever_the_next_segment_begins(upper: int | None) -> None:
    """One of the first commit's header, and one of the second one's records. A segment may begin past the last one."""
    first, second, last = _commits(0, 2, 4, n=2)

    for bit in range(22 * 8):
        raw = bytearray(first + _spoilt(second, 30, 1) + last)
        raw[bit // 8] ^= 1 << bit % 8
        steps, _ = _walk(bytes(raw), upper=upper)
        assert [step.offset for step in steps if isinstance(step, Commit)] == [4], bit


def test_behind_damage_a_commit_may_end_with_the_last_offset_of_all(foreign_commit: Callable[..., bytes]) -> None:
    first = MAX_OFFSET - 2
    damaged = bytearray(foreign_commit(first, b"a"))
    damaged[-1] ^= 1
    storage = FaultyStorage()
    last = foreign_commit(first + 1, b"b", n=2)
    storage.put(segment_name(first), encode_header(1) + bytes(damaged[:-1]) + last + b"rest")
    walk = Walk(Segment.open(storage, first))

    while walk.step():
        pass

    assert walk.tail is not Tail.CLEAN


@pytest.mark.parametrize("version", [0, 1])
def test_every_flipped_bit_costs_at_most_the_commit_it_is_in(
    foreign_segment: Callable[..., bytes], version: int
) -> None:
    contents = [b"first", b"second", b"third", b"fourth"]
    whole = foreign_segment(contents, version=version)
    sizes = [26 - 8 * (not version) + len(content) for content in contents]

    for bit in range(80, len(whole) * 8):
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        steps, _ = _walk(bytes(raw[10:]), version=version)
        hit = next(i for i in range(4) if bit // 8 < 10 + sum(sizes[: i + 1]))
        found = [(step.offset, step.content) for step in steps if isinstance(step, Commit)]
        assert found == [(i, content) for i, content in enumerate(contents) if i != hit]
        assert sum(step.missing for step in steps if isinstance(step, Gap)) == (hit < 3)


def test_garbage_between_commits_costs_no_record() -> None:
    a, b = _commits(0, 1)

    steps, _ = _walk(a + b"garbage that is long enough" + b)

    assert _brief(steps) == [0, (0, Damage.TOO_LONG), 1]


def test_an_exact_repetition_is_passed_over() -> None:
    a, b = _commits(0, 1)

    steps, _ = _walk(a + a + b + b)

    assert _brief(steps) == [0, 1]


def test_another_commit_of_the_same_offset_is_a_fork() -> None:
    a, other, b = _commits(0, 0, 1)

    steps, _ = _walk(a + other + b)

    assert _brief(steps) == [0, (0, Damage.FORKED), 1]


def test_an_older_commit_is_out_of_order() -> None:
    a, b, old, c = _commits(0, 1, 0, 2)

    steps, _ = _walk(a + b + old + c)

    assert _brief(steps) == [0, 1, (0, Damage.OUT_OF_ORDER), 2]


def test_records_that_are_not_there_are_a_hole() -> None:
    a, b = _commits(0, 18)

    steps, _ = _walk(a + b)

    assert _brief(steps) == [0, (17, Damage.HOLE), 18]
    assert steps[1][2] == 0


def test_damage_behind_a_far_hole_is_passed_over_too() -> None:
    a, far, bad, last = _commits(0, 1 << 60, (1 << 60) + 1, (1 << 60) + 2)
    broken = bytearray(bad)
    broken[18] ^= 8

    first_damage = b"?" * 30
    steps, _ = _walk(a + first_damage + _commits(1)[0] + far + bytes(broken) + last)

    assert [step for step in _brief(steps) if isinstance(step, int)] == [0, 1, 1 << 60, (1 << 60) + 2]


def test_what_the_next_segment_holds_is_superseded() -> None:
    raw = _commits(0, 1, 2, 3)

    steps, walk = _walk(b"".join(raw), upper=2)

    assert (_brief(steps), walk.tail) == ([0, 1], Tail.SUPERSEDED)


def test_a_commit_past_the_next_segment_ends_the_walk() -> None:
    steps, walk = _walk(b"".join(_commits(0, 5)), upper=3)

    assert (_brief(steps), walk.tail, walk.offset) == ([0], Tail.SUPERSEDED, 1)


def test_a_commit_that_reaches_into_the_next_segment_does_not_fit() -> None:
    for offset in (1, 2):
        steps, _ = _walk(_commits(0)[0] + _commits(offset, n=5)[0], upper=3)
        assert _brief(steps) == [0, (0, Damage.OVERLAPS)]


def test_what_is_superseded_is_not_found_behind_damage() -> None:
    damaged = bytearray(_commits(1)[0])
    damaged[18] ^= 4

    for offset, n in ((5, 1), (3, 1), (2, 2)):
        steps, walk = _walk(_commits(0)[0] + bytes(damaged) + _commits(offset, n=n)[0], upper=3)
        assert (_brief(steps), walk.offset) == ([0], 1)


def test_a_bad_last_commit_before_the_next_segment_is_known_by_its_length() -> None:
    raw = bytearray(b"".join(_commits(0, 1)))
    raw[-1] ^= 1

    steps, walk = _walk(bytes(raw), upper=2)

    assert (_brief(steps), walk.tail, walk.offset) == ([0], Tail.DAMAGED, 1)


def test_a_valid_commit_inside_a_damaged_one_is_not_taken_for_one() -> None:
    inner = _commits(1)[0]
    outer = bytearray(encode_commit(1, b"--" + inner + b"--", 3))
    outer[23] ^= 1

    for behind in (b"", _commits(4)[0]):
        steps, _ = _walk(_commits(0)[0] + bytes(outer) + behind)
        assert [step.offset for step in steps if isinstance(step, Commit)] == ([0, 4] if behind else [0])


def test_a_valid_commit_inside_the_next_whole_one_is_not_taken_for_it() -> None:
    inner = _commits(3)[0]
    good = encode_commit(2, b"--" + inner + b"--", 3)
    damaged = bytearray(_commits(1)[0])
    damaged[19] ^= 1

    steps, _ = _walk(_commits(0)[0] + bytes(damaged) + good)

    assert _brief(steps) == [0, (1, Damage.TOO_LONG), 2]


def test_what_is_not_ours_is_no_commit_behind_damage() -> None:
    inner = encode_commit(2, b"copy" * 9, 1)
    damaged = bytearray(encode_commit(1, b"ours" + inner + b"ours", 1))
    damaged[18] ^= 4
    rest = encode_commit(2, b"ours", 1)

    steps, _ = _walk(encode_commit(0, b"ours", 1) + bytes(damaged) + rest, is_ours=lambda head: head[:4] == b"ours")

    assert [step.content for step in steps if isinstance(step, Commit)] == [b"ours", b"ours"]


def test_a_segment_cut_while_it_is_walked_ends_there() -> None:
    storage = FaultyStorage()
    storage.put(segment_name(0), encode_header() + b"".join(_commits(0, 1, 2)))
    walk = Walk(Segment.open(storage, 0))
    walk.step()
    storage.open(segment_name(0), "write").truncate(100)
    walk._buffer = b""

    assert (walk.step(), walk.tail) == (None, Tail.TORN)


def test_the_file_cut_during_a_search_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "CHUNK", 64)
    storage = FaultyStorage()
    storage.put("f", b"?" * 30 + encode_commit(0, bytes(500), 1))
    file = storage.open("f", "write")
    search = Resync(file, 0, file.size(), version=1, lowest=0, upper=None, is_ours=None)
    search._advance()
    assert search._found[0].is_valid is None

    file.truncate(150)

    assert search.find(0, 0) is None


@given(st.binary(max_size=200), st.binary(max_size=5000))
def test_a_checksum_is_shifted_as_if_bytes_followed(head: bytes, rest: bytes) -> None:
    whole = google_crc32c.value(head + rest)

    assert shift_crc(google_crc32c.value(head), len(rest)) ^ google_crc32c.value(rest) == whole


@pytest.mark.parametrize("lowest", [0, 255, 256, 2**16 - 1, 2**31, 2**56, 2**63, MAX_OFFSET - 3])
@pytest.mark.parametrize("version", [0, 1])
def test_the_next_commit_is_found_whatever_its_offset(
    foreign_commit: Callable[..., bytes], lowest: int, version: int
) -> None:
    raw = b"\x01" * 37 + foreign_commit(lowest + 1, b"abc", version=version) + b"\xff" * 30
    storage = FaultyStorage()
    storage.put("f", raw)
    for upper in (None, lowest + 2):
        if upper is not None or lowest < 2**63:
            file = storage.open("f", "read")

            found = Resync(file, 0, len(raw), version=version, lowest=lowest, upper=upper, is_ours=None).find(0, lowest)

            assert found is not None
            assert (found.position, found.header.offset, found.end) == (37, lowest + 1, len(raw) - 30)


@pytest.mark.parametrize("chunk", [64, 100, 1000])
def test_a_commit_is_found_across_chunks(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(resync, "CHUNK", chunk)
    raw = RANDOM.randbytes(333) + _commits(5, size=400)[0] + RANDOM.randbytes(50) + _commits(9, size=3)[0] + b"!" * 70
    storage = FaultyStorage()
    storage.put("f", raw)
    search = Resync(storage.open("f", "read"), 0, len(raw), version=1, lowest=3, upper=50, is_ours=None)

    assert [found and found.position for found in (search.find(0, 3), search.find(334, 6), search.find(900, 10))] == [
        333,
        333 + 426 + 50,
        None,
    ]


def _hostile(bait: int, damaged: int) -> bytes:
    """Damaged commits full of headers that fit, each claiming a length that reaches far."""
    commits = []
    total = damaged * (bait * 22 + 60)
    for i in range(damaged):
        far = total - i * (bait * 22 + 60) - 200
        headers = b"".join(struct.pack("<QQHI", 2 * i + 2, 0, 1, max(0, far - 22 * k)) for k in range(bait))
        bad = bytearray(encode_commit(2 * i, headers, 1))
        bad[20] ^= 0x40
        commits += [bytes(bad), encode_commit(2 * i + 1, b"good", 1)]
    return b"".join(commits)


def test_recovery_is_linear_in_size_even_against_hostile_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "CHUNK", 4096)
    summed = [0]

    def count(name: str) -> None:
        real = getattr(google_crc32c, name)

        def counted(*values: bytes) -> int:
            summed[0] += len(values[-1])
            crc: int = real(*values)
            return crc

        monkeypatch.setattr(google_crc32c, name, counted)

    count("value")
    count("extend")
    for damaged in (50, 200):
        content = _hostile(60, damaged)
        storage = FaultyStorage()
        storage.put(segment_name(0), encode_header() + content)
        summed[0] = 0

        walk = Walk(Segment.open(storage, 0))
        found = []
        while step := walk.step():
            found.append(step)

        assert sum(isinstance(step, Commit) for step in found) == damaged
        assert storage.bytes_read < 4 * len(content)
        assert summed[0] < 4 * len(content)


def test_one_big_damaged_region_is_read_a_few_times_at_most() -> None:
    storage = FaultyStorage()
    content = _commits(0)[0] + RANDOM.randbytes(4 << 20) + _commits(1)[0]
    storage.put(segment_name(0), encode_header() + content)
    walk = Walk(Segment.open(storage, 0))

    found = [walk.step(), walk.step(), walk.step()]

    assert [type(step) for step in found] == [Commit, Gap, Commit]
    assert storage.bytes_read < 3 * len(content)


# -- commits inside records ------------------------------------------------------------------------------------------


def _holding(offset: int, *inner: bytes, n: int = 1) -> bytes:
    """A commit in whose records other commits stand, as a value of an event may be anything."""
    return encode_commit(offset, b"before" + b"".join(inner) + b"after.", n)


def _spoilt(commit: bytes, at: int, mask: int) -> bytes:
    broken = bytearray(commit)
    broken[at] ^= mask
    return bytes(broken)


LENGTH, NUMBER = range(18, 22), range(16, 18)
"""Where in a commit these stand."""


@pytest.mark.parametrize("inner", [(0,), (1,), (2,), (0, 1), (1, 2), (2, 3), (5,), (900,)])
@pytest.mark.parametrize("behind", [1, 3])
def test_a_damaged_length_makes_no_commit_of_what_stands_in_a_record(inner: tuple[int, ...], behind: int) -> None:
    forged = _commits(*inner)
    following = _commits(*range(1, 1 + behind))

    for byte in LENGTH:
        for bit in range(8):
            steps, _ = _walk(_spoilt(_holding(0, *forged), byte, 1 << bit) + b"".join(following))

            found = [step for step in steps if isinstance(step, Commit)]
            assert [commit.content for commit in found] == [commit[22:-4] for commit in following]


@pytest.mark.parametrize("inner", [(0,), (1,), (4,), (4, 5)])
def test_every_flipped_bit_around_a_record_that_holds_commits_costs_that_one(inner: tuple[int, ...]) -> None:
    first, last = _commits(0)[0], _commits(3, 4)
    middle = _holding(1, *_commits(*inner), n=2)
    whole = {first[22:-4], middle[22:-4], *(commit[22:-4] for commit in last)}

    for byte in [*range(26), *range(len(middle) - 4, len(middle))]:
        for bit in range(8):
            steps, _ = _walk(first + _spoilt(middle, byte, 1 << bit) + b"".join(last))

            found = {step.content for step in steps if isinstance(step, Commit)}
            assert found - whole == set()
            assert whole - found <= {middle[22:-4]}


@pytest.mark.parametrize("inner", [(0,), (1,), (7,)])
@pytest.mark.parametrize("upper", [None, 1, 2, 1_000])
def test_the_last_record_of_a_segment_makes_no_commit_either(inner: tuple[int, ...], upper: int | None) -> None:
    alone = _holding(0, *_commits(*inner))

    for byte in range(len(alone)):
        if 28 <= byte < len(alone) - 10:
            continue  # What stands in the records may be damaged, too.
        steps, walk = _walk(_spoilt(alone, byte, 2), upper=upper)

        assert [step for step in steps if isinstance(step, Commit)] == [], byte
        assert walk.claimed() >= 1


def test_a_commit_inside_the_last_one_is_none_even_where_reserved_space_follows_it() -> None:
    last = _spoilt(encode_commit(2, _commits(3)[0] + bytes(60), 1), -1, 1)

    steps, walk = _walk(b"".join(_commits(0, 1)) + last)

    assert (_brief(steps), walk.tail, walk.offset, walk.claimed()) == ([0, 1], Tail.DAMAGED, 2, 1)


@pytest.mark.parametrize("behind_it", [(), (9,)])
def test_a_damaged_number_is_mended_by_what_follows_though_a_record_holds_a_commit(behind_it: tuple[int, ...]) -> None:
    damaged = _spoilt(_holding(1, *_commits(2, *behind_it), n=2), NUMBER[0], 2 ^ 1)

    steps, _ = _walk(_commits(0)[0] + damaged + _commits(3)[0])

    assert _brief(steps) == [0, (2, Damage.CHECKSUM), 3]


def test_a_length_that_leads_to_an_older_commit_is_not_believed() -> None:
    older, damaged, next_one = _commits(0)[0], _spoilt(_commits(1)[0], -1, 1), _commits(2)[0]

    steps, _ = _walk(older + damaged + older + next_one)

    assert _brief(steps) == [0, (1, Damage.CHECKSUM), 2]


def test_a_commit_of_another_log_counts_behind_damage_only_if_it_is_asked_for() -> None:
    ours, theirs = b"ours" + bytes(40), b"theirs" + bytes(40)
    content = b"?" * 40 + encode_commit(0, theirs, 1) + encode_commit(1, ours, 1)

    steps, _ = _walk(content, is_ours=lambda opening: opening.startswith(b"ours"))

    assert [step.content for step in steps if isinstance(step, Commit)] == [ours]


@pytest.mark.parametrize(
    ("first", "commits"),
    [
        (MAX_OFFSET, [(MAX_OFFSET, 1)]),
        (MAX_OFFSET, [(MAX_OFFSET, 65_535)]),
        (MAX_OFFSET - 1, [(MAX_OFFSET - 1, 1), (MAX_OFFSET, 1)]),
    ],
)
def test_what_stands_where_64_bits_end_is_judged(first: int, commits: list[tuple[int, int]]) -> None:
    raw = b""
    for offset, n in commits:
        head = struct.pack("<QQHI", offset, 0, n, 1) + b"x"
        raw += head + struct.pack("<I", google_crc32c.value(head))
    storage = FaultyStorage()
    storage.put(segment_name(first), encode_header() + raw + b"\1" * 200)
    walk = Walk(Segment.open(storage, first))
    steps = []

    while step := walk.step():
        steps.append(step)

    assert all(step.end <= MAX_OFFSET + 1 for step in steps if isinstance(step, Commit))
    assert walk.tail is Tail.TORN
