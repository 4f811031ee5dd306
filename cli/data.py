"""`zopde data`: data sets that their authors publish."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zopde.cli.console import Watcher, say

data = typer.Typer(help="Data sets that their authors publish.", no_args_is_help=True)


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help="cifar10.", show_default=False)],
    to: Annotated[Path, typer.Option(help="Folder that it goes to.")] = Path("data"),
    url: Annotated[
        str,
        typer.Option(
            help="A mirror of the same file. Default: the authors' server.", show_default=False
        ),
    ] = "",
) -> None:
    """Download a data set and check it; what is there already is left alone."""
    from zopde.data.fetch import fetch as download

    with Watcher().stage(f"fetching {name}", 100) as advance:
        percent = 0

        def show(done: int, total: int) -> None:
            nonlocal percent
            now = 100 * done // total if total else percent
            advance(now - percent)
            percent = now

        path = download(name, to, url, show)
        advance(100 - percent)
    say(f"{path}: complete, its checksum is right")


@data.callback()
def about() -> None:
    """Data sets that their authors publish."""
