"""Where every method begins: networks trained without the classifier."""

from __future__ import annotations

from copy import deepcopy

from torch import nn

from zopde.progress import Progress
from zopde.recipes.defence.objective import Reconstruction
from zopde.recipes.defence.parts import Defence
from zopde.recipes.defence.problem import Problem
from zopde.recipes.runfolder import RunFolder
from zopde.recipes.span import Span
from zopde.training import Backprop, Optimise, fit

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
