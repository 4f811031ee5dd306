"""`zopde certify` and `zopde attack`: certify any classifier, and try whether that holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from zopde.cli.console import prints_to_stderr, say, say_json, show, table_of
from zopde.cli.options import AsJson, ImageFile, Overwrite, Resume
from zopde.progress import Watcher


def certify(
    model: Annotated[
        str,
        Argument(
            help="The classifier: a model.safetensors file, package.module:name, file.py:name, or "
            "http://host:port/path."
        ),
    ],
    data: ImageFile = None,
    part: Annotated[str, Option(help="Certify the images of this part: test or train.")] = "test",
    scale: Annotated[
        float, Option(help="Divide pixels by this; 0: by the largest of the training images.")
    ] = 0.0,
    sigma: Annotated[
        float, Option(help="Add noise of this standard deviation, in the units of the input.")
    ] = 0.25,
    n0: Annotated[int, Option(help="Choose the class from this many noisy samples.")] = 100,
    n: Annotated[
        int,
        Option(
            "--n",
            help="Bound the probability of the class from this many noisy samples; with --decide, "
            "ask for at most this many.",
        ),
    ] = 10_000,
    alpha: Annotated[
        float, Option(help="Accept a wrong certificate with this probability.")
    ] = 0.001,
    decide: Annotated[
        list[float] | None,
        Option(
            help="Decide whether the answer holds within this radius, from as few samples as that "
            "takes; repeatable. Default: none, and the radius is looked for."
        ),
    ] = None,
    batch: Annotated[int, Option(help="Classify this many samples at a time.")] = 1000,
    every: Annotated[int, Option(help="Certify one image out of this many; 1: each.")] = 1,
    max_images: Annotated[int, Option(help="Certify at most this many images; 0: all.")] = 0,
    seed: Annotated[int, Option(help="Draw the noise from this seed.")] = 0,
    device: Annotated[str, Option(help="Compute on this device: cpu, cuda, cuda:1, ...")] = "cpu",
    out: Annotated[Path, Option(help="Write to this run folder.")] = Path("runs/certify"),
    beside: Annotated[
        list[Path] | None,
        Option(help="Draw the curve of this run of certify, too; repeatable. Default: none."),
    ] = None,
    radius: Annotated[
        list[float] | None,
        Option(
            help="Print the accuracy at this radius; repeatable. Default: the radii that are "
            "decided, or 0, 0.25, 0.5, 0.75."
        ),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Certify a classifier by randomized smoothing: find the radius in which an answer holds."""
    from zopde.studies.certify import CertifyConfig, run_certification
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
        decide=tuple(decide or ()),
        batch=batch,
        every=every,
        images=max_images,
        seed=seed,
        device=device,
    )
    with prints_to_stderr():
        metrics = run_certification(
            config, out, resume, overwrite, Watcher(), None, beside or (), radius or ()
        )
    if as_json:
        say_json(metrics)
        return
    show(study_named("certify").table(metrics))
    say(f"one line per image: {out / 'certificates.tsv'}")
    say(f"picture: {out / 'certified_accuracy.png'}")


def attack(
    certification: Annotated[
        Path, Argument(help="The run folder of `zopde certify`, or its table.")
    ],
    model: Annotated[
        str,
        Option(
            help="Attack by the gradients of this model: a file or an import string. "
            "Default: the certified model."
        ),
    ] = "",
    steps: Annotated[int, Option(help="Take this many steps of projected gradient descent.")] = 40,
    draws: Annotated[int, Option(help="Average each gradient over this many noisy samples.")] = 16,
    n: Annotated[
        int, Option("--n", help="Decide the answer at the end from this many samples.")
    ] = 10_000,
    alpha: Annotated[
        float, Option(help="Accept a wrong answer there with this probability.")
    ] = 0.001,
    reach: Annotated[float, Option(help="Attack within this many certified radii.")] = 1.0,
    max_points: Annotated[int, Option(help="Attack at most this many points; 0: all.")] = 0,
    seed: Annotated[int, Option(help="Draw the noise from this seed.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Try to change certified answers within their radius, by projected gradient descent (L2)."""
    from zopde.studies.certify import AttackSettings, attack_certificates

    settings = AttackSettings(steps, draws, n, alpha, reach, max_points, seed)
    with prints_to_stderr():
        result = attack_certificates(certification, settings, Watcher(), model=model)
    if as_json:
        say_json(result)
        return
    names = ("points", "changed", "expected", "no_answer", "seconds")
    row = {name: result[name] for name in names if name != "expected" or reach <= 1}
    title = f"attacked within {reach:g} certified radii, {steps} steps"
    table_of([row], title, {"expected": "allowed by alpha"})
    if reach > 1:
        say("beyond the certified radius nothing is promised")
    elif result["share_at_least"] > result["share_allowed"]:
        say("more answers changed than alpha allows: is the model a fixed function of its input?")
        raise typer.Exit(1)
