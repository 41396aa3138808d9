"""Runs what pages of the documentation show, each page in a directory and a forked process of its own.

    python run_pages.py PAGE…      one line of JSON for each: its path, and what went wrong, or null

In a page, a block of Python whose first line is `# name.py` is a file; every other one is run, in order, in one
namespace. Blocks `sh` are run by bash, those of `console` are shown alone. `<!-- check … -->` is Python that is run and
not shown: what the blocks before it have to have done. A page that imports the files of another page's names them in
FILES_OF.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|sh|toml)\n(.*?)^```$|^<!-- check\n(.*?)^-->$", re.DOTALL | re.MULTILINE)
NAME = re.compile(r"# (\S+\.(?:py|toml))\b.*\n")
FILES_OF = {"guides/lambda.md": "guides/servers.md"}
SECONDS = 60


def files_of(page: Path) -> dict[str, str]:
    """The files that it shows, by their names."""
    blocks = [found[2] for found in BLOCK.finditer(page.read_text("utf-8")) if found[1] in {"python", "toml"}]
    return {name[1]: block for block in blocks if (name := NAME.match(block))}


def run(page: Path) -> None:
    """Run `page` in the current directory, which is empty."""
    sys.path.insert(0, str(Path.cwd()))
    other = FILES_OF.get(str(page.relative_to(DOCS)))
    for name, content in {**(files_of(DOCS / other) if other else {}), **files_of(page)}.items():
        Path(name).write_text(content, "utf-8")
    namespace = {"__name__": "__main__"}
    for found in BLOCK.finditer(page.read_text("utf-8")):
        language, block, check = found.groups()
        if check is not None or (language == "python" and not NAME.match(block)):
            line = page.read_text("utf-8").count("\n", 0, found.start(2 if check is None else 3))
            code = "\n" * line + (block if check is None else check)
            exec(compile(code, str(page), "exec"), namespace)  # noqa: S102 - it is our own page
        elif language == "sh":
            shell = ["/bin/bash", "-euo", "pipefail", "-c", block]
            done = subprocess.run(shell, capture_output=True, text=True, check=False, timeout=SECONDS)
            if done.returncode:
                raise RuntimeError(f"{block}\n{done.stdout}\n{done.stderr}")


def outcome(page: Path) -> str | None:
    """What went wrong with it; None: nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)
            try:
                run(page)
                said = ""
            except BaseException:  # noqa: BLE001 - whatever a page does
                said = traceback.format_exc()
        os.write(writing, said.encode()[:60_000])
        os._exit(0 if not said else 1)
    os.close(writing)
    deadline = time.monotonic() + SECONDS
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return f"still running after {SECONDS} s"
        time.sleep(0.02)
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read().decode() or None


if __name__ == "__main__":
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name in [name for name in os.environ if name.startswith("EVENTREC_")]:
        del os.environ[name]
    warnings.simplefilter("error")
    # Loaded once, for all pages.

    for given in sys.argv[1:]:
        print(json.dumps({"page": given, "failed": outcome(DOCS / given)}), flush=True)  # noqa: T201 - for the test
