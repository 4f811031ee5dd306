"""An attack on the smoothed classifier, by back-propagation through the base classifier."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from zopde.errors import InputError
from zopde.validate import check_count, check_positive

_INSIDE = 1 - 1e-5  # of the ball: a certificate speaks of distances below the radius


def attack(
    base_classifier: nn.Module,
    x: Float[Tensor, "batch channel y x"],
    predicted: Int[Tensor, " batch"],
    radius: Float[Tensor, " batch"],
    sigma: float,
    generator: Generator,
    steps: int = 40,
    draws: int = 16,
) -> Float[Tensor, "batch channel y x"]:
    """Search within an L2 radius of x for inputs at which the smoothed classifier is least sure.

    Projected gradient steps, each along the gradient averaged over fresh noise,

        d <- P( d - (2.5 R / K) g / |g| ),   g = (1/m) sum_j grad_d p_c(x + d + sigma e_j),

    where p_c is the softmax share of the class that was predicted, P scales d back into the ball
    of radius R, and d starts at 0. Nothing is clipped to a range of pixels: a certificate holds
    outside it, too. (Expectation over transformation: Athalye et al., ICML 2018; for smoothed
    classifiers, on the mean of the softmax: Salman et al., NeurIPS 2019, eq. 6.)

    Args:
        base_classifier: Scores (batch, classes) that autograd can follow; in eval mode.
        x: The inputs.
        predicted: c, what the smoothed classifier says there.
        radius: R >= 0 of each input, in the units of x.
        sigma: Standard deviation of the noise, in the units of x; > 0.
        generator: A CPU generator; decides the noise.
        steps: K >= 1.
        draws: m >= 1; `draws` times the batch passes the classifier at a time.

    Returns:
        x + d, |d| < R.

    Raises:
        InputError: If an argument is outside its range, or no gradient reaches x.
    """
    check_positive("sigma", sigma)
    check_count("steps", steps)
    check_count("draws", draws)
    within = (_INSIDE * radius).to(x)
    moved = torch.zeros_like(x)
    for _ in range(steps):
        noise = sigma * torch.randn(draws, *x.shape, generator=generator).to(x)
        slope = _slope(base_classifier, x + moved, noise, predicted)
        moved = moved - _scaled(slope, 2.5 / steps * within)
        length = _lengths(moved)
        moved = moved * torch.where(length > within, within / length, 1.0).view(-1, 1, 1, 1)
    return x + moved


def _slope(model: nn.Module, x: Tensor, noise: Tensor, predicted: Tensor) -> Tensor:
    """Gradient of the mean probability, up to a positive factor for each input."""
    here = x.detach().requires_grad_()
    with torch.enable_grad():
        scores = model((here + noise).flatten(0, 1))
        if not (isinstance(scores, Tensor) and scores.requires_grad and scores.dim() == 2):
            got = "an answer that autograd cannot follow"
            expected = "scores of a torch module, differentiable with respect to the input"
            raise InputError("base classifier", got=got, expected=expected)
        shares = scores.log_softmax(dim=1).view(*noise.shape[:2], -1)
        # The logarithm of the mean, so that tiny probabilities do not vanish.
        target = predicted.view(1, -1, 1).expand(len(noise), -1, 1)
        mean = shares.gather(2, target).logsumexp(dim=0)
        slope: Tensor = torch.autograd.grad(mean.sum(), here)[0]
    return slope


def _scaled(vectors: Tensor, lengths: Tensor) -> Tensor:
    """Vectors of given lengths; a vector without a direction stays nothing."""
    present = _lengths(vectors)
    return vectors * torch.where(present > 0, lengths / present, 0.0).view(-1, 1, 1, 1)


def _lengths(vectors: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(vectors.flatten(1), dim=1)
    return lengths
