"""No import of one of our files leads back to it, not even one that only a type checker follows."""

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterable, Mapping

import grimp
import pytest

import eventrec


def circles(imports: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The groups of modules of which each leads to every other one (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        path.append(module)
        for other in imports[module]:
            if other not in number:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in path:
                lowest[module] = min(lowest[module], number[other])
        if lowest[module] == number[module]:
            group = path[path.index(module) :]
            del path[path.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in imports:
        if module not in number:
            visit(module)
    return found


@pytest.mark.parametrize(
    ("imports", "expected"),
    [
        ({"a": ["b"], "b": ["c"], "c": []}, []),
        ({"a": ["b"], "b": ["a"]}, [["a", "b"]]),
        ({"a": ["b"], "b": ["c", "d"], "c": ["b"], "d": ["c"]}, [["b", "c", "d"]]),
        ({"a": ["b", "c"], "b": ["a"], "c": ["d"], "d": ["c"]}, [["a", "b"], ["c", "d"]]),
    ],
)
def test_circles_are_found(imports: dict[str, list[str]], expected: list[list[str]]) -> None:
    assert sorted(circles(imports)) == expected


def test_no_file_imports_one_that_leads_back_to_it() -> None:
    graph = grimp.build_graph("eventrec", "eventrec_handlers", cache_dir=None, exclude_type_checking_imports=False)
    imports = {module: sorted(graph.find_modules_directly_imported_by(module)) for module in sorted(graph.modules)}

    assert len(imports) > 100
    assert circles(imports) == []


def test_what_is_public_is_loaded_when_it_is_asked_for() -> None:
    program = (
        "import sys, eventrec\n"
        "assert not {'eventrec.recorder', 'pydantic'} & sys.modules.keys()\n"
        "assert set(eventrec.__all__) <= set(dir(eventrec))\n"
        "assert all(getattr(eventrec, name).__name__ for name in ('EventRecorder', 'safe_name'))\n"
        "assert not hasattr(eventrec, 'EventRecoder')\n"
        "assert all(getattr(eventrec, name).__name__ == f'eventrec.{name}' for name in eventrec._MODULES)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_every_public_name_is_what_checkers_take_it_for() -> None:
    tree = ast.parse(inspect.getsource(eventrec))
    imported = {
        alias.name: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
    }

    assert eventrec._HOMES.items() <= imported.items()
    assert list(eventrec._HOMES) == eventrec.__all__
    for name, home in eventrec._HOMES.items():
        assert getattr(eventrec, name) is getattr(importlib.import_module(home), name)


def test_what_a_struct_is_made_of_is_known_before_two_threads_ask() -> None:
    # Never decoded; or the classes of applications, each of which gets its decoder from one thread at a time.
    exempt = {"Shape", "Line", "ReceivedJson", "SessionEvent", "ProfileRow", "EventStruct"}
    program = (
        "import sys, importlib, pkgutil, msgspec, eventrec, eventrec_handlers\n"
        "for package in (eventrec, eventrec_handlers):\n"
        "    for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):\n"
        "        if 'testing' not in module.name and '__main__' not in module.name:\n"
        "            importlib.import_module(module.name)\n"
        "from eventrec import EventStruct\n"
        "asked = []\n"
        "def note(frame, what, _):\n"
        "    if frame.f_code.co_name == 'get_class_annotations':\n"
        "        asked.append(frame)\n"
        "for each in msgspec.Struct.__subclasses__():\n"
        "    if each.__module__.startswith('eventrec'):\n"
        "        asked.clear()\n"
        "        sys.setprofile(note)\n"
        "        try:\n"
        "            msgspec.json.Decoder(each)\n"
        "        except NameError:\n"
        "            pass\n"
        "        sys.setprofile(None)\n"
        "        if asked:\n"
        "            print(each.__name__)\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == exempt
