"""`zopde attack`: whether certificates hold."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from zopde.cli.console import Watcher, say, say_json, table
from zopde.cli.options import AsJson


def attack(
    certification: Annotated[
        Path,
        typer.Argument(help="Run folder of `zopde certify`, or its table.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="White box to attack, a file or an import string. Default: the certified model.",
            show_default=False,
        ),
    ] = "",
    steps: Annotated[int, typer.Option(help="Of projected gradient descent.")] = 40,
    draws: Annotated[int, typer.Option(help="Of noise per step.")] = 16,
    n: Annotated[int, typer.Option("--n", help="Samples at the attacked input.")] = 10_000,
    alpha: Annotated[float, typer.Option(help="Probability of a wrong answer there.")] = 0.001,
    reach: Annotated[
        float, typer.Option(help="Attack within so many certified radii; 1: inside.")
    ] = 1.0,
    max_points: Annotated[int, typer.Option(help="At most so many points; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Decides the noise.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Try to change certified answers inside their radius: L2 PGD with expectation over noise."""
    from zopde.studies.certify import AttackSettings, attack_certificates

    settings = AttackSettings(steps, draws, n, alpha, reach, max_points, seed)
    with redirect_stdout(sys.stderr):  # a model of the user's may print
        found = attack_certificates(certification, settings, Watcher(), model=model)
    if as_json:
        say_json(found)
        return
    row = [
        f"{found['points']:,}",
        f"{found['changed']:,}",
        f"{found['expected']:.2g}" if found["reach"] <= 1 else "-",
        f"{found['no_answer']:,}",
        f"{found['seconds']:,.1f}",
    ]
    title = f"attacked within {found['reach']:g} certified radii, {found['steps']} steps"
    table(("points", "changed", "allowed by alpha", "no answer", "seconds"), [row], title)
    if found["reach"] > 1:
        say("beyond the certified radius nothing is promised")
    elif found["share_at_least"] > found["share_allowed"]:
        say("more answers changed than alpha allows: is the model a fixed function of its input?")
        raise typer.Exit(1)
