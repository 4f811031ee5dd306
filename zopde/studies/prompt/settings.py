"""The settings of a prompting run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zopde.data import Look
from zopde.errors import InputError
from zopde.memory import check_fits
from zopde.studies import limits
from zopde.studies.prompt.labels import LABELS
from zopde.studies.settings import SeedSettings, check_names, check_rates, load

PRESETS = ("quick",)
"""What `load_prompting` finds in the package, by name."""


@dataclass(frozen=True)
class VideoSettings:
    """The videos: those that the model learns from, and others, to which prompts adapt it.

    `base` and `other` are import strings as `load_videos` takes them. "" makes `train` and `test`
    videos of the embedded digits, 0 ... `classes` - 1; the others have `noise`, a `background` and
    digits that are to be seen for `least` to `most` frames, see `Look`.
    """

    base: limits.Text = ""
    other: limits.Text = ""
    train: limits.Count = 2000
    test: limits.Count = 300
    classes: limits.Size = 4
    noise: limits.NotNegative = 0.05
    background: limits.NotNegative = 0.15
    least: limits.Size = 2
    most: limits.Size = 4

    def __post_init__(self) -> None:
        Look(self.noise, self.background, (self.least, self.most))


@dataclass(frozen=True)
class ModelSettings:
    """The frozen model, a `GroundingModel`, trained first, by back-propagation on the base videos.

    `channels` and `blocks` are those of its features. Adam at `lr`, on `batch` videos at a time.
    """

    channels: limits.Size = 8
    blocks: limits.Size = 1
    width: limits.Size = 32
    depth: limits.Size = 2
    heads: limits.Size = 4
    hidden: limits.Size = 64
    length: limits.Length = "1800 iterations"
    batch: limits.Count = 16
    lr: limits.Rate = 2e-3
    warmup: limits.LengthOrNone = "100 iterations"

    def __post_init__(self) -> None:
        attention = self.width * (4 * self.width + 2 * self.hidden)
        check_fits("model.depth, width and hidden", self.depth * attention)
        check_fits("model.blocks and channels", 18 * self.blocks * self.channels**2)


@dataclass(frozen=True)
class PromptSettings:
    """How large prompts are: a border of so many pixels round a frame, so many `tokens` of text."""

    border: limits.Size = 2
    tokens: limits.Size = 4


@dataclass(frozen=True)
class PromptTrainingSettings:
    """Finding the prompts.

    `queries` is the budget of every method by queries; a query is the loss of one batch, that is
    `batch` answers of the model. `iterations` are those of methods that back-propagate. `lr` is by
    method; ZIP takes plain steps with momentum, all others Adam.
    """

    queries: limits.Budget = 5000
    iterations: limits.Count = 500
    batch: limits.Count = 16
    lr: dict[str, limits.Rate] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptQuerySettings:
    """The estimates. `mu` is in the units of the prompts, `mu_projected` in those of ZIP's numbers.

    CGE probes `entries` entries of the prompts, drawn anew for every update, RGE `directions`
    random directions, ZIP `directions_projected` of its `dimension` numbers; each tensor of
    prompts moves by a matrix of `rank`. ZIP's gradient is scaled down to the norm sqrt(dimension).
    """

    mu: limits.Difference = 1e-2
    mu_projected: limits.Difference = 1e-2
    scheme: Literal["forward", "central"] = "central"
    entries: limits.Count = 50
    directions: limits.Count = 10
    dimension: limits.Size = 500
    rank: limits.Size = 5
    directions_projected: limits.Count = 5


@dataclass(frozen=True)
class PromptRunSettings(SeedSettings):
    """Which methods, which seeds, where."""

    methods: tuple[str, ...] = tuple(LABELS)


@dataclass(frozen=True)
class PromptConfig:
    """All settings of a prompting run, checked when it is built.

    They are the tables of config.toml: `data`, `model`, `prompts`, `training`, `zo` and `run`.

    Raises:
        InputError: If a value is outside its legal range.
    """

    data: VideoSettings = field(default_factory=VideoSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    prompts: PromptSettings = field(default_factory=PromptSettings)
    training: PromptTrainingSettings = field(default_factory=PromptTrainingSettings)
    zo: PromptQuerySettings = field(default_factory=PromptQuerySettings)
    run: PromptRunSettings = field(default_factory=PromptRunSettings)

    def __post_init__(self) -> None:
        check_names("run.methods", self.run.methods, LABELS)
        trained = [name for name in self.run.methods if LABELS[name].gradient != "none"]
        check_rates(self.training.lr, LABELS, trained)
        for method in trained:
            if not self.updates(method) and LABELS[method].zeroth_order:
                expected = f"{self.queries_per_update(method):,} at least, for one of {method}"
                raise InputError("training.queries", got=self.training.queries, expected=expected)

    def queries_per_update(self, method: str) -> int:
        """Losses of a batch that one update takes."""
        zo, gradient = self.zo, LABELS[method].gradient
        probes = {"cge": zo.entries, "rge": zo.directions, "projected": zo.directions_projected}
        if gradient not in probes:
            return int(gradient == "backprop")
        return 2 * probes[gradient] if zo.scheme == "central" else 1 + probes[gradient]

    def updates(self, method: str) -> int:
        """Updates of a method: what the budget pays for, or as many as are set."""
        if LABELS[method].zeroth_order:
            return self.training.queries // self.queries_per_update(method)
        return self.training.iterations if LABELS[method].gradient == "backprop" else 0


def load_prompting(
    preset: str = "quick",
    file: Path | None = None,
    changes: Sequence[str] = (),
    tables: Mapping[str, Any] | None = None,
) -> PromptConfig:
    """Read the settings of a prompting run: a preset, and over it what is chosen.

    The preset is "quick" (digits). Arguments and errors are those of `load_config`.
    """
    return load(PromptConfig, PRESETS, preset, file, changes, tables)
