"""Stochastic solvers: all probes of a gradient meet the same noise."""

from pathlib import Path

import pytest
import torch

from zopde import (
    CorrectedSolver,
    DensePullback,
    InterfaceSolver,
    OneAtATime,
    UnrolledObjective,
    WeightOracle,
    cge,
    load_solver,
    rollout,
)
from zopde.blackbox import BlackBox, CountedSolver, Dropping, Retrying, Store, Stored
from zopde.seeding import noise_seeds

HERE = Path(__file__).parent.parent
SCALE = torch.ones(2).double()
SEEDS = (11, 12, 13, 14)


@pytest.fixture
def noisy():
    return load_solver(f"{HERE / 'toy_faults.py'}:Noisy", {"size": 0.05})


def autograd(network, objective):
    weights = list(network.parameters())
    return torch.cat([g.flatten() for g in torch.autograd.grad(objective(network, 1)[0], weights)])


def cosine(a, b):
    return float(torch.cosine_similarity(a, b, dim=0))


def test_common_noise_gives_the_gradient_of_the_frozen_objective(noisy, corrector, window):
    exact = autograd(corrector, UnrolledObjective(noisy, window, SCALE, seeds=SEEDS))
    box = BlackBox(noisy)
    frozen = cge(
        WeightOracle(corrector, UnrolledObjective(box, window, SCALE, seeds=SEEDS)), mu=1e-6
    )
    torch.testing.assert_close(frozen.gradient, exact, rtol=1e-3, atol=1e-6)
    fresh = cge(WeightOracle(corrector, UnrolledObjective(box, window, SCALE)), mu=1e-6)
    assert abs(cosine(fresh.gradient, exact)) < 0.5, "without it there is nothing but noise"
    other = autograd(corrector, UnrolledObjective(noisy, window, SCALE, seeds=(1, 2, 3, 4)))
    assert not torch.allclose(other, exact, rtol=1e-3), "the noise does matter"


def test_the_interface_cut_probes_with_the_noise_of_the_step(noisy, corrector, window):
    exact = autograd(corrector, UnrolledObjective(noisy, window, SCALE, seeds=SEEDS))
    solver = InterfaceSolver(BlackBox(noisy), DensePullback(1e-6))
    found = autograd(corrector, UnrolledObjective(solver, window, SCALE, seeds=SEEDS))
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-7)


def test_every_wrapper_hands_the_seed_on(noisy, window, tmp_path):
    state, forcing = window.stepped.float(), window.forcing[:, 0].float()
    expected = noisy.with_seed(5).step(state, forcing)
    inside = OneAtATime(BlackBox(noisy))
    whole = CountedSolver(Dropping(Retrying(Stored(inside, Store(tmp_path / "s"), "noisy"))))
    found = whole.with_seed(5)
    torch.testing.assert_close(found.step(state, forcing), expected)
    assert torch.equal(found.step(state, forcing), found.step(state, forcing))
    assert whole.steps == 3 * len(state), "both count in one place"
    corrected = CorrectedSolver(whole, lambda u, f: torch.zeros_like(u)).with_seed(5)
    torch.testing.assert_close(corrected.step(state, forcing), expected)


def test_a_rollout_with_seeds_repeats(noisy, window):
    def run(seeds):
        return rollout(noisy, window.stepped, 3, lambda t: window.forcing[:, t], seeds=seeds)

    seeds = noise_seeds(0, 7, 3)
    assert torch.equal(run(seeds), run(seeds))
    assert not torch.equal(run(()), run(()))
    assert len(set(seeds) | set(noise_seeds(0, 8, 3)) | set(noise_seeds(1, 7, 3))) == 9
