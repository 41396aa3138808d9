import pytest

from eventrec.server.memory import BodyMemory
from eventrec.server.refusals import RefusedError, wait_header


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.2, "2"), (2.5, "3"), (30.0, "30")]
)
def test_client_is_never_told_to_come_too_early(seconds: float, said: str) -> None:
    assert wait_header(seconds) == {"Retry-After": said}


def test_full_memory_says_when_to_come_again() -> None:
    memory = BodyMemory(10, retry_after=1.2)
    memory.move(10)

    with pytest.raises(RefusedError) as refused:
        memory.move(1)

    assert refused.value.headers == {"Retry-After": "2"}
