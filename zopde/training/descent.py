"""One step of a training: a gradient, and the update of the weights that it makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, final

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from zopde.contracts import Objective
from zopde.oracle.coordinates import Coordinates, from_reals, reals

_POLYNOMIAL = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_BETAS = (0.9, 0.95)  # of Adam
_EPS = 1e-8


@dataclass(frozen=True)
class Gradient:
    """Says what one gradient cost, and which weights it touches."""

    loss: float  # the objective at the present weights; NaN where the scheme never evaluates it
    queries: int  # evaluations of the objective
    active: Bool[Tensor, " d"] | None = None  # True at the coordinates that are known; None: all
    skipped: bool = False  # nothing is to be updated
    # Calls that were verified so far -> evaluations besides `queries`; see `WeightOracle`
    checked: Mapping[str, int] = field(default_factory=dict)


class GradientSource(Protocol):
    """Puts a gradient into `.grad` of every trainable parameter."""

    def __call__(self, network: nn.Module, objective: Objective, iteration: int) -> Gradient:
        """Measure the gradient of `objective` at the network's present weights."""


@final
class Backprop:
    """Back-propagates through whatever part of the objective carries a graph."""

    def __call__(
        self,
        network: nn.Module,
        objective: Objective,
        iteration: int,  # noqa: ARG002 - the same at every iteration
    ) -> Gradient:
        """One query, and one backward pass."""
        network.zero_grad(set_to_none=True)
        loss = objective(network, 1)[0]
        loss.backward()
        return Gradient(float(loss.detach()), queries=1)


def cosine(iteration: int, iterations: int, warmup: int = 0) -> float:
    """Give the factor on the learning rate: linear warm-up, then half a cosine down to zero.

        i < w:  (i + 1) / w          else:  (1 + cos(pi (i - w) / (n - w))) / 2

    A function of the iteration alone, so a resumed run has it too.

    Args:
        iteration: i, counted from 0.
        iterations: n, the length of the training.
        warmup: w, iterations of the linear rise; 0 for none.
    """
    if iteration < warmup:
        return (iteration + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / max(1, iterations - warmup)))


class Updating(Protocol):
    """Turns gradients into updates; all that it remembers is in the torch optimiser's state."""

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """Make the torch optimiser, as it is before the first iteration."""

    def update(
        self,
        optimizer: torch.optim.Optimizer,
        network: nn.Module,
        active: Bool[Tensor, " d"] | None,
        iteration: int,
        iterations: int,
    ) -> None:
        """Move the weights by their gradients; see `Optimise.update`."""


@dataclass(frozen=True)
class Optimise:
    """Says how a gradient becomes an update."""

    # "adam" (betas 0.9 and 0.99, so that a coordinate's first update has the size of the learning
    # rate), "sgd" (momentum 0.9) or "muon" (kernels of convolutions as matrices; see `Muon`)
    name: Literal["adam", "sgd", "muon"] = "adam"
    lr: float = 1e-3  # learning rate at the top of the schedule
    warmup: int = 0  # iterations of linear rise before the cosine
    # Largest Euclidean norm of the gradient; larger ones are scaled down. 0: never
    clip: float = 0.0
    weight_decay: float = 0.0  # L2 penalty added to the gradient, on active coordinates only

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """Make the torch optimiser of this choice."""
        weights = [p for p in network.parameters() if p.requires_grad]
        decay = self.weight_decay
        if self.name == "muon":
            most = max(weight.dim() for weight in weights)
            kernels = [weight for weight in weights if weight.dim() == most]
            return Muon(kernels, [w for w in weights if w.dim() < most], self.lr)
        if self.name == "sgd":
            return torch.optim.SGD(weights, lr=self.lr, momentum=0.9, weight_decay=decay)
        return torch.optim.Adam(weights, lr=self.lr, betas=(0.9, 0.99), weight_decay=decay)

    def update(
        self,
        optimizer: torch.optim.Optimizer,
        network: nn.Module,
        active: Bool[Tensor, " d"] | None,
        iteration: int,
        iterations: int,
    ) -> None:
        """Clip, set the scheduled learning rate, step.

        Coordinates that are not active keep their weight AND their moments. A zero in a sparse
        gradient means "not probed", not "flat": letting momentum and weight decay act on it, as
        a plain optimiser does, moves weights on stale or no evidence. (DeepZero's released code
        does.) So a weight is decayed as often as it is probed, and the balance of gradient and
        decay is that of the dense update.
        """
        if self.clip:
            nn.utils.clip_grad_norm_(network.parameters(), self.clip)
        for group in optimizer.param_groups:
            group["lr"] = self.lr * cosine(iteration, iterations, self.warmup)
        if active is None:
            optimizer.step()
        else:
            _step_active(optimizer, network, active)


@torch.no_grad()
def _step_active(optimizer: torch.optim.Optimizer, network: nn.Module, active: Tensor) -> None:
    """Step, then put back every inactive entry of the weights and of the moments."""
    before = []
    for weight, mask in Coordinates(network).parts("mask", active):
        moments = {name: moment.clone() for name, moment in _moments(optimizer, weight).items()}
        before.append((weight, weight.clone(), mask.to(weight.device), moments))
    optimizer.step()
    for weight, old, mask, moments in before:
        weight.copy_(_where(mask, weight, old))
        for name, moment in _moments(optimizer, weight).items():
            old_moment = moments.get(name, torch.zeros_like(moment))
            moment.copy_(_where(mask, moment, old_moment))


def _where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return from_reals(torch.where(mask, reals(new), reals(old)), new)


def _moments(optimizer: torch.optim.Optimizer, weight: Tensor) -> dict[str, Tensor]:
    state = optimizer.state.get(weight, {})
    shape = reals(weight).shape
    return {k: v for k, v in state.items() if torch.is_tensor(v) and reals(v).shape == shape}


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
