from hypothesis import given
from hypothesis import strategies as st

from eventrec.ingest.lines import Line, LineSplitter


def split(text: bytes, *, max_bytes: int = 1_000, cuts: list[int] | None = None) -> list[Line]:
    splitter = LineSplitter(max_bytes=max_bytes)
    places = sorted({min(cut, len(text)) for cut in cuts or []})
    found: list[Line] = []
    for start, end in zip([0, *places], [*places, len(text)], strict=True):
        found += splitter.feed(text[start:end])
    return found + splitter.end()


def test_lines_are_numbered_from_one_and_blank_ones_count() -> None:
    assert split(b"a\n\n \r\nb\r\nc") == [Line(1, b"a", 1), Line(4, b"b", 1), Line(5, b"c", 1)]


def test_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert split(b"\xef\xbb\xbf{}\n{}") == [Line(1, b"{}", 2), Line(2, b"{}", 2)]


def test_line_that_is_too_long_is_named_and_the_next_one_is_whole() -> None:
    assert split(b"a" * 11 + b"\n" + b"b" * 10, max_bytes=10) == [Line(1, None, 11), Line(2, b"b" * 10, 10)]


def test_of_a_line_without_end_nothing_is_held_beyond_the_bound() -> None:
    splitter = LineSplitter(max_bytes=1_000)

    for _ in range(100):
        splitter.feed(b"x" * 999)

    assert sum(map(len, splitter._rest)) <= 1_000
    assert splitter.end() == [Line(1, None, 99_900)]


@given(st.lists(st.binary(max_size=12), max_size=8), st.lists(st.integers(0, 80), max_size=6))
def test_where_the_chunks_are_cut_changes_nothing(parts: list[bytes], cuts: list[int]) -> None:
    text = b"\n".join(parts)

    assert split(text, max_bytes=9, cuts=cuts) == split(text, max_bytes=9)
