"""`zopde certify`: randomized smoothing of any classifier."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from zopde.cli.console import Watcher, say, say_json, table
from zopde.cli.options import AsJson, ImageFile, Overwrite, Resume


def certify(
    model: Annotated[
        str,
        typer.Argument(
            help="A model.safetensors, package.module:name, file.py:name, or http://host:port/path.",
            show_default=False,
        ),
    ],
    data: ImageFile = None,
    part: Annotated[str, typer.Option(help="Which images: test or train.")] = "test",
    scale: Annotated[
        float,
        typer.Option(help="A pixel is divided by this; 0: by the brightest training pixel."),
    ] = 0.0,
    sigma: Annotated[
        float, typer.Option(help="Standard deviation of the noise, in units of the model's input.")
    ] = 0.25,
    n0: Annotated[int, typer.Option(help="Samples that choose the class.")] = 100,
    n: Annotated[int, typer.Option("--n", help="Samples that bound its probability.")] = 10_000,
    alpha: Annotated[float, typer.Option(help="Probability of a wrong certificate.")] = 0.001,
    batch: Annotated[int, typer.Option(help="Samples that are classified at a time.")] = 1000,
    every: Annotated[int, typer.Option(help="Certify every so many images.")] = 1,
    max_images: Annotated[int, typer.Option(help="At most so many images; 0: all.")] = 0,
    seed: Annotated[int, typer.Option(help="Decides the noise.")] = 0,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")] = "cpu",
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/certify"),
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            help="Run folder of another certification, for the picture; repeatable. Default: none.",
            show_default=False,
        ),
    ] = None,
    radius: Annotated[
        list[float] | None,
        typer.Option(help="Row of the table; repeatable. Default: 0, 0.25, 0.5, 0.75."),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Certify a classifier by randomized smoothing: radii within which its answers hold."""
    from zopde.studies.certify import RADII, CertifyConfig, run_certification
    from zopde.studies.run import study_named

    config = CertifyConfig(
        model=model,
        data="" if data is None else str(data),
        part=part,  # type: ignore[arg-type] # checked there
        scale=scale,
        sigma=sigma,
        n0=n0,
        n=n,
        alpha=alpha,
        batch=batch,
        every=every,
        images=max_images,
        seed=seed,
        device=device,
    )
    with redirect_stdout(sys.stderr):  # a model of the user's may print
        found = run_certification(
            config, out, resume, overwrite, Watcher(), None, beside or (), radius or RADII
        )
    if as_json:
        say_json(found)
        return
    results = study_named("certify").table(found)
    table(results.columns, results.rows, results.title)
    for note in results.notes:
        say(note)
    say(
        f"one line per image: {out / 'certificates.tsv'}; picture: {out / 'certified_accuracy.png'}"
    )
