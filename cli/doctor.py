"""`zopde doctor`: what this machine has, and what it lacks."""

from __future__ import annotations

import typer

from zopde.cli.console import say, say_json, table
from zopde.cli.options import AsJson


def doctor(as_json: AsJson = False) -> None:
    """Show versions, devices, threads and optional parts; exit code 1 if a needed one lacks."""
    from zopde.doctor import examine

    examined = examine()
    if as_json:
        say_json(examined)
    else:
        for name, value in examined["machine"].items():
            say(f"{name}: {', '.join(value) if isinstance(value, list) else value}")
        for needed, title in ((True, "needed"), (False, "optional")):
            parts = [part for part in examined["parts"] if part["needed"] == needed]
            rows = [[p["name"], p["found"] or "missing", p["gives"], p["remedy"]] for p in parts]
            table(("part", "found", "asked for" if needed else "gives", "to get it"), rows, title)
    raise typer.Exit(0 if examined["sound"] else 1)
