"""How the reference reads docstrings, and which names it marks as imported from `zopde` itself."""

import ast
import textwrap
from pathlib import Path
from typing import Any

from griffe import Extension, Object

_FRONT_DOOR = Path(__file__).parent.parent / "zopde" / "__init__.pyi"


def comments_at_fields(source: str) -> dict[str, str]:
    """Field of a class -> the comment beside it, or the one on the lines above it.

    Args:
        source: The class, as its file has it.
    """
    source = textwrap.dedent(source)
    lines, comments = source.splitlines(), {}
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign):
            beside = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode()
            above = node.lineno - 1
            while lines[above - 1].lstrip().startswith("#"):
                above -= 1
            comment = [beside] if "#" in beside else lines[above : node.lineno - 1]
            if comment:
                comments[node.target.id] = " ".join(line.strip(" #") for line in comment)
    return comments


class Sessions(Extension):
    """Griffe knows the plural of "Example:" alone; what follows it is a Python session."""

    def on_object(self, *, obj: Object, **_: Any) -> None:  # noqa: ANN401 - Griffe's own types
        """Name the section as Griffe does."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")


class Fields(Extension):
    """A dataclass may explain its fields by comments; a reader sees them as its arguments."""

    def on_object(self, *, obj: Object, **_: Any) -> None:  # noqa: ANN401 - Griffe's own types
        """Add the section that the docstring has not."""
        if obj.is_class and obj.docstring and "\nArgs:\n" not in obj.docstring.value:
            comments = comments_at_fields("\n".join(obj.lines))
            if comments:
                rows = [f"    {name}: {text}" for name, text in comments.items()]
                obj.docstring.value += "\n\nArgs:\n" + "\n".join(rows)


class FrontDoor(Extension):
    """Labels what is imported from `zopde` itself, too."""

    def __init__(self) -> None:
        super().__init__()
        self._rooms = {
            alias.name: node.module.split(".")[0]
            for node in ast.walk(ast.parse(_FRONT_DOOR.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }

    def on_object(self, *, obj: Object, **_: Any) -> None:  # noqa: ANN401 - Griffe's own types
        """Label the class or function of such a name in its room."""
        room = obj.path.split(".")[1:2]
        if obj.parent and obj.parent.is_module and room == [self._rooms.get(obj.name)]:
            obj.labels.add("zopde")
