"""Training one method with one seed through the classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from zopde.errors import InputError
from zopde.interface import DensePullback, RandomPullback
from zopde.oracle import WeightOracles
from zopde.progress import Progress
from zopde.seeding import generator
from zopde.studies.classifiers import is_white
from zopde.studies.defend.blackbox import BlackBox, BudgetSpentError, Ledger
from zopde.studies.defend.budget import Cost, iterations_of
from zopde.studies.defend.loss import Ask, Decode, Stability, asked, by_queries, white
from zopde.studies.defend.problem import Defence, Pair, Problem
from zopde.studies.defend.settings import METHODS, Method
from zopde.studies.defend.starts import denoiser_masks, start
from zopde.studies.defend.watch import Best, Watched
from zopde.studies.folder import RunFolder
from zopde.studies.scores import FILE
from zopde.studies.settings import Span
from zopde.training import (
    Backprop,
    Fitted,
    GradientSource,
    Optimise,
    ZerothOrder,
    fit,
    load_checkpoint,
    save_checkpoint,
)

BEST, WATCHED = "best.pt", "watched.pt"


@dataclass(frozen=True)
class Trained:
    """What became of a training.

    Args:
        defence: In eval mode; None where the classifier stands alone.
        cost: `queries` are images that the classifier was asked about.
        best: Updates after which the network was the one that is kept.
    """

    defence: Defence | None
    cost: Fitted
    best: int | None = None


@final
class Trainer:
    """Trains the methods of a run, each in its own folder, each resumable.

    Args:
        problem: The images, and the run's settings.
        folder: Where checkpoints, histories and models go.
        progress: Who is watching.
        black_box: (seed, ledger) -> the classifier behind that ledger.
    """

    def __init__(
        self,
        problem: Problem,
        folder: RunFolder,
        progress: Progress,
        black_box: Callable[[int, Ledger], BlackBox],
    ) -> None:
        self._problem, self._folder, self._progress = problem, folder, progress
        self._config = problem.config
        self._black_box = black_box

    def train(self, name: str, seed: int) -> Trained:
        """Train from the common start, or from the checkpoint that is there.

        Raises:
            InputError: If the method needs a white box and has none, or its budget is too small.
            SolverError: If the classifier fails; --resume goes on.
        """
        method = METHODS[name]
        nothing = Fitted(0, 0, 0, 0.0)
        if not method.denoiser:
            return Trained(None, nothing)
        defence = start(self._problem, self._folder, seed, method.autoencoder, self._progress)
        if not method.trained:
            return Trained(defence, nothing)
        folder = self._folder.of(name, seed)
        before = _so_far(folder)
        budget = self._config.training.queries if method.zeroth_order else 0
        ledger = Ledger(self._config.classifier.price, budget, before.queries)
        box = self._black_box(seed, ledger)
        check_white(name, box)
        ways = Ways(self._problem, method, box, defence, seed)
        best = Best(folder / BEST, ways.judge(folder / WATCHED))
        try:
            cost = self._fit(name, seed, ways, best, folder, before.queries)
            best.look(defence.front, cost.iterations)
        except BudgetSpentError as spent:
            self._progress.note(f"{name}, seed {seed}: {spent}")
            cost = replace(_so_far(folder), stopped=str(spent))
        cost = replace(cost, queries=ledger.asked)
        return Trained(defence.eval(), cost, best.restore(defence.front))

    def _fit(
        self, name: str, seed: int, ways: Ways, best: Best, folder: Path, counted: int
    ) -> Fitted:
        training, problem = self._config.training, self._problem
        length = iterations_of(problem, name)
        every = Cost.of(problem, METHODS[name]).every(length)
        batches = problem.batches(seed, training.batch)
        source = ways.source(self._folder, folder)
        source = Watched(source, ways.box.ledger, best, every, counted)
        warmup = Span.parse("training.warmup", training.warmup).iterations(batches.per_epoch)
        with self._progress.stage(f"{name}, seed {seed}", length) as advance:
            return fit(
                ways.defence.front,
                lambda iteration: ways.objective(problem.pair(batches, seed, iteration), iteration),
                source,
                Optimise("adam", training.lr[name], warmup),
                length,
                folder,
                every_seconds=self._config.run.checkpoint_seconds,
                progress=lambda loss: advance(1, f"loss {loss:.4g}"),
            )


@final
class Ways:
    """A method's loss and gradient.

    Args:
        problem: The images, and the run's settings.
        method: Which.
        box: The classifier.
        defence: What is trained.
        seed: The run's.
    """

    def __init__(
        self, problem: Problem, method: Method, box: BlackBox, defence: Defence, seed: int
    ) -> None:
        self._problem, self.method = problem, method
        self.box, self.defence, self._seed = box, defence, seed
        decoder = defence.decoder.requires_grad_(False)  # on the black box's side of the cut
        self._decode: Decode = decoder

    def objective(self, pair: Pair, iteration: int) -> Stability:
        """The loss on some images; their labels are asked for."""
        return self._stability(pair, self._ask(iteration), self.box.labels(pair.clean))

    def judge(self, path: Path) -> Callable[[nn.Module], float]:
        """The loss on the watched images; their labels are asked for once, and kept in a file."""
        pair = self._problem.watched(self._seed)

        @torch.no_grad()
        def loss(network: nn.Module) -> float:
            kept = load_checkpoint(path)
            if kept is None:
                kept = {"targets": self.box.labels(pair.clean)}
                save_checkpoint(path, kept)
            ask = asked(self.box, self._decode)
            objective = self._stability(pair, ask, kept["targets"].to(pair.clean.device))
            return float(objective(network, 1)[0])

        return loss

    def source(self, root: RunFolder, folder: Path) -> GradientSource:
        """Where gradients come from; DeepZero's layers are scored first."""
        zo = self._problem.config.zo
        if self.method.gradient != "weights":
            return Backprop()
        batches = self._problem.batches(self._seed, self._problem.config.training.batch)
        pair = self._problem.pair(batches, self._seed, 0)
        masks = denoiser_masks(
            self._problem.config,
            self.defence.front,
            lambda: self.objective(pair, 0),
            self._seed,
            batches.per_epoch,
            root,
            folder,
        )

        return ZerothOrder(masks, zo.mu_weights, zo.scheme_weights, WeightOracles(zo.chunk))

    def _stability(self, pair: Pair, ask: Ask, targets: Tensor) -> Stability:
        mse = self._problem.config.training.mse
        return Stability(pair.clean, pair.noisy, targets, ask, self._decode, mse)

    def _ask(self, iteration: int) -> Ask:
        zo, gradient = self._problem.config.zo, self.method.gradient
        mu = zo.mu_latent if self.method.autoencoder else zo.mu
        if gradient == "backprop":
            return white(self.box, self._decode)
        if gradient == "cge":
            return by_queries(self.box, self._decode, DensePullback(mu, zo.scheme, 8192))
        if gradient == "rge":
            draw = generator(self._seed, "probes", iteration)
            pullback = RandomPullback(draw, zo.directions, mu, zo.scheme, 8192, "zero")
            return by_queries(self.box, self._decode, pullback)
        return asked(self.box, self._decode)


def check_white(name: str, box: BlackBox) -> None:
    """Require a classifier that a method can work with.

    Raises:
        InputError: If the method back-propagates through it, and it is a black box.
    """
    if METHODS[name].gradient == "backprop" and not is_white(box.classifier):
        raise InputError(
            f"method {name}",
            got=f"a black box ({type(box.classifier).__name__})",
            expected="a torch module, since it back-propagates through the classifier",
            remedy="leave FO-DS and FO-AE-DS out of run.methods",
        )


def _so_far(folder: Path) -> Fitted:
    """What an interrupted training had cost at its checkpoint; without one it starts afresh."""
    state = load_checkpoint(folder / "checkpoint.pt")
    if state is None:
        for name in (BEST, WATCHED, FILE):
            (folder / name).unlink(missing_ok=True)
        return Fitted(0, 0, 0, 0.0)
    return Fitted(**{f.name: state[f.name] for f in fields(Fitted) if f.name in state})
