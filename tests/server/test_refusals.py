import json
from http import HTTPStatus

import pytest

from eventrec.server.memory import BodyMemory
from eventrec.server.refusals import RefusedError, json_response, wait_header


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


def test_answers_are_made_of_any_text() -> None:
    refused = RefusedError(HTTPStatus.BAD_REQUEST, "no such file: \udcff")

    assert json_response({"\udcff": ["\udcff"]}).body == rb'{"\\udcff":["\\udcff"]}'
    assert json.loads(bytes(refused.response().body))["detail"] == r"no such file: \udcff"
