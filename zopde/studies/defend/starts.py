"""Where every method begins: networks trained without the classifier.

Which weights of the denoiser DeepZero asks for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

from torch import nn

from zopde.contracts import Objective
from zopde.errors import InputError
from zopde.oracle import WeightOracles
from zopde.oracle.coordinates import Coordinates
from zopde.progress import Progress
from zopde.sparsity import LayerMasks
from zopde.studies.defend.loss import Reconstruction
from zopde.studies.defend.problem import Defence, Problem
from zopde.studies.defend.settings import DefenceConfig
from zopde.studies.folder import RunFolder
from zopde.studies.scores import FILE, ratios_from, read_scoring, scores_by, write_scoring
from zopde.studies.settings import Span
from zopde.training import Backprop, Fitted, Optimise, fit

DENOISER, AUTOENCODER = "start-denoiser", "start-autoencoder"


def start(
    problem: Problem, folder: RunFolder, seed: int, latent: bool, progress: Progress
) -> Defence:
    """A defence in eval mode: the denoiser by mean square, then the autoencoder behind it.

    The encoder and the decoder see what the denoiser makes of noisy images, and learn the clean
    ones. All methods of a seed begin at the same weights.
    """
    config = problem.config.pretraining
    defence = problem.new_defence(seed, latent)
    _fit(problem, folder, seed, defence.front.denoiser, DENOISER, config.denoiser, progress)
    defence.eval()
    if latent:
        behind = nn.Sequential(defence.front.encoder, defence.decoder).train()
        denoiser = deepcopy(defence.front.denoiser)
        _fit(problem, folder, seed, behind, AUTOENCODER, config.autoencoder, progress, denoiser)
    return defence.eval()


def _fit(
    problem: Problem,
    folder: RunFolder,
    seed: int,
    network: nn.Module,
    label: str,
    length: str,
    progress: Progress,
    before: nn.Module | None = None,
) -> None:
    config = problem.config
    per_epoch = problem.batches(seed, config.pretraining.batch).per_epoch
    iterations = Span.parse(f"pretraining.{label}", length).iterations(per_epoch)

    def objective_at(iteration: int) -> Reconstruction:
        pair = problem.pretraining_pair(seed, iteration)
        noisy = pair.noisy if before is None else before(pair.noisy).detach()
        return Reconstruction(pair.clean, noisy)

    network.train()
    with progress.stage(f"{label}, seed {seed}", iterations) as advance:
        fit(
            network,
            objective_at,
            Backprop(),
            Optimise("adam", config.pretraining.lr),
            iterations,
            folder.of(label, seed),
            every_seconds=config.run.checkpoint_seconds,
            progress=lambda loss: advance(1, f"mean square {loss:.4g}"),
        )


def denoiser_masks(
    config: DefenceConfig,
    network: nn.Module,
    objective: Callable[[], Objective],
    seed: int,
    per_epoch: int,
    root: RunFolder,
    folder: Path,
) -> LayerMasks:
    """Masks of `zo.weights` weights of convolutions; norms and biases are no longer trained.

    Args:
        config: The run's settings.
        network: Whose weights; scored where `folder` has no ratios yet.
        objective: Makes the loss that scores are taken from.
        seed: The run's.
        per_epoch: Iterations of an epoch.
        root: The run's folder.
        folder: That of the training.

    Raises:
        InputError: If the scores are not finite.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.dim() >= 2)
    every = Span.parse("zo.resample", config.zo.resample).iterations(per_epoch)
    path = folder / FILE
    if path.exists():
        found = read_scoring(path)
    else:
        zo, began = config.zo, time.monotonic()
        sparsity = max(0.0, 1 - zo.weights / Coordinates(network).total)
        scores = scores_by(
            zo.score,
            network,
            objective(),
            zo.score_directions,
            zo.mu_weights,
            seed,
            WeightOracles(zo.chunk),
        )
        cost = Fitted(0, scores.queries, 0, time.monotonic() - began)
        found = ratios_from(network, scores, sparsity, cost)
        write_scoring(root, path, found, zo.score, sparsity)
    if found.ratios is None:
        raise InputError(
            "scores of the denoiser's layers",
            got="values not finite",
            expected="finite ones",
            remedy="try another zo.mu_weights, or zo.score=random",
        )
    return LayerMasks(found.ratios, every, seed)
