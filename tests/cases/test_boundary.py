"""A boundary for each axis: what is legal, and all that follows it."""

from dataclasses import asdict
from itertools import product
from threading import Thread

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - the name everybody knows

from zopde import (
    ColouredPullback,
    Grid,
    InputError,
    Trajectories,
    WeightOracle,
    cge,
    load_config,
    load_corrector,
    load_solver,
    run_correction,
    save_trajectories,
)
from zopde.blackbox.serving import ServedSolver, SolverServer
from zopde.data import load_rollout
from zopde.grid import as_grid
from zopde.interface import Step
from zopde.interface.colours import lattice_colours
from zopde.interface.reach import measure_radius
from zopde.nets import build_corrector

CHANNEL = ("open", "periodic")
MODES = {"periodic": "circular", "zero": "constant"}
SOLVER = """
from dataclasses import replace
from zopde.plugins import load_solver

Toy = type(load_solver("{toy}"))


class Channel(Toy):
    def __init__(self, shape=(8, 8), viscosity=0.2):
        super().__init__(shape, viscosity)
        self.grid = replace(self.grid, boundary=("open", "periodic"))
"""


def grid_of(boundary, shape=(6, 9), channels=("a",)):
    return Grid(shape, tuple(map(float, shape)), 0.1, channels, boundary=boundary)


@pytest.mark.parametrize(
    "boundary",
    ["Periodic", "peroidic", "wall", "", "open periodic", 5, None, (), ("open",) * 3,
     ("open", "Periodic"), ("open", None), ("open", ["open"]), {"y": "open", "x": "open"}, b"open",
     {"open"}, True],
)  # fmt: skip
def test_another_word_raises_and_names_the_legal_ones(boundary):
    with pytest.raises(InputError, match=r"^grid boundary: got .*periodic.*open") as caught:
        grid_of(boundary)
    assert "\n" not in str(caught.value)
    table = {"shape": [6, 9], "extent": [6.0, 9.0], "dt": 0.1, "channels": ["a"]}
    with pytest.raises(InputError, match=r"^grid boundary: got .*periodic.*open"):
        as_grid({**table, "boundary": boundary})


def test_equal_words_are_one():
    assert grid_of(("open", "open")) == grid_of(["open"]) == grid_of("open")
    assert grid_of(["open", "periodic"]).boundary == CHANNEL
    assert grid_of(CHANNEL).periodic == (False, True)
    assert grid_of("periodic").periodic == (True, True)
    assert grid_of(CHANNEL).with_shape((3, 3)).boundary == CHANNEL
    assert as_grid(asdict(grid_of(CHANNEL))) == grid_of(CHANNEL)


@pytest.mark.parametrize(
    ("shape", "radius"), [((6, 9), (1, 1)), ((8, 8), (1, 2)), ((5, 16), (2, 1))]
)
@pytest.mark.parametrize("periodic", [(False, True), (True, False)])
def test_boxes_of_one_colour_never_overlap_around_one_axis(shape, radius, periodic):
    colours = lattice_colours(shape, radius, periodic)
    cells = list(product(*map(range, shape)))
    for one, other in product(cells, cells):
        if one < other and colours[one] == colours[other]:
            apart = [abs(a - b) for a, b in zip(one, other, strict=True)]
            apart = [
                min(d, n - d) if p else d for d, n, p in zip(apart, shape, periodic, strict=True)
            ]
            assert any(d > 2 * r for d, r in zip(apart, radius, strict=True))


class Stencil:
    """A weight of its own for each cell and neighbour; round the axes that are periodic."""

    def __init__(self, boundary):
        self.grid = grid_of(boundary, (6, 9))
        draw = torch.Generator().manual_seed(0)
        self.weights = torch.randn(3, 3, 6, 9, generator=draw, dtype=torch.float64)

    def step(self, state, forcing=None):
        padded = state
        for axis, periodic in enumerate(self.grid.periodic):
            sides = (0, 0, 1, 1) if axis == 0 else (1, 1, 0, 0)
            padded = F.pad(padded, sides, "circular" if periodic else "constant")
        return sum(
            self.weights[i, j] * padded[:, :, i : i + 6, j : j + 9]
            for i, j in product(range(3), range(3))
        )


@pytest.mark.parametrize("boundary", [CHANNEL, CHANNEL[::-1], "open", "periodic"])
def test_the_coloured_product_follows_the_axes_exact(boundary, gen):
    solver = Stencil(boundary)
    state = torch.randn(1, 1, 6, 9, generator=gen, dtype=torch.float64, requires_grad=True)
    v = torch.randn(1, 1, 6, 9, generator=gen, dtype=torch.float64)
    (solver.step(state) * v).sum().backward()
    start = state.detach()
    step = Step(solver, start, None, solver.step(start))
    torch.testing.assert_close(ColouredPullback(solver.grid, (1, 1), 0.5)(step, v), state.grad)
    assert measure_radius(solver, start, probes=64) == (1, 1)


@pytest.mark.parametrize("kind", ["conv", "residual"])
@pytest.mark.parametrize("words", [("zero", "periodic"), ("periodic", "zero")])
def test_correctors_pad_each_axis_its_way(kind, words, gen):
    torch.manual_seed(0)
    network = build_corrector(kind, 2, 1, words, {"width": 3, "kernel": 5}).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, generator=gen)
    x = torch.randn(1, 2, 8, 10, generator=gen, dtype=torch.float64)
    for axis, word in ((2, words[0]), (3, words[1])):
        moved = torch.allclose(network(x.roll(3, axis)), network(x).roll(3, axis))
        assert moved == (word == "periodic")
    first = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    enter = network.enter if kind == "residual" else network.layers[0]
    padded = F.pad(F.pad(x, (0, 0, 2, 2), MODES[words[0]]), (2, 2, 0, 0), MODES[words[1]])
    torch.testing.assert_close(enter(x), F.conv2d(padded, first.weight, first.bias))
    listed = build_corrector(kind, 2, 1, list(words), {"width": 3, "kernel": 5}).double()
    listed.load_state_dict(network.state_dict())
    assert torch.equal(listed(x), network(x))


@pytest.mark.parametrize("padding", ["Periodic", "open", "", None, 5, ("zero",), ("zero", "open")])
def test_another_padding_raises(padding):
    with pytest.raises(InputError, match=r"^padding: got "):
        build_corrector("conv", 2, 1, padding)


def test_the_engine_agrees_on_a_corrector_with_two_paddings(gen):
    network = build_corrector("conv", 2, 1, ("zero", "periodic"), {"width": 3}).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, generator=gen)
    x = torch.randn(2, 2, 6, 7, generator=gen, dtype=torch.float64)

    def objective(network, probes):
        answers = network(x.repeat(probes, 1, 1, 1)).view(probes, -1)
        return answers.square().mean(dim=1)

    fast = cge(WeightOracle(network, objective), mu=1e-4).gradient
    slow = cge(WeightOracle(network, objective, stacked=False), mu=1e-4).gradient
    torch.testing.assert_close(fast, slow, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("boundary", [CHANNEL, "open", "periodic"])
def test_data_files_carry_it(boundary, tmp_path):
    made = Trajectories(grid_of(boundary), torch.zeros(1, 2, 1, 6, 9))
    save_trajectories(made, tmp_path / "a.nc")
    assert load_rollout(tmp_path / "a.nc").grid.boundary == boundary


def test_a_served_grid_carries_it():
    server = SolverServer(ServedSolver(Stencil(CHANNEL), "forward"), port=0)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        client = load_solver("http", {"url": f"http://127.0.0.1:{server.server_address[1]}"})
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert client.grid.boundary == CHANNEL


def test_a_run_its_model_and_its_record_carry_it(tiny, toy_spec, tmp_path):
    (tmp_path / "channel.py").write_text(SOLVER.format(toy=toy_spec))
    kept = [c for c in tiny if not c.startswith(("data.coarse", "data.fine"))]
    changes = [*kept, "data.fine=[24,24]", "data.coarse=[12,12]", "interface.way=coloured"]
    labels = 'run.labels=["SRC", "NON", "ZO-interface"]'
    spec = f'solver.spec="{tmp_path}/channel.py:Channel"'
    run_correction(load_config("quick", None, [*changes, labels, spec]), tmp_path / "run")
    assert load_rollout(tmp_path / "run" / "reference.nc").grid.boundary == CHANNEL
    network = load_corrector(tmp_path / "run" / "ZO-interface" / "seed-0" / "model.safetensors")
    state, forcing = torch.randn(2, 1, 2, 12, 12)
    answer = network(state, forcing)
    moved = network(state.roll(2, 3), forcing.roll(2, 3))
    torch.testing.assert_close(moved, answer.roll(2, 3))
    down = network(state.roll(2, 2), forcing.roll(2, 2))
    assert not torch.allclose(down, answer.roll(2, 2))
    convolution = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    assert convolution.padding == (1, 0)
