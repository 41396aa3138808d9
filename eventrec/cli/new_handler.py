"""`new-handler`: a package with a handler, its harness and its test, to be filled in.

Its test fails until the author has written the handler; each missing part raises with its own name.
"""

from __future__ import annotations

import re
from pathlib import Path
from string import Template
from typing import Annotated, Final

from cyclopts import Parameter

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.terminal import Terminal
from eventrec.registry import known_schemes

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST: Final = 50


def new_handler(
    name: Annotated[str, Parameter(help="What the destination is called: also the scheme of its URLs.")],
    /,
    *,
    directory: Annotated[Path, Parameter(name="--dir")] = Path(),
) -> None:
    """Start a handler for another destination: a small package with its test.

    The test is the conformance suite, which asks for a harness: how to look into the destination, and how to hurt it.

    For example:

    ```sh
    eventrec new-handler warehouse && cd eventrec-warehouse && pip install -e '.[test]' && pytest -x
    ```

    Args:
        directory: Where the package goes, into a directory of its own.
    """
    if _NAME.fullmatch(name) is None or len(name) > _LONGEST:
        raise CommandError(
            f"a handler's name is small letters, digits and single hyphens, up to {_LONGEST}, got {name!r}",
            ExitCode.USAGE,
        )
    if name in known_schemes():
        raise CommandError(f"the scheme {name!r} is taken: call the destination something else", ExitCode.USAGE)
    home = directory / f"eventrec-{name}"
    words = {
        "name": name,
        "package": f"eventrec_{name.replace('-', '_')}",
        "class_name": "".join(word.capitalize() for word in name.split("-")),
    }
    try:
        home.mkdir(parents=True)
        for path, template in FILES.items():
            file = home / path.replace("PACKAGE", words["package"])
            file.parent.mkdir(exist_ok=True)
            file.write_text(Template(template).substitute(words), encoding="utf-8")
    except FileExistsError as exc:
        raise CommandError(f"{home} is there already", ExitCode.FILE) from exc
    except OSError as exc:
        raise CommandError(f"cannot write {exc.filename}: {exc.strerror}", ExitCode.FILE) from exc
    terminal = Terminal()
    terminal.say(f"{home} is made. Write {words['package']}/__init__.py, then tests/test_conformance.py; then run:")
    terminal.say(f"    cd {home} && pip install -e '.[test]' && pytest -x")


PYPROJECT: Final = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "eventrec-$name"
version = "0.1.0"
description = "Deliver what eventrec records to $name."
requires-python = ">=3.11"
dependencies = ["eventrec"]

[project.optional-dependencies]
test = ["eventrec[testing]"]

[project.entry-points."eventrec.handlers"]
$name = "$package:from_url"

[tool.hatch.build.targets.wheel]
packages = ["$package"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
addopts = ["-ra"] # what is skipped says why
filterwarnings = ["error"]
"""

HANDLER: Final = '''\
"""Delivers what eventrec records to $name."""

from __future__ import annotations

from eventrec import Batch, EventHandler, HandlerURL


def from_url(url: str) -> ${class_name}Handler:
    """The handler for `$name://host:port/path?timeout=10s`; what a URL may have is named here."""
    given = HandlerURL(url)
    given.accept("timeout", parts=("host", "port", "path"))
    timeout = given.seconds("timeout", default=10.0)  # see also text, integer, boolean and choice
    return ${class_name}Handler(given.host or "localhost", given.port or 80, given.path, timeout=timeout)


class ${class_name}Handler(EventHandler):
    """Delivers batches to `host`, at least once: after a failure, a record may arrive again, under the same id.

    It waits `timeout` seconds for an answer.
    """

    def __init__(self, host: str, port: int, path: str, *, timeout: float = 10.0) -> None:
        self.host = host
        self.port = port
        self.path = path
        self.timeout = timeout

    async def handle(self, batch: Batch) -> None:
        """Send every record; on return they are safe at the destination.

        `batch.records` are records with their payload as JSON bytes, `batch.row_inserts()` rows, grouped by table.
        Fields that an event declares as `Column()` are not in the payload: write them too, or they are lost. They are
        `dict(zip((column.name for column in record.columns), row))` for each `row` of `record.rows`; most records have
        one row, and those that have several arrive as so many.
        What goes wrong is raised as TransientError, PermanentError, PartialError, BatchTooLargeError or PauseError.
        """
        raise NotImplementedError("write ${class_name}Handler.handle")
'''

TEST: Final = '''\
"""The claims of eventrec's conformance suite, about this handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from eventrec import HandlerURLError
from eventrec.testing.conformance import (
    Delivered,
    HandlerConformance,
    HandlerHarness,
    Sample,
)

from $package import ${class_name}Handler, from_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec import Event, EventHandler


class ${class_name}Harness(HandlerHarness):
    """How to look into the destination, and how to hurt it: see `help(HandlerHarness)`."""

    # "columns" is not among them: what an event declares as `Column()` is apart from its payload, and to be kept too.
    lacks = {
        "checkpoints": "the destination keeps none",
        "late_commit": "not staged yet: write lose_answer",
        "lost_answer": "not staged yet: write lose_answer",
        "pause": "not staged yet: write forbid and permit",
        "replace": "without checkpoints, one destination is like another",
        "restore": "without checkpoints, it makes no difference",
        "too_large": "not staged yet: write oversized",
    }

    async def start(self) -> None:
        """Make the destination: empty, in reach."""

    async def stop(self) -> None:
        """Remove it."""

    def handler(self) -> EventHandler:
        return ${class_name}Handler("localhost", 80, "")

    async def delivered(self) -> Sequence[Delivered]:
        raise NotImplementedError("write ${class_name}Harness.delivered: what the destination holds, with its columns")

    async def disconnect(self) -> None:
        raise NotImplementedError("write ${class_name}Harness.disconnect, or give a reason in lacks['outage']")

    async def reconnect(self) -> None:
        raise NotImplementedError("write ${class_name}Harness.reconnect, or give a reason in lacks['outage']")

    def poison(self) -> Event:
        return Sample({"what": "the destination refuses for good"}, kind="poison")


class Test${class_name}Handler(HandlerConformance):
    @pytest.fixture
    def harness(self) -> HandlerHarness:
        return ${class_name}Harness()


def test_options_come_from_the_url() -> None:
    assert from_url("$name://host/path").timeout == 10
    assert from_url("$name://host/path?timeout=1m").timeout == 60


@pytest.mark.parametrize("option", ["timeout=soon", "colour=red"])
def test_an_option_that_it_does_not_know_is_refused(option: str) -> None:
    with pytest.raises(HandlerURLError, match=option.partition("=")[0]):
        from_url(f"$name://host/path?{option}")
'''

README: Final = """\
# eventrec-$name

Delivers what eventrec records to $name.

```python
async with EventRecorder("$name://host/path?timeout=10s") as recorder:
    recorder.record(...)
```

Options of the URL: `timeout`, how long it waits for an answer (10 s).

Of each event it keeps id, type, time, table, payload, and columns: what is declared as `Column()` is in no payload.

Test it: `pip install -e '.[test]' && pytest -x`
"""

FILES: Final = {
    "pyproject.toml": PYPROJECT,
    "README.md": README,
    "PACKAGE/__init__.py": HANDLER,
    "PACKAGE/py.typed": "",
    "tests/test_conformance.py": TEST,
}
"""What is made, by its path."""
