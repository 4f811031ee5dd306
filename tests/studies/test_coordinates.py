"""A network that is told where it is."""

import math

import numpy as np
import pytest
import torch

from zopde import (
    Grid,
    InputError,
    Mesh,
    Normalised,
    UnrolledObjective,
    WeightOracle,
    Window,
    cge,
    load_corrector,
    load_solver,
    run_correction,
)
from zopde.nets import build_corrector, coordinate_channels
from zopde.studies.correct import export_corrector, load_config

HALF = """
import math
import torch
from zopde import Grid, Scenario


class Half:
    '''Decay everywhere; in the truth the right half of a ring has three times as much.'''

    def __init__(self, shape=(16,), truth=False, decay=0.5):
        self.grid = Grid(tuple(shape), (4.0,), 0.1, ("u",))
        self.truth, self.decay = truth, decay

    def step(self, state, forcing=None):
        x = torch.tensor(self.grid.centres(0), dtype=state.dtype)
        rate = torch.where(x > 2.0, 3.0, 1.0) if self.truth else torch.ones_like(x)
        moved = state + 0.05 / self.grid.spacing[0] * (state.roll(1, -1) - state)
        return moved * (1 - self.grid.dt * self.decay * rate)

    @property
    def options(self):
        return {"decay": self.decay}

    def at(self, shape):
        # The reference of twice as many cells is the truth
        return Half(shape, shape[0] > 16, self.decay)

    def scenario(self, simulations, generator):
        angle = 2 * math.pi * torch.rand(simulations, 1, 1, generator=generator)
        x = torch.tensor(self.grid.centres(0))
        return Scenario(torch.sin(math.pi / 2 * x + angle) + 2)
"""
CHANGES = [
    *("data.fine=[32]", "data.coarse=[16]", "data.skip=0", "data.steps=12", "data.train=4"),
    *("data.test=2", "corrector.sizes={width=6,depth=2}", "training.unroll=3"),
    *(
        "training.batch=4",
        'non.length="200 iterations"',
        "zo.sparsity=0.5",
        "zo.chunk=64",
        "zo.mu=1e-4",
        "run.dtype=float64",
    ),
]
COORDINATES = 'corrector.inputs=["coordinates"]'


def run_of(home, name, *changes):
    (home / "half.py").write_text(HALF)
    tables = {"solver": {"spec": f"{home / 'half.py'}:Half"}}
    return run_correction(load_config("quick", None, [*CHANGES, *changes], tables), home / name)


def test_channels_by_their_formula_golden():
    """A periodic x, an open y whose cells differ in size and that does not start at 0."""
    grid = Grid(
        *((3, 4), (7.0, 2.0), 0.1, ("u",)),
        boundary=("open", "periodic"),
        coordinates={"y": [10.5, 12.0, 15.0]},
    )
    y, *x = coordinate_channels(grid)
    ends = grid.edges(0)
    middle = (ends[0] + ends[-1]) / 2
    assert y[:, 0].tolist() == pytest.approx([(at - middle) / 3.5 for at in (10.5, 12.0, 15.0)])
    assert (y == y[:, :1]).all()
    angle = torch.tensor([math.pi * at for at in (0.25, 0.75, 1.25, 1.75)], dtype=torch.float64)
    for channel, wave in zip(x, (angle.sin(), angle.cos()), strict=True):
        torch.testing.assert_close(channel, wave.expand(3, 4))


def test_positions_of_a_mesh_go_from_minus_one_to_one():
    points = np.array([[0.0, 5.0], [2.0, 5.5], [4.0, 6.0], [1.0, 7.0]])
    x, y = coordinate_channels(Mesh(points, 0.1, ("u",)))
    assert x.tolist() == [-1.0, 0.0, 1.0, -0.5]
    assert y.tolist() == [-1.0, -0.5, 0.0, 1.0]


def test_fixed_channels_come_before_the_mask_exact(gen):
    """The body sees state, what is fixed, and the mask, for any batch."""

    class Whole(torch.nn.Module):
        def forward(self, x):
            self.seen = x
            return x[:, :1]

    mask, fixed = torch.rand(4, 5, generator=gen) > 0.3, torch.randn(2, 4, 5, generator=gen)
    network = Normalised(Whole(), torch.tensor([2.0]), torch.ones(0), mask=mask, fixed=fixed)
    for batch in (1, 3):
        state = torch.randn(batch, 1, 4, 5, generator=gen)
        network(state)
        seen = network.body.seen
        assert seen.shape == (batch, 4, 4, 5)
        assert torch.equal(seen[:, :1], torch.where(mask, state / 2, 0.0))
        assert torch.equal(seen[:, 1:3], fixed.expand(batch, -1, -1, -1))
        assert torch.equal(seen[:, 3], mask.expand(batch, -1, -1).float())


@pytest.mark.parametrize(("kind", "masked"), [("conv", False), ("conv", True), ("residual", False)])
def test_probes_of_the_weights_agree_with_back_propagation(kind, masked, toy, double, caplog):
    grid = toy.grid
    fixed, mask = coordinate_channels(grid), None
    if masked:
        mask = torch.ones(grid.shape, dtype=torch.bool)
        mask[2:4, 3] = False
    body = build_corrector(kind, 4 + len(fixed) + masked, 2, "periodic", {"width": 3})
    network = Normalised(body, torch.ones(2), torch.ones(2), mask=mask, fixed=fixed)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    state, force = torch.randn(2, 2, 8, 8), 0.1 * torch.randn(2, 3, 2, 8, 8)
    window = Window(toy.step(state, force[:, 0]), torch.randn(2, 3, 2, 8, 8), force)
    UnrolledObjective(toy.differentiable_twin(), window, torch.ones(2))(network, 1)[0].backward()
    exact = torch.cat([p.grad.flatten() for p in network.parameters()])
    oracle = WeightOracle(network, UnrolledObjective(toy, window, torch.ones(2)))
    rows = torch.arange(len(exact))[:: max(1, len(exact) // 200)]
    found = cge(oracle, rows, mu=1e-6).gradient
    assert not caplog.records  # one would say that stacked probes were wrong
    torch.testing.assert_close(found[rows], exact[rows], rtol=1e-4, atol=1e-6)


def test_an_error_in_half_of_the_domain_is_learned_with_coordinates_alone(tmp_path):
    """The same training; without them it can only take the mean of both halves."""
    changes = ['run.labels=["SRC","NON"]', 'training.length="100 iterations"']
    errors = [
        run_of(tmp_path, name, *changes, f"corrector.inputs={inputs}")["mae"]
        for name, inputs in (("without", "[]"), ("with", '["coordinates"]'))
    ]
    plain, told = (error["NON"]["mean"] for error in errors)
    assert plain < errors[0]["SRC"]["mean"]
    assert told < 0.4 * plain


def test_a_run_by_queries_keeps_them_in_its_file_and_exports_them(tmp_path, caplog):
    labels = ['run.labels=["SRC","ZO-weights"]', 'training.length="30 iterations"']
    metrics = run_of(tmp_path, "run", *labels, COORDINATES)
    assert not [record for record in caplog.records if record.name.startswith("zopde.oracle")]
    assert metrics["parameters"] == (3 * 3 * 6 + 6) + (6 * 3 + 1)
    network = load_corrector(tmp_path / "run" / "ZO-weights" / "seed-0" / "model.safetensors")
    grid = load_solver(f"{tmp_path / 'half.py'}:Half").grid
    assert torch.equal(network.fixed, coordinate_channels(grid))
    made = export_corrector(tmp_path / "run", tmp_path / "c.pt2", "ZO-weights")
    state = torch.rand(3, 1, 16, dtype=torch.float64)
    alone = torch.export.load(tmp_path / "c.pt2").module()
    torch.testing.assert_close(alone(state), network(state).detach())
    assert "the file holds where they lie" in made.card.read_text()


def test_another_word_is_a_variable_of_the_data_and_refused_where_there_is_none(tmp_path):
    with pytest.raises(InputError, match=r"corrector\.inputs: got 'coordinate'.*--data"):
        run_of(tmp_path, "run", 'corrector.inputs=["coordinate"]')
