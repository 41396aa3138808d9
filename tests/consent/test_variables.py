"""What the environment says about recording."""

import pytest

from eventrec.consent.variables import is_disabled, is_forced, why_off


@pytest.mark.parametrize("value", ["1", "true", "YES", " on ", "banana", "2"])
def test_every_value_that_is_not_a_no_switches_off(value: str) -> None:
    assert is_disabled({"EVENTREC_DISABLED": value})
    assert why_off({"EVENTREC_DISABLED": value}, "rerun") == "EVENTREC_DISABLED is set"
    assert why_off({"DO_NOT_TRACK": value}, "rerun") == "DO_NOT_TRACK is set"


@pytest.mark.parametrize("value", ["", "0", "false", "No", " off "])
def test_a_no_leaves_it_on(value: str) -> None:
    assert not is_disabled({"EVENTREC_DISABLED": value})
    assert why_off({"EVENTREC_DISABLED": value, "DO_NOT_TRACK": value}, "rerun") is None


@pytest.mark.parametrize("value", ["true", "1", "", "false"])
def test_continuous_integration_is_known_by_the_name_alone(value: str) -> None:
    assert why_off({"CI": value}, "rerun") == "CI is set"
    assert not is_disabled({"CI": value})


@pytest.mark.parametrize("value", ["1", "true", "Yes", "ON"])
def test_force_overrules_the_surroundings_and_not_the_operator(value: str) -> None:
    assert is_forced({"EVENTREC_FORCE": value}, "rerun")
    assert is_forced({"FORCE_RERUN_ANALYTICS": value}, "rerun")
    assert why_off({"EVENTREC_FORCE": value, "CI": "1", "DO_NOT_TRACK": "1"}, "rerun") is None
    assert why_off({"EVENTREC_FORCE": value, "EVENTREC_DISABLED": "1"}, "rerun") == "EVENTREC_DISABLED is set"


@pytest.mark.parametrize("value", ["", "0", "no", "banana"])
def test_only_a_clear_yes_forces(value: str) -> None:
    assert why_off({"EVENTREC_FORCE": value, "CI": "1"}, "rerun") == "CI is set"
