"""The map is drawn three times: in the folders, in the layer contract, in ARCHITECTURE.md."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE = ROOT / "eventrec"


def rooms() -> set[str]:
    """Every module and package right under `eventrec`."""
    files = {path.stem for path in CORE.glob("*.py") if path.stem != "__init__"}
    return files | {path.parent.name for path in CORE.glob("*/__init__.py")}


def words(text: str) -> set[str]:
    """Everything between back-ticks."""
    return set(re.findall(r"`[^`\n]+`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)))


def test_layer_contract_names_every_room_of_the_core() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]

    named = set(re.findall(r"eventrec\.(\w+)", " ".join(layers)))

    assert rooms() - named == set()


def test_layer_contract_marks_as_missing_only_what_is_missing() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    marked = set(re.findall(r"\(eventrec\.(\w+)\)", text))

    assert marked & rooms() == set()


def test_architecture_has_a_line_for_every_file() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    sources = [*CORE.rglob("*.py"), *(ROOT / "handlers" / "eventrec_handlers").rglob("*.py")]

    named = [path for path in sources if path.name != "__init__.py"]
    missing = [path.name for path in named if not {f"`{path.name}`", f"`{path.parent.name}/{path.name}`"} & words(text)]

    assert sorted(missing) == []
