"""An optimiser for convolutions: momentum whose matrices are made orthogonal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor

_POLYNOMIAL = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_BETAS = (0.9, 0.95)  # of Adam
_EPS = 1e-8


@final
class Muon(torch.optim.Optimizer):
    """Updates matrices by their orthogonalised momentum, and all other weights by Adam.

        B <- 0.95 B + 0.05 G,    W <- W - lr sqrt(max(1, rows / columns)) U V^T,
        U S V^T = 0.05 G + 0.95 B

    (K. Jordan and others 2024, "Muon". U V^T comes from five rounds of an odd polynomial, so its
    singular values lie between 0.7 and 1.2.) A kernel (out, in, *space) counts as a matrix of
    `out` rows. Every direction of a matrix moves equally far, also one whose gradient is small:
    convolutions in a row learn in fewer iterations than by Adam.

    Args:
        matrices: The weights that count as matrices.
        others: The rest.
        lr: Learning rate of both.
    """

    def __init__(self, matrices: Iterable[Tensor], others: Iterable[Tensor], lr: float) -> None:
        parts: dict[bool, list[Tensor]] = {True: list(matrices), False: list(others)}
        groups = [{"params": part, "matrix": matrix} for matrix, part in parts.items() if part]
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    update = _orthogonal if group["matrix"] else _adam
                    weight.sub_(update(weight.grad, self.state[weight]), alpha=group["lr"])


def _orthogonal(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    momentum = state.setdefault("momentum", torch.zeros_like(gradient))
    momentum.lerp_(gradient, 1 - _BETAS[1])
    matrix = gradient.lerp(momentum, _BETAS[1]).flatten(1)
    upright = matrix.shape[0] > matrix.shape[1]
    if upright:
        matrix = matrix.T
    matrix = matrix / matrix.norm().clamp_min(torch.finfo(matrix.dtype).tiny)
    a, b, c = _POLYNOMIAL
    for _ in range(_ROUNDS):
        square = matrix @ matrix.T
        matrix = a * matrix + (b * square + c * square @ square) @ matrix
    if upright:
        matrix = matrix.T * (matrix.shape[1] / matrix.shape[0]) ** 0.5
    update: Tensor = matrix.reshape(gradient.shape)
    return update


def _adam(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    if not state:
        state.update(step=torch.zeros(()), mean=gradient * 0, square=gradient * 0)
    state["step"] += 1
    state["mean"].lerp_(gradient, 1 - _BETAS[0])
    state["square"].lerp_(gradient.square(), 1 - _BETAS[1])
    first, second = (1 - beta ** float(state["step"]) for beta in _BETAS)
    size = (state["square"] / second).sqrt() + _EPS
    update: Tensor = state["mean"] / first / size
    return update
