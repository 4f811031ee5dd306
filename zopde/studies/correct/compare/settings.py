"""What a comparison is made of: the settings of a correction, and how much each label may spend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zopde.errors import InputError, first_line
from zopde.studies import limits
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.settings import CorrectionConfig, DataSettings, settings_over
from zopde.studies.folder import look_up
from zopde.studies.settings import build, choices, merge


@dataclass(frozen=True)
class CompareSettings:
    """What each training may spend, and how its learning rate is found.

    A training gets as many iterations as `budget` solver steps pay, with all that its gradient
    takes once or now and then. Before it, `rates` learning rates are tried, each `factor` times the
    one before, the settings' own in the middle of an odd number, with the first seed and a `share`
    of the iterations: the one whose best validation loss is least is taken for every seed. Along a
    training the validation is looked at `looks` times, in place of `training.validate_every`.
    """

    budget: limits.Budget = 100_000  # Solver steps of each training.
    rates: limits.Rates = 3  # Learning rates that are tried; 1 takes the settings' own.
    factor: limits.Factor = 3.0  # From one of them to the next.
    share: limits.PositiveShare = 0.25  # Of the iterations, when one is tried.
    looks: limits.Count = 10  # Looks at the validation along a training.

    def trial_of(self, iterations: int) -> int:
        """Iterations of a trial of a learning rate."""
        return max(1, round(self.share * iterations))

    def rates_around(self, rate: float) -> list[float]:
        """The learning rates that are tried, the nearest to the settings' own first."""
        middle = (self.rates - 1) / 2
        powers = sorted((k - middle for k in range(self.rates)), key=abs)
        return [rate * self.factor**power for power in powers]


@dataclass(frozen=True)
class CompareConfig(CorrectionConfig):
    """All settings of a comparison: the table `compare`, and those of a correction.

    The other arguments are those of `CorrectionConfig`. `run.labels` are the rows.
    `training.length` holds for labels that take no solver step alone.

    Raises:
        InputError: If a value is outside its legal range, or there is no validation.
    """

    compare: CompareSettings = field(default_factory=CompareSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data.validation:
            expected = "1 at least: by it learning rates and weights are chosen"
            raise InputError("data.validation", got=0, expected=expected)

    def with_labels(self, *labels: str) -> CompareConfig:
        """The same with other rows, SRC the first; without EKI, nothing is localised.

        Raises:
            InputError: If one of them has no gradient here, or does not suit the loss.
        """
        eki = replace(self.eki, localised=self.eki.localised and "EKI" in labels)
        return replace(self, run=replace(self.run, labels=("SRC", *labels)), eki=eki)

    def why_not(self, label: str) -> str:
        """Why a label has no row of its own; "" for one that may have."""
        if LABELS[label].way == "as set":
            return "each way that it may name has a row of its own"
        if LABELS[label].always_scratch and self.training.init == "scratch":
            return "every label starts from scratch"
        try:
            self.with_labels(*{label} - {"SRC"})
        except InputError as error:
            return first_line(error)
        return ""


def load_comparison(
    preset: str = "quick",
    file: Path | None = None,
    changes: Sequence[str] = (),
    tables: Mapping[str, Any] | None = None,
) -> CompareConfig:
    """Read the settings of a comparison: a preset of `load_config`, and over it what is chosen.

    Without `run.labels`, every label that suits the settings has a row. Without `data.validation`,
    a fifth of the training simulations is the validation. Without `training.look_every`, nobody
    looks at gradients: of a way that is dear, a look would take an iteration from its budget.

    Args:
        preset: "quick" or "paper".
        file: TOML file laid over the preset.
        changes: Texts "table.key=value" laid over that.
        tables: Nested dicts laid over all.

    Returns:
        The checked settings.

    Raises:
        InputError: On an unknown preset or key (naming the nearest), a wrong type or value.
    """
    chosen = choices(file, changes, tables)
    tree = settings_over(preset, chosen)
    if look_up(chosen, "training.look_every") is None:
        tree = merge(tree, {"training": {"look_every": 0}})
    if look_up(chosen, "data.validation") is None:
        train = look_up(tree, "data.train")
        known = train if isinstance(train, int) else DataSettings.train
        tree = merge(tree, {"data": {"validation": max(1, known // 5)}})
    if look_up(chosen, "run.labels") is not None:
        return build(CompareConfig, tree)
    # The rows are not known yet, and EKI, which can be localised, may be none of them.
    bare = merge(tree, {"run": {"labels": ["SRC"]}, "eki": {"localised": False}})
    config = build(CompareConfig, bare)
    suited = [label for label in LABELS if not config.why_not(label)]
    return build(CompareConfig, merge(tree, {"run": {"labels": suited}}))
