"""The loss of a run by name, zopde's or the user's own, tried before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from inspect import isclass, signature
from typing import Any, cast

import torch
from torch import Tensor

from zopde.contracts import Domain
from zopde.errors import InputError, first_line
from zopde.hybrid import Loss
from zopde.hybrid.losses import LOSSES, check_loss
from zopde.plugins import load_object
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.problem import Problem, Schedule

_WINDOWS = 3  # on which a loss is tried


def loss_of(
    name: str, options: Mapping[str, Any], scale: Tensor, setting: str = "training.loss_options"
) -> Loss | None:
    """What `training.loss` names, with the options and, if it takes one, the scale."""
    if name == "squares":
        if options:
            got, expected = ", ".join(options), "none with 'squares'"
            raise InputError("training.loss_options", got=got, expected=expected)
        return None
    made = load_object(name, what="loss") if ":" in name else LOSSES[name]
    try:
        scaled = {"scale": scale} if "scale" in signature(made).parameters else {}
        if isclass(made):
            return cast(Loss, made(**scaled, **options))
        signature(made).bind(None, None, None, **options)
        return cast(Loss, partial(made, **options))
    except Exception as error:  # a user's class may raise anything
        got = f"{dict(options)} ({first_line(error)})"
        expected = f"the arguments of {name!r}"
        raise InputError(setting, got=got, expected=expected) from error


def metrics_of(names: Sequence[str], scale: Tensor) -> dict[str, Loss]:
    """What `run.metrics` names, by the last part of each name.

    Raises:
        InputError: If there is none of that name, or two have the same.
    """
    found: dict[str, Loss] = {}
    for name in names:
        short = name.rpartition(":")[2]
        if short in (*found, "loss"):
            raise InputError("run.metrics", got=f"{short!r} twice", expected="different names")
        metric = loss_of(name, {}, scale, "run.metrics")
        assert metric is not None, "a name of its own"
        found[short] = metric
    return found


def _with_gaps(windows: Tensor, domain: Domain) -> Tensor:
    """The windows, those that are whole without every other number of their first state."""
    missing, windows = windows.isnan().flatten(1).any(dim=1), windows.clone()
    first = windows[~missing, 0]
    first.flatten(1)[:, ::2] = torch.nan
    windows[~missing, 0] = domain.filled(first)
    return windows


def check_judged(
    training: Schedule,
    problem: Problem,
    seed: int,
    labels: Sequence[str],
    metrics: Mapping[str, Loss],
) -> None:
    """Try loss and metrics on some of the data, before anything is trained.

    Raises:
        InputError: If one fails; or if a label would back-propagate a loss without a gradient.
    """
    runs = problem.test.states[:2, 1:]
    if len(runs) == 1:  # two are needed to see whether they are mixed
        runs = torch.cat([runs, runs.flip(1)])
    for metric, judge in metrics.items():
        check_loss(f"run.metrics {metric}", judge, runs, problem.test.grid)
    name = "training.loss"
    if training.loss is None:
        return
    batches = training.windows(problem, seed)
    windows = torch.cat([batches.batch(i).targets for i in range(_WINDOWS)])[:_WINDOWS]
    check_loss(name, training.loss, problem.test.states[:1, 1:], problem.test.grid)
    if not bool(problem.train.measured.all()):  # the windows may happen to be whole
        check_loss(name, training.loss, _with_gaps(windows, problem.train.grid), problem.train.grid)
    if check_loss(name, training.loss, windows, problem.train.grid):
        return
    without = [label for label in labels if LABELS[label].back_propagates_windows]
    if without:
        raise InputError(
            name,
            got="an answer without a gradient (NumPy inside, or detached?), which "
            f"{', '.join(without)} would need",
            expected="torch operations, or labels that train by queries of the loss alone",
            remedy='--set \'run.labels=["SRC", "ZO-weights"]\'',
        )
