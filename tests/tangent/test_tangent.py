"""The learned derivative: linear, transposed exactly, fitted to pairs, for any shape."""

import importlib
import itertools
from collections import Counter

import pytest
import torch

from zopde.errors import InputError, SolverError
from zopde.grid import Grid
from zopde.interface import Probing, Step
from zopde.tangent import (
    Learning,
    Pairs,
    PairStore,
    Tangent,
    TangentPullback,
    errors,
    held_out_error,
    joined,
    learn,
    smoothed_noise,
)

pytestmark = pytest.mark.filterwarnings("ignore:the derivative in use")  # of random weights
fit_file = importlib.import_module("zopde.tangent.fit")
pairs_file = importlib.import_module("zopde.tangent.pairs")
SHAPES = [(9,), (16,), (6, 5), (8, 12), (4, 5, 6), (3,), (2, 8), (1, 7)]


def grid_of(shape, boundary, forced=False):
    return Grid(
        shape=shape,
        extent=(1.0,) * len(shape),
        dt=0.1,
        channels=("u", "v"),
        forcing_channels=("f",) if forced else (),
        dims=("z", "y", "x")[-len(shape) :],
        boundary=boundary,
    )


def shuffled(grid, forced=False, dtype=torch.float64, width=4):
    """A tangent whose weights are all random, behind which nothing is zero."""
    torch.manual_seed(0)
    drive = torch.tensor([0.5]) if grid.forcing_channels else None
    tangent = Tangent(grid, torch.tensor([2.0, 0.1]), drive, forced, 0.3, width).to(dtype)
    with torch.no_grad():
        for weight in tangent.parameters():
            weight.copy_(0.3 * torch.randn_like(weight))
    return tangent


class Mixing:
    """u' = u + dt (A u + u v shifted + f): linear, quadratic and forced parts, all known."""

    def __init__(self, grid):
        self.grid = grid

    def step(self, state, forcing=None):
        u, v = state[:, :1], state[:, 1:]
        axes = tuple(range(2, state.dim()))
        rate = torch.cat([u.roll(1, axes[-1]) - u + 0.5 * u * v, v.mean(axes, True) - v], dim=1)
        driven = 0 if forcing is None else torch.cat([forcing, 0 * forcing], dim=1)
        return state + 0.1 * (rate + driven)


@pytest.mark.parametrize(("shape", "word"), [*itertools.product(SHAPES, ["periodic", "open"])])
def test_it_is_linear_and_its_transpose_is_exact(shape, word):
    grid = grid_of(shape, word)
    tangent = shuffled(grid)
    state = torch.randn(3, 2, *shape, dtype=torch.float64)
    a, b = torch.randn(2, 3, 1, 2, *shape, dtype=torch.float64)
    together = tangent(state, None, 2 * a - 3 * b)
    assert torch.allclose(together, 2 * tangent(state, None, a) - 3 * tangent(state, None, b))
    v = torch.randn(3, 2, *shape, dtype=torch.float64)
    product = TangentPullback(tangent)(Step(Mixing(grid), state, None, state), v)
    left = (product * a[:, 0]).flatten(1).sum(1)
    right = (v * tangent(state, None, a)[:, 0]).flatten(1).sum(1)
    assert torch.allclose(left, right)
    assert not product.requires_grad


def test_mixed_boundaries_wrap_only_the_periodic_axis():
    grid = grid_of((8, 8), ("periodic", "open"))
    tangent = shuffled(grid)
    for places in tangent.places:
        torch.nn.init.zeros_(places)
    state, d = torch.randn(2, 1, 1, 2, 8, 8, dtype=torch.float64)
    rolled = tangent(state[0].roll(4, 2), None, d.roll(4, 3))
    assert torch.allclose(rolled, tangent(state[0], None, d).roll(4, 3))
    moved = tangent(state[0].roll(4, 3), None, d.roll(4, 4))
    assert not torch.allclose(moved, tangent(state[0], None, d).roll(4, 4))


def test_a_new_one_is_the_identity():
    tangent = Tangent(grid_of((6, 6), "open"), torch.ones(2))
    d = torch.randn(1, 3, 2, 6, 6)
    assert torch.equal(tangent(torch.randn(1, 2, 6, 6), None, d), d)


def test_the_forcing_is_an_input_of_its_own():
    grid = grid_of((6, 6), "open", forced=True)
    tangent = shuffled(grid, forced=True)
    state, forcing = torch.randn(2, 2, 6, 6).double(), torch.randn(2, 1, 6, 6).double()
    d, v = torch.randn(2, 1, 6, 6).double(), torch.randn(2, 2, 6, 6).double()
    product = TangentPullback(tangent)(Step(Mixing(grid), state, forcing, state, "forcing"), v)
    right = (v * tangent(state, forcing, d[:, None], "forcing")[:, 0]).flatten(1).sum(1)
    assert torch.allclose((product * d).flatten(1).sum(1), right)


def test_noise_has_size_one_and_more_and_more_of_it_is_smooth():
    noise = smoothed_noise(8, (2, 32, 32), (True, False), torch.Generator().manual_seed(0))
    assert torch.allclose(noise.square().flatten(1).mean(1), torch.ones(8))
    rough = (noise[:, :, :, 1:] - noise[:, :, :, :-1]).square().flatten(1).mean(1)
    assert min(rough[0], rough[3]) > 1.5  # white: 2
    assert all(rough[n] < 0.3 * rough[n - 1] for n in (1, 2, 4, 5))
    assert (noise[5, :, 0] - noise[5, :, -1]).square().mean() < 3 * rough[5]  # across the seam


def pairs_of(tmp_path=None, solver=None, forced=False, states=20, seed=0, tally=None):
    solver = solver or Mixing(grid_of((8, 8), "periodic", forced))
    draw = torch.Generator().manual_seed(seed)
    state = torch.randn(states, 2, 8, 8, generator=draw)
    forcing = torch.randn(states, 1, 8, 8, generator=draw) if forced else None
    probing = Probing(1e-3, "central", 64, scale=torch.ones(2))
    store = PairStore(tmp_path, "it", tally)
    return store.measure(solver, state, forcing, "state", 4, probing, torch.ones(2), draw)


def test_pairs_are_what_autograd_gives():
    pairs = pairs_of()
    solver = Mixing(grid_of((8, 8), "periodic"))
    state, _, moved, response = pairs.at(torch.arange(3))
    for row in range(3):
        here, along = state[row : row + 1], moved[row, 1:2]
        _, true = torch.autograd.functional.jvp(solver.step, here, along)
        assert torch.allclose(response[row, 1], true[0], rtol=2e-3, atol=2e-3)


class Counting(Mixing):
    def __init__(self, grid, fail_after=10**9):
        super().__init__(grid)
        self.steps, self.fail_after = 0, fail_after

    def step(self, state, forcing=None):
        self.steps += len(state)
        if self.steps > self.fail_after:
            raise SolverError("out of order")
        return super().step(state, forcing)


def test_a_call_is_made_once(tmp_path):
    grid = grid_of((8, 8), "periodic")
    whole = pairs_of(tmp_path / "whole", Counting(grid))
    broken = Counting(grid, fail_after=100)
    with pytest.raises(SolverError):
        pairs_of(tmp_path / "cut", broken)
    again = Counting(grid)
    resumed = pairs_of(tmp_path / "cut", again)
    every = torch.arange(20)
    assert torch.equal(whole.at(every)[3], resumed.at(every)[3])
    assert torch.equal(whole.at(every)[2], resumed.at(every)[2])
    assert again.steps < 20 * 9
    third = Counting(grid)
    pairs_of(tmp_path / "cut", third)
    assert third.steps == 0


def test_a_large_grid_takes_smaller_calls(monkeypatch):
    monkeypatch.setattr("zopde.interface.vjp._ENTRIES", 24 * 2 * 64)
    sizes = []

    class Sizes(Mixing):
        def step(self, state, forcing=None):
            sizes.append(len(state))
            return super().step(state, forcing)

    pairs = pairs_of(solver=Sizes(grid_of((8, 8), "periodic")))
    assert len(pairs) == 20
    assert max(sizes) == 2 * 12  # twelve perturbations, on both sides


def test_a_damaged_file_is_refused_by_name(tmp_path):
    pairs_of(tmp_path)
    file = next(tmp_path.glob("*.pairs"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=file.name):
        pairs_of(tmp_path)


def test_states_at_which_a_step_fails_are_left_out():
    class Bad(Mixing):
        def step(self, state, forcing=None):
            stepped = super().step(state, forcing)
            return torch.where(state[:, :1, :1, :1] > 0.3, torch.nan, stepped)

    pairs = pairs_of(solver=Bad(grid_of((8, 8), "periodic")))
    assert 0 < len(pairs) < 20
    assert all(bool(base().response.isfinite().all()) for base in pairs.bases)

    class Worse(Mixing):
        def step(self, state, forcing=None):
            return state * torch.nan

    with pytest.raises(SolverError, match="each of 20"):
        pairs_of(solver=Worse(grid_of((8, 8), "periodic")))


def learned(tmp_path, solver=None, forced=False, **settings):
    solver = solver or Mixing(grid_of((8, 8), "periodic", forced))
    draw = torch.Generator().manual_seed(3)
    state = torch.randn(40, 2, 8, 8, generator=draw)
    forcing = torch.randn(40, 1, 8, 8, generator=draw) if forced else None
    probing = {"state": Probing(1e-3, "forward", 512, scale=torch.ones(2))}
    if forced:
        probing["forcing"] = Probing(1e-3, "forward", 512, scale=torch.ones(1))
    given = {"budget": 400, "width": 8, "iterations": 120, "target": 0.02} | settings
    return learn(solver, state, forcing, probing, Learning(**given), PairStore(), tmp_path)


def test_a_fit_predicts_what_it_has_not_seen(tmp_path):
    found = learned(tmp_path)
    assert found.error["state"] < 0.5 * found.unlearned["state"]
    assert found.steps == 400 + 2
    assert found.tangent.places[0].numel() == 0  # the same everywhere: measured
    solver = Mixing(grid_of((8, 8), "periodic"))
    state = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(9))
    v = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(10))
    leaf = state.clone().requires_grad_()
    (true,) = torch.autograd.grad(solver.step(leaf), leaf, v)
    product = TangentPullback(found.tangent)(Step(solver, state, None, state), v)
    assert (product - true).norm() < 0.5 * (v - true).norm()


def test_the_forcing_is_learned_too(tmp_path):
    found = learned(tmp_path, forced=True, budget=800)
    assert found.error["forcing"] < 0.1
    assert found.unlearned["forcing"] == pytest.approx(1.0)


def test_a_forcing_that_never_varies_is_no_trouble(tmp_path):
    solver, probing = Mixing(grid_of((8, 8), "periodic", forced=True)), {}
    draw = torch.Generator().manual_seed(0)
    state = torch.randn(40, 2, 8, 8, generator=draw)
    probing["state"] = Probing(1e-3, "forward", 512, scale=torch.ones(2))
    forcing = torch.full((40, 1, 8, 8), 0.3)
    what = Learning(budget=320, target=1e-6, iterations=60), PairStore(None), tmp_path
    found = learn(solver, state, forcing, probing, *what)
    assert float(found.tangent.drive) == pytest.approx(0.3)
    assert found.error["state"] < 0.7 * found.unlearned["state"]


def test_it_stops_asking_where_the_target_is_reached(tmp_path):
    assert learned(tmp_path, target=10.0, iterations=2).steps == 200 + 2


def test_a_place_that_differs_is_seen(tmp_path):
    class Walled(Mixing):
        def step(self, state, forcing=None):
            stepped = super().step(state, forcing).clone()
            stepped[:, :, 2:4, 2:4] = 0
            return stepped

    found = learned(tmp_path, Walled(grid_of((8, 8), "periodic")), iterations=2)
    assert found.tangent.places[0].numel() > 0


def test_a_fit_that_is_cut_off_ends_the_same(tmp_path, monkeypatch):
    whole = learned(tmp_path / "whole", target=10.0, iterations=30)

    class StopError(Exception):
        pass

    from zopde.training import loop

    saved = loop.save_checkpoint
    calls = []

    def die(path, state):
        saved(path, state)
        calls.append(path)
        if len(calls) == 1:
            raise StopError

    monkeypatch.setattr(loop, "save_checkpoint", die)
    monkeypatch.setattr(loop.time, "monotonic", iter(range(0, 10**6, 7)).__next__)
    with pytest.raises(StopError):
        learned(tmp_path / "cut", target=10.0, iterations=30)
    again = learned(tmp_path / "cut", target=10.0, iterations=30)
    for one, other in zip(whole.tangent.parameters(), again.tangent.parameters(), strict=True):
        assert torch.equal(one, other)


def test_too_small_a_budget_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least 160"):
        learned(tmp_path, budget=100)


def test_errors_are_relative_and_by_channel_in_standard_deviations():
    pairs = pairs_of()
    tangent = Tangent(grid_of((8, 8), "periodic"), torch.ones(2))
    found = errors(tangent, pairs)
    _, _, moved, response = pairs.at(torch.tensor([4]))
    by_hand = (moved - response)[0, 2].norm() / response[0, 2].norm()
    assert float(found[4, 2]) == pytest.approx(float(by_hand), rel=1e-4)
    assert held_out_error(tangent, pairs) == pytest.approx(float(found.square().mean().sqrt()))


def test_joined_pairs_keep_their_order():
    both = joined([pairs_of(seed=0), pairs_of(seed=1)])
    second, rows = pairs_of(seed=1), torch.arange(20)
    assert torch.equal(both.at(20 + rows)[0], second.at(rows)[0])
    kept, held = both.split(8)
    assert (len(kept), len(held)) == (35, 5)
    assert torch.equal(held.bases[0]().state, both.bases[7]().state)
    again = Pairs.of("state", held.tensors())
    assert torch.equal(again.at(torch.tensor([4]))[3], both.at(torch.tensor([39]))[3])


def test_joining_and_splitting_copies_nothing():
    pairs = pairs_of()
    kept, _ = joined([pairs, pairs]).split(8)
    assert kept.bases[-1]().moved.data_ptr() == pairs.bases[18]().moved.data_ptr()


def test_pairs_that_do_not_fit_into_memory_stay_in_their_files(tmp_path, monkeypatch):
    every, in_memory = torch.arange(20), pairs_of()
    monkeypatch.setattr(pairs_file, "_MEMORY", 0)
    kept, again = pairs_of(tmp_path), pairs_of(tmp_path)
    for pairs in (kept, again):
        assert pairs.bases[0]().moved.data_ptr() != pairs.bases[0]().moved.data_ptr()
        for values, expected in zip(pairs.at(every), in_memory.at(every), strict=True):
            assert values is expected is None or torch.equal(values, expected)
    file = next(tmp_path.glob("*.pairs"))
    file.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=file.name):
        kept.at(every)


@pytest.mark.parametrize("taken", [1, 2, 3, 4])
def test_a_grid_with_too_many_cells_takes_some_directions_of_a_base(monkeypatch, taken):
    monkeypatch.setattr(fit_file, "_CELLS", taken * 64)
    monkeypatch.setattr(fit_file, "_ROOM", taken * 64)
    at = fit_file.batches({"state": pairs_of()}, seed=0)
    drawn = [at(i)._rows["state"] for i in range(80)]
    assert all(len(rows) == 1 and len(some) == taken for rows, some in drawn)
    seen = [(int(rows[0]), int(n)) for rows, some in drawn for n in some]
    assert Counter(seen) == {(row, n): taken for row in range(20) for n in range(4)}


def test_some_directions_of_a_base_are_what_all_hold():
    pairs, rows = pairs_of(), torch.tensor([3, 5])
    whole, some = pairs.at(rows), pairs.at(rows, torch.tensor([3, 0]))
    assert torch.equal(whole[2][:, [3, 0]], some[2])
    assert torch.equal(whole[3][:, [3, 0]], some[3])
