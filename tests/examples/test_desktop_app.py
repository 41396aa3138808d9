"""The desktop application, as a user would run it, again and again."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

APP = [sys.executable, "-W", "error", str(Path(__file__).parents[2] / "examples" / "desktop_app.py")]


def environment(tmp_path: Path) -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if name not in {"CI", "DO_NOT_TRACK"}}
    own = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": "", "XDG_DATA_HOME": "", "PYTHONUNBUFFERED": "1"}
    return given | own | {"DESKTOP_APP_TO": f"jsonl:///{tmp_path}/sent"}


def sent(tmp_path: Path) -> list[dict[str, Any]]:
    files = sorted((tmp_path / "sent").rglob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def used(tmp_path: Path, *actions: str, expected: int) -> str:
    """Use it until `expected` events are there; what it says."""
    with subprocess.Popen(
        APP,
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write("".join(f"{action}\n" for action in actions))
        process.stdin.flush()
        latest = time.monotonic() + 30
        while len(sent(tmp_path)) < expected:
            assert time.monotonic() < latest
            assert process.poll() is None
            time.sleep(0.05)
        out, said = process.communicate(timeout=200)
    assert (process.returncode, out) == (0, "")
    return said


def test_the_first_run_tells_the_second_sends_and_a_no_ends_it(tmp_path: Path) -> None:
    said = used(tmp_path, "open secret.txt", expected=0)
    assert "eventrec-desktop-app records how it is used." in said
    assert "To opt out: eventrec-desktop-app analytics disable" in said

    assert used(tmp_path, "save", "help", expected=5) == ""
    events = sent(tmp_path)
    assert sorted(event["payload"].get("action", event["type"]) for event in events) == [
        *("$identify", "$identify", "help", "open", "save")
    ]
    assert len({event["context"]["session_id"] for event in events}) == 2
    assert {event["context"]["edition"] for event in events if event["type"] == "action_taken"} == {"community"}
    assert "secret" not in str(events)

    subprocess.run([*APP, "analytics", "disable"], env=environment(tmp_path), check=True, capture_output=True)
    assert used(tmp_path, "open", expected=5) == ""
    assert len(sent(tmp_path)) == 5
