"""The build writes the list of settings, and looks at every page it made."""

import dataclasses
import importlib
import inspect
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from mkdocs.exceptions import PluginError

from zopde.studies.settings import _expected, literal

_LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref=["']?"""
    r"""(?:https?:)?//"""
)
_SETTINGS = re.compile(r"<!-- settings of ([\w.]+)\.(\w+) -->")
_SHORTER = (
    *((" without zero bytes", ""), ("a value of type str", "text"), ("one of ", "")),
    *(("a value of type bool", "true or false"), ("['", '"'), ("', '", '" or "'), ("']", '"')),
)
_comments_at_fields = runpy.run_path(str(Path(__file__).parent / "docstrings.py"))[
    "comments_at_fields"
]


def on_page_markdown(markdown: str, **_: Any) -> str:  # noqa: ANN401 - MkDocs' own types
    """Write the tables of a settings class where a page asks for them."""
    return _SETTINGS.sub(lambda found: settings_of(*found.groups()), markdown)


def settings_of(module: str, name: str) -> str:
    """Every setting of a class of tables: its default, its limits and what it is, as Markdown."""
    kind = getattr(importlib.import_module(module), name)
    return "\n\n".join(
        f"## [{table}]\n\n| setting | default | may be | what it is |\n|---|---|---|---|\n"
        + "\n".join(f"| {' | '.join(cells)} |" for cells in _rows(table, of_table))
        for table, of_table in get_type_hints(kind).items()
    )


def _rows(table: str, kind: type) -> Iterator[tuple[str, ...]]:
    comments: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if dataclasses.is_dataclass(one):
            comments |= _comments_at_fields(inspect.getsource(one))
    default = kind()
    for name, hint in get_type_hints(kind, include_extras=True).items():
        words = _expected(hint, None)
        for long, short in _SHORTER:
            words = words.replace(long, short)
        yield f"`{table}.{name}`", f"`{literal(getattr(default, name))}`", words, comments[name]


def on_post_page(output: str, page: Any, **_: Any) -> str:  # noqa: ANN401 - MkDocs' own types
    """Refuse a page that needs the network to be read."""
    found = _LOADED.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri}: loaded from elsewhere: {found.group()}")
    return output
