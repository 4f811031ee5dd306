"""Layer-wise pruning ratios: how many weights of each layer a mask may activate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from zopde.errors import InputError
from zopde.oracle.coordinates import Coordinates
from zopde.sparsity.scores import Scores
from zopde.validate import check_share


@dataclass(frozen=True)
class LayerRatio:
    """Says how many weights of one parameter tensor a mask activates."""

    name: str  # qualified name in the module, "body.0.weight"
    weights: int  # its entries
    active: int  # how many of them a mask activates
    maskable: bool  # False for what is always active: biases and norms

    @property
    def sparsity(self) -> float:
        """The share that is NOT active."""
        return 1 - self.active / self.weights


@dataclass(frozen=True)
class LayerRatios:
    """Says how a mask's active weights are shared out over a network; `print` shows a table."""

    layers: tuple[LayerRatio, ...]  # one entry per parameter tensor, in the order of `Coordinates`

    @property
    def total(self) -> int:
        """d, the number of coordinates."""
        return sum(layer.weights for layer in self.layers)

    @property
    def active(self) -> int:
        """Active coordinates of a mask, the always active ones included."""
        return sum(layer.active for layer in self.layers)

    def as_tree(self) -> dict[str, Any]:
        """Give plain values, for JSON."""
        return {"layers": [asdict(layer) for layer in self.layers]}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Self:
        """Read what `as_tree` gave; raises `InputError` for values that are not of layer ratios."""
        try:
            ratios = cls(tuple(LayerRatio(**layer) for layer in tree["layers"]))
            if not all(0 <= layer.active <= layer.weights for layer in ratios.layers):
                raise ValueError("more active weights than there are")
        except (KeyError, TypeError, ValueError) as error:
            expected = "the content of LayerRatios.as_tree()"
            raise InputError("layer ratios", got=str(error), expected=expected) from error
        return ratios

    def __str__(self) -> str:
        always = [layer for layer in self.layers if not layer.maskable]
        rows = [_row(layer.name, [layer]) for layer in self.layers if layer.maskable]
        if always:
            rows.append(_row(f"always active ({len(always)} tensors)", always))
        rows = [("layer", "weights", "active", "sparsity"), *rows, _row("all", self.layers)]
        width = max(len(row[0]) for row in rows)
        return "\n".join(f"{a:<{width}} {b:>10} {c:>10} {d:>9}" for a, b, c, d in rows)


def layer_ratios(network: nn.Module, scores: Scores, sparsity: float) -> LayerRatios:
    """Share out a mask's active weights by one ranking over the whole network.

    Of the m maskable weights (tensors of two dimensions and more, without norms: the weights
    of convolutions and linear layers) the round(sparsity m) with the highest scores are pruned;
    what each tensor keeps is its number of active weights. Every tensor keeps at least one, its
    lowest-scored, as part of that number: a layer with none would never be trained again, and
    could block all gradient through it. Biases and norms are always active and not ranked. Of
    equal scores the earlier weight is kept. (Chen et al., ICLR 2024, Algorithm 1.)

    Args:
        network: The module that was scored.
        scores: From one of the score functions.
        sparsity: Share of the maskable weights that is NOT active, in [0, 1).

    Raises:
        InputError: If the sparsity is outside [0, 1), or the scores are not finite or not as
            many as the weights.

    Example:
        >>> import torch
        >>> from zopde.sparsity import layer_ratios, magnitude_scores
        >>> net = torch.nn.Sequential(torch.nn.Linear(9, 4), torch.nn.Linear(4, 1))
        >>> ratios = layer_ratios(net, magnitude_scores(net), 0.8)
        >>> ratios.total, ratios.active
        (45, 13)
    """
    check_share("sparsity", sparsity)
    slices, exempt = Coordinates(network).slices, _of_wide_norms(network)
    values, total = scores.values.detach().double().cpu(), slices[-1].stop if slices else 0
    if values.shape != (total,):
        raise InputError("scores", got=f"shape {tuple(values.shape)}", expected=f"({total},)")
    bad = int((~values.isfinite()).sum())
    if bad:
        raise InputError("scores", got=f"{bad} values not finite", expected="finite scores")
    maskable = [s for s in slices if len(s.shape) - s.is_complex >= 2 and s.name not in exempt]
    counts = _survivors([values[s.start : s.stop] for s in maskable], sparsity)
    active = dict(zip((s.name for s in maskable), counts, strict=True))
    sizes = {s.name: s.stop - s.start for s in slices}
    return LayerRatios(
        tuple(LayerRatio(n, size, active.get(n, size), n in active) for n, size in sizes.items())
    )


def _survivors(parts: list[Tensor], sparsity: float) -> list[int]:
    """How many weights of each tensor survive the global ranking."""
    if not parts:
        return []
    lengths = torch.tensor([len(part) for part in parts])
    owner = torch.arange(len(parts)).repeat_interleave(lengths)
    ranked = torch.cat(parts).clone()
    best = torch.stack([part.argmin() for part in parts]) + lengths.cumsum(0) - lengths
    ranked[best] = -torch.inf
    keep = max(len(parts), len(ranked) - round(sparsity * len(ranked)))
    survivors = torch.argsort(ranked, stable=True)[:keep]
    counts: list[int] = torch.bincount(owner[survivors], minlength=len(parts)).tolist()
    return counts


def _of_wide_norms(network: nn.Module) -> set[str]:
    """Names of the parameters of norms whose weights may have two dimensions and more."""
    norms = (m for m in network.modules() if isinstance(m, nn.LayerNorm | nn.RMSNorm))
    owned = {id(parameter) for norm in norms for parameter in norm.parameters(recurse=False)}
    return {name for name, parameter in network.named_parameters() if id(parameter) in owned}


def _row(name: str, layers: Sequence[LayerRatio]) -> tuple[str, str, str, str]:
    weights, active = sum(x.weights for x in layers), sum(x.active for x in layers)
    share = f"{100 * (1 - active / weights):.1f} %" if weights else ""
    return name, f"{weights:,}", f"{active:,}", share
