"""All that a command prints, but for the progress of long work."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

from zopde.errors import InputError
from zopde.numerals import number


def complain(message: str) -> None:
    """One line about what went wrong, on stderr."""
    print(f"zopde: {' '.join(message.split())}", file=sys.stderr)


# What typer, of any version, says of a command line -> (what, got) in zopde's words
_USAGE = (
    (
        r"(Invalid value for .+?): (?:Input should be|.* is not) an? (?:valid )?(\w+).*",
        (r"\1", r"no \2"),
    ),
    (r"(Invalid value for .+?): .*", (r"\1", "another value")),
    (r"(Missing .+?)\.?", (r"\1", "nothing")),
    (r"(No such \w+):? '?([^' ]+?)'?\.?(?: .*)?", (r"\1", r"\2")),
    (r"(Option .+ requires an? .+?)\.?", (r"\1", "nothing")),
    (r"Option '?(.+?)'? does not take .*", (r"\1", "a value")),
    (r"Got unexpected extra argument\S* \((.*)\)\.?", ("arguments", r"also \1")),
    (r"(.*)", ("command line", r"what cannot be read, \1")),
)


def complain_of_usage(said: str, command: str) -> None:
    """One line about a command line that could not be read."""
    text = " ".join(said.split())
    matches = ((re.fullmatch(pattern, text), words) for pattern, words in _USAGE)
    what, got = next([*map(match.expand, words)] for match, words in matches if match)
    near = re.search(r"(?:Did you mean|Possible options)\S* ([^?)]+)", text)
    hint = f"did you mean {near[1]}?" if near else ""
    expected = f"what `{command} --help` says"
    complain(str(InputError(what, got=got, expected=expected, remedy=hint)))


def say(text: str) -> None:
    """A result, on stdout."""
    print(text)


def say_json(content: object) -> None:
    """A result for a program, on stdout."""
    print(json.dumps(content, indent=2, allow_nan=False))


def prints_to_stderr() -> redirect_stdout[Any]:
    """A user's solver or model may print; stdout is for the result alone."""
    return redirect_stdout(sys.stderr)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A table on stdout; the first column to the left, figures to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title or None, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        grid.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        grid.add_row(*map(Text, row))  # as it is: "zopde[dask]" is no markup
    # Piped output has no width of its own: a table must not be cut there.
    Console(width=None if sys.stdout.isatty() else 140).print(grid)


def show(results: Any) -> None:  # noqa: ANN401 - a Table of zopde.studies.run, not loaded for help
    """The tables of a finished run, and below them what they cannot say by themselves."""
    for shown in filter(None, (results, results.also)):
        table(shown.columns, shown.rows, shown.title)
    for note in results.notes:
        say(note)


def table_of(
    records: Sequence[Mapping[str, Any]],
    title: str = "",
    heads: Mapping[str, str] | None = None,
    blank: object = None,
) -> None:
    """A table of records that all have the same keys, which are its columns; none of nothing.

    `heads` holds the heads of some keys; a column of nothing but `blank` is left out.
    """
    if not records:
        return
    keys = [key for key in records[0] if any(record[key] != blank for record in records)]
    plain = [key.replace("seconds_per_", "s/").replace("_", " ") for key in keys]
    columns = [(heads or {}).get(key, head) for key, head in zip(keys, plain, strict=True)]
    table(columns, [[_cell(record[key]) for key in keys] for record in records], title)


def _cell(value: Any) -> str:  # noqa: ANN401 - text, a number or nothing
    if isinstance(value, int | float):
        return number(value)
    return "-" if value is None else str(value)
