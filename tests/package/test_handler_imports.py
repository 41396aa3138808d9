import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventrec
import eventrec.analytics
import eventrec.bus
import eventrec.otlp_names

HANDLERS = Path(__file__).parents[2] / "handlers" / "eventrec_handlers"
MODULES = sorted(HANDLERS.rglob("*.py"))
SHARED = {"_cursors", "_descriptors", "_http", "_lines", "_rows", "_sql", "_thread"}
PUBLIC = {
    "analytics": eventrec.analytics.__all__,
    "bus": eventrec.bus.__all__,
    "otlp_names": eventrec.otlp_names.__all__,
}
HOOKS = {"timescale": {"eventrec_handlers.postgres", "eventrec_handlers.postgres.hook"}}
"""What a handler may import of another: one that builds on it."""


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Each import of ours as (module, name), the name None where the module itself is imported."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                found: list[tuple[str, str | None]] = [(alias.name, None) for alias in node.names]
            case ast.ImportFrom():
                found = [("." * node.level + (node.module or ""), alias.name) for alias in node.names]
            case _:
                continue
        yield from (one for one in found if one[0].startswith((".", "eventrec")))


def is_allowed(handler: str, module: str, name: str | None) -> bool:
    match module.split("."):
        case ["eventrec"]:
            return name is None or name in eventrec.__all__
        case ["eventrec", room] if room in PUBLIC:
            return name in PUBLIC[room]
        case ["eventrec_handlers", room, *_]:
            return room in {handler, *SHARED} or module in HOOKS.get(handler, ())
        case ["eventrec_handlers"]:
            return name in {handler, *SHARED}
        case _:
            return False


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HANDLERS)))
def test_handler_imports_only_public_names_itself_and_what_handlers_share(path: Path) -> None:
    handler = path.relative_to(HANDLERS).parts[0].removesuffix(".py")

    refused = [found for found in imports(path) if not is_allowed(handler, *found)]

    assert refused == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(HANDLERS)))
def test_handler_logs_by_our_logger_alone_so_that_its_lines_never_come_back_to_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")

    assert "structlog" not in text
    assert "getLogger" not in text
    assert "get_logger(" not in text or 'get_logger("eventrec.' in text or 'get_logger(f"eventrec.' in text
