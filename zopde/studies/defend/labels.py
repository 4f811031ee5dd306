"""The compared ways of training a defence, and what sets each apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Gradient = Literal["none", "backprop", "rge", "cge", "weights", "surrogate", "distilled"]


@dataclass(frozen=True)
class Label:
    """One row of the table."""

    # Where it comes from: nowhere; back-propagation through the classifier, which then is no black
    # box; random directions or single entries of what enters the black box; single weights of the
    # denoiser; a surrogate that learns from every answer, or one that has learned from the answers
    # to clean images alone
    gradient: Gradient
    # Whether encoder and decoder stand behind the denoiser. The black box then begins at the latent
    autoencoder: bool = False
    denoiser: bool = True  # whether there is one at all
    # Whether the black box ends at its scores, and not at the loss, whose derivative is then exact
    scores: bool = False

    @property
    def trained(self) -> bool:
        """Whether the classifier has a part in the training."""
        return self.gradient != "none"

    @property
    def zeroth_order(self) -> bool:
        """Whether queries are all it needs of the classifier."""
        return self.gradient not in {"none", "backprop"}

    @property
    def surrogate(self) -> bool:
        """Whether a network that is fitted to the answers gives the derivative."""
        return self.gradient in {"surrogate", "distilled"}


LABELS = {
    "none": Label("none", denoiser=False),
    "MSE": Label("none"),
    "AE-MSE": Label("none", autoencoder=True),
    "FO-DS": Label("backprop"),
    "FO-AE-DS": Label("backprop", autoencoder=True),
    "ZO-DS": Label("rge"),
    "ZO-AE-DS-RGE": Label("rge", autoencoder=True),
    "ZO-AE-DS-CGE": Label("cge", autoencoder=True),
    "ZO-AE-DS-V": Label("cge", autoencoder=True, scores=True),
    "DeepZero": Label("weights"),
    "SUR-DS": Label("surrogate", scores=True),
    "SUR-AE-DS": Label("surrogate", autoencoder=True, scores=True),
    "KD-AE-DS": Label("distilled", autoencoder=True),
}
"""Row of the table of results -> what sets it apart from the others."""
