"""Every route, whichever rooms there are: what the document says is what the server does."""

import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from traceback import format_exception
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from eventrec import EventRecorder
from eventrec.analytics import Catalogue, Rollup, bucket, count
from eventrec.server import ServerOptions, Tokens, application
from eventrec.server.openapi import openapi_of
from eventrec.server.token_file import new_token

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
EXAMPLES = int(os.environ.get("EVENTREC_TEST_EXAMPLES", "5"))
"""For each operation."""


class PerDay(Rollup, name="per_day", table="events"):
    day = bucket("1 day")
    number = count()


CATALOGUE = Catalogue(name="tested", rollups=[PerDay])


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    return path, new_token(path, "all", ["ingest", "read", "admin"], created=datetime.now(UTC))


def app_of(tmp_path: Path, token: tuple[Path, str]) -> Any:
    url = f"sqlite:///{tmp_path}/events.db"
    sqlite3.connect(tmp_path / "events.db").close()
    recorder = EventRecorder(url, log=tmp_path / "log")
    options = ServerOptions(read_timeout="5s", ingest_timeout="5s")
    return application(
        recorder, to=url, catalogue=CATALOGUE, log=tmp_path / "log", tokens=Tokens(token[0]), options=options
    )


def document_of(app: Any) -> dict[str, Any]:
    return openapi_of(app.state.table, version="0")


def test_document_is_one_of_openapi(tmp_path: Path, token: tuple[Path, str]) -> None:
    app = app_of(tmp_path, token)

    document = document_of(app)

    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    assert len(operations) == len(app.state.table)
    assert len({operation["operationId"] for _, _, operation in operations}) == len(operations)
    for _, path, operation in operations:
        named = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
        assert named == {part[1:-1] for part in path.split("/") if part.startswith("{")}, path
    for name, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema | {"$id": name})


# The server's thread draws when it retries, of the same generator: hypothesis takes that for its strategies.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning")
def test_each_operation_answers_as_the_document_says(serve: Any, tmp_path: Path, token: tuple[Path, str]) -> None:
    app = app_of(tmp_path, token)
    running = serve(app)
    schema = schemathesis.openapi.from_dict(document_of(app))
    failures: list[str] = []

    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        if operation.path == "/events/follow":
            continue  # Its answer has no end: tests/server/reading/test_following.py.

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def answers(case: Any) -> None:
            case.call_and_validate(
                base_url=running.url,
                headers={"Authorization": f"Bearer {token[1]}"},
                checks=list(CHECKS),
                timeout=20,
            )

        try:
            answers()
        except Exception as exc:  # noqa: BLE001 - all operations are tried, and what failed is told at once
            failures.append(f"{operation.label}: {''.join(format_exception(exc))}")

    assert not failures, "\n\n".join(failures)
