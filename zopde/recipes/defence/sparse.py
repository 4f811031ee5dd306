"""Which weights of the denoiser DeepZero asks for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

from zopde.errors import InputError
from zopde.protocols import Objective
from zopde.recipes.defence.config import DefenceConfig
from zopde.recipes.runfolder import RunFolder
from zopde.recipes.scores import FILE, ratios_from, read_scoring, scores_by, write_scoring
from zopde.recipes.span import Span
from zopde.sparsity import LayerMasks
from zopde.training import Fitted
from zopde.zo import WeightOracles
from zopde.zo.coordinates import Coordinates


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
