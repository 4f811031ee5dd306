"""One line for anybody: a solver that any PyTorch code can back-propagate through."""

from functools import partial

import numpy as np
import pytest
import torch

import zopde
from zopde import Grid, InputError, SolverError, differentiable
from zopde.tangent import Learning, ready


def grid_of(forced=False, cells=8):
    return Grid((cells, cells), (1.0, 1.0), 0.1, ("u",), ("f",) if forced else ())


class Local:
    """u' = u + dt (4 neighbours - 4 u - u^2 / 4 + f): local, and nonlinear."""

    def __init__(self, forced=False, rate=1.0):
        self.grid, self.rate, self.steps, self.fails = grid_of(forced), rate, 0, False

    def change(self, u):
        around = sum(u.roll(shift, axis) for shift in (1, -1) for axis in (2, 3))
        return around - 4 * u - u**2 / 4

    def step(self, state, forcing=None):
        if self.fails:
            raise SolverError("out of order")
        self.steps += len(state)
        driven = 0 if forcing is None else forcing
        return state + 0.1 * (self.rate * self.change(state) + driven)


class Global(Local):
    """The mean takes part: every cell feels every other."""

    def change(self, u):
        return super().change(u) - 2 * u.mean((2, 3), keepdim=True)


def examples(count=40, seed=0, cells=8):
    return torch.randn(count, 1, cells, cells, generator=torch.Generator().manual_seed(seed))


def gradients(solver, state, forcing=None, steps=3):
    """Of a loss after some steps, by everything that went in."""
    leaves = [v.clone().requires_grad_() for v in (state, forcing) if v is not None]
    u = leaves[0]
    for _ in range(steps):
        u = solver.step(u, *leaves[1:])
    return torch.autograd.grad(u.square().mean() + u[:, :, 2, 3].sum(), leaves)


def off(found, true):
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, true, strict=True))


@pytest.fixture
def quick(monkeypatch):
    """Fits of a second."""
    monkeypatch.setattr(ready, "Learning", partial(Learning, iterations=10, width=4))


@pytest.fixture
def long(monkeypatch):
    """Fits that learn something: one round of some seconds."""
    monkeypatch.setattr(ready, "Learning", partial(Learning, iterations=60, width=8, target=9.0))


@pytest.mark.parametrize("forced", [False, True])
def test_a_local_solver_needs_nothing_else(forced):
    user, true = Local(forced), Local(forced)
    solver = differentiable(user)
    solver.step(examples(2), examples(2) if forced else None)  # without a gradient
    assert (solver.report().way, user.steps) == ("", 2)
    state, forcing = examples(2, 1), examples(2, 2) if forced else None
    assert off(gradients(solver, state, forcing), gradients(true, state, forcing)) < 3e-3
    found = solver.report()
    assert (found.way, found.error, found.steps) == ("coloured", None, user.steps)
    assert found.once > 64
    assert "exact up to mu" in str(found)
    assert isinstance(solver.grid, Grid)


@pytest.mark.parametrize(("way", "most"), [("dense", 3e-3), ("identity", 4.0), ("random", 0.9)])
def test_ways_that_need_no_examples(way, most):
    user = Global()
    solver, state = differentiable(user, way=way), examples(2, 1)
    products = gradients(solver, state)
    assert off(products, gradients(Global(), state)) < most
    found = solver.report()
    # Before: two states, and one of them alone. At the products 1 and 2: an answer, and a product.
    once, looks = (0, 0) if way == "identity" else (3, 2 * (1 + 4))
    assert (found.way, found.once, found.steps) == (way, once, user.steps)
    steps = {"dense": 64, "random": 64, "identity": 0}[way]  # of a product
    assert user.steps == 2 * 3 * (1 + steps) + once + looks
    if way == "identity":  # the gradient of the loss by the last state
        for _ in range(3):
            state = Global().step(state)
        assert torch.allclose(products[0], gradients(None, state, steps=0)[0])


@pytest.mark.parametrize("forced", [False, True])
def test_a_small_global_solver_takes_the_bank(forced):
    user, forcing = Global(forced), examples(40, 5) if forced else None
    solver = differentiable(user, examples(), forcing)
    found = solver.report()
    assert (found.way, found.error) == ("bank", None)  # nothing was compared yet
    state, driven = examples(2, 1), examples(2, 2) if forced else None
    assert off(gradients(solver, state, driven), gradients(Global(forced), state, driven)) < 0.3
    assert 0 < solver.report().error < 0.5
    assert solver.report().steps == user.steps


def test_a_large_global_solver_takes_the_tangent_and_learns_it(long):
    user = Global()
    solver = differentiable(user, examples(), budget=1200, way="tangent")
    state = examples(2, 1)
    true = gradients(Global(), state)
    identity = off(gradients(differentiable(Global(), way="identity"), state), true)
    assert off(gradients(solver, state), true) < 0.5 * identity
    found = solver.report()
    # Three forward steps of two states; at the products 1 and 2 an answer, responses, a product.
    assert found.once == found.steps - 2 * 3 - 2 * (1 + 2 + 4)
    assert 500 < found.once <= 605
    assert 0 < found.error < 0.3
    assert "without learning" in found.note


def test_auto_goes_by_the_size_of_the_state(quick):
    class Notes(zopde.progress.Silent):
        said = ""

        def note(self, text):
            self.said += text

    notes = Notes()
    solver = differentiable(Global(), examples(), budget=160, progress=notes)
    assert solver.report().way == "bank"
    assert "coloured not local, bank 640, tangent 160" in notes.said  # 4 times as many will do

    class Wide(Global):
        def __init__(self):
            super().__init__()
            self.grid = grid_of(cells=16)

    solver = differentiable(Wide(), examples(cells=16), budget=200, progress=notes)
    assert solver.report().way == "tangent"
    assert "tangent, chosen by solver steps" in notes.said
    assert "coloured not local, bank 2,560, tangent 200" in notes.said


def test_the_tangent_knows_the_forcing(long):
    solver = differentiable(Global(True), examples(), examples(40, 5), way="tangent", budget=1600)
    state, driven = examples(2, 1), examples(2, 2)
    _, found = gradients(solver, state, driven, steps=1)
    _, true = gradients(Global(True), state, driven, steps=1)
    assert (found - true).norm() < 0.3 * true.norm()


def test_what_is_in_the_store_is_not_measured_again(tmp_path, quick):
    def made(way, **options):
        user = Global(**options)
        solver = differentiable(user, examples(), way=way, budget=200, store=tmp_path)
        return solver, user, gradients(solver, examples(2, 1))

    for way in ("tangent", "bank"):
        first, _, true = made(way)
        again, user, found = made(way)
        assert off(found, true) == 0
        assert first.report().once > 160
        assert again.report().once < 20
        assert again.report().steps == user.steps
        assert made(way, rate=0.9)[0].report().once > 160  # another solver


def test_the_reach_is_kept_too(tmp_path):
    steps = []
    for _ in range(2):
        solver = differentiable(Local(), examples(), store=tmp_path)
        steps.append(solver.report().once)
        assert solver.report().way == "coloured"
    assert steps[0] > 64
    assert steps[1] == 2 + 3  # who it is, and whether it answers alike
    (file,) = tmp_path.glob("*.json")
    file.write_text("{")
    with pytest.raises(InputError, match=file.name):
        differentiable(Local(), examples(), store=tmp_path)


def test_a_failure_says_nothing_of_the_reach(tmp_path):
    user = Local()
    user.fails = True
    with pytest.raises(SolverError, match="out of order"):
        differentiable(user, examples(), store=tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_a_tangent_that_does_not_fit_warns(quick):
    user = Global()
    solver = differentiable(user, examples(), way="tangent", budget=200)
    user.rate = -3.0  # another solver than was measured
    with pytest.warns(UserWarning, match="the tangent does not fit") as told:
        gradients(solver, examples(2, 1))
    assert "does not fit the solver's derivative" in str(told[0].message)
    assert solver.report().error > 0.5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"way": "magic"}, "way: got 'magic'"),
        ({"way": "bank"}, "states: got none, for the way 'bank'"),
        ({"way": "tangent"}, "states: got none, for the way 'tangent'"),
        ({"states": torch.zeros(3, 2, 8, 8)}, r"states?: got"),
        ({"states": torch.full((3, 1, 8, 8), torch.nan)}, "states: got none, or NaN"),
        ({"states": examples(), "forcing": examples()}, "forcing: got a tensor"),
        ({"forcing": examples()}, "states: got none, and a forcing"),
        ({"states": examples(), "way": "tangent", "budget": 10}, "budget: got 10 solver steps"),
        ({"states": examples(), "budget": 0}, "budget: got 0"),
        ({"states": examples(), "way": "coloured"}, "coloured way: got a step that reaches"),
        ({"seed": -1}, "seed: got -1"),
        ({"mu": 0.0}, "mu: got 0.0"),
        ({"states": np.zeros((3, 1, 8, 8))}, "states: got ndarray, .*; torch.as_tensor makes one"),
        ({"states": "all"}, "states: got 'all'"),
    ],
)
def test_bad_input_is_one_line(given, words):
    with pytest.raises(InputError, match=words) as error:
        differentiable(Global(), **given)
    assert "\n" not in str(error.value)


def test_bad_steps_are_one_line():
    with pytest.raises(InputError, match="solver: got int, expected an object"):
        differentiable(3)
    with pytest.raises(InputError, match="solver: got the class Local, expected an object: Local"):
        differentiable(Local)
    with pytest.raises(InputError, match="state: got a batch of 0 states"):
        differentiable(Local()).step(torch.zeros(0, 1, 8, 8))
    with pytest.raises(InputError, match="states: got none, with a step that reaches too far"):
        differentiable(Global()).step(examples(2).requires_grad_())
    solver = differentiable(Local(), examples())
    with pytest.raises(InputError, match=r"got torch\.float64 on cpu, expected"):
        solver.step(examples(2).double())
    with pytest.raises(InputError, match="state"):
        solver.step(torch.zeros(2, 1, 4, 4))
    with pytest.raises(InputError, match="forcing: got None"):
        differentiable(Local(True)).step(examples(2))
