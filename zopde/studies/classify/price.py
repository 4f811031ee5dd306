"""What a classification will cost, from a sample of its own work on the first batch."""

from __future__ import annotations

import torch
from torch import nn

from zopde.contracts import Objective
from zopde.errors import InputError
from zopde.oracle.coordinates import Coordinates
from zopde.studies.classify.labels import LABELS, Label
from zopde.studies.classify.open import Opened
from zopde.studies.classify.train import gradient_of, masks_of, score_layers, score_of
from zopde.studies.price import Price, seconds_of_a_probe, seconds_of_directions, wait_for_workers
from zopde.studies.run import Place
from zopde.studies.scores import queries_of
from zopde.timing import median_seconds

_FEW_DIRECTIONS, _FEW_IMAGES = 16, 6  # which tell how the layers share


def price(opened: Opened, name: str, place: Place) -> Price:
    """What one label will cost, for one seed; nothing is trained."""
    label, seed, images = LABELS[name], opened.seeds[0], opened.images
    network, batches = opened.new_network(seed), opened.batches(seed)
    if label.gradient == "backprop":
        queries, scoring = 1, 0.0
        gradient = gradient_of(opened, label, network, None, seed, None)
        objective = images.objective(*batches.at(0))
        seconds = median_seconds(lambda: gradient(network, objective, 0))
    else:
        with torch.inference_mode():
            objective = images.objective(*batches.at(0))
            queries, seconds = _probing(opened, label, network, objective, place)
            scoring = _scoring(opened, label, network, objective, place)
    seconds += median_seconds(lambda: images.objective(*batches.at(1)))
    scored = 0
    if label.mask != "none":
        scored = queries_of(score_of(opened, label), opened.queries.score_directions)
    return Price(
        name,
        opened.iterations,
        scored + opened.iterations * queries,
        scoring + seconds * opened.iterations,
        seconds_per_iteration=seconds,
        seconds_per_epoch=seconds * batches.per_epoch,
    )


def _probing(
    opened: Opened, label: Label, network: nn.Module, objective: Objective, place: Place
) -> tuple[int, float]:
    """Queries and seconds of a gradient by queries."""
    queries, workers = opened.queries, opened.workers
    total, seed = Coordinates(network).total, opened.seeds[0]
    base = median_seconds(lambda: objective(network, 1))  # for the running statistics
    if label.gradient == "rge":
        q = queries.directions or total
        oracle = workers.oracle_at(queries.chunk, q, place.pool)(network, objective)
        if workers.elsewhere:
            wait_for_workers(oracle, queries.mu)
        return q + 2, 2 * base + seconds_of_directions(oracle, q, 2 * queries.chunk)
    active = torch.arange(total)
    if label.mask == "resampled":
        # Which layers the probes are in decides what they cost; a rough score tells.
        directions = min(_FEW_DIRECTIONS, queries.score_directions)
        images = min(_FEW_IMAGES, queries.score_images)
        scores, scoring = score_layers(opened, label, network, seed, directions, images, place.pool)
        if scoring.ratios is None:
            raise InputError(
                "zo.score", got="scores that are not finite", expected="ones that can be ranked"
            )
        masks = masks_of(label, scores, scoring.ratios, opened.resample, seed, network)
        active = masks.mask(0).nonzero().flatten()
    oracle = workers.oracle_at(queries.chunk, len(active), place.pool)(network, objective)
    if workers.elsewhere:
        wait_for_workers(oracle, queries.mu)
    chunk = workers.probes_per_pass(queries.chunk, len(active))
    seconds = seconds_of_a_probe(oracle, list(active.split(chunk)), queries.mu)
    return len(active) + 2, 2 * base + seconds * len(active)


def _scoring(
    opened: Opened, label: Label, network: nn.Module, objective: Objective, place: Place
) -> float:
    """Seconds of scoring the layers."""
    queries = opened.queries
    if label.mask == "none" or queries.score != "zo-grasp":
        return 0.0
    q = queries.score_directions
    oracle = opened.workers.oracle_at(queries.chunk, q, place.pool)(network, objective)
    images = queries.score_images * len(opened.images.data.classes)
    batch = len(opened.batches(opened.seeds[0]).at(0)[1])
    return 2 * seconds_of_directions(oracle, q, queries.chunk) * images / batch
