"""How the reference reads docstrings: what follows "Example:" is a Python session."""

from typing import Any

from griffe import Extension, Object


class Sessions(Extension):
    """Griffe knows the plural alone."""

    def on_object(self, *, obj: Object, **_: Any) -> None:  # noqa: ANN401 - Griffe's own types
        """Name the section as Griffe does."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
