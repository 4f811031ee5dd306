"""Training one label with one seed, from scratch or from the checkpoint that is there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zopde.oracle import UnitOracle, WeightOracles
from zopde.oracle.coordinates import Coordinates, from_reals, reals
from zopde.sparsity import FixedMask, LayerMasks, Masks, RandomMasks, Scores, kept_mask
from zopde.studies.classifiers import StandardisedClassifier, save_classifier
from zopde.studies.classify.evaluate import LearningCurve, Point, Verdict, evaluate
from zopde.studies.classify.labels import LABELS, Label
from zopde.studies.classify.open import Opened
from zopde.studies.run import Place, total_cost
from zopde.studies.scores import FILE, Scoring, cost_of, ratios_from, scores_by, tell, write_scoring
from zopde.training import (
    Backprop,
    ByUnits,
    Fitted,
    GradientSource,
    Masked,
    RandomDirections,
    RunningStatistics,
    ZerothOrder,
)
from zopde.training.loop import fit_watched


@dataclass(frozen=True)
class Trained:
    """What became of a training."""

    cost: Fitted  # the scoring of the layers included
    verdict: Verdict  # on the test images
    points: Sequence[Point]  # the learning curve
    scoring: Scoring  # of the layers


def train(opened: Opened, name: str, seed: int, place: Place) -> Trained:
    """Train the label `name`, keep its model and judge it on the test images."""
    label, folder = LABELS[name], place.of(name, seed)
    network = opened.new_network(seed)
    scoring, masks = _masks(opened, name, network, seed, place)
    cost, curve = scoring.cost, LearningCurve(folder / "learning.csv")
    if not cost.stopped:
        # Where queries are all, no autograd graph can be built.
        by_queries = label.gradient != "backprop"
        with torch.inference_mode() if by_queries else nullcontext():
            cost = _fit(opened, name, network, masks, seed, place, curve, cost)
    images = opened.images
    model = StandardisedClassifier(network, images.mean, images.deviation, images.data.classes)
    channels = images.data.channels
    save_classifier(model, opened.kind, opened.sizes, channels, folder / "model.safetensors")
    verdict = evaluate(images, network)
    place.done(name, seed, cost, accuracy=verdict.accuracy, loss=verdict.loss)
    return Trained(cost, verdict, curve.points, scoring)


def _fit(
    opened: Opened,
    name: str,
    network: nn.Module,
    masks: Masks | None,
    seed: int,
    place: Place,
    curve: LearningCurve,
    before: Fitted,
) -> Fitted:
    batches, length = opened.batches(seed), opened.iterations

    def judge(cost: Fitted) -> None:
        if cost.iterations % batches.per_epoch == 0 or cost.iterations == length:
            verdict, total = evaluate(opened.images, network), total_cost([before, cost])
            paid = cost.iterations, total.queries, round(total.seconds, 3)
            curve.add(Point(*paid, verdict.accuracy, verdict.loss))

    cost = fit_watched(
        network,
        lambda iteration: opened.images.objective(*batches.at(iteration)),
        gradient_of(opened, LABELS[name], network, masks, seed, place.pool),
        opened.optimise,
        length,
        place.of(name, seed),
        place.progress,
        f"{name}, seed {seed}",
        every_seconds=opened.every_seconds,
        after=judge,
        told=place.telling(name, seed),
    )
    return total_cost([before, cost])


def _masks(
    opened: Opened, name: str, network: nn.Module, seed: int, place: Place
) -> tuple[Scoring, Masks | None]:
    label = LABELS[name]
    if label.mask == "none":
        return Scoring(None, Fitted(0, 0, 0, 0.0)), None
    queries = opened.queries
    how_many = queries.score_directions, queries.score_images
    scores, scoring = score_layers(opened, label, network, seed, *how_many, place.pool)
    tell(place.progress, scoring, f"{name}, seed {seed}", "layers")
    if scoring.ratios is None:
        return scoring, None
    path = place.of(name, seed) / FILE
    write_scoring(place.folder, path, scoring, score_of(opened, label), queries.sparsity)
    if label.mask == "resampled":
        return scoring, LayerMasks(scoring.ratios, opened.resample, seed)
    return scoring, _pruned(network, kept_mask(scores, scoring.ratios))


def score_of(opened: Opened, label: Label) -> str:
    """The score that shares a label's weights out: first-order labels take the exact one."""
    exact = label.gradient == "backprop" and opened.queries.score == "zo-grasp"
    return "grasp" if exact else opened.queries.score


def score_layers(
    opened: Opened,
    label: Label,
    network: nn.Module,
    seed: int,
    directions: int,
    images: int,
    pool: Executor | None = None,
) -> tuple[Scores, Scoring]:
    """Score the untrained network on so many images of each class; a function of its arguments."""
    began, queries = time.monotonic(), opened.queries
    objective = opened.images.for_scores(images, seed)
    oracles = opened.workers.oracle_at(queries.chunk, directions, pool)
    score = score_of(opened, label)
    scores = scores_by(score, network, objective, directions, queries.mu, seed, oracles)
    cost = cost_of(scores, 0, time.monotonic() - began)
    return scores, ratios_from(network, scores, queries.sparsity, cost)


@torch.no_grad()
def _pruned(network: nn.Module, mask: Tensor) -> Masks:
    """The mask of the weights that are left; the others become zero."""
    for weight, kept in Coordinates(network).parts("mask", mask):
        weight.copy_(from_reals(reals(weight) * kept, weight))
    return FixedMask(mask)


def gradient_of(
    opened: Opened,
    label: Label,
    network: nn.Module,
    masks: Masks | None,
    seed: int,
    pool: Executor | None,
) -> GradientSource:
    """Where a label's gradients come from."""
    if label.gradient == "backprop":
        return Masked(Backprop(), masks) if masks else Backprop()
    queries, total = opened.queries, Coordinates(network).total
    if label.gradient == "rge":
        q = queries.directions or total
        oracles = opened.workers.oracle_at(queries.chunk, q, pool)
        how = queries.mu, queries.scheme, oracles, seed, queries.combine
        directions = RandomDirections(q, *how)
        return RunningStatistics(directions)
    masks = masks or RandomMasks(total, sparsity=0.0, every=1, seed=seed)
    if queries.estimator == "units":
        moving = WeightOracles(queries.chunk, make=UnitOracle)
        return RunningStatistics(ByUnits(masks, queries.mu, queries.scheme, moving))
    oracles = opened.workers.oracle_at(queries.chunk, masks.active, pool)
    return RunningStatistics(ZerothOrder(masks, queries.mu, queries.scheme, oracles))
