"""A comparison that is ready to train: a correction with a plan for each of its labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from zopde.errors import InputError, first_line
from zopde.files import save_tensors
from zopde.progress import Progress
from zopde.studies.correct.compare.settings import CompareConfig, CompareSettings
from zopde.studies.correct.cut import check_suits
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.problem import Opened
from zopde.training import Optimise, Validation
from zopde.training.validation import UNWATCHED, Best

_WARMUP = 0.1  # of the iterations, at most


@dataclass(frozen=True)
class KeepsLooks(Validation):
    """Looks at a network, and leaves every better one in a file, by its iteration."""

    folder: Path = field(default=Path(), kw_only=True)

    def look(self, network: nn.Module, iteration: int, best: Best) -> Best:
        """See `Validation.look`."""
        seen = super().look(network, iteration, best)
        if seen.iteration == iteration == seen.looked:
            save_tensors(self.folder / f"{iteration}.pt", seen.weights)
        return seen


@dataclass(frozen=True)
class Plan:
    """What the budget pays of a label."""

    iterations: int  # 0 where it pays none
    least: int = 0  # solver steps of one iteration, and of what comes before
    check: int = 0  # of what the history counts as one check
    trial: int = 0  # solver steps of trying a learning rate, without those of the validation


@dataclass(frozen=True, kw_only=True)
class Compared(Opened):
    """A correction whose labels have iterations of their own."""

    compare: CompareSettings
    left_out: Mapping[str, str]  # label -> why it has no row
    plans: Mapping[str, Plan] = field(default_factory=dict)  # of every label
    looks: Path | None = None  # where the networks of a training's looks are left

    @property
    def skipped(self) -> dict[str, str]:
        """Label -> why it is left out."""
        return {**self.left_out, **super().skipped}

    @property
    def unpaid(self) -> dict[str, int]:
        """Label of which the budget pays no iteration -> the solver steps that one takes."""
        trained = {label: plan for label, plan in self.plans.items() if LABELS[label].trained}
        return {label: plan.least for label, plan in trained.items() if not plan.iterations}

    @property
    def trainings(self) -> list[tuple[str, int]]:
        """Those that the budget pays, seed by seed; what is not trained once."""
        return [(label, seed) for label, seed in super().trainings if label not in self.unpaid]

    @property
    def priced(self) -> list[str]:
        """What a dry run prices."""
        return [name for name in super().priced if name not in self.unpaid]

    @property
    def rate(self) -> float:
        """The learning rate of the settings."""
        assert isinstance(self.training.optimise, Optimise)
        return self.training.optimise.lr

    def iterations_of(self, name: str) -> int:
        """Updates of a label, with those of its start."""
        start = self.start.iterations if self.starts_from_non(name) else 0
        return start + self.plans[name].iterations

    def lasting(self, iterations: int, rate: float) -> Compared:
        """The same, every label of so many iterations at this learning rate.

        The rate rises for a tenth of them at most: a training may have few.
        """
        optimise = self.training.optimise
        assert isinstance(optimise, Optimise)
        rises = min(optimise.warmup, int(_WARMUP * iterations))
        optimise = replace(optimise, lr=rate, warmup=rises)
        return replace(
            self,
            training=replace(self.training, iterations=iterations, optimise=optimise),
            ensemble_iterations=iterations,
            validate_every=-(-iterations // self.compare.looks),
        )

    def validation(self) -> Validation:
        """See `Opened.validation`; the networks of better looks are left in `looks`."""
        plain = super().validation()
        if self.looks is None or plain is UNWATCHED:
            return plain
        return KeepsLooks(**vars(plain), folder=self.looks)


def open_comparison(
    config: CompareConfig,
    root: Path,
    progress: Progress,
    opening: Callable[[Any, Path, Progress], Opened],
) -> Compared:
    """Open a correction, and leave out the labels that do not suit solver and data.

    `opening` opens a correction: `open_correction`, or `open_sample` for a dry run.
    """
    alone = opening(config.with_labels(), root, progress)
    left_out = {label: config.why_not(label) for label in LABELS if label not in config.run.labels}
    cuts = {label: cut for label in config.run.labels if (cut := config.cut_of(label))}
    suited = []
    for label in config.run.labels:
        own = {label: cuts[label]} if label in cuts else {}
        try:
            check_suits(replace(alone, labels=("SRC", label), cuts=own, ensemble=config.eki))
            suited.append(label)
        except InputError as error:
            left_out[label] = first_line(error)
    return Compared(
        **{entry.name: getattr(alone, entry.name) for entry in fields(alone) if entry.init}
        | {
            "labels": tuple(suited),
            "ensemble": config.eki,
            "cuts": {label: cut for label, cut in cuts.items() if label in suited},
        },
        compare=config.compare,
        left_out={label: why for label, why in left_out.items() if why},
    )
