import dataclasses
import json

import pytest

from eventrec.status import Status, SubscriptionStatus

PART = SubscriptionStatus(
    name="sqlite",
    state="delivering",
    healthy=True,
    start=10,
    end=30,
    acknowledged=20,
    scanned=22,
    delivered=9,
    filtered=2,
    dead=1,
    dropped={"overflow": 3, "exhausted": 1},
    replayed=5,
    rewound=4,
    pending=8,
)
STATUS = Status(
    state="open",
    offered=1_234,
    appended=1_200,
    refused={"too_large": 4, "overflow": 20},
    in_intake=10,
    subscriptions={"sqlite": PART},
)


def test_account_balances_when_every_event_is_in_exactly_one_term() -> None:
    assert PART.is_balanced
    assert STATUS.is_balanced


@pytest.mark.parametrize("term", ["start", "end", "rewound", "delivered", "filtered", "dead", "pending"])
def test_account_of_a_subscription_knows_one_record_too_many(term: str) -> None:
    changed = dataclasses.replace(PART, **{term: getattr(PART, term) + 1})

    assert not changed.is_balanced
    assert not dataclasses.replace(STATUS, subscriptions={"sqlite": changed}).is_balanced


def test_account_counts_what_was_dropped_but_not_what_was_replayed() -> None:
    assert not dataclasses.replace(PART, dropped={"overflow": 3}).is_balanced
    assert dataclasses.replace(PART, replayed=99).is_balanced


@pytest.mark.parametrize("term", ["offered", "appended", "in_intake"])
def test_account_of_a_recorder_knows_one_event_too_many(term: str) -> None:
    assert not dataclasses.replace(STATUS, **{term: getattr(STATUS, term) + 1}).is_balanced


def test_account_of_a_recorder_counts_every_reason() -> None:
    assert not dataclasses.replace(STATUS, refused={**STATUS.refused, "closed": 1}).is_balanced


def test_lag_is_the_end_minus_what_was_scanned() -> None:
    assert PART.lag == 8


def test_recorder_is_healthy_when_every_subscription_is() -> None:
    sick = dataclasses.replace(PART, healthy=False)

    assert STATUS.is_healthy
    assert not dataclasses.replace(STATUS, subscriptions={"a": PART, "b": sick}).is_healthy


def test_status_is_one_line() -> None:
    assert str(STATUS) == (
        "open: offered 1,234, appended 1,200; refused 20 (overflow); refused 4 (too_large); in intake 10; "
        "sqlite delivering: delivered 9, filtered 2, dead 1, dropped 1 (exhausted), dropped 3 (overflow), pending 8"
    )


def test_status_leaves_out_what_is_zero() -> None:
    quiet = Status(state="new", offered=0, appended=0, refused={}, in_intake=0)

    assert str(quiet) == "new: offered 0, appended 0"


def test_status_is_plain_values_for_json() -> None:
    said = json.loads(json.dumps(STATUS.to_dict()))

    assert said["subscriptions"]["sqlite"]["dropped"] == {"overflow": 3, "exhausted": 1}
    assert said == STATUS.to_dict()
