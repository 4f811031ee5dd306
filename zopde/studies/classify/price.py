"""What a classification will cost, from a sample of its own work on the first batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zopde.contracts import Objective
from zopde.errors import InputError
from zopde.oracle import UnitOracle
from zopde.oracle.coordinates import Coordinates
from zopde.oracle.norms import uses_batch_statistics
from zopde.sparsity import LayerMasks
from zopde.studies.classify.labels import LABELS, Label
from zopde.studies.classify.open import Opened
from zopde.studies.classify.train import gradient_of, score_layers, score_of
from zopde.studies.price import (
    Price,
    comparisons,
    seconds_of_a_probe,
    seconds_of_directions,
    wait_for_workers,
)
from zopde.studies.run import Place
from zopde.studies.scores import queries_of
from zopde.timing import median_seconds

_FEW_DIRECTIONS, _FEW_IMAGES = 16, 6  # for a rough score


def price(opened: Opened, name: str, place: Place) -> Price:
    """What one label will cost, for one seed; nothing is trained."""
    label, seed, images = LABELS[name], opened.seeds[0], opened.images
    network, batches = opened.new_network(seed), opened.batches(seed)
    if label.gradient == "backprop":
        queries, scoring, checking = 1, 0.0, 0
        gradient = gradient_of(opened, label, network, None, seed, None)
        objective = images.objective(*batches.at(0))
        seconds = median_seconds(lambda: gradient(network, objective, 0))
    else:
        with torch.inference_mode():
            objective = images.objective(*batches.at(0))
            queries, seconds, checking = _probing(opened, label, network, objective, place)
            scoring = _scoring(opened, label, network, objective, place)
    seconds += median_seconds(lambda: images.objective(*batches.at(1)))
    score = "" if label.mask == "none" else score_of(opened, label)
    scored = queries_of(score, opened.queries.score_directions)
    return Price(
        name,
        opened.iterations,
        scored + opened.iterations * queries,
        scoring + seconds * opened.iterations,
        seconds_per_iteration=seconds,
        seconds_per_epoch=seconds * batches.per_epoch,
        checking=checking * comparisons(opened.iterations),
    )


def _probing(
    opened: Opened, label: Label, network: nn.Module, objective: Objective, place: Place
) -> tuple[int, float, int]:
    """Queries and seconds of a gradient by queries, and the queries that verify it, each time."""
    queries, workers, rge = opened.queries, opened.workers, label.gradient == "rge"
    sides = 2 if queries.scheme == "central" else 1
    statistics = any(map(uses_batch_statistics, network.modules()))  # a forward of their own
    alone = statistics + (sides == 1)  # queries that move nothing
    base = median_seconds(lambda: objective(network, 1))
    active = _active(opened, label, network, place)
    if queries.estimator == "units" and not rge:
        count, seconds, checking = _by_units(opened, network, objective, active)
        return sides * count + 1, base + sides * seconds, checking
    count = queries.directions or len(active) if rge else len(active)
    oracle = workers.oracle_at(queries.chunk, count, place.pool)(network, objective)
    if workers.elsewhere:
        wait_for_workers(oracle, queries.mu)
    if rge:
        seconds = seconds_of_directions(oracle, count, 2 * queries.chunk)
    else:
        passes = list(active.split(workers.probes_per_pass(queries.chunk, count)))
        seconds = count * seconds_of_a_probe(oracle.coordinates, passes, queries.mu)
    checking = sum(oracle.checked.values())
    return sides * count + alone, alone * base + sides * seconds, checking


def _by_units(
    opened: Opened, network: nn.Module, objective: Objective, active: Tensor
) -> tuple[int, float, int]:
    """How many units and weights an iteration moves, in how many seconds, and what is examined."""
    queries = opened.queries
    oracle = UnitOracle(network, objective, queries.chunk)
    oracle.samples()  # names the units, and examines them
    units, weights = oracle.cheaper(active)
    seconds = 0.0
    for ask, moved in ((oracle.units, units), (oracle.coordinates, weights)):
        if len(moved):
            passes = list(moved.split(queries.chunk))
            seconds += len(moved) * seconds_of_a_probe(ask, passes, queries.mu)
    return len(units) + len(weights), seconds, sum(oracle.checked.values())


def _active(opened: Opened, label: Label, network: nn.Module, place: Place) -> Tensor:
    """Weights that an iteration probes: which layers they are in decides what they cost."""
    if label.mask != "resampled":
        return torch.arange(Coordinates(network).total)
    queries, seed = opened.queries, opened.seeds[0]
    # A rough score tells how the layers share.
    directions = min(_FEW_DIRECTIONS, queries.score_directions)
    images = min(_FEW_IMAGES, queries.score_images)
    _, scoring = score_layers(opened, label, network, seed, directions, images, place.pool)
    if scoring.ratios is None:
        got, expected = "scores that are not finite", "ones that can be ranked"
        raise InputError("zo.score", got=got, expected=expected)
    return LayerMasks(scoring.ratios, opened.resample, seed).mask(0).nonzero().flatten()


def _scoring(
    opened: Opened, label: Label, network: nn.Module, objective: Objective, place: Place
) -> float:
    queries = opened.queries
    if label.mask == "none" or queries.score != "zo-grasp":
        return 0.0
    q = queries.score_directions
    oracle = opened.workers.oracle_at(queries.chunk, q, place.pool)(network, objective)
    images = queries.score_images * len(opened.images.data.classes)
    batch = len(opened.batches(opened.seeds[0]).at(0)[1])
    return 2 * seconds_of_directions(oracle, q, queries.chunk) * images / batch
