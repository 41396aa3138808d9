import dataclasses
import json

import pytest

from eventrec.status import Health, Status, SubscriptionStatus

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


# -- health

WELL = Status(state="open", offered=0, appended=0, refused={"overflow": 1_234}, in_intake=0, subscriptions={"a": PART})
QUIET = dataclasses.replace(PART, name="a", dead=0, dropped={})


def health_of(part: SubscriptionStatus, **changes: object) -> Health:
    return dataclasses.replace(WELL, subscriptions={part.name: part}, **changes).health  # type: ignore[arg-type]


@pytest.mark.parametrize(("unsaved", "logs"), [(0, None), (1, "1 log"), (1_234, "1,234 logs")])
def test_logs_whose_checkpoints_are_not_saved_are_a_reason(unsaved: int, logs: str | None) -> None:
    reason = f"checkpoints of {logs} not saved: what was delivered since may be sent again"

    assert health_of(QUIET, unsaved=unsaved) == Health(live=True, ready=True, reasons=(reason,) if logs else ())


def test_a_handler_that_does_not_answer_is_a_reason() -> None:
    silent = dataclasses.replace(
        QUIET, state="no answer for 12 s", healthy=False, unanswered=12.1, last_error="an older error"
    )

    assert health_of(silent) == Health(live=True, ready=True, reasons=("a: no answer for 12 s",))


@pytest.mark.parametrize(("seconds", "reasons"), [(None, 0), (0.0, 1), (59.0, 1), (61.0, 0)])
def test_what_is_refused_for_want_of_room_is_a_reason_for_a_minute(seconds: float | None, reasons: int) -> None:
    health = health_of(QUIET, since_overflow=seconds)

    assert health.ready
    assert health.reasons == ("no room: 1,234 events refused so far",) * reasons


@pytest.mark.parametrize(("seconds", "reasons"), [(None, 0), (0.0, 1), (59.0, 1), (61.0, 0)])
def test_what_a_subscription_loses_is_a_reason_for_a_minute(seconds: float | None, reasons: int) -> None:
    losing = dataclasses.replace(QUIET, dropped={"retention": 1_000, "exhausted": 2}, since_drop=seconds)

    assert health_of(losing).reasons == ("a: records lost: 2 (exhausted), 1,000 (retention) so far",) * reasons


def test_an_outage_of_logs_of_earlier_runs_is_a_reason_where_the_own_log_has_nothing_to_say() -> None:
    failing = dataclasses.replace(QUIET, state="retrying in 2.0 s", healthy=False, last_error="no route")
    adopted = {"log 1": {"a": failing}, "log 2": {"a": failing}, "log 3": {"a": QUIET}}

    assert health_of(QUIET, adopted=adopted).reasons == ("a, of an earlier run: retrying in 2.0 s (no route)",)
    assert health_of(QUIET, adopted=adopted).ready
    assert health_of(failing, adopted=adopted).reasons == ("a: retrying in 2.0 s (no route)",)


def test_a_log_of_an_earlier_run_that_waits_for_an_operator_is_not_ready() -> None:
    held = dataclasses.replace(QUIET, state="holding: brake", healthy=False, held=True)
    failing = dataclasses.replace(QUIET, state="retrying in 2.0 s", healthy=False)
    adopted = {"log 1": {"a": failing}, "log 2": {"a": held}, "log 3": {"a": failing}}

    assert health_of(QUIET, adopted=adopted) == Health(
        live=True, ready=False, reasons=("a, of an earlier run: holding: brake",)
    )
