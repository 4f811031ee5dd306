"""The frozen model, and the prompts of one label with one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zopde.nets import (
    GroundingModel,
    GroundingPrompts,
    Projected,
    recall_at,
    temporal_distance,
)
from zopde.oracle import WeightOracle, WeightOracles
from zopde.oracle.coordinates import Coordinates
from zopde.seeding import generator
from zopde.sparsity import RandomMasks
from zopde.studies.prompt.labels import LABELS, Label
from zopde.studies.prompt.open import Asked, Opened
from zopde.studies.run import Place
from zopde.training import (
    Backprop,
    Fitted,
    GradientSource,
    RandomDirections,
    ZerothOrder,
    save_checkpoint,
)
from zopde.training.loop import fit_watched

MODEL, PROMPTS = "model", "prompts.pt"
_AT_ONCE = 64  # test videos


@dataclass(frozen=True)
class Trained:
    """What became of a training."""

    cost: Fitted  # a query is the loss of one batch
    spans: Float[Tensor, "video 2"]  # what is found in the test videos
    recall: list[float]  # R@1 of them, at `THRESHOLDS`
    loss: float  # their mean temporal distance
    base_recall: list[float]  # R@1 of the model alone, on test videos of the base look


def begin(opened: Opened, place: Place, resume: bool) -> Opened:  # noqa: ARG001 - the same for both
    """Train the model of every seed on the base videos; from then on it is frozen."""
    train = opened.base["train"]

    @cache
    def model(seed: int) -> GroundingModel:
        built, batches = opened.build(seed).train(), partial(train.at, opened.base_batch, seed)
        fit_watched(
            *(built, batches, Backprop(), opened.base_optimise, opened.base_iterations),
            *(place.of(MODEL, seed), place.progress, f"{MODEL}, seed {seed}"),
            every_seconds=opened.every_seconds,
            told=place.telling(MODEL, seed),
        )
        return built.eval().requires_grad_(False)

    for seed in opened.seeds:
        model(seed)
    return replace(opened, model=model)


def train(opened: Opened, name: str, seed: int, place: Place) -> Trained:
    """Find the prompts of the label `name`, keep them, and judge them on the test videos."""
    label, folder = LABELS[name], place.of(name, seed)
    prompted, cost = opened.prompted(label, seed), Fitted(0, 0, 0, 0.0)
    network = trained_part(opened, label, prompted, seed)
    if opened.updates[name]:
        batches = partial(opened.other["train"].at, opened.batch, seed)
        source = gradient_of(opened, label, network, seed)
        cost = fit_watched(
            *(network, batches, source, opened.optimise[name], opened.updates[name]),
            *(folder, place.progress, f"{name}, seed {seed}"),
            every_seconds=opened.every_seconds,
            told=place.telling(name, seed),
        )
        found = network.moved() if isinstance(network, Projected) else prompted.state_dict()
        kept = {kind: found[kind].detach() for kind in ("visual", "text") if kind in found}
        save_checkpoint(folder / PROMPTS, kept)
    test = opened.other["test"]
    spans, base = spans_of(network, test), spans_of(opened.model(seed), opened.base["test"])
    recall, base_recall = (
        recall_at(found, asked.videos.spans)
        for found, asked in ((spans, test), (base, opened.base["test"]))
    )
    loss = float(temporal_distance(spans, test.videos.spans).mean())
    place.done(name, seed, cost, loss=loss)
    return Trained(cost, spans, recall, loss, base_recall)


def trained_part(opened: Opened, label: Label, prompted: GroundingPrompts, seed: int) -> nn.Module:
    """What has the weights that a label trains: the prompts, or the few numbers behind them."""
    if label.gradient != "projected":
        return prompted
    queries, draw = opened.queries, generator(seed, "weights", 1)
    return Projected(prompted, queries.dimension, queries.rank, draw)


def gradient_of(opened: Opened, label: Label, network: nn.Module, seed: int) -> GradientSource:
    """Where a label's gradients come from."""
    if label.gradient == "backprop":
        return Backprop()
    queries = opened.queries
    # One probe after the other, as a model behind a border answers.
    oracles = WeightOracles(1, make=partial(WeightOracle, stacked=False, verify=False))
    if label.gradient == "cge":
        total = Coordinates(network).total
        masks = RandomMasks(total, max(0.0, 1 - queries.entries / total), 1, seed)
        return ZerothOrder(masks, queries.mu, queries.scheme, oracles)
    projected = label.gradient == "projected"
    count = queries.directions_projected if projected else queries.directions
    mu = queries.mu_projected if projected else queries.mu
    return RandomDirections(count, mu, queries.scheme, oracles, seed)


@torch.no_grad()
def spans_of(network: nn.Module, asked: Asked) -> Float[Tensor, "video 2"]:
    """What a network finds in all videos."""
    parts = zip(asked.videos.frames.split(_AT_ONCE), asked.words.split(_AT_ONCE), strict=True)
    return torch.cat([network(frames, words) for frames, words in parts])
