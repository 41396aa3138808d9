from __future__ import annotations

import os
import threading
from uuid import UUID

import pytest

from eventrec.usage.session import UsageSession


def test_events_are_numbered_from_one() -> None:
    session = UsageSession()

    assert [session.next_event_id() for _ in range(3)] == [1, 2, 3]


def test_append_takes_the_defaults_and_then_its_number() -> None:
    session = UsageSession(defaults={"target": "linux", "debug": False})

    assert session.properties({"what": 1}) == {"target": "linux", "debug": False, "what": 1, "event_id": 1}
    assert session.properties({"debug": True, "event_id": "mine"}) == {"target": "linux", "debug": True, "event_id": 2}


@pytest.mark.parametrize("kind", ["Identify", "SetPersonProperties"])
def test_other_kinds_are_left_as_they_are_and_not_numbered(kind: str) -> None:
    session = UsageSession(defaults={"target": "linux"})

    assert session.properties({"email": "a@example.org"}, kind) == {"email": "a@example.org"}  # type: ignore[arg-type]
    assert session.next_event_id() == 1


def test_each_session_has_an_id_of_its_own() -> None:
    session = UsageSession(new_id=lambda: UUID(int=7))

    assert session.id == session.id == UUID(int=7)
    assert UsageSession().id != UsageSession().id
    assert UsageSession().id.version == 4


def test_threads_never_get_one_number_twice() -> None:
    session = UsageSession()
    found: list[int] = []

    def take() -> None:
        found.extend(session.next_event_id() for _ in range(2_000))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(found) == list(range(1, 8_001))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_forked_child_is_a_session_of_its_own() -> None:
    session = UsageSession()
    before = session.id
    session.next_event_id()
    reader, writer = os.pipe()

    child = os.fork()
    if not child:
        os.write(writer, f"{session.id} {session.next_event_id()}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    id_, number = os.read(reader, 100).decode().split()
    os.close(reader)
    os.close(writer)

    assert id_ != str(before)
    assert number == "1"
    assert (session.id, session.next_event_id()) == (before, 2)
