"""What a defence run will ask, cost and take, from a sample of its own work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from zopde.data import load_images
from zopde.memory import keep_freed_memory
from zopde.oracle import WeightOracles
from zopde.progress import Progress
from zopde.sparsity import RandomMasks
from zopde.studies.classifiers import Classifier, Scaled, as_vendor, frozen, named_classifier
from zopde.studies.classify.problem import new_classifier
from zopde.studies.classify.problem import problem_of as vendor_problem
from zopde.studies.defend.blackbox import BlackBox, Ledger
from zopde.studies.defend.budget import Cost, iterations_of, weights_of
from zopde.studies.defend.loss import Reconstruction
from zopde.studies.defend.problem import Problem, problem_of
from zopde.studies.defend.settings import METHODS, DefenceConfig
from zopde.studies.defend.train import Ways, check_white
from zopde.studies.settings import Span
from zopde.timing import median_seconds
from zopde.training import Backprop, ZerothOrder


@dataclass(frozen=True)
class MethodForecast:
    """One method's expected cost, for one seed.

    Args:
        method: Its name.
        iterations: Updates.
        queries: Images that the classifier is asked about in training.
        price: Of those, in the currency of `classifier.price`.
        certification: Images that it is asked about for the certificates.
        seconds_training: Of training alone.
        seconds: All of it, certificates and the method's share of the common start included.
    """

    method: str
    iterations: int
    queries: int
    price: float
    certification: int
    seconds_training: float
    seconds: float


def forecast(
    config: DefenceConfig, progress: Progress, classifier: Classifier | None = None
) -> list[MethodForecast]:
    """Time a few updates of every method; nothing is trained or written.

    A classifier that is given is asked for that, some batches' worth; one that the run would
    train first is stood in for by an untrained one.
    """
    keep_freed_memory()
    problem = problem_of(config, load_images(config.data.path))
    found = classifier or _classifier(problem)
    plan = []
    for name in config.run.methods:
        with progress.stage(f"sample of {name}", 1) as advance:
            plan.append(_forecast(problem, name, found))
            advance(1)
    return plan


def _classifier(problem: Problem) -> Classifier:
    settings = problem.config.classifier
    if settings.spec:
        return named_classifier(settings, problem.scale)
    vendor = problem.config.vendor()
    images = vendor_problem(vendor, problem.data)
    made = frozen(Scaled(new_classifier(vendor, images, 0), problem.scale))
    return as_vendor(made, settings)


def _forecast(problem: Problem, name: str, classifier: Classifier) -> MethodForecast:
    config, method, seed = problem.config, METHODS[name], problem.config.run.seeds[0]
    settings = config.classifier
    box = BlackBox(
        classifier,
        len(problem.data.classes),
        Ledger(settings.price),
        settings.answers,
        settings.votes,
        settings.vote_sigma,
    )
    check_white(name, box)
    defence = problem.new_defence(seed, method.autoencoder).eval()
    length = iterations_of(problem, name)
    queries, each, starting = 0, 0.0, 0.0
    if method.denoiser:
        starting = _starting(problem, seed, method.autoencoder)
    if method.trained:
        queries = Cost.of(problem, method).total(length)
        each = _iteration(problem, Ways(problem, method, box, defence, seed), seed)
    images = problem.judged()
    copies = config.certify.n0 + config.certify.n
    x = problem.inputs(images.pixels[:1]).expand(min(config.certify.batch, copies), -1, -1, -1)
    with torch.inference_mode():
        behind = (lambda: classifier(defence(x))) if method.denoiser else (lambda: classifier(x))
        sample = median_seconds(behind) / len(x)
    training = each * length
    certifying = len(images) * copies
    return MethodForecast(
        name,
        length,
        queries,
        settings.price * queries,
        certifying,
        training,
        training + certifying * sample + starting,
    )


def _iteration(problem: Problem, ways: Ways, seed: int) -> float:
    zo, batches = problem.config.zo, problem.batches(seed, problem.config.training.batch)
    source: Backprop | ZerothOrder = Backprop()
    front = ways.defence.front
    if ways.method.gradient == "weights":
        for parameter in front.parameters():
            parameter.requires_grad_(parameter.dim() >= 2)
        total = sum(p.numel() for p in front.parameters() if p.requires_grad)
        masks = RandomMasks(total, max(0.0, 1 - weights_of(problem) / total), 1, seed)
        source = ZerothOrder(
            masks,
            zo.mu_weights,
            zo.scheme_weights,
            WeightOracles(zo.chunk),
        )

    def update() -> object:
        return source(front, ways.objective(problem.pair(batches, seed, 0), 0), 0)

    return median_seconds(update)


def _starting(problem: Problem, seed: int, latent: bool) -> float:
    """Pre-training, which all methods of a seed share; each is told the whole of it."""
    config, network = problem.config.pretraining, problem.new_defence(seed, latent)
    per_epoch = problem.batches(seed, config.batch).per_epoch
    pair = problem.pretraining_pair(seed, 0)
    parts = [(network.front.denoiser, config.denoiser)]
    if latent:
        behind = torch.nn.Sequential(network.front.encoder, network.decoder)
        parts.append((behind, config.autoencoder))
    source, total = Backprop(), 0.0
    for part, length in parts:
        each = median_seconds(partial(source, part, Reconstruction(pair.clean, pair.noisy), 0))
        total += each * Span.parse("pretraining", length).iterations(per_epoch)
    return total
