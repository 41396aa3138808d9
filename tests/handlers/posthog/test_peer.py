"""The official client sends the same events to the same server: what arrives is compared field by field."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from eventrec import EventRecorder, EventRecorderOptions, ReceivedEvent
from eventrec.ingest.timestamps import nanoseconds
from eventrec.testing.posthog import FakePostHog

pytestmark = [pytest.mark.handlers, pytest.mark.xdist_group("posthog-peer")]

EVENTS = 500
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TEXTS = (
    "",
    "x",
    "naïve",
    "日本語",
    "🦔" * 3,
    "\u202e\u0000\u001f\x7f",
    '"\\/\b\f\n\r\t',
    "</script>",
    "\ufeff\uffff",
    "e\u0301",
)
NUMBERS = (0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 0.1, -0.0, 1.5e300, 5e-324, sys.float_info.max)

SENTINELS = (
    *("$session_id", "$window_id", "$product_tour_id"),
    *("$cookieless_mode", "$ignore_sent_at", "$process_person_profile"),
)
"""Properties that PostHog's second protocol lifts out of the others."""

FLAGS: tuple[Any, ...] = (True, False, "true", "False ", "1", "0", "maybe", "", 1, 0, 0.0, -2.5, None, [], {})


@dataclass(frozen=True)
class Said:
    """An event, as an application says it to either client."""

    kind: str
    name: str
    uuid: UUID
    when: datetime
    distinct_id: str
    session: str
    properties: dict[str, Any]

    @property
    def nanoseconds(self) -> int:
        return (self.when - EPOCH) // timedelta(microseconds=1) * 1_000


def generated(seed: int) -> list[Said]:
    """Every kind, with every kind of value, extremes, and nesting."""
    chance = random.Random(seed)

    def text() -> str:
        drawn = "".join(
            chr(chance.choice((chance.randrange(32, 127), chance.randrange(160, 0xD7FF)))) for _ in range(9)
        )
        return chance.choice((*TEXTS, drawn))

    def value(depth: int = 0) -> Any:
        makers: list[Callable[[], Any]] = [
            text,
            lambda: chance.choice(NUMBERS),
            lambda: chance.choice((None, True, False)),
            lambda: chance.uniform(-1e9, 1e9),
        ]
        if depth < 4:
            makers += [
                lambda: [value(depth + 1) for _ in range(chance.randrange(4))],
                lambda: {text(): value(depth + 1) for _ in range(chance.randrange(4))},
            ]
        return chance.choice(makers)()

    def properties() -> dict[str, Any]:
        return {text() or "k": value() for _ in range(chance.randrange(1, 9))}

    def said() -> Said:
        kind = chance.choice(("Append", "Append", "Append", "Identify", "SetPersonProperties"))
        name = {"Identify": "$identify", "SetPersonProperties": "$set"}.get(kind) or f"happened {text()[:20]}"
        when = EPOCH + timedelta(microseconds=chance.randrange(0, 4_102_444_800_000_000))
        uuid = UUID(int=chance.getrandbits(128), version=4)
        said = Said(kind, name.replace("\0", ""), uuid, when, f"id {text()}", str(uuid), properties())
        if kind == "Append":
            said.properties.update({name: chance.choice(FLAGS) for name in SENTINELS if chance.random() < 0.1})
        return said

    return [said() for _ in range(EVENTS)]


def by_eventrec(posthog: FakePostHog, events: list[Said], protocol: str) -> list[dict[str, Any]]:
    """What our handler sends of `events`."""
    start = len(posthog.events)
    with EventRecorder(posthog.url(protocol=protocol), options=EventRecorderOptions(batch_rows=100)).sync() as recorder:
        for said in events:
            context = {"distinct_id": said.distinct_id, "session_id": said.session}
            recorder.record(
                ReceivedEvent(
                    said.name,
                    msgspec.json.encode(said.properties),
                    said.nanoseconds,
                    id=said.uuid.bytes,
                    context=msgspec.json.encode(context),
                )
            )
        assert recorder.flush(timeout=30)
    return posthog.events[start:]


def by_peer(posthog: FakePostHog, events: list[Said], protocol: str) -> list[dict[str, Any]]:
    """What the official client sends of them."""
    from posthog.client import Client  # noqa: PLC0415 - it starts threads where it is imported, and takes its time

    start = len(posthog.events)
    client = Client(
        posthog.key,
        host=f"http://{posthog.host}:{posthog.port}",
        gzip=True,
        disable_geoip=False,
        capture_mode=protocol,
        flush_interval=0.1,
    )
    for said in events:
        given: dict[str, Any] = {"distinct_id": said.distinct_id, "timestamp": said.when, "uuid": said.uuid}
        match said.kind:
            case "Append":
                client.capture(said.name, properties={**said.properties, "session_id": said.session}, **given)
            case "Identify":
                client.capture(said.name, properties={"$set": said.properties, "session_id": said.session}, **given)
            case _:
                client.set(properties=said.properties, **given)
    client.shutdown()
    return posthog.events[start:]


def meaning(event: dict[str, Any], added: set[str]) -> dict[str, Any]:
    """What an event says, wherever it says it, without the properties that the official client adds to every one.

    `$set` may stand in the event or in its properties: PostHog takes both.
    """
    properties = {name: value for name, value in event["properties"].items() if name not in added}
    person = properties.pop("$set", None)
    return {
        "event": event["event"],
        "uuid": event["uuid"],
        "distinct_id": event["distinct_id"],
        "timestamp": nanoseconds(event["timestamp"], "iso"),
        "properties": properties,
        "person": event.get("$set", person),
        "others": event.keys() - {"event", "uuid", "distinct_id", "timestamp", "properties", "$set"},
        "options": event.get("options"),
    }


@pytest.mark.parametrize("protocol", ["v0", "v1"])
def test_official_client_sends_the_same(posthog: FakePostHog, protocol: str) -> None:
    events = generated(seed=20_260_401)
    probe = Said("Append", "probe", UUID(int=7, version=4), EPOCH, "me", "s", {})
    added = {name for event in by_peer(posthog, [probe], protocol) for name in event["properties"]} - {"session_id"}

    ours = by_eventrec(posthog, events, protocol)
    theirs = by_peer(posthog, events, protocol)

    assert len(ours) == len(theirs) == EVENTS
    found = {event["uuid"]: meaning(event, added) for event in theirs}
    for event in ours:
        assert meaning(event, set()) == found[event["uuid"]]
    assert [event["uuid"] for event in ours] == [str(said.uuid) for said in events]
    assert all(name.startswith("$") for name in added), added
    assert not posthog.dropped


@pytest.mark.parametrize("protocol", ["v0", "v1"])
def test_official_client_sends_them_in_the_same_envelope(posthog: FakePostHog, protocol: str) -> None:
    events = generated(seed=1)[:10]
    by_eventrec(posthog, events, protocol)
    ours = posthog.requests[-1]
    by_peer(posthog, events, protocol)
    theirs = posthog.requests[-1]

    def form(body: dict[str, Any]) -> dict[str, str]:
        return {name: type(value).__name__ for name, value in body.items()}

    own = {"accept", "host", "content-length", "user-agent", "accept-encoding", "connection"}
    assert ours.path == theirs.path
    assert ours.headers.keys() - own == theirs.headers.keys() - own
    assert ours.headers["content-encoding"] == theirs.headers["content-encoding"] == "gzip"
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert ours.headers.get("authorization") == theirs.headers.get("authorization")
    assert form(ours.body) == form({"historical_migration": False, **theirs.body})
    assert ours.body.get("api_key") == theirs.body.get("api_key")
