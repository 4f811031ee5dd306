"""Is my gradient right, and is my mu?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, isfinite, sqrt
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.special import ndtri, stdtr
from torch import Generator, Tensor, nn

from zopde.check.noise import Noise, measure_noise
from zopde.check.sweep import Sweep, SweepPoint, ladder, sweep_mu, taylor_rate
from zopde.contracts import Oracle, one_gradient
from zopde.errors import InputError
from zopde.oracle.coordinates import Coordinates, ParameterSlice, check_flat
from zopde.validate import check_count, check_positive, checked
from zopde.zo.cge import Scheme, cge, check_mu
from zopde.zo.estimate import Estimate


@dataclass(frozen=True)
class LayerCheck:
    """Says how well an estimate fits the reference in one parameter tensor."""

    name: str  # qualified name, "body.0.weight"
    size: int  # its entries
    asked: int  # how many of them were compared
    norm: float  # Euclidean norm of the reference there
    # Of the angle between estimate and reference; None where one of them is zero
    cosine: float | None
    # |estimate| / |reference|; None where both are zero as far as can be told, infinite where only
    # the reference is
    norm_ratio: float | None
    # Root mean square of (estimate - reference) / standard error, about 1 where the estimate is
    # right; None for an estimate without a standard error. A ratio of few directions is first taken
    # from Student's distribution to the normal one's
    deviation: float | None = None
    taylor_rate: float | None = None  # see `taylor_rate`; None where the reference is autograd's

    def doubts(self) -> Iterator[str]:
        """Name what does not look right, in a line each."""
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
        names = ("cosine", "norm ratio", "deviation", "Taylor rate")
        values = (self.cosine, self.norm_ratio, self.deviation, self.taylor_rate)
        shown = zip(names, values, strict=True)
        facts = [f"{name} {value:.4f}" for name, value in shown if value is not None]
        facts = facts or ["no gradient"]
        return f"{self.name} ({self.asked} of {self.size}): {', '.join(facts)}"


@dataclass(frozen=True)
class SelfCheck:
    """Holds what a self-check found; `str()` is for people, `as_dict()` for programs."""

    mu: float  # the step that was judged
    scheme: str  # "forward" or "central"
    against: str  # "autograd", or "extrapolation" where there was no gradient to compare with
    layers: tuple[LayerCheck, ...]  # one row per parameter tensor
    sweep: tuple[SweepPoint, ...]  # relative error of both schemes over a ladder of steps
    recommended_mu: float  # the step of the ladder with the least error in this scheme
    noise: Noise  # the objective's, and the least sensible mu
    asked: int  # coordinates that were compared
    swept: int  # coordinates on which the ladder was tried
    total: int  # d
    queries: int  # evaluations that it took, without those of a given estimate
    warnings: tuple[str, ...]  # what is wrong or doubtful, one line each; empty if nothing is

    def as_dict(self) -> dict[str, Any]:
        """Give plain values only; what is no finite number is None."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    def __str__(self) -> str:
        floor = "none" if self.noise.floor is None else f"{self.noise.floor:.1e}"
        return "\n".join(
            [
                f"mu {self.mu:g} against {self.against}, {self.asked} of {self.total} coordinates",
                *(f"  {layer}" for layer in self.layers),
                f"recommended mu {self.recommended_mu:.1e} ({self.scheme})",
                f"noise of the loss {self.noise.level:.1e}, least sensible mu {floor}",
                *(f"warning: {text}" for text in self.warnings),
            ]
        )


@checked
def selfcheck(
    oracle: Oracle,
    mu: float,
    generator: Generator,
    gradient: Float[Tensor, " d"] | None = None,
    network: nn.Module | None = None,
    scheme: Scheme = "forward",
    scale: Float[Tensor, " d"] | None = None,
    estimate: Estimate | None = None,
    num_coordinates: int = 256,
    num_swept: int = 32,
) -> SelfCheck:
    """Compare an estimate with the true gradient, find the best mu, and measure l's noise.

    Per parameter tensor: cosine and norm ratio of the estimate to `gradient`. Without one, to
    Richardson-extrapolated central differences, which the Taylor remainder then vouches for:
    |l(theta + h v) - l(theta) - h g . v| must fall like h^2 (`taylor_rate`).
    Queries: 22 per swept coordinate in single precision and 34 in double, one per compared one,
    and few more. Randomness: `generator` draws the coordinates that are compared; all
    queries meet the same random numbers of torch (Dropout in train mode).

    Args:
        oracle: Evaluates l around its base point; see `zopde.contracts.Oracle`.
        mu: Step to judge; > 0.
        generator: Source of the sample.
        gradient: (d,), dl/dtheta by autograd, where there is one.
        network: Names the parameter tensors; None takes theta as one.
        scheme: Of the estimate, and of the recommended mu.
        scale: (d,), probe i moves by mu * scale_i, as with `mu=mu * scale` in `cge`; see
            `relative_mu`. None: 1 everywhere.
        estimate: What to judge, such as an `rge`; None judges a `cge` with `mu`.
        num_coordinates: How many weights are compared with `gradient`, at least one per tensor.
        num_swept: On how many the steps of the ladder are tried, at least one per tensor;
            without a gradient only these are compared.

    Returns:
        `SelfCheck`; nothing is raised for a gradient that is wrong, see its warnings.

    Raises:
        InputError: On arguments that do not fit, or losses that are nowhere finite.

    Example:
        >>> import torch
        >>> from zopde import WeightOracle, selfcheck
        >>> net, x = torch.nn.Linear(2, 1).double(), torch.eye(2).double()
        >>> oracle = WeightOracle(net, lambda f, p: f(x.repeat(p, 1)).view(p, -1).sin().sum(1))
        >>> found = selfcheck(oracle, 1e-6, torch.Generator().manual_seed(0), network=net)
        >>> found.warnings, [round(layer.taylor_rate) for layer in found.layers]
        ((), [2, 2])
    """
    check_positive("mu", mu)
    check_count("num_coordinates", num_coordinates)
    check_count("num_swept", num_swept)
    d = oracle.num_coordinates
    slices = _slices(network, d)
    scale = torch.ones(d, dtype=torch.float64) if scale is None else scale.detach().cpu()
    check_mu(scale, d, "scale")
    if gradient is not None:
        check_flat("gradient", gradient, d)
    exact = None if gradient is None else gradient.detach().cpu().double()
    swept = spread(slices, num_swept, generator)
    compared = swept if exact is None else spread(slices, num_coordinates, generator)
    with one_gradient(oracle):  # dropout and noise are the same at all queries
        base = oracle.base()
        eps, mus = torch.finfo(base.dtype).eps, ladder(base.dtype)
        sweep = sweep_mu(oracle, swept, mus, scale[swept], None if exact is None else exact[swept])
        slopes = sweep.reference * scale[swept]
        # A smaller step than this would not move the loss at all, and so show no round-off.
        noise = measure_noise(oracle, swept, slopes, max(mu, sqrt(eps)) * scale)
        queries = 1 + sweep.queries + noise.queries
        if estimate is None:
            estimate = cge(oracle, compared, mu * scale, scheme)
            queries += estimate.queries
        reference = sweep.reference if exact is None else exact[compared]
        level = max(noise.level, eps * abs(float(base)))
        # Smaller than this, in units of the scale, a derivative is nothing but round-off.
        nothing = 10 * sqrt(2) * level / mu, 10 * level / (sweep.reference_mu or inf)
        if exact is not None and gradient is not None:
            nothing = nothing[0], 100 * torch.finfo(gradient.dtype).eps * _rms(exact * scale)
        layers = list(_compare(slices, compared, estimate, reference, scale, nothing))
        if exact is None:
            reference_mu = sweep.reference_mu or inf
            for i, tensor in enumerate(slices):
                here = (swept >= tensor.start) & (swept < tensor.stop)
                direction, slope = _uphill(swept[here], slopes[here], scale)
                slope_error = sqrt(int(here.sum())) * level / reference_mu
                calm = level if layers[i].cosine is not None else 10 * level  # zero, and round-off
                rate = taylor_rate(oracle, direction, slope, mus, calm, slope_error)
                layers[i] = replace(layers[i], taylor_rate=rate)
            queries += len(slices) * (len(mus) + 1)
    return SelfCheck(
        mu,
        scheme,
        "extrapolation" if exact is None else "autograd",
        tuple(layers),
        sweep.points,
        sweep.best(scheme).mu,
        noise,
        len(compared),
        len(swept),
        d,
        queries,
        tuple(_warnings(mu, scheme, layers, sweep, noise)),
    )


def spread(slices: Sequence[ParameterSlice], count: int, generator: Generator) -> Int[Tensor, " k"]:
    """Draw about `count` coordinates, as evenly over the tensors as their sizes allow.

    Every tensor gives at least one, so there are more where there are more tensors.
    """
    left, chosen = count, []
    # Small tensors first: what they cannot give is shared among the larger ones.
    for i, tensor in enumerate(sorted(slices, key=lambda s: s.stop - s.start)):
        size = tensor.stop - tensor.start
        share = min(size, max(1, left // (len(slices) - i)))
        left -= share
        chosen.append(tensor.start + torch.randperm(size, generator=generator)[:share])
    return torch.cat(chosen).sort().values


def _compare(
    slices: Sequence[ParameterSlice],
    indices: Int[Tensor, " k"],
    estimate: Estimate,
    reference: Float[Tensor, " k"],
    scale: Float[Tensor, " d"],
    nothing: tuple[float, float],
) -> Iterator[LayerCheck]:
    """One row per tensor, over the coordinates (sorted) that are compared.

    `nothing` is the size that estimate and reference may have where the derivatives are zero.
    """
    gradient, errors = (
        None if values is None else values.detach().cpu().double()[indices]
        for values in (estimate.gradient, estimate.standard_error)
    )
    assert gradient is not None
    unit = scale[indices].double()
    typical = _rms(reference.double().cpu() * unit)
    for tensor in slices:
        here = (indices >= tensor.start) & (indices < tensor.stop)
        own, expected = gradient[here], reference[here].double().cpu()
        length, norm = float(own.norm()), float(expected.norm())
        deviation = None
        if errors is not None:
            off = ((own - expected) / errors[here])[errors[here] > 0]
            off = _as_normal(off.abs(), estimate.directions)
            deviation = float(off.square().mean().sqrt()) if len(off) else None
        cosine = float(own @ expected) / (norm * length) if norm * length else None
        ratio, size = length / norm if norm else None, tensor.stop - tensor.start
        if errors is None and _rms(expected * unit[here]) <= nothing[1]:
            # The forward scheme's curvature is no fault, either, while other tensors rule.
            calm = _rms(own * unit[here]) <= max(nothing[0], 0.01 * typical)
            cosine, ratio = None, None if calm else inf
        yield LayerCheck(tensor.name, size, int(here.sum()), norm, cosine, ratio, deviation)


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def _as_normal(ratios: Tensor, directions: int | None) -> Tensor:
    """The standard normal's values that are as rare as Student's of so many directions."""
    if directions is None:
        return ratios
    normal = -torch.from_numpy(ndtri(stdtr(directions - 1, -ratios.numpy())))
    # So rare that the chance is no number above zero: there both are large.
    return torch.minimum(normal, ratios)


def _uphill(indices: Tensor, slopes: Tensor, scale: Tensor) -> tuple[Tensor, float]:
    """A direction along some coordinates at once, up the gradient, and the slope along it."""
    signs = torch.where(slopes < 0, -1.0, 1.0).double()
    direction = torch.zeros(len(scale), dtype=torch.float64)
    direction[indices] = signs * scale[indices]
    return direction, float(signs @ slopes)


def _warnings(
    mu: float, scheme: str, layers: Sequence[LayerCheck], sweep: Sweep, noise: Noise
) -> Iterator[str]:
    if noise.floor is not None and mu < noise.floor:
        yield f"mu {mu:.1e} is below the noise floor: probes move the loss less than its noise does"
    if noise.repeated > 0:
        yield f"the loss is not repeatable: standard deviation {noise.repeated:.1e} at one theta"
    if noise.floor is None:
        yield "no probe moves the loss: the gradient is zero at every coordinate asked"
    least = getattr(sweep.best(scheme), scheme)
    if least > 0.1:
        yield f"no mu gives a good {scheme} difference: the best is off by {least:.0%}"
    for layer in layers:
        yield from layer.doubts()


def _slices(network: nn.Module | None, d: int) -> list[ParameterSlice]:
    if not d:
        raise InputError("oracle", got="no coordinates", expected="something to probe")
    if network is None:
        return [ParameterSlice("theta", 0, d, (d,))]
    coordinates = Coordinates(network)
    if coordinates.total != d:
        got = f"{coordinates.total} weights"
        raise InputError("network", got=got, expected=f"the {d} of the oracle")
    return [parameter for parameter in coordinates.slices if parameter.stop > parameter.start]


def _plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
