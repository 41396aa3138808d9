"""No import of one of our files leads back to it, not even one that only a type checker follows."""

from collections.abc import Iterable, Mapping

import grimp
import pytest


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
