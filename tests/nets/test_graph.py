"""A graph network on a mesh: what it keeps, and that probes of its weights are right."""

import numpy as np
import pytest
import torch

from zopde import GraphCorrector, InputError, Mesh, Normalised, UnrolledObjective, WeightOracle, cge
from zopde.contracts import Window
from zopde.nets import build_corrector
from zopde.solvers.heat_mesh import HeatMesh


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.random.default_rng(0).random((30, 2)), 0.1, ("u", "v"))


def network_on(mesh, seed=0, **sizes):
    torch.manual_seed(seed)
    network = GraphCorrector(2, 2, mesh.edges, mesh.positions.float(), **{"width": 5, **sizes})
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network


def test_starts_at_zero_and_has_the_weights_that_are_said(mesh):
    network = GraphCorrector(1, 1, mesh.edges, mesh.positions.float())
    assert not network(torch.rand(3, 1, 30)).any()
    assert sum(p.numel() for p in network.parameters()) == 2593


@pytest.mark.parametrize("edges", [[[0, 30]], [[0, -1]], [[0, 1, 2]], [0, 1]])
def test_edges_that_are_none_of_the_points_raise(mesh, edges):
    with pytest.raises(InputError, match=r"edges: got .* from the 30 points"):
        GraphCorrector(1, 1, torch.tensor(edges), mesh.positions.float())


def test_numbering_of_the_points_does_not_matter(mesh):
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    other = Mesh(mesh.positions[order].numpy(), 0.1, ("u", "v"))
    states = torch.rand(4, 2, 30)
    expected = network_on(mesh)(states)[..., order]
    torch.testing.assert_close(network_on(other)(states[..., order]), expected)


def test_a_correction_sees_as_many_neighbours_far_as_there_are_rounds(mesh):
    line = Mesh(
        np.arange(20.0)[:, None], 0.1, ("u", "v"), neighbours=[[i, i + 1] for i in range(19)]
    )
    network, state = network_on(line, rounds=3), torch.zeros(1, 2, 20)
    moved = state.clone()
    moved[0, 0, 10] = 1
    changed = (network(moved) - network(state))[0].abs().amax(dim=0) > 0
    assert changed.nonzero().flatten().tolist() == list(range(7, 14))


def test_probes_of_the_weights_agree_with_back_propagation():
    """Stacked, through the engine, of a loss through two steps of a finite-element solver."""
    solver = HeatMesh((81,))
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    mesh = {"edges": solver.grid.edges, "positions": solver.grid.positions}
    body = build_corrector("graph", 1, 1, "zero", {"width": 3, "rounds": 2}, mesh=mesh)
    network = Normalised(body, torch.ones(1), torch.ones(0), 1, mesh=mesh).double()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    states = solver.scenario(2, draw).initial.double()
    targets = torch.rand(2, 2, 1, 81, generator=draw, dtype=torch.float64)
    window, scale = Window(solver.step(states), targets), torch.ones(1, dtype=torch.float64)
    UnrolledObjective(solver.differentiable_twin(), window, scale)(network, 1)[0].backward()
    exact = torch.cat([p.grad.flatten() for p in network.parameters()])
    oracle = WeightOracle(network, UnrolledObjective(solver, window, scale))
    found = cge(oracle, mu=1e-6).gradient
    assert float(torch.cosine_similarity(found, exact, dim=0)) > 0.99999


def test_kinds_that_do_not_suit_the_domain_are_refused(mesh):
    parts = {"edges": mesh.edges, "positions": mesh.positions}
    with pytest.raises(InputError, match="'conv' on a mesh, expected \"graph\""):
        build_corrector("conv", 1, 1, "zero", mesh=parts)
    with pytest.raises(InputError, match="'graph' on a grid, expected \"conv\""):
        build_corrector("graph", 1, 1, "zero")
    with pytest.raises(InputError, match=r"got 'depth', expected one of \['width', 'rounds'\]"):
        build_corrector("graph", 1, 1, "zero", {"depth": 3}, mesh=parts)
