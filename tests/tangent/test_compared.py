"""A gradient that would be wrong is told, or refused."""

import pytest
import torch

from zopde import Grid, InputError, SolverError, differentiable


class Local:
    """u' = u + dt rate (4 neighbours - 4 u - u^2 / 4): local, and nonlinear."""

    grid = Grid((8, 8), (1.0, 1.0), 0.1, ("u",))

    def __init__(self, rate=1.0):
        self.rate = rate

    def change(self, u):
        around = sum(u.roll(shift, axis) for shift in (1, -1) for axis in (2, 3))
        return around - 4 * u - u**2 / 4

    def step(self, state, forcing=None):
        return state + 0.1 * self.rate * self.change(state)


class Global(Local):
    """The mean takes part: every cell feels every other."""

    def change(self, u):
        return super().change(u) - 2 * u.mean((2, 3), keepdim=True)


def examples(count=40, seed=0):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def off(found, true):
    return float((found - true).norm() / true.norm())


def exact(solver, state, v):
    leaf = state.clone().requires_grad_()
    return torch.autograd.grad(solver.step(leaf), leaf, v)[0]


def product(solver, state, v, *forcing):
    state = state.clone().requires_grad_()
    solver.step(state, *forcing).backward(v)
    return state.grad


class Fails(Local):
    """Not a number, from one step on."""

    def __init__(self, after):
        super().__init__()
        self.after, self.calls = after, 0

    def step(self, state, forcing=None):
        self.calls += 1
        return super().step(state) * (torch.nan if self.calls > self.after else 1.0)


@pytest.mark.parametrize("way", ["coloured", "dense", "random"])
def test_a_probe_without_an_answer_raises(way):
    user = Fails(10**6)
    solver, state = differentiable(user, way=way), examples(2)
    product(solver, state, state)
    answer = solver.step(state.requires_grad_())
    user.after = user.calls
    with pytest.raises(SolverError, match=r"step: the answer is not finite, at . of"):
        answer.sum().backward()
    with pytest.raises(SolverError, match="the answer is not finite, at 2 of 2 states"):
        solver.step(state.detach())
    with pytest.raises(SolverError, match="the state itself is not finite, at 2 of 2 states"):
        solver.step(torch.nan * state.detach())


@pytest.mark.parametrize("way", ["coloured", "dense", "random", "bank"])
def test_a_parameter_that_changes_before_the_backward_pass_raises(way):
    user = Local()
    solver = differentiable(user, examples() if way == "bank" else None, way=way)
    product(solver, examples(2, 1), examples(2, 2))
    answer = solver.step(examples(2, 1).requires_grad_())
    user.rate = 1.1
    with pytest.raises(SolverError, match="otherwise than in the forward pass: a parameter of it"):
        answer.sum().backward()


class Chance(Local):
    def change(self, u):
        return super().change(u) + torch.randn_like(u)


class Together(Local):
    def change(self, u):
        return super().change(u) - u.mean(dim=0, keepdim=True)


@pytest.mark.parametrize(
    ("user", "words"), [(Chance, "chance, or a memory"), (Together, "alone than beside others")]
)
@pytest.mark.parametrize("way", ["auto", "dense"])
def test_a_solver_that_is_no_function_of_one_state_raises(user, words, way):
    solver = differentiable(user(), way=way)
    with pytest.raises(SolverError, match=words):
        solver.step(examples(2).requires_grad_())


def test_a_reach_that_was_measured_at_rest_grows_at_the_second_product():
    class Carried(Local):
        def change(self, u):
            return 2 * u * (u.roll(-1, 3) - u.roll(1, 3))

    solver, rest = differentiable(Carried()), torch.zeros(1, 1, 8, 8)
    product(solver, rest, torch.ones_like(rest))
    assert "state 0 x 0" in solver.report().note
    state, v = examples(1, 1), examples(1, 2)
    with pytest.warns(UserWarning, match=r"radius \(0, 0\): .* radius \(0, 1\) from now on"):
        found = product(solver, state, v)
    assert off(found, exact(Carried(), state, v)) < 3e-3
    assert "too small for the products before, and is now: state 0 x 1" in str(solver.report())
    assert "exact" not in str(solver.report())


def stored(user, tmp_path, states):
    return differentiable(user, states, way="bank", store=tmp_path)


def test_the_store_tells_objects_of_one_class_apart(tmp_path):
    """By their attributes, although they answer alike where nothing moves."""
    states = examples()
    states[:2] = 0
    for rate, known in ((1.0, False), (1.5, False), (1.0, True)):
        solver = stored(Global(rate), tmp_path, states)
        state, v = examples(1, 1), examples(1, 2)
        assert off(product(solver, state, v), exact(Global(rate), state, v)) < 0.2
        assert (solver.report().once < 20) == known


def test_attributes_that_do_not_pickle_are_told_apart_by_answers(tmp_path):
    class Table(Global):
        """What it does where u > 2 is in a function."""

        def __init__(self, strength):
            super().__init__()
            self.extra = lambda u: strength * (u - 2).clamp_min(0)

        def change(self, u):
            return super().change(u) + self.extra(u)

    states = 0.1 * examples()
    states[7] *= 30  # the one that varies most
    once = [stored(Table(s), tmp_path, states).report().once for s in (1.0, 2.0, 1.0)]
    assert min(once[:2]) > 640 > once[2]


def test_another_step_is_measured_anew(tmp_path):
    once = [
        differentiable(Local(), examples(), store=tmp_path, mu=mu).report().once
        for mu in (1e-3, 2e-3, 1e-3)
    ]
    assert min(once[:2]) > 64 > once[2]


def test_mu_is_the_remedy_of_rounded_answers():
    class Rounded(Local):
        def step(self, state, forcing=None):
            return (1e3 * super().step(state)).round() / 1e3

    state, v = examples(1, 1), examples(1, 2)
    true = exact(Local(), state, v)
    rough, better = (differentiable(Rounded(), way="dense", mu=mu) for mu in (1e-3, 0.1))
    with pytest.warns(UserWarning, match="give a larger mu"):
        assert off(product(rough, state, v), true) > 0.2
    assert rough.report().product > 0.03
    assert off(product(better, state, v), true) < 0.05
    assert better.report().product < 0.03


def test_a_loss_that_looks_at_one_odd_cell_is_told():
    """It holds the mean energy: one cell of 64, of which responses to random changes say little."""

    class Energy(Global):
        def step(self, state, forcing=None):
            stepped = super().step(state)
            stepped[:, :, 0, 0] = state.square().mean((2, 3))
            return stepped

    solver, v = differentiable(Energy(), examples(), way="bank"), torch.zeros(1, 1, 8, 8)
    v[:, :, 0, 0] = 1
    with pytest.warns(UserWarning, match="does not fit what this loss looks at: a product is off"):
        product(solver, examples(1, 50), v)
    found = solver.report()
    assert found.error < 0.2
    assert found.product > 0.5
    assert f"products along random directions by {found.product:.2g}" in str(found)
    assert "worst channel u" in str(found)


def test_a_derivative_that_is_none_is_refused():
    user = Global(rate=20.0)
    solver = differentiable(user, examples(), way="bank")
    user.rate = 0.1  # another solver than was measured
    with pytest.raises(InputError, match="states: got a state at which the bank is no derivative"):
        product(solver, examples(1, 1), examples(1, 2))


def test_a_state_of_several_channels_names_the_worst():
    class Two:
        grid = Grid((8, 8), (1.0, 1.0), 0.1, ("a", "b"))

        def step(self, state, forcing=None):
            a, b = state[:, :1], state[:, 1:]
            return torch.cat(
                [a - a.mean((2, 3), keepdim=True), 0.05 * b**3 - b],
                dim=1,
            )

    states = torch.randn(40, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    solver = differentiable(Two(), states[:20], way="bank")
    product(solver, states[20:21], states[21:22])
    assert "worst channel b" in solver.report().note
