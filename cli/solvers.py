"""`zopde solvers`: what can be plugged in by name."""

from __future__ import annotations

from zopde.cli.console import say, say_json
from zopde.cli.options import AsJson


def solvers(as_json: AsJson = False) -> None:
    """List the solvers that are installed, one line each."""
    from dataclasses import asdict

    from zopde.plugins import find_solvers

    found = find_solvers()
    if as_json:
        say_json([asdict(info) for info in found])
        return
    for info in found:
        say(f"{info.name:<12} {info.summary}  ({info.target})")
