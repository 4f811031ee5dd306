"""Whether certificates hold: an attack on each, and the smoothed answer where it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zopde.data import ImageData
from zopde.errors import InputError
from zopde.memory import keep_freed_memory
from zopde.progress import Progress, Silent
from zopde.seeding import generator
from zopde.smoothing import ABSTAIN, attack, lower_bound
from zopde.studies import limits
from zopde.studies.certificates import Row
from zopde.studies.certify.open import MODEL, Opened, open_certification
from zopde.studies.certify.show import read_certification
from zopde.studies.folder import RunFolder, locked
from zopde.studies.settings import check_fields

_AT_ONCE = 2048  # inputs, noise counted, that pass the model in one step of the attack


@dataclass(frozen=True)
class AttackSettings:
    """How hard certificates are attacked, checked when it is built.

    Raises:
        InputError: If a value is outside its legal range.
    """

    steps: limits.Count = 40  # of projected gradient descent
    draws: limits.Count = 16  # of noise per step
    n: limits.Count = 10_000  # samples of the smoothed classifier at the attacked input
    alpha: limits.Probability = 0.001  # probability with which its answer there may be wrong
    # Attack within so many certified radii; 1 stays inside, where nothing may change
    reach: limits.Positive = 1.0
    limit: limits.Whole = 0  # at most so many certified points; 0: all
    seed: limits.Seed = 0  # decides all noise

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Attacked:
    """What became of one certified point."""

    index: int  # number of the image
    prediction: int  # what was certified
    radius: float  # within which it should hold
    distance: float  # from the image to where the attack ended
    answer: int  # the smoothed classifier's there, or -1

    @property
    def changed(self) -> bool:
        """Whether another class is the answer; no answer is none."""
        return self.answer not in (self.prediction, ABSTAIN)


def attack_certificates(
    certification: Path | str,
    plan: AttackSettings | None = None,
    progress: Progress | None = None,
    images: ImageData | None = None,
    model: str = "",
) -> dict[str, Any]:
    """Try to change the smoothed answer inside every certified radius.

    Writes `attack.tsv`, a line per point, and `attack.json` beside the certificates.

    Args:
        certification: The folder of `run_certification`, or the table in it.
        plan: How hard; the defaults if None.
        progress: Who is watching; nobody by default.
        images: Those of the run, where they were the caller's own.
        model: A white box that answers as the certified model does; "": that model itself.

    Returns:
        The content of `attack.json`: how many points `changed`, and how many may be `expected`
        to by chance: the share alpha for a wrong certificate, and that for a wrong answer now.

    Raises:
        InputError: If there is no certified point, or the model is no white box.
    """
    keep_freed_memory()
    plan, watcher, folder = plan or AttackSettings(), progress or Silent(), Path(certification)
    folder = folder.parent if folder.is_file() else folder
    certified, rows = read_certification(folder)
    held = [row for row in rows if row.prediction != ABSTAIN][: plan.limit or None]
    if not held:
        raise InputError("certificates", got="abstentions only", expected="a certified point")
    with locked(folder):
        attacked = replace(certified, model=model) if model else certified
        opened, run = open_certification(attacked, folder, watcher, images), RunFolder(folder)
        for name, (digest, what) in opened.records.items():
            if name != MODEL or not model:
                run.check_record(name, digest, what)
        began = time.perf_counter()
        points = _attack(opened, plan, held, watcher)
        result = _summary(opened, plan, points, certified.model, time.perf_counter() - began)
        lines = ["\t".join(map(repr, vars(point).values())) for point in points]
        lines.insert(0, "\t".join(Attacked.__dataclass_fields__))
        run.write_text("attack.tsv", "\n".join(lines) + "\n")
        run.write_json("attack.json", result)
    return result


def _attack(
    opened: Opened, plan: AttackSettings, held: list[Row], progress: Progress
) -> list[Attacked]:
    smooth = opened.smooth
    if not isinstance(smooth.base_classifier, nn.Module):
        got = f"{opened.model!r}, a {type(smooth.base_classifier).__name__}"
        expected = "a torch module: the attack goes back through it"
        remedy = "name a white box that answers alike"
        raise InputError("model", got=got, expected=expected, remedy=remedy)
    smooth.base_classifier.eval().requires_grad_(False)
    points: list[Attacked] = []
    size = max(1, _AT_ONCE // plan.draws)
    with progress.stage("attacked points", len(held)) as advance:
        for first in range(0, len(held), size):
            rows = held[first : first + size]
            x = torch.stack([opened.inputs(row.index) for row in rows])
            ends = attack(
                smooth.base_classifier,
                x,
                torch.tensor([row.prediction for row in rows], device=x.device),
                plan.reach * torch.tensor([row.radius for row in rows]),
                smooth.sigma,
                generator(plan.seed, "attack", 2 * first),
                plan.steps,
                plan.draws,
            )
            lengths = (ends - x).flatten(1).norm(dim=1).tolist()
            for row, end, length in zip(rows, ends, lengths, strict=True):
                draw = generator(plan.seed, "attack", 2 * row.index + 1)
                answer = smooth.predict(end, plan.n, plan.alpha, draw, opened.sampling.batch)
                points.append(Attacked(row.index, row.prediction, row.radius, length, answer))
                advance(text=f"{sum(point.changed for point in points)} changed")
    return points


def _summary(
    opened: Opened, plan: AttackSettings, points: list[Attacked], model: str, seconds: float
) -> dict[str, Any]:
    changed, allowed = sum(point.changed for point in points), opened.sampling.alpha + plan.alpha
    return {
        "points": len(points),
        "changed": changed,
        "no_answer": sum(point.answer == ABSTAIN for point in points),
        "expected": allowed * len(points),
        # With 99.9 % confidence the true share is above this; were it above what is allowed,
        # something would be wrong.
        "share_at_least": lower_bound(changed, len(points), 0.001),
        "share_allowed": allowed,
        **vars(plan),
        "sigma": opened.smooth.sigma,
        "model": model,
        "seconds": round(seconds, 3),
    }
