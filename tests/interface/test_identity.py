"""The free row: a gradient that passes every step as it is."""

from types import SimpleNamespace

import pytest
import torch

from zopde import Grid, IdentityPullback, InputError, InterfaceSolver
from zopde.blackbox import CountedSolver
from zopde.hybrid import INJECTIONS
from zopde.interface import Step
from zopde.interface.identity import check_source
from zopde.studies.correct import load_config, run_correction
from zopde.studies.correct.cut import check_suits
from zopde.studies.correct.cuts import InterfaceCut
from zopde.studies.correct.labels import LABELS
from zopde.studies.correct.price import bare_gradient, prices_of_interface


class Euler:
    """u + dt (f - u): the derivatives are 1 - dt and dt."""

    def __init__(self, forcing=("fa",), dt=0.25):
        self.grid = Grid((4,), (1.0,), dt, ("a",), forcing, dims=("x",))

    def step(self, state, forcing=None):
        return state + self.grid.dt * (forcing[:, :1] - state)


def test_products_exact(gen):
    solver = Euler()
    state, forcing, v = torch.randn(3, 2, 1, 4, generator=gen, dtype=torch.float64)
    for variable, factor in (("state", 1.0), ("forcing", 0.25)):
        step = Step(solver, state, forcing, solver.step(state, forcing), variable)
        assert torch.equal(IdentityPullback()(step, v), factor * v)


def test_a_gradient_takes_no_further_step_and_is_off_by_the_steps_change(gen):
    """du'/du = 0.75 over two steps; the identity has 1, and 0.25 of either forcing."""
    counter = CountedSolver(Euler())
    state, first, second = torch.randn(3, 2, 1, 4, generator=gen, dtype=torch.float64)
    inputs = [field.requires_grad_() for field in (state, first, second)]
    solver = InterfaceSolver(counter, IdentityPullback())
    solver.step(solver.step(state, first), second).sum().backward()
    assert [float(field.grad.mean()) for field in inputs] == [1.0, 0.25, 0.25]
    assert counter.counts() == {"steps": 4}


@pytest.mark.parametrize("forcing", [(), ("wind", "rain")])
def test_a_forcing_that_is_no_source_term_raises(forcing):
    with pytest.raises(
        InputError, match=r"^identity: got a forcing of \d channels for a state of 1"
    ):
        check_source(Euler(forcing).grid)
    solver, field = Euler(("wind", "rain")), torch.ones(1, 1, 4)
    step = Step(solver, field, torch.ones(1, 2, 4), field, "forcing")
    with pytest.raises(InputError, match="a source term for each channel"):
        IdentityPullback()(step, field)


def test_it_is_refused_before_a_run_and_its_row_says_why():
    solver, cut = Euler(("wind", "rain")), InterfaceCut(way="identity")
    gradient = bare_gradient(INJECTIONS["forcing"], 3, 2, 1e-3)
    rows = prices_of_interface(cut, solver, gradient, lambda: ({}, 0, ""), 1, torch.ones(1, 1, 4))
    (row,) = (row for row in rows if row.cut == "interface, identity")
    assert row.steps is None
    assert "a source term for each channel" in row.note
    problem = SimpleNamespace(solver=solver, variables=["state", "forcing"])
    with pytest.raises(InputError, match="a source term for each channel"):
        check_suits(SimpleNamespace(problem=problem, labels=[], cuts={"ID": cut}))


def test_an_answer_of_another_shape_raises():
    step = Step(Euler(), torch.ones(1, 1, 4), None, torch.ones(1, 3))
    with pytest.raises(InputError, match=r"a state of shape \(1, 4\), an answer of shape \(3,\)"):
        IdentityPullback()(step, torch.ones(1, 3))


def changes_of(tiny, inject):
    more = [f"corrector.inject={inject}", "training.init=scratch", "data.coarse=[8,8]"]
    return [*tiny, *more]


@pytest.mark.parametrize("inject", ["after", "before", "forcing"])
def test_the_label_and_the_way_are_one(toy_spec, tiny, tmp_path, inject, forecast):
    """12 iterations of 2 windows of 3 steps, of which the first of "after" is stored."""
    labels = 'run.labels=["SRC","ID","ZO-interface"]'
    changes = [*changes_of(tiny, inject), labels, "interface.way=identity"]
    config = load_config("quick", None, changes, {"solver": {"spec": toy_spec}})
    metrics = run_correction(config, tmp_path / "run")
    steps = 12 * 2 * (2 if inject == "after" else 3)
    assert metrics["solver_steps"]["ID"] == metrics["solver_steps"]["ZO-interface"] == steps
    assert metrics["mae"]["ID"] == metrics["mae"]["ZO-interface"]
    assert metrics["mae"]["ID"]["mean"] != metrics["mae"]["SRC"]["mean"]
    planned = {row.label: row.solver_steps for row in forecast(config, tmp_path / "none.nc")}
    assert planned["ID"] == steps
    assert LABELS["ID"].way == "identity"


def test_a_table_of_its_own_may_name_the_way(toy_spec, tiny):
    tables = {"interface": {"labels": {"ZO-interface": {"way": "identity"}}}}
    spec = {"solver": {"spec": toy_spec}}
    assert load_config("quick", None, tiny, tables | spec).cut_of("ZO-interface").way == "identity"
    tables["interface"]["labels"]["ZO-interface"]["way"] = "identical"
    with pytest.raises(InputError, match="way"):
        load_config("quick", None, tiny, tables | spec)
