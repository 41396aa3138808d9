"""A process without standard streams, as daemons are: what it prints by habit lands in no file of ours."""

from pathlib import Path
from typing import Protocol

import pytest

pytestmark = pytest.mark.xdist_group("processes")


class Site(Protocol):
    """See conftest.py."""

    directory: Path

    def run(self, program: str, *arguments: str, code: int = 0, seconds: float = 120) -> str: ...
    def drain(self) -> list[int]: ...


START = """
import os, stat, time
from eventrec import EventRecorder, EventRecorderOptions
from eventrec.testing.scripted import Numbered

LOG, URL = os.environ["LOG"], os.environ["URL"]
report = os.open("report", os.O_CREAT | os.O_WRONLY)
found = []

def close_streams():
    for number in range(3):
        os.close(number)

def print_something():
    for number in range(3):
        try:
            held = os.fstat(number).st_mode
            os.write(number, b"progress " * 9)
        except OSError:
            continue
        if stat.S_ISREG(held):
            found.append(number)

def end():
    os.write(report, repr(found).encode())
    os._exit(1 if found else 0)
"""

RECORD_ALONE = """
close_streams()
for n in range(30):
    assert recorder.record(Numbered(n))
    deadline = time.monotonic() + 60
    while (log := recorder._life.writer.log) is None or log.synced <= n:
        assert time.monotonic() < deadline
        print_something()
end()
"""

OPTIONS = "EventRecorderOptions(segment_bytes=500, sync_interval=0.005)"

# Each records 0…29, prints meanwhile, and is gone without a word.
PROGRAMS = {
    "that delivers nothing": f"recorder = EventRecorder(URL, log=LOG, options={OPTIONS}){RECORD_ALONE}",
    "forked": f"""
recorder = EventRecorder(URL, log=LOG, options={OPTIONS})
if os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
{RECORD_ALONE}""",
}


@pytest.mark.parametrize("which", PROGRAMS)
def test_what_a_process_without_standard_streams_prints_lands_in_no_file_of_ours(which: str, site: Site) -> None:
    site.run(START + PROGRAMS[which])

    assert (site.directory / "report").read_text() == "[]"
    assert site.drain() == list(range(30))
