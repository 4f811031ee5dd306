"""Training one method with one seed."""

from __future__ import annotations

import time
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import nn

from zopde.oracle.coordinates import Coordinates
from zopde.progress import Progress
from zopde.sparsity import FixedMask, LayerMasks, LayerRatios, Masks, RandomMasks, Scores, kept_mask
from zopde.studies.classify.network import save_classifier
from zopde.studies.classify.problem import (
    LearningCurve,
    Point,
    Problem,
    Verdict,
    batches,
    evaluate,
    new_classifier,
    scoring_images,
)
from zopde.studies.classify.settings import METHODS, ClassificationConfig, Method
from zopde.studies.folder import RunFolder
from zopde.studies.scores import FILE, Scoring, ratios_from, scores_by, write_scoring
from zopde.studies.settings import Span
from zopde.studies.workers import oracle_at
from zopde.training import (
    Backprop,
    Fitted,
    GradientSource,
    Masked,
    Optimise,
    RandomDirections,
    RunningStatistics,
    ZerothOrder,
    fit,
)


@dataclass(frozen=True)
class Trained:
    """What became of a training.

    Args:
        cost: The scoring of the layers included.
        verdict: On the test images.
        points: The learning curve.
        ratios: Of the layers, where there are any.
    """

    cost: Fitted
    verdict: Verdict
    points: tuple[Point, ...]
    ratios: LayerRatios | None


@final
class Trainer:
    """Trains the methods of a run, each in its own folder, each resumable.

    Args:
        config: The run's settings.
        problem: The images.
        folder: Where checkpoints, histories and models go.
        progress: Who is watching.
        pool: Workers for zeroth-order probes; None for this process.
    """

    def __init__(
        self,
        config: ClassificationConfig,
        problem: Problem,
        folder: RunFolder,
        progress: Progress,
        pool: Executor | None = None,
    ) -> None:
        self._config = config
        self._problem = problem
        self._folder = folder
        self._progress = progress
        self._pool = pool

    def train(self, name: str, seed: int) -> Trained:
        """Train from scratch, or from the checkpoint that is there."""
        method, config = METHODS[name], self._config
        folder = self._folder.of(name, seed)
        network = new_classifier(config, self._problem, seed)
        scoring, masks = self._masks(name, method, network, seed)
        cost, curve = scoring.cost, LearningCurve(folder / "learning.csv")
        if not cost.stopped:
            # Where queries are all, no autograd graph can be built.
            plain = method.gradient != "backprop"
            with torch.inference_mode() if plain else nullcontext():
                cost = self._fit(name, method, network, masks, seed, curve, cost)
        save_classifier(network, config, self._problem, folder / "model.safetensors")
        verdict = evaluate(self._problem, network)
        return Trained(cost, verdict, tuple(curve.points), scoring.ratios)

    def _masks(
        self, name: str, method: Method, network: nn.Module, seed: int
    ) -> tuple[Scoring, Masks | None]:
        if method.mask == "none":
            return Scoring(None, Fitted(0, 0, 0, 0.0)), None
        config = self._config
        scores, scoring = score_layers(config, self._problem, method, network, seed, self._pool)
        self._progress.note(f"{name}, seed {seed}: {scoring.cost.stopped or 'layers'}")
        for line in str(scoring.ratios or "").splitlines():
            self._progress.note(f"  {line}")
        if scoring.ratios is None:
            return scoring, None
        path = self._folder.of(name, seed) / FILE
        write_scoring(self._folder, path, scoring, score_of(config, method), config.zo.sparsity)
        return scoring, masks_of(
            config, self._problem, method, scores, scoring.ratios, seed, network
        )

    def _fit(
        self,
        name: str,
        method: Method,
        network: nn.Module,
        masks: Masks | None,
        seed: int,
        curve: LearningCurve,
        before: Fitted,
    ) -> Fitted:
        config = self._config
        images = batches(config, self._problem, seed)
        length = iterations(config, self._problem)

        def judge(cost: Fitted) -> None:
            if cost.iterations % images.per_epoch == 0 or cost.iterations == length:
                found = evaluate(self._problem, network)
                total = _together(before, cost)
                curve.add(
                    Point(
                        cost.iterations,
                        total.queries,
                        round(total.seconds, 3),
                        found.accuracy,
                        found.loss,
                    )
                )

        with self._progress.stage(f"{name}, seed {seed}", length) as advance:
            cost = fit(
                network,
                lambda iteration: self._problem.objective(*images.at(iteration)),
                gradient_of(config, method, network, masks, seed, self._pool),
                optimise(config, self._problem),
                length,
                self._folder.of(name, seed),
                every_seconds=config.run.checkpoint_seconds,
                progress=lambda loss: advance(1, f"loss {loss:.4g}"),
                after=judge,
            )
        if cost.stopped:
            self._progress.note(f"{name}, seed {seed}: stopped early, {cost.stopped}")
        return _together(before, cost)


def _together(before: Fitted, cost: Fitted) -> Fitted:
    return replace(
        cost, queries=before.queries + cost.queries, seconds=before.seconds + cost.seconds
    )


def iterations(config: ClassificationConfig, problem: Problem) -> int:
    """Updates of a training."""
    return Span.parse("training.length", config.training.length).iterations(
        batches(config, problem, 0).per_epoch
    )


def optimise(config: ClassificationConfig, problem: Problem) -> Optimise:
    """How gradients become updates, of every method alike."""
    training = config.training
    warmup = Span.parse("training.warmup", training.warmup)
    return Optimise(
        training.optimizer,
        training.lr,
        warmup.iterations(batches(config, problem, 0).per_epoch),
        training.clip,
        training.weight_decay,
    )


def score_of(config: ClassificationConfig, method: Method) -> str:
    """The score that shares a method's weights out: first-order methods take the exact one."""
    exact = method.gradient == "backprop" and config.zo.score == "zo-grasp"
    return "grasp" if exact else config.zo.score


def score_layers(
    config: ClassificationConfig,
    problem: Problem,
    method: Method,
    network: nn.Module,
    seed: int,
    pool: Executor | None = None,
) -> tuple[Scores, Scoring]:
    """Score the untrained network; a function of (config, network, seed)."""
    began = time.monotonic()
    images = scoring_images(config, problem, seed)
    objective = problem.objective(images.pixels, images.labels)
    q, mu = config.zo.score_directions, config.zo.mu
    oracles = oracle_at(config, pool, None, q)
    scores = scores_by(score_of(config, method), network, objective, q, mu, seed, oracles)
    cost = Fitted(0, scores.queries, 0, time.monotonic() - began)
    return scores, ratios_from(network, scores, config.zo.sparsity, cost)


@torch.no_grad()
def masks_of(
    config: ClassificationConfig,
    problem: Problem,
    method: Method,
    scores: Scores,
    ratios: LayerRatios,
    seed: int,
    network: nn.Module,
) -> Masks:
    """A method's masks; a pruned network's weights become zero."""
    if method.mask == "resampled":
        every = Span.parse("zo.resample", config.zo.resample).iterations(
            batches(config, problem, seed).per_epoch
        )
        return LayerMasks(ratios, every, seed)
    kept = kept_mask(scores, ratios)
    for parameter in Coordinates(network).slices:
        weight = network.get_parameter(parameter.name)
        weight.mul_(kept[parameter.start : parameter.stop].view(parameter.shape))
    return FixedMask(kept)


def gradient_of(
    config: ClassificationConfig,
    method: Method,
    network: nn.Module,
    masks: Masks | None,
    seed: int,
    pool: Executor | None,
) -> GradientSource:
    """Where a method's gradients come from."""
    if method.gradient == "backprop":
        return Masked(Backprop(), masks) if masks else Backprop()
    zo, total = config.zo, Coordinates(network).total
    if method.gradient == "rge":
        q = zo.directions or total
        oracles = oracle_at(config, pool, None, q)
        return RunningStatistics(RandomDirections(q, zo.mu, zo.scheme, oracles, seed))
    masks = masks or RandomMasks(total, sparsity=0.0, every=1, seed=seed)
    oracles = oracle_at(config, pool, None, masks.active)
    return RunningStatistics(ZerothOrder(masks, zo.mu, zo.scheme, oracles))
