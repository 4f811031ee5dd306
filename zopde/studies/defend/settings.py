"""The settings of a defence run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zopde.memory import check_fits
from zopde.studies import limits
from zopde.studies.defend.blackbox import Answers, check_votes
from zopde.studies.defend.labels import LABELS, Gradient
from zopde.studies.run import study_named
from zopde.studies.settings import ImageSettings, SeedSettings, check_names, check_rates, load

PRESETS = ("quick", "fashion", "cifar10")
"""What `load_defence` finds in the package, by name."""


@dataclass(frozen=True)
class ClassifierSettings:
    """The classifier that is defended, a black box to every method but FO-DS and FO-AE-DS.

    `spec` is a model.safetensors of `zopde classify`, "package.module:name", "file.py:name"
    (an `nn.Module`, its class, or any function) or "http://host:port/path"; all but the first
    get pixels in [0, 1]. "" trains one on the clean images first, by back-propagation, as
    `zopde classify` does with the preset `train` and the settings `changes`.

    `answers` says what it gives: "logits", "probabilities" or "labels"; labels become scores by
    `votes` queries each under noise of deviation `vote_sigma`. `price` is of one image, in any
    currency.
    """

    spec: limits.Text = ""
    train: limits.Text = "quick"
    changes: tuple[str, ...] = ()
    answers: Answers = "logits"
    votes: limits.Whole = 0
    vote_sigma: limits.Positive = 0.1
    price: limits.NotNegative = 0.0
    timeout: limits.Timeout = 60.0
    retries: limits.Whole = 2


@dataclass(frozen=True)
class DefenceSettings:
    """Noise and networks. `sigma` is the noise's deviation, of pixels scaled to [0, 1].

    The denoiser has `depth` convolutions of `width` channels, the autoencoder `latent` entries.
    """

    sigma: limits.Positive = 0.25
    depth: limits.Size = 17
    width: limits.Size = 64
    latent: limits.Size = 192

    def __post_init__(self) -> None:
        check_fits("defence.depth and width", 9 * self.depth * self.width**2)


@dataclass(frozen=True)
class PretrainingSettings:
    """Denoiser, then autoencoder behind it, by mean square: without a query.

    Adam at `lr` on `batch` images, noise drawn anew every time.
    """

    denoiser: limits.Length = "100 epochs"
    autoencoder: limits.Length = "100 epochs"
    batch: limits.Count = 256
    lr: limits.Rate = 1e-3


@dataclass(frozen=True)
class StabilitySettings:
    """Training through the classifier, with Adam.

    `queries` is the budget of every method by queries: images that the classifier sees, for
    labels, scores of the layers, losses and gradients alike. A method makes as many updates as
    it pays for. `iterations` are those of methods that back-propagate, and the most of those with
    a surrogate. `lr` is by method. `mse` weighs the reconstruction; `warmup` as elsewhere. `watch`
    times in a training the loss is taken on `watch_images` images, and the best network is the one
    that is kept.
    """

    queries: limits.Budget = 1_000_000
    iterations: limits.Count = 1000
    batch: limits.Count = 256
    lr: dict[str, limits.Rate] = field(default_factory=dict)
    warmup: limits.LengthOrNone = "0 iterations"
    mse: limits.NotNegative = 0.0
    watch: limits.Count = 10
    watch_images: limits.Count = 256


@dataclass(frozen=True)
class DefenceQuerySettings:
    """The estimates. `mu` is in the units of the pixels, `mu_latent` and `mu_weights` likewise.

    RGE takes `directions` random directions for each image, CGE every entry of the latent.
    DeepZero probes `weights` weights of the denoiser's convolutions at a time, shared out over
    the layers by `score` (once, from `score_directions` directions on a batch) and drawn anew
    every `resample`; norms and biases stay as they are. `chunk` of its probes share a pass.
    """

    mu: limits.Difference = 5e-3
    mu_latent: limits.Difference = 5e-3
    mu_weights: limits.Difference = 5e-3
    scheme: Literal["forward", "central"] = "central"
    scheme_weights: Literal["forward", "central"] = "forward"
    directions: limits.Count = 192
    weights: limits.Count = 1152
    score: Literal["random", "magnitude", "zo-grasp"] = "zo-grasp"
    score_directions: limits.Count = 192
    resample: limits.Length = "5 epochs"
    chunk: limits.Count = 32

    @property
    def sides(self) -> int:
        """Evaluations of a difference."""
        return 2 if self.scheme == "central" else 1


@dataclass(frozen=True)
class SurrogateSettings:
    """The network that SUR-DS, SUR-AE-DS and KD-AE-DS fit to the classifier's answers.

    It learns the answers to `first` clean images before the first update (KD-AE-DS: to all
    of them, and to nothing else), and then those of every batch that the classifier sees. For each
    such batch there are `updates` of the denoiser. Now and then its slopes are compared with
    measured ones: where their cosine is less than `below`, queries of directions take its place;
    with 0 they never do.
    """

    first: limits.Count = 1024
    updates: limits.Count = 1
    below: limits.Share = 0.2


@dataclass(frozen=True)
class CertifySettings:
    """Randomized smoothing of the defended classifier on `images` test images.

    `n0` noisy copies choose the class, `n` bound its probability at confidence 1 - `alpha`;
    `batch` of them share a pass.
    """

    images: limits.Count = 100
    n0: limits.Count = 100
    n: limits.Count = 1000
    alpha: limits.Probability = 0.001
    batch: limits.Count = 1000


@dataclass(frozen=True)
class DefendRunSettings(SeedSettings):
    """Which methods, which seeds, where. `store` is a file that keeps the classifier's answers."""

    methods: tuple[str, ...] = tuple(LABELS)
    store: limits.Text = ""
    store_gib: limits.Positive = 10.0


@dataclass(frozen=True)
class DefenceConfig:
    """All settings of a defence run, checked when it is built.

    They are the tables of config.toml: `data`, `classifier`, `defence`, `pretraining`,
    `training`, `zo`, `surrogate`, `certify` and `run`.

    Raises:
        InputError: If a value is outside its legal range.
    """

    data: ImageSettings = field(default_factory=ImageSettings)
    classifier: ClassifierSettings = field(default_factory=ClassifierSettings)
    defence: DefenceSettings = field(default_factory=DefenceSettings)
    pretraining: PretrainingSettings = field(default_factory=PretrainingSettings)
    training: StabilitySettings = field(default_factory=StabilitySettings)
    zo: DefenceQuerySettings = field(default_factory=DefenceQuerySettings)
    surrogate: SurrogateSettings = field(default_factory=SurrogateSettings)
    certify: CertifySettings = field(default_factory=CertifySettings)
    run: DefendRunSettings = field(default_factory=DefendRunSettings)

    def __post_init__(self) -> None:
        check_names("run.methods", self.run.methods, LABELS)
        trained = [method for method in self.run.methods if LABELS[method].trained]
        check_rates(self.training.lr, LABELS, trained)
        check_votes(self.classifier.answers, self.classifier.votes)
        if not self.classifier.spec:
            self.classifier_training()

    def evaluations(self, channels: int) -> dict[Gradient, int]:
        """Gradient -> evaluations of one image's scores, for its loss and its gradient."""
        zo, sizes = self.zo, self.defence
        kernels = max(0, sizes.depth - 2) * sizes.width**2 + 2 * channels * sizes.width
        weights = min(zo.weights, 9 * kernels)  # of 3 x 3 convolutions there are no more
        return {
            "backprop": 1,
            "rge": 1 + zo.sides * zo.directions,
            "cge": 1 + zo.sides * sizes.latent,
            "surrogate": 1,
            "weights": 1 + weights if zo.scheme_weights == "forward" else 2 * weights,
        }

    def classifier_training(self) -> Any:  # noqa: ANN401 - of a study that this one does not import
        """The settings by which `zopde classify` trains the classifier, where none is given."""
        run = {"methods": ["FO"], "seeds": list(self.run.seeds), "device": self.run.device}
        tables = {"run": run, "data": {"path": self.data.path}}
        load_classification = study_named("classify").load
        assert load_classification is not None
        return load_classification(self.classifier.train, None, self.classifier.changes, tables)


def load_defence(
    preset: str = "quick",
    file: Path | None = None,
    changes: Sequence[str] = (),
    tables: Mapping[str, Any] | None = None,
) -> DefenceConfig:
    """Read the settings of a defence run: a preset, and over it what is chosen.

    The presets are "quick" (digits, minutes), "fashion" (28 x 28, tens of minutes) and "cifar10"
    (the published setting). Arguments and errors are those of `load_config`.
    """
    return load(DefenceConfig, PRESETS, preset, file, changes, tables)
