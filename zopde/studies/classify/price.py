"""What a classification run will cost, from a sample of its own work."""

from __future__ import annotations

import time
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from zopde.contracts import Objective, Oracle
from zopde.data import load_images
from zopde.errors import InputError
from zopde.memory import keep_freed_memory
from zopde.oracle.coordinates import Coordinates
from zopde.progress import Progress
from zopde.seeding import generator
from zopde.studies.classify.problem import Problem, batches, new_classifier, problem_of
from zopde.studies.classify.settings import METHODS, ClassificationConfig, Method
from zopde.studies.classify.train import gradient_of, iterations, masks_of, score_layers, score_of
from zopde.studies.scores import queries_of
from zopde.studies.workers import elsewhere, oracle_at, probes_per_pass, worker_pool
from zopde.timing import median_seconds

_SAMPLE = 12  # passes of probes that are timed, spread over the layers
_ENOUGH = 10.0  # seconds of that
_START = 10.0  # seconds that workers take to start


@dataclass(frozen=True)
class MethodForecast:
    """One method's expected cost, for one seed.

    Args:
        method: Its name.
        iterations: Updates.
        queries: Evaluations of the objective.
        seconds_per_iteration: Of training alone.
        seconds_per_epoch: Likewise.
        seconds: All of it, the scoring of the layers included.
    """

    method: str
    iterations: int
    queries: int
    seconds_per_iteration: float
    seconds_per_epoch: float
    seconds: float


def forecast(config: ClassificationConfig, progress: Progress) -> list[MethodForecast]:
    """Time a sample of every method's work on the first batch; nothing is trained or written.

    Of the passes of probes that an iteration makes, every so many-th is timed, so that each
    layer has its share: a probe of a late layer costs a fraction of an early one's.
    """
    keep_freed_memory()
    problem = problem_of(config, load_images(config.data.path))
    plan = []
    with worker_pool(config) as pool:
        for name in config.run.methods:
            with progress.stage(f"sample of {name}", 1) as advance:
                plan.append(_forecast(config, problem, name, pool))
                advance(1)
    return plan


def _forecast(
    config: ClassificationConfig, problem: Problem, name: str, pool: Executor | None
) -> MethodForecast:
    method, seed = METHODS[name], config.run.seeds[0]
    network = new_classifier(config, problem, seed)
    images = batches(config, problem, seed)
    length = iterations(config, problem)
    if method.gradient == "backprop":
        queries, scoring = 1, 0.0
        gradient = gradient_of(config, method, network, None, seed, pool)
        objective = problem.objective(*images.at(0))
        each = median_seconds(lambda: gradient(network, objective, 0))
    else:
        with torch.inference_mode():
            objective = problem.objective(*images.at(0))
            queries, each = _probing(config, problem, method, network, objective, seed, pool)
            scoring = _scoring(config, problem, method, network, objective, pool)
    each += median_seconds(lambda: problem.objective(*images.at(1)))
    asked = 0
    if method.mask != "none":
        asked = queries_of(score_of(config, method), config.zo.score_directions)
    return MethodForecast(
        name,
        length,
        asked + length * queries,
        each,
        each * images.per_epoch,
        scoring + each * length,
    )


def _probing(
    config: ClassificationConfig,
    problem: Problem,
    method: Method,
    network: nn.Module,
    objective: Objective,
    seed: int,
    pool: Executor | None,
) -> tuple[int, float]:
    """Queries and seconds of a gradient by queries."""
    total = Coordinates(network).total
    base = median_seconds(lambda: objective(network, 1))  # for the running statistics
    if method.gradient == "rge":
        q = config.zo.directions or total
        oracle = oracle_at(config, pool, None, q)(network, objective)
        _wake(oracle, config)
        return q + 2, 2 * base + _directions(oracle, q, 2 * config.zo.chunk)
    active = torch.arange(total)
    if method.mask == "resampled":
        # Which layers the probes are in decides what they cost; a rough score tells.
        scores, scoring = score_layers(_rough(config), problem, method, network, seed, pool)
        if scoring.ratios is None:
            raise InputError(
                "zo.score", got="scores that are not finite", expected="ones that can be ranked"
            )
        masks = masks_of(config, problem, method, scores, scoring.ratios, seed, network)
        active = masks.mask(0).nonzero().flatten()
    oracle = oracle_at(config, pool, None, len(active))(network, objective)
    _wake(oracle, config)
    chunk = probes_per_pass(config, len(active))
    each = _probe(oracle, list(active.split(chunk)), config.zo.mu)
    return len(active) + 2, 2 * base + each * len(active)


def _wake(oracle: Oracle, config: ClassificationConfig) -> None:
    """Keep workers busy until all of them have started: one that imports slows the others."""
    began = time.monotonic()
    while elsewhere(config.run) and time.monotonic() - began < _START:
        oracle.coordinates(torch.arange(1), config.zo.mu)


def _probe(oracle: Oracle, passes: list[Tensor], mu: float) -> float:
    """Seconds of a probe, from samples that are spread over all passes alike."""
    oracle.coordinates(passes[0], mu)  # makes what all passes share
    stride = max(1, len(passes) // _SAMPLE)
    seconds, probes = 0.0, 0
    # Middle of the stretches first: one sample may well be all.
    for start in [*range(stride // 2, stride), *range(stride // 2)]:
        some = torch.cat(passes[start::stride])
        began = time.perf_counter()
        oracle.coordinates(some, mu).sum().item()  # a GPU has answered only now
        seconds += time.perf_counter() - began
        probes += len(some)
        if seconds > _ENOUGH:
            break
    return seconds / probes


def _rough(config: ClassificationConfig) -> ClassificationConfig:
    """The same score from fewer queries on fewer images."""
    zo = config.zo
    few = replace(
        zo,
        score_directions=min(16, zo.score_directions),
        score_images=min(6, zo.score_images),
    )
    return replace(config, zo=few)


def _directions(oracle: Oracle, count: int, most: int) -> float:
    """Seconds for `count` random directions, from at most `most` of them."""
    some = min(count, most)
    rows = torch.randn(some, oracle.num_coordinates, generator=generator(0, "probes"))
    return median_seconds(lambda: oracle.directions(rows, 1e-3), 1) * count / some


def _scoring(
    config: ClassificationConfig,
    problem: Problem,
    method: Method,
    network: nn.Module,
    objective: Objective,
    pool: Executor | None,
) -> float:
    if method.mask == "none" or config.zo.score != "zo-grasp":
        return 0.0
    q = config.zo.score_directions
    oracle = oracle_at(config, pool, None, q)(network, objective)
    images = config.zo.score_images * len(problem.data.classes)
    return 2 * _directions(oracle, q, config.zo.chunk) * images / config.training.batch
