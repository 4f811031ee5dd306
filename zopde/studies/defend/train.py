"""Training one label with one seed: first without the classifier, then through it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import final

import torch
from torch import nn

from zopde.contracts import Objective
from zopde.errors import InputError
from zopde.oracle import WeightOracles
from zopde.oracle.coordinates import Coordinates
from zopde.smoothing import Smooth, votes
from zopde.sparsity import LayerMasks, Masks
from zopde.studies.certificates import FILE as CERTIFICATES
from zopde.studies.certificates import Row, certify_images
from zopde.studies.classifiers import Classifier, named_classifier, to_device, with_answers
from zopde.studies.defend.blackbox import BudgetSpentError
from zopde.studies.defend.labels import LABELS, Label
from zopde.studies.defend.loss import Losses, Reconstruction, without_queries
from zopde.studies.defend.open import AUTOENCODER, DENOISER, PRETRAINING, Opened
from zopde.studies.defend.surrogate import Learning
from zopde.studies.defended import Defence, Defended, save_defended
from zopde.studies.folder import RECORD, RunFolder
from zopde.studies.run import Place
from zopde.studies.scores import FILE, cost_of, ratios_from, read_scoring, scores_by, write_scoring
from zopde.training import (
    Backprop,
    Fitted,
    Gradient,
    GradientSource,
    ZerothOrder,
    load_checkpoint,
    save_checkpoint,
)
from zopde.training.loop import fit_watched

CLASSIFIER = "classifier"  # folder of the one that the run trains
BEST, WATCHED, MODEL = "best.pt", "watched.pt", "model.safetensors"


@dataclass(frozen=True)
class Trained:
    """What became of a training."""

    cost: Fitted  # `queries` are images that the classifier has seen
    defence: Defence | None  # in eval mode; None where the classifier stands alone
    best: int | None  # updates after which the network was the one that is kept
    rows: list[Row]  # the certificates


def begin(opened: Opened, place: Place, resume: bool) -> Opened:
    """Train the classifier where the run does that, open the store, judge the classifier."""
    images = opened.images
    if opened.train_classifier is not None:
        trained = RunFolder(place.folder.root / CLASSIFIER)
        resume = resume and (trained.root / RECORD).exists()
        opened.train_classifier(trained.root, resume, False, place.progress)

        def model_file(seed: int) -> Path:
            return trained.of("FO", seed) / MODEL

        @cache
        def classifier(seed: int) -> Classifier:
            model = to_device(named_classifier(str(model_file(seed)), images.scale), images.device)
            return with_answers(model, opened.box.answers)

        opened = replace(opened, classifier=classifier, model_file=model_file)
    if opened.open_store is not None:
        opened = replace(opened, box=replace(opened.box, store=opened.open_store()))
    for name, seed in opened.trainings:
        check_white(name, opened.classifier(seed))
    pixels, labels = images.inputs(opened.judged.pixels), opened.judged.labels
    with torch.no_grad():
        right = [
            votes(opened.classifier(seed)(pixels), len(pixels), opened.box.classes) == labels
            for seed in opened.seeds
        ]
    clean = fmean(100 * float(of_seed.double().mean()) for of_seed in right)
    return replace(opened, clean_accuracy=clean)


def check_white(name: str, classifier: Classifier) -> None:
    """Require no black box where the label `name` back-propagates through the classifier."""
    if LABELS[name].gradient == "backprop" and not isinstance(classifier, nn.Module):
        got = f"a black box ({type(classifier).__name__})"
        expected = "a torch module, since it back-propagates through the classifier"
        remedy = "leave FO-DS and FO-AE-DS out of run.methods"
        raise InputError(f"method {name}", got=got, expected=expected, remedy=remedy)


def train(opened: Opened, name: str, seed: int, place: Place) -> Trained:
    """Train the label `name`, keep its model, and certify the defended classifier."""
    label, images, folder = LABELS[name], opened.images, place.of(name, seed)
    defence, cost, best, classes = None, Fitted(0, 0, 0, 0.0), None, opened.box.classes
    if label.denoiser:
        defence = _start(opened, label, seed, place)
        if label.trained:
            cost, best = _fit(opened, name, seed, defence, place)
        own = f"../../{CLASSIFIER}/FO/seed-{seed}/{MODEL}"
        spec = own if opened.model_file(seed) else opened.spec
        save_defended(defence, images.sigma, images.scale, classes, spec, folder / MODEL)
    whole = Defended(defence, opened.classifier(seed), images.sigma, classes).eval()
    rows = certify_images(
        folder / CERTIFICATES,
        Smooth(whole, classes, images.sigma),
        list(enumerate(opened.judged.labels.tolist())),
        lambda index: images.inputs(opened.judged.pixels[index]),
        opened.sampling,
        seed,
        place.progress,
        f"certify {name}, seed {seed}",
    )
    place.done(name, seed, cost, mean_radius=fmean(row.radius * row.correct for row in rows))
    return Trained(cost, defence, best, rows)


def _start(opened: Opened, label: Label, seed: int, place: Place) -> Defence:
    """A defence in eval mode: the denoiser by mean square, then the autoencoder behind it.

    The encoder and the decoder see what the denoiser makes of noisy images, and learn the clean
    ones. All labels of a seed begin at the same weights.
    """
    defence = opened.new_defence(seed, label.autoencoder)
    denoiser, encoder = defence.front
    _pretrain(opened, DENOISER, denoiser, seed, place)
    defence.eval()
    if label.autoencoder:
        behind = nn.Sequential(encoder, defence.decoder)
        _pretrain(opened, AUTOENCODER, behind, seed, place, denoiser)
    return defence.eval()


def _pretrain(
    opened: Opened,
    stage: str,
    network: nn.Module,
    seed: int,
    place: Place,
    before: nn.Module | None = None,
) -> None:
    """Train a network by mean square on what `before` makes of noisy images."""
    images, iterations = opened.images, opened.start[stage]
    batches = images.batches(seed, opened.start_batch)

    def objective_at(iteration: int) -> Reconstruction:
        clean, noisy = images.pair(batches.at(iteration)[0], seed, PRETRAINING, iteration)
        return Reconstruction(clean, noisy if before is None else before(noisy).detach())

    network.train()
    fit_watched(
        *(network, objective_at, Backprop(), opened.start_optimise, iterations),
        *(place.of(stage, seed), place.progress, f"{stage}, seed {seed}", "mean square"),
        every_seconds=opened.every_seconds,
        told=place.telling(stage, seed),
    )


def gradient_of(opened: Opened, masks: Masks | None) -> GradientSource:
    """Where gradients of the front come from: back-propagation, or queries of single weights."""
    if masks is None:
        return Backprop()
    queries = opened.queries
    oracles = WeightOracles(queries.chunk, without_queries)
    return ZerothOrder(masks, queries.mu_weights, queries.scheme_weights, oracles)


def free_convolutions(front: nn.Module) -> int:
    """Leave norms and biases as they are from now on; how many weights move then."""
    for parameter in front.parameters():
        parameter.requires_grad_(parameter.dim() >= 2)
    return Coordinates(front).total


def _fit(
    opened: Opened, name: str, seed: int, defence: Defence, place: Place
) -> tuple[Fitted, int | None]:
    """Train the front through the classifier; its cost, and the iteration of the network kept."""
    label, budget, folder = LABELS[name], opened.budget, place.of(name, seed)
    before, front, length = _so_far(folder), defence.front, budget.iterations_of(name)
    most = budget.queries if label.zeroth_order else 0
    box = opened.black_box(seed, most, before.queries)
    title = f"{name}, seed {seed}"

    def tell(text: str) -> None:
        place.progress.note(f"{title}: {text}")

    losses = Losses(opened, label, defence, seed, box, tell)
    surrogate = losses.surrogate
    network = front if surrogate is None else Learning(front, surrogate)
    try:
        masks = None
        if label.gradient == "weights":
            masks = _masks(opened, front, losses, seed, place.folder, folder)
        if not before.iterations:
            losses.begin()
        inner, every = gradient_of(opened, masks), budget.every(length)
        source = Watched(inner, losses, folder, every, before.queries)
        cost = fit_watched(
            *(network, losses.at, source, opened.optimise[name], length),
            *(folder, place.progress, title),
            every_seconds=opened.every_seconds,
            told=place.telling(name, seed),
            agreement=losses.agreement,
        )
        source.judge(network, cost.iterations)
    except BudgetSpentError as spent:
        tell(str(spent))
        cost = replace(_so_far(folder), stopped=str(spent))
    best = load_checkpoint(folder / BEST) or {"iteration": None}
    if "network" in best:
        network.load_state_dict(best["network"])
    defence.eval()
    return replace(cost, queries=box.ledger.queries), best["iteration"]


def _so_far(folder: Path) -> Fitted:
    """What an interrupted training had cost at its checkpoint; without one it starts afresh."""
    state = load_checkpoint(folder / "checkpoint.pt")
    if state is None:
        for name in (BEST, WATCHED, FILE):
            (folder / name).unlink(missing_ok=True)
        return Fitted(0, 0, 0, 0.0)
    return Fitted(**{f.name: state[f.name] for f in fields(Fitted) if f.name in state})


def _masks(
    opened: Opened, front: nn.Module, losses: Losses, seed: int, root: RunFolder, folder: Path
) -> LayerMasks:
    """Masks of `zo.weights` weights of convolutions; the layers are scored once, and kept."""
    queries, total, path = opened.queries, free_convolutions(front), folder / FILE
    if path.exists():
        scoring = read_scoring(path)
    else:
        began, sparsity = time.monotonic(), max(0.0, 1 - queries.weights / total)
        oracles = WeightOracles(queries.chunk, without_queries)
        how = queries.score_directions, queries.mu_weights
        scores = scores_by(queries.score, front, losses.at(0), *how, seed, oracles)
        cost = cost_of(scores, 0, time.monotonic() - began)
        scoring = ratios_from(front, scores, sparsity, cost)
        write_scoring(root, path, scoring, queries.score, sparsity)
    if scoring.ratios is None:
        what, remedy = (
            "scores of the denoiser's layers",
            "try another zo.mu_weights, or zo.score=random",
        )
        raise InputError(what, got="values not finite", expected="finite ones", remedy=remedy)
    return LayerMasks(scoring.ratios, opened.resample, seed)


@final
class Watched:
    """Another source's gradients; before every so many of them the network is judged.

    The one with the least loss so far stays in a file. A resumed training judges the same
    networks again and sees the same, so that changes nothing. Queries are what the ledger says,
    so whatever an iteration has taken counts; `counted` were there when the training was
    interrupted.
    """

    def __init__(
        self, inner: GradientSource, losses: Losses, folder: Path, every: int, counted: int
    ) -> None:
        self._inner, self._losses, self._ledger = inner, losses, losses.box.ledger
        self._folder, self._every, self._counted = folder, every, counted
        self._least: float = (load_checkpoint(folder / BEST) or {"loss": math.inf})["loss"]

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """At the inner source's price, and that of a judgement."""
        if iteration % self._every == 0:
            self.judge(network, iteration)
        gradient = self._inner(network, objective, iteration)
        queries = self._ledger.queries - self._counted
        self._counted = self._ledger.queries
        return replace(gradient, queries=queries)

    def judge(self, network: nn.Module, iteration: int) -> None:
        """Keep a network that is better than all before."""
        loss = self._losses.watched(network, self._folder / WATCHED)
        if loss < self._least:
            self._least = loss
            state = {"loss": loss, "iteration": iteration, "network": network.state_dict()}
            save_checkpoint(self._folder / BEST, state)
