"""A gradient estimate beside a reference, parameter tensor by parameter tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from zopde.oracle.coordinates import ParameterSlice
from zopde.zo.estimate import Estimate


@dataclass(frozen=True)
class LayerCheck:
    """One parameter tensor.

    Args:
        name: Qualified name, "body.0.weight".
        size: Its entries.
        asked: How many of them were compared.
        norm: Euclidean norm of the reference there.
        cosine: Of the angle between estimate and reference; None where one of them is zero.
        norm_ratio: |estimate| / |reference|; None where the reference is zero.
        deviation: Root mean square of (estimate - reference) / standard error, about 1 where
            the estimate is right; None for an estimate without a standard error.
        taylor_rate: See `taylor_rate`; None where the reference is autograd's.
    """

    name: str
    size: int
    asked: int
    norm: float
    cosine: float | None
    norm_ratio: float | None
    deviation: float | None = None
    taylor_rate: float | None = None

    def doubts(self) -> Iterator[str]:
        """What does not look right, in a line each."""
        if self.taylor_rate is not None and self.taylor_rate < 1.5:
            yield f"{self.name}: Taylor remainder of order {self.taylor_rate:.2f}, expected 2"
        if self.deviation is not None:
            if self.deviation > 2:
                yield f"{self.name}: off by {self.deviation:.1f} standard errors, expected 1"
            return
        if self.cosine is not None and self.cosine < 0.99:
            yield f"{self.name}: cosine {self.cosine:.3f}, expected 1"
        if self.norm_ratio is not None and abs(self.norm_ratio - 1) > 0.1:
            yield f"{self.name}: norm ratio {self.norm_ratio:.3f}, expected 1"

    def __str__(self) -> str:
        shown = {
            "cosine": self.cosine,
            "norm ratio": self.norm_ratio,
            "deviation": self.deviation,
            "Taylor rate": self.taylor_rate,
        }
        facts = [f"{name} {value:.4f}" for name, value in shown.items() if value is not None]
        facts = facts or ["no gradient"]
        return f"{self.name} ({self.asked} of {self.size}): {', '.join(facts)}"


def spread(slices: Sequence[ParameterSlice], count: int, generator: Generator) -> Int[Tensor, " k"]:
    """About `count` random coordinates, as evenly over the tensors as their sizes allow.

    Every tensor gives at least one, so there are more where there are more tensors.
    """
    left, chosen = count, []
    # Small tensors first: what they cannot give is shared among the larger ones.
    for i, parameter in enumerate(sorted(slices, key=lambda s: s.stop - s.start)):
        size = parameter.stop - parameter.start
        share = min(size, max(1, left // (len(slices) - i)))
        left -= share
        chosen.append(parameter.start + torch.randperm(size, generator=generator)[:share])
    return torch.cat(chosen).sort().values


def compare_layers(
    slices: Sequence[ParameterSlice],
    indices: Int[Tensor, " k"],
    estimate: Estimate,
    reference: Float[Tensor, " k"],
) -> list[LayerCheck]:
    """One row per tensor, over the coordinates that were asked.

    Args:
        slices: The tensors.
        indices: (k,), sorted.
        estimate: What is judged.
        reference: (k,), what it should be.
    """
    found = _at(estimate.gradient, indices)
    errors = None if estimate.standard_error is None else _at(estimate.standard_error, indices)
    rows = []
    for parameter in slices:
        here = (indices >= parameter.start) & (indices < parameter.stop)
        mine, theirs = found[here], reference[here].double().cpu()
        norm, own = float(theirs.norm()), float(mine.norm())
        deviation = None
        if errors is not None:
            off = (mine - theirs) / errors[here]
            off = off[errors[here] > 0]
            deviation = float(off.square().mean().sqrt()) if len(off) else None
        row = LayerCheck(
            parameter.name,
            parameter.stop - parameter.start,
            int(here.sum()),
            norm,
            cosine=float(mine @ theirs) / (norm * own) if norm * own else None,
            norm_ratio=own / norm if norm else None,
            deviation=deviation,
        )
        rows.append(row)
    return rows


def _at(values: Tensor, indices: Tensor) -> Tensor:
    return values.detach().cpu().double()[indices]
