"""Scores by name, and the layer-wise ratios that a run keeps."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from zopde.contracts import Objective
from zopde.files import identity_of, reading
from zopde.progress import Progress
from zopde.seeding import generator
from zopde.sparsity import (
    LayerRatios,
    Scores,
    grasp_scores,
    layer_ratios,
    magnitude_scores,
    random_scores,
    zo_grasp_scores,
)
from zopde.studies.folder import RunFolder
from zopde.training import Fitted, OracleAt

FILE = "layer_ratios.json"
_COSTS = ("queries", "solver_steps", "seconds")  # that are kept, in the order of `Fitted`


@dataclass(frozen=True)
class Scoring:
    """Layer-wise ratios, and what they cost."""

    # None where the scores were not finite, so that nothing can be ranked
    ratios: LayerRatios | None
    # Of no iteration; `stopped` says why there are no ratios. With "grasp" its solver steps are the
    # differentiable twin's
    cost: Fitted

    @property
    def active_shares(self) -> dict[str, float]:
        """Layer -> share of its weights that is active; empty where there are no ratios."""
        layers = self.ratios.layers if self.ratios else ()
        return {layer.name: 1 - layer.sparsity for layer in layers if layer.maskable}


def scores_by(
    score: str,
    network: nn.Module,
    objective: Objective,
    directions: int,
    mu: float,
    seed: int,
    oracles: OracleAt,
) -> Scores:
    """The scores that a setting names; a function of the seed where they are random."""
    draw = generator(seed, "scores")
    if score == "random":
        return random_scores(network, draw)
    if score == "magnitude":
        return magnitude_scores(network)
    if score == "grasp":
        return grasp_scores(network, objective)
    assert score == "zo-grasp"
    return zo_grasp_scores(network, objective, directions, mu, generator=draw, oracle_at=oracles)


def cost_of(scores: Scores, solver_steps: int, seconds: float) -> Fitted:
    """What scores cost, of no iteration."""
    checked = {"scores": scores.checking} if scores.checking else {}
    return Fitted(0, scores.queries, solver_steps, seconds, checked=checked)


def queries_of(score: str, directions: int) -> int:
    """Queries that a score takes."""
    return {"grasp": 1, "zo-grasp": 2 * (directions + 1)}.get(score, 0)


def ratios_from(network: nn.Module, scores: Scores, sparsity: float, cost: Fitted) -> Scoring:
    """The layer-wise ratios that scores give, or why they give none."""
    if not scores.values.isfinite().all():
        return Scoring(None, replace(cost, stopped="scores of the layers not finite"))
    return Scoring(layer_ratios(network, scores, sparsity), cost)


def tell(progress: Progress, scoring: Scoring, who: str, what: str) -> None:
    """Note the ratios of a training, layer by layer, or why there are none."""
    progress.note(f"{who}: {scoring.cost.stopped or what}")
    for line in str(scoring.ratios or "").splitlines():
        progress.note(f"  {line}")


def write_scoring(
    folder: RunFolder, path: Path, scoring: Scoring, score: str, sparsity: float
) -> None:
    """Keep ratios, where there are some, for an interrupted run."""
    if scoring.ratios is None:
        return
    costs = {name: getattr(scoring.cost, name) for name in (*_COSTS, "checked")}
    content = {"score": score, "sparsity": sparsity, **costs, **scoring.ratios.as_tree()}
    content["checksum"] = identity_of(json.dumps(content, sort_keys=True))
    folder.write_json(str(path.relative_to(folder.root)), content)


def read_scoring(path: Path) -> Scoring:
    """What `write_scoring` kept."""
    remedy = "delete it to score again, or start over with --overwrite"
    with reading("layer-wise ratios", path, "what the run wrote", remedy):
        content = json.loads(path.read_text(encoding="utf-8"))
        checksum = content.pop("checksum", None)  # older versions wrote none
        if checksum not in (None, identity_of(json.dumps(content, sort_keys=True))):
            raise ValueError("its checksum is wrong")
        costs = [content[name] for name in _COSTS]
        cost = replace(Fitted(0, *costs), checked=content.get("checked", {}))
        return Scoring(LayerRatios.from_tree(content), cost)
