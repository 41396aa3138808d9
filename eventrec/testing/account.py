"""The conservation identity: what every test of delivery ends with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventrec.status import Status


def assert_conserved(status: Status, *, offered: int | None = None) -> None:
    """Assert that the account balances, and that it agrees with `offered`, a count kept outside eventrec.

    Raises:
        AssertionError: It does not; the message is the account.
    """
    assert status.is_balanced, f"the account does not balance: {status.to_dict()}"
    assert offered is None or status.offered == offered, f"offered {offered} outside, counted: {status.to_dict()}"
