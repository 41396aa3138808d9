"""Pages of the documentation that are made from the code when it is built: none of them is in the repository.

`<!-- handler module:Class -->` in a page becomes what that class takes, and what it promises; `<!-- url module -->`
what the URLs of its handler may say.
"""

from __future__ import annotations

import html
import importlib
import inspect
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin

from mkdocs.structure.files import File

from eventrec import EventRecorderOptions
from eventrec.bridges.measures import MEASURES
from eventrec.cli.app import app
from eventrec.options import Backoff, MiB
from eventrec.rules import RateLimit, Redaction, Sampling

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page
    from pydantic import BaseModel

ROOT: Final = Path(__file__).parents[2]
_HANDLER: Final = re.compile(r"<!-- handler ([\w.]+):(\w+) -->")
_URL: Final = re.compile(r"<!-- url ([\w.]+) -->")
_SCHEMES: Final = "<!-- schemes -->"
_SECTION: Final = re.compile(r"^(Args|Attributes|Raises):$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for path, text in made_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in what a page has of the code."""
    del page, config, files
    markdown = markdown.replace(_SCHEMES, schemes()) if _SCHEMES in markdown else markdown
    markdown = _URL.sub(lambda found: url(found[1]), markdown)
    return _HANDLER.sub(lambda found: handler(found[1], found[2]), markdown)


def made_pages() -> dict[str, str]:
    """Their text, by their path."""
    return {
        "reference/options.md": options(),
        "reference/commands.md": commands(),
        "reference/metrics.md": metrics(),
        "handlers/new.md": (ROOT / "handlers" / "README.md").read_text(encoding="utf-8"),
        "reference/design.md": (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"),
        "reference/changes.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }


def options() -> str:
    """The options of a recorder, from their model."""
    parts = [
        "# Options",
        (
            "Options are given as `EventRecorder(…, options=EventRecorderOptions(…))`, in the environment, "
            "or in a TOML file; see [Configuration](../configuration.md). Sizes are bytes. Durations are seconds, or "
            'text such as `"5s"`, `"250ms"`, `"1h 30m"`, `"90d"`. An unknown name is refused.'
        ),
    ]
    parts += _fields(EventRecorderOptions, level=2, variable=lambda name: f"EVENTREC_{name.upper()}")
    for model, said in (
        (Backoff, "`retry`; in the environment `EVENTREC_RETRY__FIRST` and so on."),
        (Redaction, "`redact`; True is the default one."),
        (Sampling, "A value of `sample`."),
        (RateLimit, 'A value of `rate_limits`; a text such as `"100/s"` says the same.'),
    ):
        parts += [f"## {model.__name__}", said, *_fields(model, level=3)]
    return "\n\n".join(parts) + "\n"


def _fields(model: type[BaseModel], *, level: int, variable: Any = None) -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        said = [
            _code(_type(field.annotation)),
            "required" if field.is_required() else f"default {_code(_shown(default))}",
        ]
        if variable is not None:
            said.append(_code(variable(name)))
        anchor = f"{model.__name__.lower()}-{name.replace('_', '-')}"
        found += [f"{'#' * level} `{name}` {{ #{anchor} }}", " · ".join(said), _plain(field.description or "")]
    return found


def _type(annotation: Any) -> str:
    """A type as a reader writes it."""
    match get_origin(annotation):
        case typing.Literal:
            return " | ".join(map(repr, get_args(annotation)))
        case typing.Union | types.UnionType:
            parts = " | ".join(dict.fromkeys(map(_type, get_args(annotation))))
            return parts.replace("float | str | timedelta", "duration")
        case typing.Annotated:
            return _type(get_args(annotation)[0])
        case None:
            is_class = isinstance(annotation, type) and annotation is not types.NoneType
            return annotation.__name__ if is_class else str(annotation).replace("<class 'NoneType'>", "None")
        case _:
            return re.sub(r"\b(?:[a-z_]+\.)+(?=\w)", "", str(annotation))


def _code(text: str) -> str:
    """As code, also in a table, where a bar would end the cell."""
    return f"<code>{html.escape(text, quote=False).replace('|', '&#124;')}</code>"


def commands() -> str:
    """The commands with their options and examples, from what `--help` shows."""
    text: str = app.generate_docs(output_format="markdown", include_hidden=False)
    codes = inspect.cleandoc(importlib.import_module("eventrec.cli").__doc__ or "")
    title, _, rest = text.partition("\n")
    rest = re.sub(r"## Table of Contents\n.*?(?=^\*\*Commands)", "", rest, flags=re.DOTALL | re.MULTILINE)
    return f"{title.replace('eventrec', 'Commands')}\n{rest}\n\n## Exit codes\n\n```text\n{codes}\n```\n"


def metrics() -> str:
    """What is measured, from the list that both exporters read."""
    rows = [
        f"| `eventrec.{each.name}` | `{_prometheus(each)}` | {each.unit} | {', '.join(f'`{x}`' for x in each.labels)} "
        f"| {each.description} |"
        for each in MEASURES
    ]
    return "\n".join(
        [
            "# Metrics",
            "",
            "`eventrec.bridges.prometheus` and `eventrec.bridges.opentelemetry` export the account of a recorder.",
            "What to alert on stands in [Operations](../operations.md).",
            "",
            "| OpenTelemetry | Prometheus | unit | labels | |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _prometheus(measure: Any) -> str:
    return f"eventrec_{measure.name}" + ("_total" if measure.kind == "counter" else "")


def schemes() -> str:
    """Which URL leads to which handler, and what it needs, from the entry points."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = ["| URL | handler | install |", "|---|---|---|"]
    for scheme, target in project["entry-points"]["eventrec.handlers"].items():
        module, _, extra = target.partition(" ")
        needed = f"`pip install 'eventrec{extra}'`" if extra else "nothing more"
        rows.append(f"| `{scheme}:` | `{module.partition(':')[0]}` | {needed} |")
    return "\n".join(rows)


def url(module: str) -> str:
    """What a URL of a handler may say."""
    return _plain(inspect.getdoc(importlib.import_module(module).from_url) or "")


def handler(module: str, name: str) -> str:
    """What the constructor of a handler takes, and its contract."""
    cls = getattr(importlib.import_module(module), name)
    rows = ["| argument | type | default |", "|---|---|---|"]
    names = vars(importlib.import_module(cls.__module__))
    for parameter in inspect.signature(cls).parameters.values():
        if parameter.name.startswith("_"):
            continue
        default = "required" if parameter.default is parameter.empty else _code(_shown(parameter.default))
        rows.append(f"| `{parameter.name}` | {_code(_evaluated(parameter.annotation, names))} | {default} |")
    return "\n".join([f"From `{module}`, `{name}`:", "", *rows, "", _plain(inspect.getdoc(cls) or "")])


def _evaluated(annotation: str, names: dict[str, Any]) -> str:
    """What the text of an annotation means; itself, where it names what only type checkers import."""
    try:
        return _type(eval(annotation, names))  # noqa: S307 - of our own code
    except NameError:
        return annotation


def _shown(value: object) -> str:
    """A default: sizes in MiB, functions by their names."""
    match value:
        case int() if value and value % MiB == 0:
            return f"{value // MiB:,} MiB"
        case frozenset() if not value:
            return "empty"
        case _:
            return f"{value.__module__}.{value.__qualname__}" if inspect.isroutine(value) else repr(value)


def _plain(docstring: str) -> str:
    """A docstring as Markdown: its sections become lists."""
    text, *sections = _SECTION.split(inspect.cleandoc(docstring))
    parts = [text.strip()]
    for title, body in zip(sections[::2], sections[1::2], strict=True):
        items = re.split(r"^    (?=\S)", body, flags=re.MULTILINE)
        lines = [" ".join(item.split()) for item in items if item.strip()]
        parts += [
            f"**{title}**",
            "\n".join(f"* `{head}`: {rest}" for head, _, rest in (x.partition(": ") for x in lines)),
        ]
    return "\n\n".join(parts)
