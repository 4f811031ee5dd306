"""How a Jacobian is kept, and what is asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor


class Jacobian(Protocol):
    """J, known well enough for products.

    Attributes:
        error: |J kept - J measured| / |J measured|, Frobenius norms.
    """

    error: float

    def pull(self, vectors: Float[Tensor, "batch outputs"]) -> Float[Tensor, "batch inputs"]:
        """J^T v for every row."""
        ...

    def push(self, vectors: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """J d for every row."""
        ...


class Form(Protocol):
    """A layout of a Jacobian as numbers in a row, float32.

    Attributes:
        name: Sets it apart from other forms of the same Jacobian.
        size: How many numbers.
    """

    name: str
    size: int

    def pack(self, transposed: Float[Tensor, "inputs outputs"]) -> Float[Tensor, " size"]:
        """The numbers for J^T[j, i] = d S_i / d x_j, whose memory may be reused."""
        ...

    def open(self, numbers: Float[Tensor, " size"]) -> Jacobian:
        """The Jacobian of these numbers, which stay where they are."""
        ...

    def mean(self, jacobians: Sequence[Jacobian]) -> Jacobian:
        """The mean of some of this form."""
        ...


@final
class Dense:
    """Every entry of J^T.

    Args:
        transposed: (inputs, outputs).
    """

    error = 0.0

    def __init__(self, transposed: Float[Tensor, "inputs outputs"]) -> None:
        self.transposed = transposed

    def pull(self, vectors: Float[Tensor, "batch outputs"]) -> Float[Tensor, "batch inputs"]:
        """See `Jacobian`."""
        return vectors @ self.transposed.to(vectors).T

    def push(self, vectors: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """See `Jacobian`."""
        return vectors @ self.transposed.to(vectors)


@final
class DenseForm:
    """D x D numbers.

    Args:
        inputs: Entries of the varied input.
        outputs: Entries of a state.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        self.name, self.size, self._shape = "dense", inputs * outputs, (inputs, outputs)

    def pack(self, transposed: Float[Tensor, "inputs outputs"]) -> Float[Tensor, " size"]:
        """See `Form`."""
        return transposed.flatten()

    def open(self, numbers: Float[Tensor, " size"]) -> Dense:
        """See `Form`."""
        return Dense(numbers.view(self._shape))

    def mean(self, jacobians: Sequence[Jacobian]) -> Dense:
        """See `Form`."""
        total = torch.zeros(self._shape)
        for one in jacobians:
            assert isinstance(one, Dense)
            total += one.transposed
        return Dense(total / len(jacobians))
