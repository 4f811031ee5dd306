"""Near field and low rank: exact where a Jacobian has that form, and honest where not."""

import pytest
import torch

from zopde import BankPullback, DensePullback, Grid, InputError
from zopde.interface import Bank, CompressedForm, JacobianStore, Key, Probing, Step, form_for
from zopde.interface.forms import neighbourhoods


def grid_of(boundary="periodic", shape=(8, 6)):
    return Grid(shape, (1.0,) * len(shape), 1.0, ("u", "v"), dims=("y", "x")[: len(shape)],
                boundary=boundary)  # fmt: skip


@pytest.mark.parametrize("boundary", ["periodic", "open"])
def test_what_is_lost_is_what_it_says(gen, boundary):
    grid, n = grid_of(boundary), 96
    cells, inside = neighbourhoods(grid, (1, 1))
    near = torch.zeros(48, 48)
    near[torch.arange(48)[:, None].expand_as(cells)[inside], cells[inside]] = 1
    whole = torch.randn(n, n, generator=gen) * near.repeat(2, 2)
    whole += torch.randn(n, 2, generator=gen) @ torch.randn(2, n, generator=gen)
    form = CompressedForm(grid, "state", (1, 1), 24)
    numbers = form.pack(whole.clone())
    assert len(numbers) == form.size == 2 * 48 * 2 * 9 + 2 * 96 * 24 + 1
    v, error = torch.randn(3, n, generator=gen), form.error(numbers)
    assert error < 0.2
    off = (form.pull(numbers, torch.eye(n)).T - whole).norm() / whole.norm()
    assert float(off) == pytest.approx(error, rel=1e-3)
    pushed, pulled = (form.push(numbers, v) * v).sum(), (form.pull(numbers, v) * v).sum()
    scale = float(form.push(numbers, v).norm() * v.norm())  # the sums cancel; their terms do not
    torch.testing.assert_close(pushed, pulled, rtol=0, atol=1e-6 * scale)


def test_a_local_jacobian_loses_nothing(toy, gen):
    state, forcing = torch.randn(2, 1, 2, 8, 8, generator=gen, dtype=torch.float64)
    step = Step(toy, state, forcing, toy.step(state, forcing))
    bank = Bank(
        CompressedForm(toy.grid, "state", (1, 1), 1),
        1,
        Key(torch.ones(2)),
        probing=Probing(1e-5),
    )
    bank.add(step)
    assert bank.error < 1e-6
    found, dense = BankPullback(bank)(step, state), DensePullback(1e-5)(step, state)
    torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-5)


def test_neighbourhoods_exact():
    ends = Grid((4,), (1.0,), 1.0, ("u",), dims=("x",), boundary="open")
    cells, inside = neighbourhoods(ends, (1,))
    assert cells[inside].tolist() == [0, 1, 0, 1, 2, 1, 2, 3, 2, 3]
    around = Grid((4,), (1.0,), 1.0, ("u",), dims=("x",))
    assert neighbourhoods(around, (1,))[0].tolist() == [[3, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 0]]
    wide = neighbourhoods(around, (7,))[0]
    assert wide.shape[1] == 3  # a cell is never its own neighbour twice


def test_the_form_is_what_fits(toy):
    whole, small = 4 * 128 * 128 / 2**30, 4 * 5889 / 2**30
    assert form_for(toy.grid, "state", 2, 2 * whole).name == "dense"
    near = {"radius": (1, 1), "rank": 5}
    assert form_for(toy.grid, "state", 2, 2 * whole, **near).name == "dense"
    found = form_for(toy.grid, "state", 2, 1.9 * whole, **near)
    assert found.name == "near1x1-rank5"
    assert found.size == 2 * 64 * 2 * 9 + 2 * 128 * 5 + 1 < 5889
    with pytest.raises(InputError, match="GiB compressed, expected at most"):
        form_for(toy.grid, "state", 9, small, **near)
    with pytest.raises(InputError, match=r"32,768 entries|128 x 128 entries"):
        form_for(toy.grid, "state", 9, small)


def test_on_disk_it_is_found_again(toy, gen, tmp_path):
    state, forcing = torch.randn(2, 1, 2, 8, 8, generator=gen)
    step = Step(toy, state, forcing, toy.step(state, forcing))
    form, probing = CompressedForm(toy.grid, "state", (0, 0), 3), Probing(1e-3)
    first, second = JacobianStore(tmp_path), JacobianStore(tmp_path)
    one, other = first.fetch(step, form, probing)[0], second.fetch(step, form, probing)[0]
    assert (first.solver_steps, second.solver_steps) == (128, 0)
    assert form.error(one) == form.error(other) > 0
    v = torch.ones(1, 128)
    assert torch.equal(form.pull(one, v), form.pull(other, v))
