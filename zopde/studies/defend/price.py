"""What a defence run will take in queries, money and time, from a sample of its own work."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from zopde.sparsity import RandomMasks
from zopde.studies.defend.labels import LABELS
from zopde.studies.defend.loss import Losses, Reconstruction
from zopde.studies.defend.open import AUTOENCODER, DENOISER, PRETRAINING, Opened
from zopde.studies.defend.train import check_white, free_convolutions, gradient_of
from zopde.studies.defended import Defended
from zopde.studies.price import Price
from zopde.studies.run import Place
from zopde.timing import median_seconds
from zopde.training import Backprop


def price(opened: Opened, name: str, place: Place) -> Price:  # noqa: ARG001 - no workers
    """What one label will cost, for one seed, with the whole of the common start.

    A classifier that is given gets some batches' worth of queries for that; an untrained one stands
    in for one that the run would train first.
    """
    label, seed = LABELS[name], opened.seeds[0]
    check_white(name, opened.classifier(seed))
    iterations = opened.budget.iterations_of(name)
    queries, update = 0, 0.0
    if label.trained:
        queries = opened.budget.total(label, iterations)
        update = _update(opened, name, seed)
    defence = opened.new_defence(seed, label.autoencoder).eval() if label.denoiser else None
    sampling, images = opened.sampling, opened.images
    copies = sampling.n0 + sampling.n
    x = images.inputs(opened.judged.pixels[:1]).expand(min(sampling.batch, copies), -1, -1, -1)
    whole = Defended(defence, opened.classifier(seed), images.sigma, opened.box.classes).eval()
    with torch.inference_mode():
        sample = median_seconds(lambda: whole(x)) / len(x)
    certification = len(opened.judged) * copies
    start = _start(opened, seed, label.autoencoder) if label.denoiser else 0.0
    return Price(
        name,
        iterations,
        queries,
        update * iterations + certification * sample + start,
        seconds_per_iteration=update,
        seconds_per_epoch=update * images.batches(seed, opened.budget.batch).per_epoch,
        money=opened.box.ledger.price * queries,
        certification=certification,
    )


def _update(opened: Opened, name: str, seed: int) -> float:
    label = LABELS[name]
    defence = opened.new_defence(seed, label.autoencoder).eval()
    trusting = replace(opened, below=0.0)  # a surrogate that has learned nothing
    losses = Losses(trusting, label, defence, seed, opened.black_box(seed), lambda _: None)
    masks = None
    if label.gradient == "weights":
        total = free_convolutions(defence.front)
        masks = RandomMasks(total, max(0.0, 1 - opened.queries.weights / total), 1, seed)
    source = gradient_of(opened, masks)
    return median_seconds(lambda: source(defence.front, losses.at(0), 0))


def _start(opened: Opened, seed: int, autoencoder: bool) -> float:
    """Seconds of the training by mean square, which all labels of a seed share."""
    defence = opened.new_defence(seed, autoencoder)
    pixels = opened.images.batches(seed, opened.start_batch).at(0)[0]
    loss = Reconstruction(*opened.images.pair(pixels, seed, PRETRAINING, 0))
    denoiser, encoder = defence.front
    stages: dict[str, nn.Module] = {DENOISER: denoiser}
    if autoencoder:
        stages[AUTOENCODER] = nn.Sequential(encoder, defence.decoder)
    backprop = Backprop()
    return sum(
        opened.start[stage] * median_seconds(partial(backprop, network, loss, 0))
        for stage, network in stages.items()
    )
