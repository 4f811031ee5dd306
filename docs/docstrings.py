"""How the reference reads docstrings, and which names it marks as those of the front door."""

import ast
from pathlib import Path
from typing import Any

from griffe import Extension, Object

_FRONT_DOOR = Path(__file__).parent.parent / "zopde" / "__init__.pyi"


class Sessions(Extension):
    """Griffe knows the plural of "Example:" alone; what follows it is a Python session."""

    def on_object(self, *, obj: Object, **_: Any) -> None:  # noqa: ANN401 - Griffe's own types
        """Name the section as Griffe does."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")


class FrontDoor(Extension):
    """Labels what is imported from `zopde` itself, too."""

    def __init__(self) -> None:
        imports = ast.walk(ast.parse(_FRONT_DOOR.read_text()))
        self._rooms = {
            alias.name: f"zopde.{node.module}"
            for node in imports
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }

    def on_object(self, *, obj: Object, **_: Any) -> None:  # noqa: ANN401 - Griffe's own types
        """Label a class or function of that name that lies in that room."""
        room = self._rooms.get(obj.name)
        if room and obj.parent and obj.parent.is_module and obj.path.startswith(room):
            obj.labels.add("zopde")
