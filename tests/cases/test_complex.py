"""Complex weights count twice, whatever they meet."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from references import autograd, seeded
from torch import nn

from zopde import (
    CorrectedSolver,
    ExecutorOracle,
    InputError,
    SolverError,
    WeightOracle,
    cge,
    rge,
    selfcheck,
)
from zopde.interface import DensePullback, InterfaceSolver, RandomPullback
from zopde.oracle import relative_mu
from zopde.oracle.coordinates import Coordinates
from zopde.sparsity import (
    FixedMask,
    LayerMasks,
    RandomMasks,
    grasp_scores,
    kept_mask,
    layer_ratios,
    magnitude_scores,
    zo_grasp_scores,
)
from zopde.training import (
    Backprop,
    Masked,
    Optimise,
    RandomDirections,
    Skipping,
    ZerothOrder,
    fit,
)

DOUBLE, COMPLEX = torch.float64, torch.complex128


class Spectral(nn.Module):
    """A few Fourier modes of a line, each multiplied by a weight; `twin` holds its two parts."""

    def __init__(self, twin=False):
        super().__init__()
        torch.manual_seed(0)
        real = torch.randn(2, 3, 2, dtype=DOUBLE)
        self.before = nn.Linear(8, 8, dtype=DOUBLE)
        self.modes = nn.Parameter(real if twin else torch.view_as_complex(real))
        self.after = nn.Linear(8, 1, dtype=DOUBLE)

    def forward(self, x):
        modes = self.modes if self.modes.is_complex() else torch.view_as_complex(self.modes)
        kept = torch.fft.rfft(self.before(x))[:, :3] * modes[0] * modes[1]
        return self.after(torch.fft.irfft(kept, n=8))


def objective(network, num_probes):
    gen = torch.Generator().manual_seed(1)
    x = torch.randn(6, 8, dtype=DOUBLE, generator=gen).repeat(num_probes, 1)
    y = network(x).reshape(num_probes, -1)
    return (y.sin() - 0.3).square().mean(dim=1)


def twins():
    return Spectral(), Spectral(twin=True)


def weights(network):
    held = [torch.view_as_real(p) if p.is_complex() else p for p in network.parameters()]
    return torch.cat([p.detach().flatten() for p in held])


# Networks with a complex parameter in every place where one may stand.


class Lifted(nn.Module):
    """Complex layers of torch's own between two transforms."""

    def __init__(self, layer, axes):
        super().__init__()
        self.layer, self.axes = layer, axes

    def forward(self, x):
        return torch.view_as_real(self.layer(torch.complex(x, x.roll(1, -1))).tanh()).flatten(1)


class Odd(nn.Module):
    """A scalar, a conjugate, a transpose, a tied weight, a complex buffer, an unused entry."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.scalar = nn.Parameter(torch.tensor(0.3 + 0.4j, dtype=COMPLEX))
        self.conjugate = nn.Parameter(torch.randn(4, dtype=COMPLEX).conj())
        self.turned = nn.Parameter(torch.randn(4, 2, dtype=COMPLEX).t())
        self.tied = self.turned
        self.register_buffer("shift", torch.randn(4, dtype=COMPLEX))

    def forward(self, x):
        z = x.to(COMPLEX)[:, :4] * self.conjugate + self.shift * self.scalar
        z = z @ self.turned.t() @ self.tied
        return torch.cat([z.real, z.imag.sin(), z.abs()], dim=1)


class Unit(nn.Module):
    """Divides a weight by its length."""

    def forward(self, weight):
        return weight / weight.abs().square().sum().sqrt()


class Made(nn.Module):
    """A complex weight that is made from another at every call."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(8, 3, bias=False, dtype=COMPLEX)
        nn.utils.parametrize.register_parametrization(self.layer, "weight", Unit())

    def forward(self, x):
        return self.layer(x.to(COMPLEX)).real


MODULES = {
    "modes": Spectral,
    "linear": lambda: Lifted(nn.Linear(8, 3, dtype=COMPLEX), 1),
    "conv": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 8)), Lifted(nn.Conv1d(1, 2, 3, dtype=COMPLEX), 1)
    ),
    "odd": Odd,
    "parametrised": Made,
}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("stacked", [True, False])
def test_both_parts_have_the_gradient_of_backward(kind, stacked):
    torch.manual_seed(5)
    network = MODULES[kind]()
    exact = autograd(network, objective)
    oracle = WeightOracle(network, objective, stacked=stacked)
    numbers = sum(p.numel() * (1 + p.is_complex()) for p in network.parameters())
    assert oracle.num_coordinates == len(exact) == numbers
    found = cge(oracle, mu=1e-5, scheme="central")
    torch.testing.assert_close(found.gradient, exact, rtol=1e-6, atol=1e-8)
    oracle.set_gradient(found.gradient)
    assert all(p.grad.dtype == p.dtype and p.grad.shape == p.shape for p in network.parameters())
    torch.testing.assert_close(autograd_of(network), exact, rtol=1e-6, atol=1e-8)


def autograd_of(network):
    held = [torch.view_as_real(p.grad) if p.is_complex() else p.grad for p in network.parameters()]
    return torch.cat([part.flatten() for part in held])


@pytest.mark.parametrize("kind", MODULES)
def test_directions_move_both_parts(kind):
    """All at once under vmap, one at a time, and by the slope of autograd: the same losses."""
    torch.manual_seed(5)
    network = MODULES[kind]()
    rows = torch.randn(5, Coordinates(network).total, dtype=DOUBLE, generator=seeded())
    together = WeightOracle(network, objective)
    alone = WeightOracle(network, objective, stacked=False)
    losses = together.directions(rows, 1e-6)
    torch.testing.assert_close(losses, alone.directions(rows, 1e-6), rtol=1e-12, atol=1e-14)
    slopes = (losses - together.directions(rows, -1e-6)) / 2e-6
    torch.testing.assert_close(slopes, rows @ autograd(network, objective), rtol=1e-5, atol=1e-8)


def test_a_network_and_its_twin_of_real_numbers_are_the_same_to_every_estimator():
    one, other = twins()
    first, second = WeightOracle(one, objective), WeightOracle(other, objective)
    indices = torch.tensor([0, 1, 6, 11, 12, 70])
    for ask in (
        lambda oracle: cge(oracle).gradient,
        lambda oracle: cge(oracle, indices, scheme="central").gradient,
        lambda oracle: rge(oracle, 7, 1e-3, seeded()).gradient,
        lambda oracle: rge(oracle, 7, 1e-3, seeded(), indices=indices).standard_error,
    ):
        torch.testing.assert_close(ask(first), ask(second), rtol=1e-9, atol=1e-12)
    assert torch.equal(relative_mu(one, 1e-2), relative_mu(other, 1e-2))
    assert torch.equal(cge(first, mu=relative_mu(one)).gradient != 0, torch.ones(93).bool())


def test_scores_and_ratios_are_those_of_the_twin():
    one, other = twins()
    for score in (
        magnitude_scores,
        lambda network: grasp_scores(network, objective),
        lambda network: zo_grasp_scores(network, objective, 5, generator=seeded()),
    ):
        first, second = score(one), score(other)
        assert first.values.dtype == DOUBLE
        torch.testing.assert_close(first.values, second.values, rtol=1e-8, atol=1e-12)
        ratios = layer_ratios(one, first, 0.5)
        assert ratios == layer_ratios(other, second, 0.5)
        assert ratios.total == 93
        assert torch.equal(kept_mask(first, ratios), kept_mask(second, ratios))


def test_grasp_is_minus_theta_times_the_hessian_of_both_parts():
    one, other = twins()
    theta = weights(other)
    shapes = [(name, p.shape) for name, p in other.named_parameters()]

    def loss(flat):
        parts = flat.split([shape.numel() for _, shape in shapes])
        named = {name: v.view(shape) for (name, shape), v in zip(shapes, parts, strict=True)}
        return objective(lambda x: torch.func.functional_call(other, named, x), 1)[0]

    slope = torch.autograd.functional.jacobian(loss, theta)
    expected = -theta * (torch.autograd.functional.hessian(loss, theta) @ slope)
    torch.testing.assert_close(grasp_scores(one, objective).values, expected)


def test_a_complex_bias_is_never_masked():
    network = nn.Linear(4, 3, dtype=COMPLEX)
    ratios = layer_ratios(network, magnitude_scores(network), 0.5)
    assert [(r.name, r.weights, r.active, r.maskable) for r in ratios.layers] == [
        ("weight", 24, 12, True),
        ("bias", 6, 6, False),
    ]


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("source", ["masked", "ratios", "backprop", "directions"])
def test_training_moves_both_parts_as_the_twin(name, source, tmp_path):
    """Sparse updates with moments and decay, clipping, a resume in the middle."""

    def trained(network, folder, fails=False):
        ratios = layer_ratios(network, magnitude_scores(network), 0.6)
        gradient = {
            "masked": ZerothOrder(RandomMasks(93, 0.5, 2, 0), 1e-4, "central", WeightOracle, True),
            "ratios": ZerothOrder(LayerMasks(ratios, 2, 0), 1e-4, "central", WeightOracle),
            "backprop": Masked(Backprop(), RandomMasks(93, 0.5, 2, 0)),
            "directions": RandomDirections(6, 1e-4, "central", WeightOracle, 0),
        }[source]
        optimise = Optimise(name, lr=0.02, clip=0.05, weight_decay=0.01)

        def at(iteration):
            if fails and iteration == 3:
                raise SolverError("a kill")
            return objective

        fit(network, at, gradient, optimise, 6, folder)
        return weights(network)

    start = weights(Spectral())
    one, other = twins()
    found = trained(one, tmp_path / "one")
    expected = trained(other, tmp_path / "other")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(found[:12], start[:12])
    with pytest.raises(SolverError):
        trained(Spectral(), tmp_path / "killed", fails=True)
    assert torch.equal(found, trained(Spectral(), tmp_path / "killed")), "resumed, bit for bit"
    if source != "directions":
        assert (found == start).any(), "weights that were never active stay"


def test_a_skipped_iteration_leaves_complex_weights_alone():
    def broken(network, num_probes):
        return objective(network, num_probes) * torch.nan

    network = Spectral()
    source = Skipping(ZerothOrder(RandomMasks(93, 0.0, 1, 0), 1e-3, "forward", WeightOracle))
    assert source(network, broken, 0).skipped
    assert all(not p.grad.any() for p in network.parameters())


def test_workers_give_the_same_bits():
    network = Spectral()
    serial = WeightOracle(network, objective, chunk=16)
    with ThreadPoolExecutor(2) as pool:
        shipped = ExecutorOracle(network, objective, pool, chunk=16)
        assert torch.equal(cge(shipped).gradient, cge(serial).gradient)
        ways = [rge(oracle, 5, 1e-3, seeded()).gradient for oracle in (shipped, serial)]
        assert torch.equal(*ways)
        shipped.set_gradient(ways[0])
    assert network.modes.grad.dtype == COMPLEX


def test_selfcheck_sees_both_parts():
    network = Spectral()
    oracle, exact = WeightOracle(network, objective), autograd(network, objective)
    found = selfcheck(oracle, 1e-6, seeded(), exact, network)
    assert found.warnings == ()
    assert (found.total, found.layers[0].name, found.layers[0].size) == (93, "modes", 12)
    halved = exact.clone()
    halved[1:12:2] = 0  # every imaginary part
    assert any("modes" in t for t in selfcheck(oracle, 1e-6, seeded(), halved, network).warnings)
    assert selfcheck(oracle, 1e-6, seeded(), network=network).warnings == ()


def test_single_precision_weights():
    """complex64 beside float32: the gradient in float32, `.grad` in the dtype of each weight."""
    network = Spectral().float()  # torch leaves complex weights as they are
    network.modes = nn.Parameter(network.modes.detach().to(torch.complex64))

    def single(net, num_probes):
        return objective(lambda x: net(x.float()), num_probes)

    exact = autograd(network, single)
    oracle = WeightOracle(network, single)
    for found in (cge(oracle).gradient, cge(oracle, mu=relative_mu(network, 1e-2)).gradient):
        assert torch.cosine_similarity(found, exact, dim=0) > 0.999
    oracle.set_gradient(found)
    assert network.modes.grad.dtype == torch.complex64


# What cannot be right is refused.


@pytest.mark.parametrize("estimate", [cge, lambda oracle: rge(oracle, 3, 1e-3, seeded())])
def test_complex_losses_are_refused(estimate):
    def squared(network, num_probes):
        return (objective(network, num_probes) + 0.5j) ** 2

    with pytest.raises(InputError, match="objective: got complex losses, expected one real"):
        estimate(WeightOracle(Spectral(), squared))


def test_flat_vectors_of_complex_numbers_or_of_another_length_are_refused():
    network = Spectral()
    oracle = WeightOracle(network, objective)
    counted_once = torch.cat([p.detach().flatten() for p in network.parameters()])
    with pytest.raises(InputError, match=r"got shape \(87,\), complex, .*view_as_real"):
        oracle.set_gradient(counted_once)
    with pytest.raises(InputError, match=r"got shape \(93,\), complex"):
        selfcheck(oracle, 1e-3, seeded(), torch.zeros(93, dtype=COMPLEX), network)
    for length in (87, 94):
        mask = FixedMask(torch.ones(length, dtype=torch.bool))
        message = rf"mask: got shape \({length},\), expected \(93,\)"
        for source in (ZerothOrder(mask, 1e-3, "forward", WeightOracle), Masked(Backprop(), mask)):
            with pytest.raises(InputError, match=message):
                source(network, objective, 0)
        with pytest.raises(InputError, match="gradient: got shape"):
            oracle.set_gradient(torch.zeros(length))


def test_a_complex_correction_of_a_real_state_is_refused(toy, window):
    solver = CorrectedSolver(toy, lambda state, forcing: torch.fft.ifft2(state))
    with pytest.raises(InputError, match=r"corrector: got an answer of complex \(2, 8, 8\)"):
        solver.step(window.initial, window.forcing[:, 0])


def test_the_interface_refuses_complex_states(toy, window):
    """Their two parts are two channels; differences along real steps would see one of them."""
    state = window.initial.to(COMPLEX).requires_grad_()
    for pullback in (DensePullback(), RandomPullback(seeded())):
        with pytest.raises(InputError, match=r"state: got complex numbers.*two channels"):
            InterfaceSolver(toy, pullback).step(state, window.forcing[:, 0])


class Twice(nn.Module):
    """One weight under two names of one module."""

    def __init__(self, dtype):
        super().__init__()
        self.first = nn.Parameter(0.2 * torch.randn(8, 8, dtype=dtype, generator=seeded()))
        self.second = self.first

    def forward(self, x):
        return ((x.to(self.first) @ self.first).sin() @ self.second).real


@pytest.mark.parametrize("dtype", [DOUBLE, COMPLEX])
def test_a_weight_under_two_names_of_one_module_is_moved_under_both(dtype):
    network = Twice(dtype)
    found = cge(WeightOracle(network, objective), mu=1e-5, scheme="central").gradient
    torch.testing.assert_close(found, autograd(network, objective), rtol=1e-6, atol=1e-8)
