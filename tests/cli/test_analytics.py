"""`eventrec analytics`, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def eventrec(home: Path, *arguments: str, stdin: str = "", app: str = "my-app") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in {"CI", "DO_NOT_TRACK"}}
    environment |= {"HOME": str(home), "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": ""}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "eventrec.cli", "analytics", *arguments, "--app", app],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_each_command_answers(tmp_path: Path) -> None:
    file = tmp_path / ".config" / "my-app" / "analytics.json"

    assert eventrec(tmp_path, "config").stdout == "null\n"
    assert eventrec(tmp_path, "email", "ada@example.org").returncode == 0
    assert eventrec(tmp_path, "disable").returncode == 0
    status = eventrec(tmp_path, "status", "--json")
    assert json.loads(status.stdout) == {"app": "my-app", "state": "off: the user has opted out"}
    document = json.loads(eventrec(tmp_path, "config").stdout)
    assert (document["analytics_enabled"], document["metadata"]) == (False, {"email": "ada@example.org"})
    details = eventrec(tmp_path, "details")
    assert "To opt out: eventrec analytics disable --app my-app" in details.stdout
    assert eventrec(tmp_path, "clear", stdin="n\n").stdout == ""
    cleared = eventrec(tmp_path, "clear", stdin="y\n")

    assert (cleared.returncode, cleared.stdout) == (0, f"deleted {file}\n")
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "app", "says"),
    [
        (["email", "ada"], "my-app", "not an email address: 'ada'"),
        (["enable"], "../x", "the name of an application"),
        (["nonesuch"], "my-app", "see eventrec --help"),
    ],
)
def test_what_is_wrong_is_one_line_and_a_code(tmp_path: Path, arguments: list[str], app: str, says: str) -> None:
    done = eventrec(tmp_path, *arguments, app=app)

    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_choice_that_cannot_be_written_is_a_file_error(tmp_path: Path) -> None:
    (tmp_path / ".config").write_text("a file", encoding="utf-8")

    done = eventrec(tmp_path, "disable")

    assert (done.returncode, done.stdout) == (4, "")
    assert "analytics.json cannot be written" in done.stderr


def test_commands_that_are_asked_to_record_and_deliver_do_so(tmp_path: Path) -> None:
    """EVENTREC_DISABLED is about applications, and may well be set where an operator works."""
    (tmp_path / "lines").write_text('{"type": "a"}\n', encoding="utf-8")
    environment = {**os.environ, "EVENTREC_DISABLED": "1", "EVENTREC_ENABLED": "false"}

    for log in ([], ["--log", "log"]):
        done = subprocess.run(
            [sys.executable, "-m", "eventrec.cli", "record", "lines", "--to", "sqlite:///events.db", "--json", *log],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, json.loads(done.stdout)["delivered"]) == (0, 1), done.stderr
